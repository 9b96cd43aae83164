"""The loss scale and the update in the wrong order: clipped before it was unscaled (LK103), stepped although
it had overflowed (LK104).

The scale must be out of the gradients before anybody measures them, and an overflow must stop the update. The
log shows both: a norm as large as the scale, and weights that a skipped step has changed.
"""

from __future__ import annotations

import math

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, fact, finding
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number, plural

STEEP = 16384.0  # scale from which a norm of scale / SHARE is not the gradient's own
SHARE = 64.0
IN_A_ROW = 8  # updates


def clip_before_unscale(chart: Chart) -> Opinion:
    """LK103: clip before unscale.

    What it sees: under a loss scale of 16,384 and more, 8 updates in a row whose gradient norm is more than a
    64th of the scale: the true norm times the scale.
    Why it hurts: every step is clipped to the clip value and then divided by the scale. Adam's second moment
    falls to where eps outweighs it, or keeps the old size and makes no step at all.
    Looks like: a clip rate of 100 per cent and updates a hundredth of the usual; the loss stops, or, from the
    first step, is that of another optimizer.
    Confirm: the norm of one batch with half the loss scale: half the norm.
    Fix: scaler.unscale_(optimizer) first, then clip_grad_norm_, then scaler.step(optimizer).
    Confused with: LK303 summed accumulation (the factor is the number of micro-batches), gradients that
    explode (the loss does too), LK102 fp16 overflow (the scale falls).
    """
    if chart.precision != "fp16":
        return Opinion(ruled_out=f"nothing scales the loss in {chart.precision or 'this precision'}")
    row: list[Step] = []
    for step in chart.steps:
        scale = step.record.loss_scale
        if step.healthy:
            large = scale >= STEEP and step.record.grad_norm > scale / SHARE
            row = [*row, step] if large else []
        if len(row) == IN_A_ROW:
            return _clipped(row[0])
    return Opinion(ruled_out="no gradient norm is of the size of the loss scale for long")


def _clipped(first: Step) -> Opinion:
    norm, scale = first.record.grad_norm, first.record.loss_scale
    return finding(
        clip_before_unscale, f"from step {first.number} the gradient norm has the loss scale in it",
        first.number, "clipping",
        (
            fact(f"gradient norm at step {first.number} is {number(norm)}: {number(norm / scale)} times the "
                 f"loss scale of {number(scale)}", first.number),
            fact(f"{IN_A_ROW} updates in a row are so", first.number),
        ),
        probe="probe-gradient", command="llmkit diagnose RUN --probe",
    )  # fmt: skip


def step_on_overflow(chart: Chart) -> Opinion:
    """LK104: step on overflow.

    What it sees: a step that is logged as skipped because gradients were not finite, and from the next step
    on no loss that is finite. A step that is skipped leaves the weights as they are, so they cannot be what
    broke.
    Why it hurts: one overflow, of which a loss scaler makes one every few thousand steps by design, ends the
    run: infinite gradients make every weight NaN.
    Looks like: an ordinary fall of the loss scale, and NaN from the step after it, for good.
    Confirm: compare the weights before and after the skipped step: they differ.
    Fix: scaler.step(optimizer) and not optimizer.step(); decide on all ranks together; go back to the last
    checkpoint before.
    Confused with: LK102 fp16 overflow (the forward pass overflows, weights are finite), LK101 NaN made inside
    a module (no gradient overflowed before it).
    """
    steps = chart.steps
    skips = [i for i, s in enumerate(steps[:-1]) if s.record.skipped and s.record.nonfinite == "grad"]
    if not skips:
        return Opinion(ruled_out="no step was skipped because of a gradient")
    last = skips[-1]
    after = steps[last + 1 :]
    if any(math.isfinite(s.record.loss) for s in after):
        return Opinion(ruled_out=f"the loss is finite after {plural(len(skips), 'skipped step')}")
    step, blamed = steps[last].number, [e for e in chart.events_of("nonfinite") if e.data.get("parameter")]
    weights = [e.data["parameter"] for e in blamed if e.step == after[0].number]
    if not weights and chart.events_of("nonfinite"):
        return Opinion(ruled_out="where the loss is not finite, the weights are")
    return finding(
        step_on_overflow, f"step {step} overflowed, is logged as skipped, and has changed the weights",
        step, "optimizer step",
        (
            fact(f"gradients of step {step} were not finite; the log calls it skipped", step),
            fact(f"the loss is not finite in any of the {plural(len(after), 'step')} after it", step + 1),
            *(fact(f"`{name}` was not finite before step {step + 1}", step + 1) for name in weights[:1]),
        ),
        probe="compare-weights", command=f"run.step == {step}",
        confidence="certain" if weights else "likely",
    )  # fmt: skip
