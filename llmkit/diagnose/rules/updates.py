"""Gradients and updates that are not what they should be: left over (LK302), summed (LK303), decayed where
nothing should (LK305), divided by a second moment (LK306) or an eps (LK307) of another size, not made at all
(LK312), made from moments that were lost (LK313), rounded away (LK105).

Adam divides by the size of its gradients, so the loss shows little of it, often nothing. Each rule reads the
answer of a probe that asked the optimizer, or the gradient's way to it, a question with a known answer.
"""

from __future__ import annotations

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, answered, asked
from llmkit.diagnose.words import number, plural
from llmkit.records import Event

LEFT = 1e-3  # of the gradient's norm
NEAR = 0.01  # relative: a ratio is a whole number, within the rounding of fp16


@asked("gradient")
def missing_zero_grad(chart: Chart, told: Event) -> Opinion:
    """LK302: gradients not cleared.

    What it sees: after the optimizer's zero_grad there are still gradients (probe `gradient`).
    Why it hurts: each update follows a running sum of gradients: momentum that never fades, in a direction
    that was right some time ago.
    Looks like: a gradient norm that climbs to the clip value and stays above it; a smoother, slower loss.
    Confirm: one step with gradients set to None by hand: the norm drops.
    Fix: call optimizer.zero_grad() once per step, of the optimizer that is stepped, before the first
    backward pass.
    Confused with: LK303 summed accumulation (the norm is a whole multiple, the direction is right), LK309
    learning rate too high (nothing is left).
    """
    left = told.data["left"]
    if not left > LEFT:
        return Opinion(ruled_out="zero_grad left no gradient")
    says = f"zero_grad left gradients of {number(left)} times the norm of a step's own"
    return answered(missing_zero_grad, told, says, "zero_grad")


@asked("gradient")
def summed_accumulation(chart: Chart, told: Event) -> Opinion:
    """LK303: summed accumulation.

    What it sees: the accumulated gradient is that of the whole batch times the number of micro-batches (probe
    `gradient`).
    Why it hurts: under Adam little, until it is clipped: then every step is. Under SGD, and in every log of
    the gradient norm, it is a factor.
    Looks like: nothing in the loss; a gradient norm that changes with the size of the micro-batch.
    Confirm: the gradient norm of one batch in one piece and in k: k times as large.
    Fix: divide each micro-batch's loss by the targets of the whole batch, and not by its own.
    Confused with: LK302 gradients not cleared (the direction is wrong too), LK103 clip before unscale (the
    factor is the loss scale), ranks that are summed (the factor is their number).
    """
    ratio, parts = told.data["ratio"], told.data["micro_batches"]
    if parts < 2:
        return Opinion(ruled_out="a step is one backward pass")
    if told.data["left"] > LEFT or not abs(ratio / parts - 1) < NEAR:
        return Opinion(
            ruled_out=f"the gradient of {parts} micro-batches is {number(ratio)} times the whole's"
        )
    says = f"the gradient of {parts} micro-batches is {number(ratio)} times that of the whole batch"
    return answered(summed_accumulation, told, says, "gradient accumulation")


@asked("update")
def bf16_master_weights(chart: Chart, told: Event) -> Opinion:
    """LK105: bf16 master weights.

    What it sees: a weight that has just been updated is a bf16 number, where the update is none (probe
    `update`).
    Why it hurts: bf16 has 8 bits: an update below 1/512 of its weight is lost. The share that is lost grows
    as the learning rate falls.
    Looks like: a loss that stalls late; gradients and update ratios are usual.
    Confirm: count the weights that a step leaves as they were, bit for bit: many, with gradients that are
    not 0.
    Fix: keep fp32 weights in the optimizer and cast copies of them; or round stochastically.
    Confused with: LK312 frozen block (whole tensors do not move), a learning rate that is too low (no weight
    is as it was).
    """
    if not (rounded := told.data["rounded"]):
        return Opinion(ruled_out="updated weights keep more bits than bf16 has")
    says = f"{plural(len(rounded), 'tensor')} are rounded to bf16 after each update"
    return answered(bf16_master_weights, told, says, "master weights")


@asked("update")
def decay_on_norms(chart: Chart, told: Event) -> Opinion:
    """LK305: weight decay on norms.

    What it sees: a norm's gain or a bias shrinks in an update although its gradient is 0 (probe `update`).
    Why it hurts: gains are pulled to 0 by learning rate x decay a step; what the blocks say gets quieter, and
    the matrices behind must grow for it.
    Looks like: nothing for thousands of steps.
    Confirm: the norm of all one-dimensional tensors over time: it falls by that factor a step.
    Fix: two parameter groups, by dimension; assert that every tensor is in exactly one.
    Confused with: a decay that is meant (some recipes decay everything), LK309 learning rate too high (gains
    move, in both directions).
    """
    decay = told.data.get("vector_decay", 0.0)
    if not decay > NEAR * told.data.get("decay", 0.0):
        return Opinion(ruled_out="norms and biases do not decay")
    return answered(decay_on_norms, told, f"norms and biases decay at {number(decay)}", "weight decay")


