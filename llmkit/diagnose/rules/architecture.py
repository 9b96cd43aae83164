"""A model that is not what was configured: attention that saturates (LK106), a residual stream that is too
loud (LK107), a second softmax (LK108), a head that is untied (LK310), an evaluation that drops out (LK311).

The first two are read from the activations that the recorder samples; the others are answers of probes.
"""

from __future__ import annotations

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, answered, asked, fact, finding, needs
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number
from llmkit.records import Event

SCORES = 50.0  # healthy tiny() runs stay below 11; 257 at ten times their learning rate
SHARP = 0.5  # of the entropy at the first sampled step, where attention is uniform
LOUD = 4.0  # times everything sampled before, from the third sample on
BOUND = 3.0  # times the bound of `loudest_at_start`


@needs("attention_score_max")
def attention_growth(chart: Chart, steps: list[Step]) -> Opinion:
    """LK106: attention growth.

    What it sees: an attention score above 50, in a layer whose entropy has fallen below half of what it was
    at the start.
    Why it hurts: a softmax that looks at one position passes no gradient to the others, and what it has
    chosen wrongly it cannot unlearn; in fp16 the scores overflow later.
    Looks like: often nothing for a long time (tiny(): 0.04 to 0.10 nats); then spikes, or a loss that stalls
    high.
    Confirm: go on from the same checkpoint with QK-norm: scores fall, the loss goes on falling.
    Fix: QK-norm, or a lower learning rate; a head that has saturated needs a checkpoint from before.
    Confused with: LK309 learning rate too high (activations grow with the scores), LK107 residual growth
    (activations grow alone), heads that copy (one sharp head in a layer).
    """
    first = steps[0].record.stats
    for step in steps:
        score, entropy = (step.record.stats.get(f"attention_{n}", 0.0) for n in ("score_max", "entropy_min"))
        if score > SCORES and entropy < SHARP * first.get("attention_entropy_min", 0.0):
            says = f"attention scores have grown to {number(score)} by step {step.number}"
            sharp = f"the sharpest layer's entropy is {number(entropy)} nats, at first it was " + number(
                first["attention_entropy_min"]
            )
            return finding(
                attention_growth, says, step.number, "attention scores",
                (fact(f"{says}; at first they were {number(first['attention_score_max'])}", step.number),
                 fact(sharp, step.number)),
                probe="go-on-with-qk-norm", command='vary(run.config, model__qk_norm=True)',
                confidence="likely",
            )  # fmt: skip
    most = max(step.record.stats["attention_score_max"] for step in steps)
    return Opinion(ruled_out=f"the largest attention score is {number(most)}, or attention is still wide")


@needs("activation_rms_max")
def residual_growth(chart: Chart, steps: list[Step]) -> Opinion:
    """LK107: residual growth.

    What it sees: a block's output whose root mean square is 3 times what the configured initialisation can
    give before the first update, or 4 times all that was sampled before.
    Why it hurts: each block adds its output to a stream that drowns it: gradients into the matrices shrink
    with the stream, updates are small beside the weights, and fp16 overflows first where the stream is
    loudest.
    Looks like: a loss that is slow from the first steps (tiny(): 0.1 to 0.9 nats), and update ratios a third
    of the usual.
    Confirm: the root mean square of each block's output before training, by depth: it grows block by block.
    Fix: divide the matrices that write to the residual stream by sqrt(2 layers); start again: weights that
    were drawn too large do not shrink.
    Confused with: LK309 learning rate too high (fine at step 0, grows over tens of steps), LK106 attention
    growth (scores grow, activations do not), the growth of a healthy run's first steps.
    """
    values = [(s, s.record.stats["activation_rms_max"]) for s in steps]
    bound, (start, now) = loudest_at_start(chart), values[0]
    if bound and start.number == 0 and now > BOUND * bound:
        return _loud(start, now, f"the configured initialisation gives at most {number(bound)}")
    most = max(value for _, value in values[:3])
    for step, value in values[3:]:
        if value > LOUD * most:
            return _loud(step, value, f"in all samples before it was at most {number(most)}")
        most = max(most, value)
    return Opinion(ruled_out=f"no block's output has a root mean square above {number(most)}")


