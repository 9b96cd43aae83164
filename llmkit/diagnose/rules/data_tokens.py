"""Ids that no text of this data set has: drawn blindly (LK402), or another tokenizer's (LK406).

Two numbers of a sequence tell them apart before the forward pass. Its *surprise*, the mean of -ln(frequency),
is above ln V for ids without this corpus's frequencies (Gibbs' inequality), and below it for nearly all text.
The *entropy* of its own counts does not ask which ids they are: renumbered text keeps the entropy of text,
noise has that of uniform draws.
"""

from __future__ import annotations

import math
from collections import Counter

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, fact, finding, needs
from llmkit.diagnose.rules.data_targets import loss_then
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number, percent, plural

# Of 54,786 windows of docstrings 152 are above ln V, their entropy at most 0.942 of uniform draws'; of 2,000
# windows of uniform draws the lowest has 0.967.
BLIND = 0.96
FEW = 3  # sequences of noise; fewer are a page of digits
HALF = 0.5  # of a batch; a source in another script makes a minority of the sequences foreign


def uniform_entropy(draws: int, vocab: int) -> float:
    """Expected entropy, nats, of the counts of `draws` ids drawn uniformly from `vocab`.

    E[-sum (k/n) ln(k/n)] with k binomial(n, 1/V), summed exactly: V times the mean of one id's term.

    >>> round(uniform_entropy(64, 512), 3)
    4.075
    """
    total, factorial = 0.0, math.lgamma
    for k in range(1, draws):
        chance = factorial(draws + 1) - factorial(k + 1) - factorial(draws - k + 1)
        chance += (draws - k) * math.log1p(-1 / vocab) - k * math.log(vocab)
        total -= math.exp(chance) * k / draws * math.log(k / draws)
    return vocab * total


def _foreign(chart: Chart, steps: list[Step]) -> list[tuple[Step, list[int], bool]]:
    """Steps with sequences above ln V; which (those of the highest losses); whether they are noise."""
    shape, found = chart.config.get("model") or {}, []
    if not {"context", "vocab_size"} <= shape.keys():
        return []
    limit = BLIND * uniform_entropy(shape["context"], shape["vocab_size"])
    for step in steps:
        losses, count = step.record.sequence_losses, int(step.record.stats["foreign_rows"])
        if count and losses:
            rows = sorted(range(len(losses)), key=losses.__getitem__)[-count:]
            found.append((step, rows, step.record.stats.get("foreign_entropy", 0.0) > limit))
    return found


def _usual(steps: list[Step], what: str) -> Opinion:
    rows = sum(len(s.record.sequence_losses) or 1 for s in steps)
    odd = percent(sum(s.record.stats["foreign_rows"] for s in steps) / rows)
    return Opinion(ruled_out=f"{odd} of the sequences have ids rarer than guessing, none {what}")


@needs("foreign_rows")
def corrupt_shard(chart: Chart, steps: list[Step]) -> Opinion:
    """LK402: corrupt shard.

    What it sees: sequences whose ids have neither the frequencies of the corpus (surprise above ln V) nor
    the repetitions of any text (entropy of uniform draws), three at least; with `samples` and the shard
    size of run.json, the shard that all of them lie in.
    Why it hurts: nothing can be learned from noise, and its gradient displaces that of the good
    sequences.
    Looks like: a batch in two groups, one at ln V or above for ever, the other as usual (tiny(), one
    shard of four: loss 0.4 nats above the healthy run, validation 0.2); the gradient norm moves little.
    Confirm: decode a window of the shard, and one of another shard: no words in the first, text in the
    second.
    Fix: read the shard with the right dtype or decompress it, or build it again, and skip its windows
    until then; its hash does not help where the writer was wrong. No rollback is needed where good
    sequences went on learning.
    Confused with: LK406 tokenizer swap (entropy of text, all sequences, the loss falls again), LK401
    poisoned document (low entropy, large gradient), LK411 flipped byte (the hash is wrong; here it may be
    right).
    """
    noise = [(step, rows) for step, rows, blind in _foreign(chart, steps) if blind]
    if sum(len(rows) for _, rows in noise) < FEW:
        return _usual(steps, "repeats as uniform draws do")
    (first, rows), vocab = noise[0], chart.config["model"]["vocab_size"]
    place, located = _where(chart, steps, noise)
    losses = first.record.sequence_losses
    others = [loss for row, loss in enumerate(losses) if row not in rows] or [math.nan]
    return finding(
        corrupt_shard, f"{place} serves ids drawn blindly, first at step {first.number}", first.number, place,
        (
            fact(f"the ids of {plural(len(rows), 'sequence')} are rarer than guessing and repeat as uniform "
                 f"draws do (entropy {number(first.record.stats['foreign_entropy'])} nats)", first.number),
            fact(f"loss {number(losses[rows[-1]])} there, {number(sum(others) / len(others))} in the others; "
                 f"guessing costs {number(math.log(vocab))}", first.number),
            fact(located, noise[-1][0].number),
        ),
        probe="decode-shard", command=f"run.dataset.decode(run.loader.batch({first.number}).x[{rows[-1]}])",
    )  # fmt: skip