@asked("update")
def beta2_too_high(chart: Chart, told: Event) -> Opinion:
    """LK306: second moment too slow.

    What it sees: AdamW's second moment takes in less of a new gradient than the configured beta2 says (probe
    `update`).
    Why it hurts: it remembers 1 / (1 - beta2) steps. After gradients have grown, updates are too large for
    that long; after they have shrunk, too small.
    Looks like: nothing until the gradients change in size; then a staleness far from 1, and a loss spike one
    to eight steps after it.
    Confirm: print optimizer.param_groups after loading: another beta2 than run.json's.
    Fix: set the groups after load_state_dict, which brings the old ones back; 0.95 for language models; or
    clip updates.
    Confused with: LK301 learning-rate glitch (the rate moves first), LK401 poisoned document (loss and norm
    move on the same step), LK307 eps too large (small gradients only).
    """
    configured = _configured(chart, told, "betas", 1, "beta2")
    if configured is None:
        return Opinion(not_judged="run.json has no constant beta2, or the probe's gradient was changed")
    beta2 = told.data["beta2"]
    if not 1 - beta2 < (1 - configured) * (1 - NEAR):
        return Opinion(ruled_out=f"beta2 is {number(beta2)}, as configured")
    says = f"the optimizer's beta2 is {beta2:.4g}, not the configured {configured:g}"
    return answered(beta2_too_high, told, says, "beta2")


@asked("update")
def eps_too_large(chart: Chart, told: Event) -> Opinion:
    """LK307: eps too large.

    What it sees: a small gradient moves its weight by less than the configured eps allows (probe `update`).
    Why it hurts: where the root of the second moment is below eps, Adam is SGD with a tiny rate; embeddings
    and early layers are there first, and gradients shrink as models grow.
    Looks like: a smooth and slow loss; attention stays unspecialised.
    Confirm: the update ratio of one tensor with eps a thousandth of it: several times as large.
    Fix: 1e-8 or less, from the configuration; print the groups after loading a checkpoint.
    Confused with: a learning rate that is too low (all tensors move less, not those with small gradients),
    LK306 second moment too slow (it passes).
    """
    configured = _configured(chart, told, "eps", None, "eps")
    if configured is None:
        return Opinion(not_judged="run.json has no eps outside the root, or the probe's gradient was changed")
    eps = told.data["eps"]
    if not eps > max(10 * configured, 1e-9):
        return Opinion(ruled_out=f"eps is {number(eps)}, as configured")
    says = f"the optimizer's eps is {number(eps)}, not the configured {number(configured)}"
    return answered(eps_too_large, told, says, "eps")


@asked("update")
def frozen_block(chart: Chart, told: Event) -> Opinion:
    """LK312: frozen block.

    What it sees: tensors that have a gradient and do not move (probe `update`).
    Why it hurts: a part of the model that was paid for stays at its initial values.
    Looks like: nothing: the other blocks learn around it.
    Confirm: hash each tensor before and after a step: these are equal, and have a gradient.
    Fix: build the optimizer after the model is wrapped, moved or loaded; assert that it holds every tensor
    that requires a gradient, once.
    Confused with: LK105 bf16 master weights (single weights do not move), a block that is frozen on purpose
    (it has no gradient).
    """
    if not (frozen := told.data["frozen"]):
        return Opinion(ruled_out="every tensor moves")
    parts = [name.split(".") for name in frozen]
    shared = [first for first, last in zip(min(parts), max(parts), strict=False) if first == last]
    cause = ".".join(shared) or plural(len(frozen), "tensor")
    return answered(frozen_block, told, f"no update moves `{cause}`", cause)


@asked("moments")
def optimizer_state_lost(chart: Chart, told: Event) -> Opinion:
    """LK313: optimizer state lost.

    What it sees: AdamW has counted fewer updates than the run has made (probe `moments`).
    Why it hurts: after the loss of its moments Adam's first updates are as long as the rate allows in every
    weight: some ten steps of damage, and the rest of 1 / (1 - beta2) steps at the wrong size.
    Looks like: a small bump after a resume, gone before anybody looks.
    Confirm: save, load, one step, against one step without saving: the weights differ.
    Fix: save and load the optimizer; fail on a checkpoint without it. If it is gone for good, warm the
    moments up at a rate of 0 for 5 / (1 - beta2) steps.
    Confused with: LK314 learning-rate reset (the rate is low after the resume), data that was served again,
    LK401 poisoned document (one step).
    """
    made = [s.number for s in chart.steps if s.number < told.step and not s.record.skipped]
    missing = len(made) - told.data["updates"]
    if missing <= 0 or not made or made[0]:
        return Opinion(
            ruled_out=f"AdamW has counted {plural(told.data['updates'], 'update')}, none is missing"
        )
    says = f"AdamW's moments begin at step {made[missing]}" if missing < len(made) else "AdamW has no moments"
    return answered(
        optimizer_state_lost, told, says, "optimizer state", step=made[min(missing, len(made) - 1)]
    )


def _configured(chart: Chart, told: Event, name: str, index: int | None, key: str) -> float | None:
    """A setting of run.json; None where it does not decide, or the probe's own gradient did not arrive."""
    value, betas = chart.config.get(name), chart.config.get("betas")
    if not value or not betas or chart.config.get("beta2_schedule", "constant") != "constant":
        return None
    if key not in told.data or not abs(told.data["beta1"] - betas[0]) < NEAR * (1 - betas[0]):
        return None
    return value if index is None else value[index]
