"""Numbers that stop being numbers: NaN made inside a module (LK101), fp16 overflow (LK102).

Both end in NaN losses. What tells them apart is the first non-finite value: NaN out of small, finite inputs
is an operation without a result (0/0); an infinity in fp16 is a result without a number to hold it. The
tracer's `nonfinite` event says which; the loss scale says whether the backward pass could be helped.
"""

from __future__ import annotations

import math

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import EVENTS, FACTS, Opinion, fact
from llmkit.diagnose.rules.loss_scale import collapse, collapse_finding, healthy_scale, scale_evidence
from llmkit.diagnose.words import listing, number, percent
from llmkit.records import Event, Evidence, Experiment, Finding, StepRecord

FP16_MAX = 65504.0  # the largest finite fp16 number: (2 - 2^-10) x 2^15
NEAR_MAX = FP16_MAX / 4  # inputs this large make a product beyond FP16_MAX with any weight above 4
TRACER = "attach `llmkit.observe.Recorder`, which writes a `nonfinite` event naming the module"


def nan_in_module(chart: Chart) -> Opinion:
    """LK101: NaN made inside a module.

    What it sees: a `nonfinite` event whose inputs were all finite and, in fp16, far from 65504; the loss of
    that step is not finite; the steps before it are ordinary.
    Why it hurts: one NaN activation makes every gradient NaN. A loop that does not check steps with it, and
    every weight is NaN for good; a loop that skips makes no progress as long as the operation keeps failing.
    Looks like: loss and gradient norm leave a normal curve for NaN between one step and the next, no
    build-up.
    Confirm: replay the same batch with the same weights in fp32. NaN again in the same module: it is
    arithmetic, not range.
    Fix: find the division, log, square root or softmax over an empty set in that module; add an epsilon or
    mask before it. Clipping does not help: NaN times anything is NaN.
    Confused with: LK102 fp16 overflow (an infinity comes first, precision is fp16), LK401 poisoned document
    (loss is high but finite), corrupted weights (a parameter is NaN before the step).
    """
    made = [e for e in chart.events_of("nonfinite") if _made_here(e) and not _overflowed(e, chart)]
    if made:
        return Opinion(findings=(_nan_finding(chart, made),))
    record = chart.first_nonfinite()
    if record is None:
        return Opinion(ruled_out="every loss and gradient norm is finite")
    if any(_overflowed(e, chart) for e in chart.events_of("nonfinite")):
        return Opinion(
            ruled_out="the first non-finite value is an infinity in fp16, not a NaN from finite inputs"
        )
    if chart.precision == "fp16":
        if _untraced_loss(chart) is None:
            return Opinion(
                ruled_out="every loss is finite; gradients that overflow are the loss scale's business"
            )
        return Opinion(not_judged=f"the loss of step {record.step} overflowed under fp16, untraced: {TRACER}")
    if record.nonfinite == "loss" or not math.isfinite(record.loss) or chart.precision:
        return Opinion(findings=(_untraced(chart, record, "LK101", "NaN made inside a module"),))
    return Opinion(not_judged=f"a gradient norm is infinite and the precision is not recorded: {TRACER}")


