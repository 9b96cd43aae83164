"""One document spoils the batches it is served in (LK401), and which document it is.

Bad data acts before the update: loss and gradient norm jump on the same step, in the sequences that hold it
and in no other, and the next clean batch is back. The document is then a matter of elimination: it is in
every bad sequence and in no good one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, fact
from llmkit.diagnose.rules.suspects import names, suspects
from llmkit.diagnose.signals import limit
from llmkit.diagnose.timeline import Step, finite
from llmkit.diagnose.words import listing, number, percent, plural
from llmkit.records import Evidence, Experiment, Finding

LOSS_Z = 5.0  # of the batch; with that norm, odd but honest pages of real text reach 3.9
ROW_Z = 8.0  # of the worst sequence, with that loss
FAR_ROW_Z, FAR_LOSS_Z = (
    20.0,
    2.0,
)  # of a sequence so far out that it is diluted by its batch, and of the batch
NORM_Z, NORM_RATIO = 6.0, 6.0  # log gradient norm and its factor; coherent garbage in half a batch makes 12
# Where the share of the commonest token of each sequence is recorded, the page convicts itself and less is
# asked of the curves: of 55,000 windows of docstrings 4 exceed 0.6, and those 4 are rulers and recurring
# decimals.
SHARE, SHARE_NORM_Z, SHARE_NORM_RATIO = 0.75, 4.0, 1.5
BACK_Z = 3.0  # the first clean step is within this
LONGEST = 8  # steps in a row with a bad sequence; longer, and it is a shift of the data, not a document


def poisoned_document(chart: Chart) -> Opinion:
    """LK401: poisoned document.

    What it sees: loss (robust z above 5) and gradient norm (6 times and more) jump on the same step; a
    minority of the sequences carries the jump while the others are as expected; the first step without them
    is back to normal. Where `stats` has `token_share_max`: a sequence of which one token is three quarters,
    and a gradient norm that jumps with it.
    Why it hurts: a coherent garbage page (one token repeated) moves weights as 12 good pages would; clipping
    then scales down the good sequences of that batch too.
    Looks like: an isolated loss spike that returns with the document, once an epoch or once per window it
    fills.
    Confirm: decode the document; replay the step with another document in its place: no jump.
    Fix: put the document on the skip list and go on. No rollback is needed if the loss came back by itself.
    Confused with: LK301 learning-rate glitch (loss follows one step later, all sequences alike), a shift of
    the data mixture (does not come back), a bit flip (not reproducible on replay).
    """
    if not chart.steps:
        return Opinion(not_judged="no steps are recorded")
    if not chart.records("grad_norm"):
        return Opinion(not_judged="steps.jsonl has no `grad_norm`: write the norm before clipping")
    jumps = [j for life in chart.timelines() for j in _jumps(chart, life.steps, life.begins)]
    proven = [j for j in jumps if j.rows and j.back]
    if proven:
        return Opinion(findings=(_finding(chart, proven),))
    if not chart.records("sequence_losses"):
        missing = (
            "steps.jsonl has no `sequence_losses`: write the mean loss of each sequence and its document ids"
        )
        said = f"the loss jumps at step {jumps[0].step.number}, but " if jumps else ""
        return Opinion(not_judged=said + missing)
    if jumps:
        return _not_proven(jumps[0])
    return Opinion(ruled_out=_quiet(chart))


@dataclass(frozen=True)
class Jump:
    """A step whose loss and gradient norm both left their bands."""

    step: Step
    rows: tuple[int, ...]  # the sequences that carry the jump; empty when the whole batch moved
    back: bool  # the first clean step after it is normal
    ended: bool  # there is a step after it to judge by


def _jumps(chart: Chart, steps: Sequence[Step], begins: int) -> list[Jump]:
    found, index = [], begins
    while index < len(steps):
        end = index
        while end < min(index + LONGEST, len(steps)) and _jumped(steps[end]):
            end += 1
        if end > index:
            after = steps[end] if end < len(steps) else _relived(chart, steps[-1])
            back = (
                after is not None
                and finite(after.record)
                and not after.loss.z > limit(after.loss.seen, BACK_Z)
            )
            found += [Jump(step, _carriers(step), back, after is not None) for step in steps[index:end]]
        index = max(end, index + 1)
    return found


def _relived(chart: Chart, last: Step) -> Step | None:
    """An abandoned life ends with its jump; what came after it is the same step, lived again."""
    if chart.steps and chart.steps[-1] is last:
        return None
    return next((s for s in chart.steps if s.number >= last.number), None)


def _jumped(step: Step) -> bool:
    """The gradient norm left its band, and the loss of the batch or of one sequence confirms it."""
    if not finite(step.record):  # a step that a rescuer vetoed counts, one that overflowed does not
        return False
    if _repeats(step):
        return step.norm.above(SHARE_NORM_Z) and step.norm_ratio >= SHARE_NORM_RATIO
    if not (step.norm.above(NORM_Z) and step.norm_ratio >= NORM_RATIO):
        return False
    worst = max(step.row_excess, default=FAR_ROW_Z)  # not recorded: the loss must speak alone
    return any(
        worst > row and step.loss.above(loss) for row, loss in ((ROW_Z, LOSS_Z), (FAR_ROW_Z, FAR_LOSS_Z))
    )


def _repeats(step: Step) -> bool:
    """One sequence is little but one token, by a statistic that is known before the forward pass."""
    return step.record.stats.get("token_share_max", 0.0) >= SHARE


def _carriers(step: Step) -> tuple[int, ...]:
    """The sequences at least half as far out as the worst, if a minority and the rest is as expected."""
    excess, losses = step.row_excess, step.record.sequence_losses
    rows = tuple(row for row in step.outliers if excess[row] > max(excess) / 2)
    if _repeats(step) and losses:
        highest = max(range(len(losses)), key=losses.__getitem__)
        return (int(step.record.stats.get("token_share_row", highest)),)
    if not rows or 2 * len(rows) > len(losses):
        return ()
    others = [loss for row, loss in enumerate(losses) if row not in rows]
    wide = max(step.loss.spread, step.row_spread / len(losses) ** 0.5)  # of a mean over the whole batch
    rest = sum(others) / len(others) - step.loss.base
    return rows if rest < 2 * wide * (len(losses) / len(others)) ** 0.5 else ()


def _witnesses(chart: Chart, jumps: Sequence[Jump]) -> tuple[list[frozenset[int]], Counter[int]]:
    """Documents of the bad sequences, and how often each of them was seen in a good one."""
    guilty = {(id(j.step), row) for j in jumps for row in j.rows}
    bad = [
        frozenset(j.step.record.documents[row]) for j in jumps for row in j.rows if j.step.record.documents
    ]
    named = frozenset().union(*bad)
    healthy: Counter[int] = Counter()
    for step, row, documents in chart.document_rows():
        if (id(step), row) not in guilty and row not in step.outliers:
            healthy.update(named.intersection(documents))
    return bad, healthy


# ------------------------------------------------------------------------------------------------ the finding


def _finding(chart: Chart, jumps: list[Jump]) -> Finding:
    bad, healthy = _witnesses(chart, jumps)
    groups = suspects(bad, healthy)
    first, where = jumps[0].step, _steps(jumps)
    named, sure = names(groups)
    return Finding(
        code="LK401", title="poisoned document",
        says=f"{named or 'some sequences'} made loss and gradient norm jump on the same step, at {where}",
        step=first.number, cause=named,
        evidence=(*_jump_evidence(jumps[0]), *_elimination(jumps, bad, groups, healthy)),
        confirm=_confirm(chart, jumps[0], groups),
        fix=f"put {named or 'the samples of those sequences'} on the skip list and go on: the loss came back "
            "by itself, so no rollback is needed",
        also_seen_with=("LK301 learning-rate glitch", "a shift of the data mixture", "a bit flip"),
        confidence="likely" if sure else "possible",
    )  # fmt: skip


def _steps(jumps: Sequence[Jump]) -> str:
    numbers = sorted({j.step.number for j in jumps})
    shown = listing([str(n) for n in numbers[:6]]) + (" ..." if len(numbers) > 6 else "")
    return f"step {shown}" if len(numbers) == 1 else f"steps {shown}"


def _jump_evidence(jump: Jump) -> tuple[Evidence, ...]:
    step, record = jump.step, jump.step.record
    rows = [record.sequence_losses[row] for row in jump.rows]
    others = [loss for row, loss in enumerate(record.sequence_losses) if row not in jump.rows]
    return (
        fact(f"loss at step {step.number} is {number(record.loss)}, expected {number(step.loss.base)} "
             f"(robust z {number(step.loss.z)}); gradient norm {number(record.grad_norm)}, "
             f"{number(step.norm_ratio)} times what was expected, on the same step", step.number),
        fact(f"{len(rows)} of {plural(len(rows) + len(others), 'sequence')} at {number(min(rows))} nats or "
             f"more, the others at {number(sum(others) / len(others))} on average", step.number),
        *_repeated(step),
        fact("the first step without them is back to normal", step.number + 1),
    )  # fmt: skip


def _repeated(step: Step) -> tuple[Evidence, ...]:
    if not _repeats(step):
        return ()
    share = percent(step.record.stats["token_share_max"])
    return (fact(f"one token makes {share} of a sequence, known before the forward pass", step.number),)


def _elimination(
    jumps: Sequence[Jump], bad: Sequence[frozenset[int]], groups: list[list[int]], healthy: Counter[int]
) -> tuple[Evidence, ...]:
    if not bad:
        samples = sorted({j.step.record.samples[r] for j in jumps for r in j.rows if j.step.record.samples})
        named = listing([str(sample) for sample in samples[:8]])
        says = f"the documents are not recorded; samples {named}"
        return (fact(says, jumps[0].step.number),) if samples else ()
    in_all = sorted(set.intersection(*(set(row) for row in bad)))
    said = [f"{plural(len(bad), 'bad sequence')} with {plural(len(set().union(*bad)), 'document')}"]
    if len(bad) > 1 and in_all:
        said.append(f"{listing([str(d) for d in in_all[:6]])} in every one")
    cleared = sorted({d for row in bad for d in row if healthy[d]} - {d for group in groups for d in group})
    if cleared:
        said.append(f"{listing([str(d) for d in cleared[:6]])} also seen in good sequences")
    return (fact(", ".join(said), jumps[0].step.number),)


def _confirm(chart: Chart, jump: Jump, groups: list[list[int]]) -> Experiment:
    step, data = jump.step.number, chart.config.get("data")
    several = any(len(group) > 1 for group in groups)
    name = repr(str(data)) if data else "DATA"
    return Experiment(
        name="replay-without-document",
        says=f"replay step {step} with another document in place of "
             + ("each suspect in turn, one replay a suspect" if several else "the suspect")
             + "; as a control, replace another document of the same batch",
        predicts="without the culprit loss and gradient norm are usual; with the control they jump again",
        command=f"llmkit.data.open_dataset({name}).document({groups[0][0]}).text" if groups else "",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- no finding


def _not_proven(jump: Jump) -> Opinion:
    step = jump.step.number
    if not jump.rows:
        return Opinion(
            ruled_out=f"the loss jumps at step {step}, but no minority of its sequences carries the jump"
        )
    if not jump.ended:
        return Opinion(not_judged=f"the loss jumps at step {step}, the last recorded: the next step decides")
    return Opinion(ruled_out=f"the loss jumps at step {step} and stays high: not one document")


def _quiet(chart: Chart) -> str:
    judged = [s for s in chart.steps if s.loss.z == s.loss.z and s.norm.z == s.norm.z and finite(s.record)]
    if not judged:
        return "too few steps to call any of them unusual"
    near = max(judged, key=lambda s: min(s.loss.z / LOSS_Z, s.norm.z / NORM_Z))
    return (
        f"no step jumps far in both loss and gradient norm; the nearest, step {near.number}, has a loss with "
        f"robust z {number(near.loss.z)} (alarm at {LOSS_Z:g}) and {number(near.norm_ratio)} times the usual "
        f"norm (alarm at {NORM_RATIO:g})"
    )
