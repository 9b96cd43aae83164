"""The learning rate leaves its own trend (LK301).

The loss of a step is computed before its update, so a bad update shows one step later. Bad data shows at
once. This lag is structural, and tells the two apart at any scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import FACTS, STEPS, Opinion, fact
from llmkit.diagnose.timeline import Step, Timeline
from llmkit.diagnose.words import number, plural
from llmkit.records import Evidence, Experiment, Finding

JUMP = 3.0  # times both neighbours; linear warmup from 0 at most doubles or triples on its first steps
LONGEST = 4  # steps a glitch lasts; longer, and it is another schedule
REACTION_Z = 4.0  # robust z that 0 of 588 windows of 64 healthy steps reached
REACTS = 4  # steps after the glitch in which the loss must react


def learning_rate_glitch(chart: Chart) -> Opinion:
    """LK301: learning-rate glitch.

    What it sees: the learning rate is at least 3 times both its neighbours for at most 4 steps, and is back
    on its trend afterwards. The loss is ordinary on that step and jumps on the next; the update/weight ratio
    jumps first.
    Why it hurts: one update many times too large undoes hundreds of steps, or leaves weights that never
    recover.
    Looks like: a loss spike that decays over about 10 steps, on all sequences alike.
    Confirm: the same steps from the last good checkpoint with the scheduled learning rate: no spike.
    Fix: find what sets the learning rate besides the schedule (a resume, a manual override, a scheduler
    stepped twice); assert the schedule's value every step; roll back to before the glitch.
    Confused with: LK401 poisoned document (loss and gradient norm jump on the same step, on some sequences
    only), a stale second moment (no learning-rate change), a warm restart (the learning rate stays up).
    """
    if not chart.records("lr"):
        return Opinion(not_judged="steps.jsonl has no `lr`: write the learning rate used by each step")
    findings = {f.step: f for life in chart.timelines() for f in _glitches(chart, life)}
    if findings:
        return Opinion(findings=tuple(findings.values()))
    return Opinion(ruled_out=_on_trend(chart))


def _glitches(chart: Chart, life: Timeline) -> list[Finding]:
    steps = life.steps
    spans = [span for span in _spans([s.record.lr for s in steps]) if span[0] >= life.begins - LONGEST]
    if len(spans) > 3 and len(spans) > 0.02 * len(steps):
        return []  # it happens all the time: that is the schedule
    findings = [_finding(chart, steps, start, end) for start, end in spans]
    if not spans and (start := _off_schedule_at_end(chart, steps)) is not None:
        findings.append(_finding(chart, steps, start, len(steps)))
    return findings


def _spans(rates: Sequence[float]) -> list[tuple[int, int]]:
    """[start, end) of every stretch that stands JUMP times above the step before it and the step after it."""
    spans, index = [], 1
    while index < len(rates):
        before = rates[index - 1]
        if before > 0 and rates[index] >= JUMP * before:
            ends = range(index + 1, min(index + LONGEST + 1, len(rates)))
            end = next((e for e in ends if rates[e] * JUMP <= min(rates[index:e])), None)
            if end is not None and rates[end] <= JUMP * before:
                spans.append((index, end))
                index = end
        index += 1
    return spans


def _off_schedule_at_end(chart: Chart, steps: Sequence[Step]) -> int | None:
    """A jump in the last steps beyond the configured peak: the log ends before it could come back."""
    peak = chart.config.get("lr")
    if not isinstance(peak, int | float) or not peak > 0:
        return None
    for index in range(max(1, len(steps) - LONGEST), len(steps)):
        now, before = steps[index].record.lr, steps[index - 1].record.lr
        if now >= JUMP * peak and now >= JUMP * before:
            return index
    return None


def _finding(chart: Chart, steps: Sequence[Step], start: int, end: int) -> Finding:
    glitch, before = steps[start], steps[start - 1]
    reaction = next(
        (s for s in steps[start + 1 : end + REACTS] if s.loss.above(REACTION_Z) or not s.healthy), None
    )
    factor = glitch.record.lr / before.record.lr
    span = (
        f"step {glitch.number}" if end - start == 1 else f"steps {glitch.number} to {steps[end - 1].number}"
    )
    reacted = f"; the loss reacted at step {reaction.number}" if reaction else "; the loss did not react"
    return Finding(
        code="LK301", title="learning-rate glitch",
        says=f"the learning rate left its trend at {span}{reacted}",
        step=glitch.number, cause="learning rate",
        evidence=(
            fact(f"learning rate at step {glitch.number} is {number(glitch.record.lr)}, {number(factor)} "
                 f"times the {number(before.record.lr)} of step {before.number}", glitch.number),
            *_return(steps, end), *_schedule(chart, glitch), *_lag(glitch, reaction), *_updates(steps, start),
        ),
        confirm=Experiment(
            name="replay-scheduled-lr",
            says=f"from a checkpoint before step {glitch.number}, the same batches at the scheduled rate",
            predicts=f"no jump at step {glitch.number + 1}",
            command=f"run.schedule({glitch.number})",
        ),
        fix="find what sets the learning rate besides the schedule, and assert the schedule's value every "
            f"step; roll back to a checkpoint before step {glitch.number}",
        also_seen_with=("LK401 poisoned document", "a stale second moment in AdamW", "a warm restart"),
        confidence="certain" if reaction else "likely",
    )  # fmt: skip


def _return(steps: Sequence[Step], end: int) -> tuple[Evidence, ...]:
    if end >= len(steps):
        return ()
    after = steps[end]
    return (fact(f"it is back at {number(after.record.lr)} at step {after.number}", after.number),)


def _schedule(chart: Chart, glitch: Step) -> tuple[Evidence, ...]:
    peak = chart.config.get("lr")
    if not isinstance(peak, int | float) or glitch.record.lr <= peak:
        return ()
    return (fact(f"the configured peak is {number(float(peak))}", None, FACTS),)


def _lag(glitch: Step, reaction: Step | None) -> tuple[Evidence, ...]:
    """Loss is computed before the update: ordinary at the glitch, high after it."""
    if reaction is None:
        return ()
    said = []
    if glitch.loss.z == glitch.loss.z:
        usual = number(glitch.loss.base)
        says = f"loss at step {glitch.number} is {number(glitch.record.loss)}, as expected ({usual})"
        said.append(fact(says, glitch.number))
    found = number(reaction.record.loss)
    high = f"loss at step {reaction.number} is {found}"
    if reaction.loss.z == reaction.loss.z:
        high += (
            f", robust z {number(reaction.loss.z)}: {plural(reaction.number - glitch.number, 'step')} later"
        )
    return (*said, fact(high, reaction.number))


def _updates(steps: Sequence[Step], start: int) -> tuple[Evidence, ...]:
    """The update/weight ratio at the glitch, where an observer recorded it."""
    for name in steps[start].record.stats:
        before = [s.record.stats[name] for s in steps[max(0, start - 64) : start] if name in s.record.stats]
        if "update_ratio" in name and before:
            now = steps[start].record.stats[name]
            says = f"`{name}` at step {steps[start].number} is {number(now)}, before it {number(before[-1])}"
            return (fact(says, steps[start].number, STEPS),)
    return ()


def _on_trend(chart: Chart) -> str:
    pairs = zip(chart.steps, chart.steps[1:], strict=False)
    ratios = [(b.record.lr / a.record.lr, b.number) for a, b in pairs if a.record.lr > 0 and b.record.lr > 0]
    most, step = max(ratios, default=(1.0, 0))
    if most <= 1:
        return "the learning rate never rose"
    if most < JUMP:
        return f"the learning rate never rose by more than {number(most)} times in a step (step {step})"
    return f"the learning rate rose {number(most)} times at step {step} and stayed: a schedule, not a glitch"