def fp16_overflow(chart: Chart) -> Opinion:
    """LK102: fp16 overflow.

    What it sees: precision fp16 and either an infinity (or inputs within a factor 4 of 65504) in the forward
    pass, or a loss scale that keeps falling after it had settled: 4 halvings more than doublings within 50
    steps, or the floor. The first halvings of a run are the search for the largest scale that fits, and are
    healthy.
    Why it hurts: an overflow in the forward pass cannot be cured by the loss scale, so every step is skipped.
    A falling scale lets small gradients vanish first and the loss explode later.
    Looks like: the scale falls first, about 30 steps ahead of the loss in published runs (GLM-130B: 33,710
    and 33,740); activation maxima rise before the scale.
    Confirm: replay the step in fp32 or bf16 on the same batch: finite.
    Fix: train in bf16, or keep that product in fp32 (softmax, attention scores); lower the learning rate;
    roll back to before the scale fell, not to before the loss rose.
    Confused with: LK101 NaN in a module (fp32 replay is NaN too), healthy scale search, one overflow after
    the scale doubled.
    """
    forward = [e for e in chart.events_of("nonfinite") if _overflowed(e, chart) and _phase(e) == "forward"]
    if forward:
        return Opinion(findings=(_overflow_finding(chart, forward),))
    if chart.precision != "fp16":
        if chart.first_nonfinite() is None:
            return Opinion(ruled_out=f"{_precision_says(chart)}every loss and gradient norm is finite")
        if chart.precision:
            return Opinion(
                ruled_out=f"precision is {chart.precision}: its largest number is 3.4e38, not 65504"
            )
        return Opinion(
            not_judged="nothing says which precision this is: write `config.precision` into run.json"
        )
    falls = collapse(chart)
    if falls:
        return Opinion(findings=(collapse_finding(chart, falls),))
    record = _untraced_loss(chart)
    if record is not None and not chart.events_of("nonfinite"):
        return Opinion(findings=(_untraced(chart, record, "LK102", "fp16 overflow"),))
    return Opinion(ruled_out=healthy_scale(chart))


# ----------------------------------------------------------------------------------------- telling them apart


def _phase(event: Event) -> str:
    return str(event.data.get("phase", "forward"))


def _made_here(event: Event) -> bool:
    return bool(event.data.get("inputs_finite")) and bool(event.data.get("module"))


def _overflowed(event: Event, chart: Chart) -> bool:
    """A number too large for fp16, rather than an operation without a result.

    A non-finite gradient under fp16 is the loss scale's daily business, whatever became of it downstream.
    """
    if (event.data.get("precision") or chart.precision) != "fp16":
        return False
    large = event.data.get("input_absmax", 0.0)
    return event.data.get("kind") == "inf" or _phase(event) == "backward" or not large < NEAR_MAX


def _untraced_loss(chart: Chart) -> StepRecord | None:
    """The first step whose loss, not only whose gradient, was not finite."""
    sick = (s.record for life in chart.timelines() for s in life.own)
    return next((r for r in sick if r.nonfinite == "loss" or not math.isfinite(r.loss)), None)


def _precision_says(chart: Chart) -> str:
    return f"precision is {chart.precision}, and " if chart.precision else ""


# --------------------------------------------------------------------------------------------------- findings


def _before(chart: Chart, step: int) -> tuple[Evidence, ...]:
    """What the loss and the gradient norm were like up to the sick step."""
    now, last = chart.at(step), chart.at(step - 1)
    said = []
    if now is not None and not math.isfinite(now.record.loss) and now.loss.base == now.loss.base:
        found, usual = number(now.record.loss), number(now.loss.base)
        said.append(
            fact(f"loss at step {step} is {found}; the 8 healthy steps before had median {usual}", step)
        )
    if last is not None and last.healthy and last.norm_ratio == last.norm_ratio:
        grown = f"{number(last.record.grad_norm)}, {number(last.norm_ratio)} times its median"
        said.append(fact(f"gradient norm one step earlier is {grown}", step - 1))
    return tuple(said)


def _site(event: Event) -> Evidence:
    """What the tracer saw, as a sentence."""
    data = event.data
    said = [f"every input of `{data.get('module')}` is finite" if data.get("inputs_finite") else "tracer"]
    if data.get("input_absmax") is not None:
        said.append(f"the largest is {number(data['input_absmax'])} in size")
    if data.get("output_share") is not None:
        said.append(f"{percent(data['output_share'])} of its outputs are {_kind(event)}")
    return fact(", ".join(said), event.step, EVENTS)


def _kind(event: Event) -> str:
    return "infinite" if event.data.get("kind") == "inf" else "NaN"


def _sequences(event: Event) -> tuple[Evidence, ...]:
    """Which sequences it was in, when the tracer could tell: a hint that it takes a certain document."""
    rows, documents = event.data.get("sequences") or (), event.data.get("documents") or ()
    if not rows or not documents or len(documents) > 6:
        return ()
    where = f"sequence {rows[0]}" if len(rows) == 1 else f"sequences {listing([str(row) for row in rows])}"
    held = (
        f"document {documents[0]}"
        if len(documents) == 1
        else f"documents {listing([str(d) for d in documents])}"
    )
    return (fact(f"only in {where} of the batch, with {held}", event.step, EVENTS),)