def loudest_at_start(chart: Chart) -> float:
    """Upper bound of the residual stream's root mean square at initialisation; 0: not known.

    Embedding and position give 2 s^2, s = init_std. A block reads inputs of size 1: attention adds at most
    (s^2 C)^2 / 2 L to the variance, an MLP of width H at most s^4 C H / 2 L, whose writers were drawn with
    s / sqrt(2 L); L blocks add half of it L-fold.
    """
    model = chart.config.get("model") or {}
    s, width, hidden = model.get("init_std"), model.get("width"), model.get("mlp_hidden")
    if not s or not width:
        return 0.0
    return (2 * s**2 + s**4 * width * (width + (hidden or 4 * width)) / 2) ** 0.5


def _loud(step: Step, value: float, expected: str) -> Opinion:
    says = f"a block's output has a root mean square of {number(value)} at step {step.number}"
    return finding(
        residual_growth, f"{says}; {expected}", step.number, "residual stream", (fact(says, step.number),),
        probe="rms-by-depth", command="llmkit.observe.Activations", confidence="likely",
    )  # fmt: skip


@asked("head")
def double_softmax(chart: Chart, told: Event) -> Opinion:
    """LK108: double softmax.

    What it sees: the head's outputs are positive and add up to 1 (probe `head`); the loss takes logits.
    Why it hurts: the softmax of probabilities cannot be sharper than e to 1, so the loss has a floor of
    ln(e + V - 1) - 1 and its gradient nearly vanishes.
    Looks like: a loss just below ln V (tiny(): 1.1 to 2.3 nats too high), a gradient norm of a few per cent
    of the usual.
    Confirm: the loss of one batch from the logits before the softmax: another value.
    Fix: give the loss logits; take the softmax where samples are drawn.
    Confused with: a learning rate that is too low (the gradient norm is usual), LK307 eps too large (so is
    the gradient).
    """
    if not told.data["probabilities"]:
        return Opinion(ruled_out="the head gives logits")
    return answered(double_softmax, told, "the head gives probabilities to a loss that takes logits", "head")


@asked("head")
def untied_head(chart: Chart, told: Event) -> Opinion:
    """LK310: untied head.

    What it sees: the head's outputs stay as they are when the embedding changes (probe `head`), in a model
    whose head is configured as the embedding.
    Why it hurts: one of the two is trained without the other, or not at all; on resume it is overwritten.
    Looks like: a loss that falls more slowly, the more so the earlier it happened (tiny(): 0.1 to 1.9 nats);
    a spike at a restart that ties them again.
    Confirm: compare head.weight.data_ptr() with embed.weight.data_ptr(), and what the forward pass uses: they
    differ.
    Fix: tie after loading and after wrapping; assert the pointers and the number of parameters.
    Confused with: LK312 frozen block (the tensor does not move), a head that is its own by configuration.
    """
    if told.data["follows"] is None:
        return Opinion(ruled_out="the head is its own by configuration")
    if told.data["follows"]:
        return Opinion(ruled_out="the head follows the embedding")
    return answered(untied_head, told, "the head does not follow the embedding that it is tied to", "head")


@asked("evaluation")
def dropout_in_eval(chart: Chart, told: Event) -> Opinion:
    """LK311: dropout in evaluation.

    What it sees: two evaluations of the same sequences differ (probe `evaluation`).
    Why it hurts: each validation loss is too high, by another amount: comparisons of checkpoints and of runs
    are between draws.
    Looks like: nothing in training; a validation loss that is noisy and above the training loss.
    Confirm: evaluate the same checkpoint twice: the losses differ.
    Fix: model.eval() around every evaluation, on the model itself and not on a wrapper; assert two equal.
    Confused with: kernels that are not deterministic (differences of 1e-6), a validation set that changes.
    """
    spread = told.data["spread"]
    if not spread > 1e-4:
        return Opinion(ruled_out=f"two evaluations differ by {number(spread)} nats")
    says = f"two evaluations of the same sequences differ by up to {number(spread)} nats"
    return answered(dropout_in_eval, told, says, "evaluation")