def shard_of(chart: Chart, sample: int) -> int | None:
    """The training shard that a window lies in; None where run.json does not say how large shards are."""
    size = (chart.data.get("shards") or {}).get("tokens")
    return sample * chart.config["model"]["context"] // size if size else None


def _where(chart: Chart, steps: list[Step], noise: list[tuple[Step, list[int]]]) -> tuple[str, str]:
    """The one shard that the noise lies in, and how that is known."""
    bad = [shard_of(chart, s.record.samples[row]) for s, rows in noise if s.record.samples for row in rows]
    (shard, count), *_ = Counter(bad).most_common(1) or [(None, 0)]
    if shard is None or count < 0.9 * len(bad):
        return "the loader", "the noise lies in no shard alone, or shards are not recorded"
    since = [s.record.samples for s in steps if s.number >= noise[0][0].number]
    served = [shard_of(chart, sample) for samples in since for sample in samples]
    return f"shard {shard}", (
        f"{count} of {plural(len(bad), 'sequence')} of noise lie in shard {shard}, which has "
        f"{served.count(shard)} of the {len(served):,} sequences served since"
    )


@needs("foreign_rows")
def tokenizer_swap(chart: Chart, steps: list[Step]) -> Opinion:
    """LK406: tokenizer swap.

    What it sees: from one step on, at least half of the sequences have ids rarer than guessing (surprise
    above ln V), but they repeat as text does: the same words under other numbers.
    Why it hurts: everything learned about tokens is wrong at once, and the model relearns the vocabulary
    at the price of what it knew; text of the right tokenizer then reads as noise to it.
    Looks like: the loss jumps above ln V (tiny(): 2.4 to 3.2 nats up) with a gradient norm four to eight
    times the usual, in all sequences, and falls back over hundreds of steps.
    Confirm: decode a batch from before and one from after with the data set's tokenizer: text, then word
    salad.
    Fix: encode the new text with the tokenizer whose digest is in run.json, and go back to a checkpoint
    before the step; keep the digest in every shard and checkpoint and assert it.
    Confused with: LK402 corrupt shard (entropy of noise, the loss does not fall), a shift of the data
    mixture (the surprise stays below ln V), LK301 learning-rate glitch (the ids are as usual).
    """
    found = _foreign(chart, steps)
    many = [s for s, rows, blind in found if len(rows) >= HALF * len(s.record.sequence_losses) and not blind]
    numbers = {s.number for s in many}
    first = next((s for s in many if s.number + 1 in numbers), None)  # one odd batch is no tokenizer
    if first is None:
        return _usual(steps, "in two batches running that are half of such and repeat as text does")
    stats, shape = first.record.stats, chart.config["model"]
    vocab, noise = shape["vocab_size"], uniform_entropy(shape["context"], shape["vocab_size"])
    return finding(
        tokenizer_swap, f"from step {first.number} text comes under the ids of another tokenizer",
        first.number, "tokenizer",
        (
            fact(f"an input has {number(stats['token_nats'])} nats of surprise, at step {steps[0].number} it "
                 f"had {number(steps[0].record.stats['token_nats'])}; guessing has {number(math.log(vocab))}",
                 first.number),
            fact(f"yet sequences repeat as text does: entropy {number(stats['foreign_entropy'])} nats, "
                 f"uniform draws have {number(noise)}; so in {len(many)} recorded steps", first.number),
            *loss_then(first),
        ),
        probe="decode-before-and-after",
        command=f"run.dataset.decode(run.loader.batch({first.number}).x[0])",
    )  # fmt: skip