def _repeats(events: list[Event]) -> tuple[Evidence, ...]:
    steps = sorted({event.step for event in events})
    if len(steps) < 2:
        return ()
    shown = listing([str(step) for step in steps[:8]]) + (" ..." if len(steps) > 8 else "")
    return (fact(f"the same at steps {shown}", steps[1], EVENTS),)


def _nan_finding(chart: Chart, made: list[Event]) -> Finding:
    first = made[0]
    module, phase = first.data["module"], _phase(first)
    same = [e for e in made if e.data["module"] == module]
    scale = scale_evidence(chart, first.step) if chart.precision == "fp16" else ()
    precision = (
        (fact(f"precision is {chart.precision}", None, FACTS),) if chart.precision in ("fp32", "bf16") else ()
    )
    return Finding(
        code="LK101", title="NaN made inside a module",
        says=f"`{module}` turned finite inputs into {_kind(first)} values in the {phase} pass of step "
             f"{first.step}",
        step=first.step, cause=module,
        evidence=(
            _site(first), *_sequences(first), *_before(chart, first.step), *scale, *precision, *_repeats(same)
        ),
        confirm=Experiment(
            name="replay-fp32", says=f"replay step {first.step} with the same batch and weights in fp32",
            predicts=f"`{module}` makes NaN again: it is arithmetic, not range",
            command="llmkit.observe.trace_nonfinite(run)",
        ),
        fix=f"look in `{module}` for a division, log, square root or softmax over an empty set; "
            "add an epsilon or a mask before it. Skipping the step only hides it",
        also_seen_with=("LK102 fp16 overflow", "corrupted weights"),
        confidence="certain",
    )  # fmt: skip


def _overflow_finding(chart: Chart, forward: list[Event]) -> Finding:
    first = forward[0]
    module = first.data.get("module") or "a module"
    same = [e for e in forward if e.data.get("module") == first.data.get("module")]
    return Finding(
        code="LK102", title="fp16 overflow",
        says=f"`{module}` passed 65504, the largest fp16 number, in the forward pass of step {first.step}",
        step=first.step, cause=first.data.get("module", ""),
        evidence=(
            _site(first), *_before(chart, first.step), *scale_evidence(chart, first.step), *_repeats(same)
        ),
        confirm=Experiment(
            name="replay-fp32", says=f"replay step {first.step} with the same batch and weights in fp32",
            predicts="the loss is finite: the numbers exist, fp16 cannot hold them",
            command='llmkit.train.build(vary(run.config, precision="fp32"))',
        ),
        fix="train in bf16, or keep that product in fp32; find what made its inputs grow (learning rate, "
            "initial scale, missing QK-norm), and roll back to before the loss scale fell",
        also_seen_with=("LK101 NaN made inside a module", "healthy search for the loss scale"),
        confidence="certain",
    )  # fmt: skip


def _untraced(chart: Chart, record: StepRecord, code: str, title: str) -> Finding:
    what = "loss" if record.nonfinite == "loss" or not math.isfinite(record.loss) else "gradient norm"
    seen = [e for e in chart.events_of("nonfinite") if e.step >= record.step][:1]
    cause = next((str(e.data["parameter"]) for e in seen if e.data.get("parameter")), "")
    why = f"`{cause}` was not finite before it" if cause else "no record says which module made it so"
    return Finding(
        code=code, title=title,
        says=f"the {what} is not finite from step {record.step}, and {why}",
        step=record.step, cause=cause,
        evidence=(*(fact(e.says, e.step, EVENTS) for e in seen if e.says), *_before(chart, record.step)),
        confirm=Experiment(
            name="trace-nonfinite", says=f"replay step {record.step} with the tracer attached",
            predicts="one module has finite inputs and non-finite outputs",
            command="llmkit.observe.trace_nonfinite(run)",
        ),
        fix=f"go back to the last finite checkpoint and {TRACER}",
        also_seen_with=("LK101 NaN made inside a module", "LK102 fp16 overflow", "corrupted weights"),
        confidence="possible",
    )  # fmt: skip
