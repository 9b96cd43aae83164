"""The learning rate is not the configured one: a clock that runs too fast (LK304), no warmup (LK308), a
constant factor (LK309), a schedule that begins again (LK314).

A schedule is a function of the step, so a log can be checked against it, one step after the other. What tells
the four apart is which other function fits every step that is off. A few steps that come back are LK301's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import FACTS, Opinion, fact, finding
from llmkit.diagnose.rules.optimization import JUMP, LONGEST
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number, plural

CLOSE = 1e-4  # relative: a schedule computed in fp32 is closer
FASTEST = 256  # micro-batches that a clock is looked for at
MISSING = "run.json has no `lr`, `min_lr`, `warmup` and `steps` to compute the schedule from"


def schedule_per_micro_batch(chart: Chart) -> Opinion:
    """LK304: schedule per micro-batch.

    What it sees: every learning rate that is off the configured schedule is the schedule's for a step k times
    as far, with one k of 2 and more.
    Why it hurts: the run is at its smallest learning rate after 1 / k of its steps, and learns little in the
    others.
    Looks like: a loss that flattens early, smooth and too high; gradients are usual, updates small.
    Confirm: print the learning rate at five steps beside the schedule's own: k times too far.
    Fix: call the scheduler once per optimizer step, outside the accumulation loop; better, compute the rate
    from the step.
    Confused with: LK314 learning-rate reset (the schedule begins again), a schedule configured for fewer
    steps (run.json says so), data that is too hard (updates are usual).
    """
    return _explained(chart, schedule_per_micro_batch)


def no_warmup(chart: Chart) -> Opinion:
    """LK308: no warmup.

    What it sees: the learning rate is at its peak in steps that are configured to warm up, and the configured
    one in all others.
    Why it hurts: Adam's first updates are as long as the rate allows in every weight, whatever the gradient;
    attention can saturate in them and stay so.
    Looks like: the loss overshoots in the first steps; at a high rate it stays behind for the whole run.
    Confirm: the same seed with the configured warmup: the loss of the first 50 steps is lower.
    Fix: 1 to 5 per cent of the run as warmup, counted in optimizer steps, and an assertion on the first rate.
    Confused with: LK309 learning rate too high (all steps are), LK107 residual growth (the loss is wrong
    before the first update).
    """
    return _explained(chart, no_warmup)


def learning_rate_too_high(chart: Chart) -> Opinion:
    """LK309: learning rate too high.

    What it sees: from some step on the learning rate is the configured one times a constant of 3 and more.
    Why it hurts: attention saturates and activations grow until updates are small beside them; the run goes
    on, finite, at a loss that it never makes up.
    Looks like: no NaN; the update ratio leads, the loss follows a step later, attention scores grow in tens
    of steps, and the gradient norm ends below the usual.
    Confirm: from the last checkpoint before, with the configured rate: the loss falls on.
    Fix: look for a factor applied twice (per rank, per micro-batch, a unit), assert the rate every step, and
    roll back to before it: what has saturated does not come back.
    Confused with: LK301 learning-rate glitch (it is back within 4 steps), LK106 attention growth (the rate is
    the configured one), a rate that is configured too high (run.json says so).
    """
    return _explained(chart, learning_rate_too_high)


def learning_rate_reset(chart: Chart) -> Opinion:
    """LK314: learning-rate reset.

    What it sees: from some step s on the learning rate is the schedule's for step - s: it warms up again.
    Why it hurts: a model that had settled meets the peak rate once more, without the warmup of its moments
    that the schedule was made for; at worst it diverges (IDEFICS-80B did, twice), at best it ends too early.
    Looks like: nothing in the loss at first: the restarted warmup is small; it rises when the peak comes.
    Confirm: print the scheduler's step beside the trainer's after the resume: they differ.
    Fix: save and load the schedule's step, or compute the rate from the trainer's; fail on a checkpoint
    without it.
    Confused with: a warm restart (configured), LK304 schedule per micro-batch (the clock runs too fast, it
    does not begin again), LK313 optimizer state lost (the rate is right).
    """
    return _explained(chart, learning_rate_reset)


def planned(chart: Chart) -> Callable[[int], float] | None:
    """The configured schedule: linear warmup to `lr`, half a cosine to `min_lr`. None: not recorded."""
    numbers = [chart.config.get(name) for name in ("lr", "min_lr", "warmup", "steps")]
    if not all(isinstance(value, int | float) for value in numbers):
        return None
    lr, low, warmup, steps = numbers

    def rate(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * progress))

    return rate


def _explained(chart: Chart, rule: Callable) -> Opinion:
    rate = planned(chart)
    if rate is None or not chart.records("lr"):
        return Opinion(not_judged=MISSING)
    off = [s for s in chart.steps if not _close(s.record.lr, rate(s.number))]
    if not off:
        return Opinion(ruled_out="every learning rate is the configured schedule's")
    cause, says = _cause(off, rate, chart.config["warmup"])
    first = off[0]
    if cause is not rule:
        return Opinion(ruled_out=f"the learning rate is off its schedule at step {first.number}: {says}")
    return finding(
        rule, f"from step {first.number} {says}", first.number, "learning rate",
        (
            fact(f"learning rate at step {first.number} is {number(first.record.lr)}", first.number),
            fact(f"the configured schedule has {number(rate(first.number))}, and another value at "
                 f"{plural(len(off), 'recorded step')}", first.number, FACTS),
        ),
        probe="print-schedule", command=f"run.schedule({first.number})",
    )  # fmt: skip


def _cause(off: list[Step], rate: Callable[[int], float], warmup: int) -> tuple[Callable | None, str]:
    """The rule whose schedule fits every step that is off, and what it says."""

    def fits(instead: Callable[[int], float]) -> bool:
        return len(off) > LONGEST and all(_close(s.record.lr, instead(s.number)) for s in off)

    first = off[0].number
    factor = off[0].record.lr / rate(first) if rate(first) else math.inf
    if off[-1].number < warmup and all(_close(s.record.lr, rate(warmup)) for s in off):
        return no_warmup, f"the learning rate is at its peak {warmup - first} steps too early"
    if factor >= JUMP and fits(lambda step: rate(step) * factor):
        return learning_rate_too_high, f"the learning rate is {number(factor)} times the configured one"
    if first and fits(lambda step: rate(step - first)):
        return learning_rate_reset, "the learning rate begins its schedule again"
    for k in range(2, FASTEST + 1):
        if fits(lambda step, k=k: rate(step * k)):
            return schedule_per_micro_batch, f"the schedule's clock runs {k} times too fast"
    return None, "no reset, factor or faster clock fits all of the steps that are"


def _close(found: float, expected: float) -> bool:
    return abs(found - expected) <= CLOSE * abs(expected) + 1e-12
