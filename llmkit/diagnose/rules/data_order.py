"""Which windows are served: in what order (LK403), of which split (LK408), from which sources (LK409)."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import FACTS, Opinion, fact, finding, needs
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import listing, percent, plural

PAIRS = 12  # neighbours in the order served, before it is called an order
IN_ORDER = 9  # of them; a shuffle of N windows makes 1 in N
CHANCE = 1e-6  # that a source is absent for so long by luck
LATELY = 64  # steps that say how often a source was served
NEAR = 8  # steps in which a leak shows
LEAKED, LEAK = 7, 0.1  # sequences and share; 0.8 % of docstrings' windows are in validation by honest copies


def in_order(chart: Chart) -> tuple[int, int, int] | None:
    """First step whose samples lie on disk as they are served, neighbours since, and pairs since."""
    for life in chart.timelines():
        served = [(s.number, sample) for s in life.own for sample in s.record.samples]
        near = [b == a + 1 for (_, a), (_, b) in pairwise(served)]
        sums = [0, *accumulate(near)]
        for start, neighbours in enumerate(near[: len(near) - PAIRS + 1]):
            if neighbours and sums[start + PAIRS] - sums[start] >= IN_ORDER:
                return served[start][0], sums[-1] - sums[start], len(near) - start
    return None


def unshuffled_order(chart: Chart) -> Opinion:
    """LK403: unshuffled order.

    What it sees: consecutive samples are neighbours on disk, nine of twelve; a shuffle of N windows makes
    one such pair in N.
    Why it hurts: the sequences of a batch are alike, so that a batch counts as a smaller one, and the
    model follows the order of the corpus and forgets what came before.
    Looks like: a loss in phases, with the autocorrelation of the corpus, while validation is flat or
    worse (tiny(): validation 0.1 to 0.2 nats above the healthy run after 100 steps).
    Confirm: 200 steps from a checkpoint before it, shuffled: neighbouring steps are no longer alike.
    Fix: shuffle sequences, not documents or shards alone, with a permutation that mixes (a Feistel
    network and not a * x + b); assert that consecutive samples are not neighbours.
    Confused with: LK409 source missing (the order is shuffled), a shift of the data mixture (windows from
    everywhere, in other shares), a curriculum on purpose.
    """
    if not any(s.record.samples for s in chart.steps):
        return Opinion(not_judged="steps.jsonl has no `samples`: write the window index of each sequence")
    found = in_order(chart)
    if found is None:
        return Opinion(ruled_out="consecutive samples are not neighbours on disk")
    first, near, pairs = found
    samples = next(s.record.samples for life in chart.timelines() for s in life.own if s.number == first)
    return finding(
        unshuffled_order, f"from step {first} windows are served in their order on disk", first, "order",
        (
            fact(f"samples {listing([str(n) for n in samples[-4:]])} at step {first}", first),
            fact(f"{near:,} of {pairs:,} consecutive samples since are neighbours on disk", first),
        ),
        probe="replay-shuffled", command=f"run.loader.samples({first})",
    )  # fmt: skip


def source_missing(chart: Chart) -> Opinion:
    """LK409: source missing.

    What it sees: a source with a known share of the training tokens (run.json) has no target in so many
    sequences that luck explains it in fewer than one of a million runs.
    Why it hurts: the model is worse at one kind of text, and no curve of the whole says so.
    Looks like: nothing, or a small change of the loss's level (tiny() without networkx: 0.05 nats lower, the
    same in validation): what is left may be easier than what is gone.
    Confirm: count the sources of the next 1,000 batches: it is not among them.
    Fix: find why it is empty (a pattern that matches no file, a weight of 0, a stream that ended), and fail
    when that happens; log the mixture that is served beside the one that was ordered.
    Confused with: LK403 unshuffled order (sources come one after the other), a shift of the data mixture
    (the source is served, less often), LK412 duplicate shard (text is missing, its ids are served).
    """
    shares = chart.data.get("sources") or {}
    if not shares:
        return Opinion(not_judged="run.json has no `data.sources`: write the share of tokens of each source")
    if len(shares) < 2:
        return Opinion(ruled_out=f"there is one source, {next(iter(shares))}")
    if in_order(chart) is not None:
        return Opinion(not_judged="windows come in their order on disk, so sources come one after the other")
    steps = [s for s in chart.steps if any(f"source.{name}" in s.record.stats for name in shares)]
    for name, share in shares.items():
        since = len(steps)
        while since and not steps[since - 1].record.stats.get(f"source.{name}"):
            since -= 1
        rows = sum(max(1, len(s.record.sequence_losses)) for s in steps[since:])
        # windows with a target of the source are no fewer than its share of the tokens; a mixture that was
        # shifted away from it lowers what may be expected
        served = [s.record.stats.get(f"source.{name}", 0.0) for s in steps[max(0, since - LATELY) : since]]
        usual = min(share, sum(served) / len(served)) if served else share
        chance = rows * math.log1p(-usual) if usual < 1 else -math.inf
        if rows and chance < math.log(CHANCE):
            first = steps[since].number
            return finding(
                source_missing, f"source {name} is not served from step {first} on", first, name,
                (
                    fact(f"{name} has {percent(share)} of the training tokens", None, FACTS),
                    fact(f"none of {plural(rows, 'sequence')} since then has a target of it; luck does so "
                         f"with a chance below 10^{math.ceil(chance / math.log(10))}", steps[-1].number),
                ),
                probe="count-sources", command="[run.loader.batch(step).documents for step in range(1000)]",
            )  # fmt: skip
    if not steps:
        return Opinion(not_judged="`stats` has no `source.NAME`: attach `llmkit.observe.Recorder`")
    served = {n: sum(s.record.stats.get(f"source.{n}", 0.0) for s in steps) / len(steps) for n in shares}
    told = [f"{n} {percent(served[n])} ({percent(share)})" for n, share in shares.items()]
    return Opinion(ruled_out=f"sources served, and their share in the data: {listing(told)}")


@needs("val_rows")
def val_leak(chart: Chart, steps: list[Step]) -> Opinion:
    """LK408: train/val leak.

    What it sees: sequences of which every stretch of 32 tokens is also in the validation split, at least
    7 and a tenth of all within 8 steps. Real text repeats itself a little: of docstrings' windows 0.8 %
    are such.
    Why it hurts: the validation loss measures memory from then on, and every decision taken by it is
    wrong.
    Looks like: nothing in training; a validation loss that is too good, more so with every epoch (tiny(),
    half of the windows: 0.03 to 0.19 nats lower after 100 steps).
    Confirm: evaluate on validation and on text written after the data was frozen: the two disagree, ever
    more.
    Fix: split by document and remove near duplicates across the splits; take back what was concluded from
    the validation loss since.
    Confused with: LK412 duplicate shard (training text repeated in training, validation untouched), good
    generalisation (the clean set agrees), text that repeats itself.
    """
    rows = [max(1, len(s.record.sequence_losses)) for s in steps]
    leaked = [int(s.record.stats["val_rows"]) for s in steps]
    for index, count in enumerate(leaked):
        near = slice(index, index + NEAR)
        if count and sum(leaked[near]) >= max(LEAKED, LEAK * sum(rows[near])):
            first = steps[index].number
            return finding(
                val_leak, f"from step {first} validation text is trained on", first, "validation split",
                (
                    fact(f"{sum(leaked[index:])} of {plural(sum(rows[index:]), 'sequence')} since are in "
                         "the validation split, with every stretch of 32 tokens", steps[-1].number),
                    fact(f"of the {sum(rows[:index]):,} before, {sum(leaked[:index])} are", first),
                ),
                probe="evaluate-clean-set", command="llmkit.train.evaluate(run)", confidence="likely",
            )  # fmt: skip
    return Opinion(
        ruled_out=f"{percent(sum(leaked) / sum(rows))} of the sequences are in the validation split as well, "
        f"never a tenth of {NEAR} steps"
    )
