"""What each position is asked to predict: its own token (LK404), the one after next (LK405), a pad (LK407).

All three are counted in the batch before the forward pass, so one step is enough and no curve is needed. The
curves alone do not decide: a double shift looks like a slower run, unmasked pads like an easier corpus.
"""

from __future__ import annotations

from collections.abc import Callable

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, fact, finding, needs
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number, percent
from llmkit.records import Evidence

ALL = 0.99  # share of targets; rulers and runs of spaces equal their neighbours by chance, in under 3 %
PADS = 0.001  # share of targets; a packed corpus has none


@needs("targets_next")
def shifted_labels(chart: Chart, steps: list[Step]) -> Opinion:
    """LK404: shifted labels.

    What it sees: the target of a position is the position's own token, in 99 % of the positions and more.
    A target should be the next input; the share for which it is falls from 1 to a few per cent.
    Why it hurts: the model learns to copy. Its loss is wonderful and its samples repeat one token for
    ever.
    Looks like: a loss that falls to almost nothing within tens of steps (tiny(): 2.5 nats below the
    healthy run after 100 steps, while the validation loss is 0.8 to 3.1 nats above).
    Confirm: evaluate one checkpoint with the targets shifted by 0, 1 and 2: the lowest loss is at 0.
    Fix: shift once and in one place, x = tokens[:-1] and y = tokens[1:], and assert it in the loader; go
    back to a checkpoint before the first such step.
    Confused with: LK405 double shift (the loss stays high), LK407 pads not masked (the loss falls in
    proportion to the pads), a missing causal mask (the loss falls, the targets are right).
    """
    return _shifted(shifted_labels, steps, "targets_same", "its own input")


@needs("targets_next")
def double_shift(chart: Chart, steps: list[Step]) -> Opinion:
    """LK405: double shift.

    What it sees: the target of a position is the token after the next one, in 99 % of the positions and
    more.
    Why it hurts: the model learns a harder task than the one that it is judged by, for as long as it
    trains.
    Looks like: a healthy run with a higher floor (tiny(): 0.2 nats on docstrings, 1.1 on the generated
    corpus); nothing else moves.
    Confirm: evaluate one checkpoint with the targets shifted by 0, 1, 2 and 3: the lowest loss is at 2.
    Fix: remove one of the two shifts, usually the collator's where the model shifts by itself; go back to
    a checkpoint before the first such step.
    Confused with: LK404 shifted labels (the loss collapses), a learning rate that is too low (the update
    ratio falls, the targets are right), a corpus that is harder.
    """
    return _shifted(double_shift, steps, "targets_two_ahead", "the token after the next")


def _shifted(rule: Callable, steps: list[Step], stat: str, what: str) -> Opinion:
    wrong = [s for s in steps if s.record.stats["targets_next"] < 1]
    shifted = [s for s in wrong if s.record.stats.get(stat, 0.0) >= ALL > s.record.stats["targets_next"]]
    if not wrong:
        return Opinion(ruled_out="every target is the token after its input, at every step")
    if not shifted:
        lowest = percent(min(s.record.stats["targets_next"] for s in wrong))
        return Opinion(ruled_out=f"down to {lowest} of the targets are the next input, but none {what}")
    first, stats = shifted[0], shifted[0].record.stats
    return finding(
        rule, f"from step {first.number} the target of each position is {what}", first.number, "targets",
        (
            fact(f"{percent(stats[stat])} of the targets are {what}, {percent(stats['targets_next'])} the "
                 f"next input; {len(shifted)} of {len(steps)} recorded steps are so", first.number),
            *loss_then(first),
        ),
        probe="evaluate-label-shifts", command=f"batch = run.loader.batch({first.number}); batch.x, batch.y",
    )  # fmt: skip


def loss_then(first: Step) -> tuple[Evidence, ...]:
    """What the curve made of it, as a fact of its own: often nothing."""
    if first.loss.z != first.loss.z:
        return ()
    says = f"loss at step {first.number} is {number(first.record.loss)}, expected {number(first.loss.base)}"
    return (fact(says, first.number),)


@needs("pad_targets")
def pads_not_masked(chart: Chart, steps: list[Step]) -> Opinion:
    """LK407: pads not masked.

    What it sees: targets with weight that are an end token after an end token. No document is empty, so a
    packed corpus has none; a pad that counts has one for each position it fills.
    Why it hurts: the model spends its gradient on predicting padding, and the loss no longer measures
    text.
    Looks like: a loss far too low, in proportion to the share of pads (tiny(), half pads: 1.4 to 2.2 nats
    below the healthy run), a gradient norm seven times the usual when it starts, a validation loss 0.3 to
    0.4 nats above.
    Confirm: the loss of the same batch with weight 0 on every end token after an end token: it is that of
    the steps before, or higher.
    Fix: give pads weight 0 (or the label that the loss ignores), and an id of their own: where it is the
    end token's, masking it masks the true ends too.
    Confused with: LK404 shifted labels (the loss falls to nothing), LK401 poisoned document (one
    sequence, one step), text that became easier.
    """
    bad = [s for s in steps if s.record.stats["pad_targets"] >= PADS]
    if not bad:
        return Opinion(ruled_out="no target is an end token after an end token")
    first, shares = bad[0], [s.record.stats["pad_targets"] for s in bad]
    return finding(
        pads_not_masked, f"from step {first.number} padding counts as a target", first.number, "pads",
        (
            fact(f"{percent(shares[0])} of the targets with weight are an end token after an end token; "
                 f"{percent(sum(shares) / len(shares))} on average, in {len(bad)} of {len(steps)} recorded "
                 "steps", first.number),
            *loss_then(first),
        ),
        probe="loss-without-pads", command=f"run.loader.batch({first.number}).weight",
    )  # fmt: skip
