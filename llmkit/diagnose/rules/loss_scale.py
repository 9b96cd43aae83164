"""What the loss scale did: a healthy search, or a collapse.

The scale looks for the largest power of two at which no gradient overflows. Halvings at the start of a run
are that search; one halving after a doubling is its upkeep. A scale that keeps falling says that gradients
outgrow fp16.
"""

from __future__ import annotations

import math

from llmkit.diagnose.evidence import Chart, ScaleChange
from llmkit.diagnose.opinion import EVENTS, STEPS, fact
from llmkit.diagnose.words import number, plural
from llmkit.records import Evidence, Experiment, Finding

FALLS = 4  # halvings, net of doublings, within WITHIN steps: gradients that grew 16-fold
WITHIN = 50  # steps


def collapse(chart: Chart) -> list[ScaleChange]:
    """The falls of the first WITHIN steps with FALLS more halvings than doublings, after settling."""
    changes = [c for c in chart.scale_changes() if c.step >= _settled(chart) and c.phase != "forward"]
    for index, change in enumerate(changes):
        near = [c for c in changes[index:] if c.step < change.step + WITHIN]
        net = [math.log2(c.old / c.new) if min(c.old, c.new) > 0 else math.inf for c in near]
        if change.fell and any(sum(net[: i + 1]) >= FALLS for i in range(len(net))):
            return [c for c in near if c.fell]
    floor = [e for e in chart.events_of("floor") if e.data.get("phase") != "forward"]
    if floor:
        scale = float(floor[0].data.get("scale", 0.0))
        return [ScaleChange(floor[0].step, scale, scale, str(floor[0].data.get("reason", "")))]
    return []


def _settled(chart: Chart) -> int:
    """Where the search for the first scale is over; a scaler that was reset (a jump up) searches again."""
    resets = [c.step for c in chart.scale_changes() if c.new > 4 * c.old > 0]
    return max([chart.first_settled(), *(step + 16 for step in resets)])


def collapse_finding(chart: Chart, falls: list[ScaleChange]) -> Finding:
    first, last = falls[0], falls[-1]
    traced = [e.data for e in chart.events_of("nonfinite") if first.step <= e.step <= last.step]
    cause = next((d.get("module") or d.get("parameter") or "" for d in traced), "")
    skipped = sum(s.record.skipped for s in chart.steps if s.number >= first.step)
    total = sum(s.number >= first.step for s in chart.steps)
    return Finding(
        code="LK102", title="fp16 overflow",
        says=f"the loss scale collapses from step {first.step}: gradients outgrow fp16"
             + (f", first in `{cause}`" if cause else ""),
        step=first.step, cause=cause,
        evidence=(
            fact(f"{plural(len(falls), 'fall')} from {number(first.old)} to {number(last.new)} "
                 f"between steps {first.step} and {last.step}", first.step, EVENTS),
            fact(f"{skipped} of the {total} steps since were skipped", first.step, STEPS),
        ),
        confirm=Experiment(
            name="replay-fp32", says=f"go on from before step {first.step} in fp32 or bf16",
            predicts="no step is skipped; the gradient norm still grows if the learning rate is the cause",
            command='llmkit.train.build(vary(run.config, precision="bf16"))',
        ),
        fix=f"roll back to before step {first.step}, where the scale began to fall; lower the learning rate, "
            "train in bf16, or bound the attention scores (QK-norm)",
        also_seen_with=("healthy search for the loss scale", "LK301 learning-rate glitch"),
        confidence="likely",
    )  # fmt: skip


def healthy_scale(chart: Chart) -> str:
    falls = [c.step for c in chart.scale_changes() if c.fell and c.phase != "forward"]
    early = [step for step in falls if step < _settled(chart)]
    if not falls:
        return "the loss scale never fell because of a gradient"
    search = f"{plural(len(early), 'fall')} while the scale was searched for, " if early else ""
    since = len(falls) - len(early)
    return f"{search}{since} since: fewer than {FALLS} more than doublings in any {WITHIN} steps"


def scale_evidence(chart: Chart, step: int) -> tuple[Evidence, ...]:
    falls = [c for c in chart.scale_changes() if c.fell and c.step >= step]
    if not falls:
        return ()
    path = " -> ".join(number(value) for value in [falls[0].old, *(c.new for c in falls[:5])])
    more = " ..." if len(falls) > 5 else ""
    return (
        fact(
            f"loss scale {path}{more}: it acts on the backward pass and cannot help the forward", step, EVENTS
        ),
    )
