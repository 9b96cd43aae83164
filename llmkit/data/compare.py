"""Has a shard changed, and could chance have done it? From sketches alone, with a known false-alarm rate.

Two clean shards never agree: two samples of two million tokens of one corpus differ by 10 % in total
variation, because documents repeat their own words. So no distance is held against a threshold here, and no
chi-square over tokens is computed (it rejects every clean shard). What is asked is how often dealing the same
blocks of documents into shards at random gives a difference as large, in two families of alpha / 2 each:

    rare     the largest |z| over all tokens seen 30 times or more, and over shards
    common   the largest |z| over the 40 commonest tokens, which need no search among thousands, and over 26
             features: the shares of capitals, digits, white space ..., tokens a document; and over shards

    compared = compare(load_sketch(content))                    # every shard against all the others
    compared.alarm, compared.shard, [change.name for change in compared.subwords]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, pi, sqrt

import numpy as np

from llmkit.data.permutation import contrasts, maxima, orders, p_value, residuals, spread
from llmkit.data.sketch import CLASSES, UNIT, Sketch
from llmkit.errors import ConfigError

FEWEST_DOCUMENTS = 100  # a shard with fewer is not testable
FEWEST_COUNTS = 30  # rarer tokens are left out of the scan
COMMONEST = 40  # tokens that are tested beside the features
MOST_BLOCKS = 512  # of all shards together; beyond, blocks are merged
POWER_Z = 1.645  # 95 % of a normal distribution lies above -1.645
BASELINE = "the baseline"
FEATURES = (
    *(f"{name} tokens" for name in CLASSES),
    *(f"documents with {name}" for name in CLASSES),
    "bytes a token",
    "tokens a document",
)


@dataclass(frozen=True)
class Units:
    """What the permutation deals: n blocks of about equally many documents."""

    group: np.ndarray  # (n,) number of the shard
    stratum: np.ndarray  # (n,)
    documents: np.ndarray  # (n,)
    counts: np.ndarray  # (n, V) weighted
    features: np.ndarray  # (n, features) numerators
    sizes: np.ndarray  # (n, features) denominators: weighted tokens, or documents
    totals: np.ndarray  # (V,) of all blocks together, unweighted


@dataclass(frozen=True)
class Tested:
    """One family: s shards by k counts. Shares are weighted as in the sketch."""

    z: np.ndarray  # (s, k), 0 where a count is too rare to be scanned
    p: np.ndarray  # (s, k) adjusted for all counts and shards
    here: np.ndarray  # (s, k) share in the shard
    there: np.ndarray  # (s, k) share in what it is held against
    difference: np.ndarray  # (s, k) here - there, within strata
    error: np.ndarray  # (s, k) its standard deviation between dealings
    limit: float  # |z| that at most alpha / 2 of the dealings reach
    detectable: np.ndarray  # (k,) change seen with 95 % chance in the shard where that is hardest


@dataclass(frozen=True)
class Change:
    """One subword or feature of one shard against the others."""

    name: str
    token: int | None  # None: a feature
    here: float  # share (or ratio) in the shard
    there: float  # in what it is compared with
    low: float  # 95 % interval of here - there, from the variance between blocks
    high: float
    z: float
    p: float  # chance that anything in its family, in any shard, gets a |z| as large without drift
    limit: float  # |z| above which that chance is at most alpha / 2

    def told(self, value: float, sign: str = "") -> str:
        """One of its numbers as text: a share in percent, a ratio such as bytes a token as it is."""
        return f"{value:{sign}.2f}" if self.name in FEATURES[-2:] else f"{value:{sign}.3%}"


@dataclass(frozen=True)
class Comparison:
    """The verdict, how sure, what carries it, and what this much data could have shown."""

    verdict: str  # "drift", "no drift seen" or "not testable"
    shards: tuple[str, ...]  # tested
    untested: dict[str, int]  # too few documents: how many each has
    alpha: float
    tokens: int = 0
    documents: int = 0
    p_rare: float = 1.0
    p_common: float = 1.0
    shard: str = ""  # the shard that stands out most
    subwords: tuple[Change, ...] = ()  # under drift those beyond chance, else the three nearest to it
    classes: tuple[Change, ...] = ()
    variation: float = 0.0  # total variation of that shard from the others, as it comes
    variation_floor: float = 0.0  # and what a clean shard of this size shows on average
    vanishing: float = 1.0  # share from which on a vanished token is seen with 95 % chance
    detectable: dict[str, float] = field(default_factory=dict)  # by feature: change seen with 95 % chance
    diffuse_tokens: float = float("inf")  # tokens a shard to bring variation_floor down to 0.3 %

    @property
    def alarm(self) -> bool:
        return self.verdict == "drift"


def compare(
    sketch: Sketch,
    baseline: Sketch | None = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    permutations: int = 1999,
    alpha: float = 0.01,
) -> Comparison:
    """Every shard of a sketch against a frozen baseline, or against all its other shards.

    Args:
        names: how to print each token; default: its number.
        permutations: at least 2 / alpha - 1, else no p-value could be small enough.
        alpha: share of clean data sets that raise an alarm, over both families and all shards.

    Raises:
        ConfigError: too few permutations, or sketches of two tokenizers, whose numbers mean other tokens.
    """
    if not 0 < alpha < 1 or 1 / (1 + permutations) > alpha / 2:
        raise ConfigError(
            f"{permutations:,} permutations cannot show a p-value of {alpha / 2:g}",
            expected=f"at least {ceil(2 / alpha) - 1:,} for alpha {alpha:g}",
        )
    if baseline is not None and baseline.tokenizer != sketch.tokenizer:
        raise ConfigError(
            "the two data sets were written with two tokenizers: equal ids are not equal subwords",
            remedy="compare the tokenizers first: llmkit data tokenizer",
        )
    groups = [(str(name), sketch, sketch.shard == i) for i, name in enumerate(sketch.shards)]
    if baseline is not None:
        groups.append((BASELINE, baseline, baseline.shard >= 0))
    sizes = {name: int(s.documents[rows].sum()) for name, s, rows in groups}
    untested = {name: n for name, n in sizes.items() if n < FEWEST_DOCUMENTS}
    groups = [group for group in groups if group[0] not in untested]
    shards = tuple(name for name, _, _ in groups if name != BASELINE)
    if len(groups) < 2 or not shards or BASELINE in untested:
        return Comparison("not testable", shards, untested, alpha)
    units = units_of(groups)
    weights = contrasts(
        units.group, units.stratum, range(len(shards)), None if baseline is None else len(shards)
    )
    if not weights.any():  # no source group is on both sides
        return Comparison("not testable", shards, untested, alpha)
    dealt = orders(units.stratum, permutations, np.random.default_rng(seed))
    return judge(units, weights, dealt, shards, untested, names or range(units.totals.size), alpha)


def units_of(groups: list[tuple[str, Sketch, np.ndarray]]) -> Units:
    """Blocks of each (name, sketch, which of its blocks), merged until all hold as many documents.

    Blocks of one size are what makes dealing them fair: a small shard in as many blocks as a large one would
    pass for less noisy than it is. Merging neighbours is merging at random, since their order is a hash.
    """
    labels = sorted({str(name) for _, sketch, _ in groups for name in sketch.strata})
    cells = []  # (group, stratum, sketch, block numbers)
    for g, (_, sketch, rows) in enumerate(groups):
        for code, label in enumerate(sketch.strata):
            mine = np.flatnonzero(rows & (sketch.stratum == code))
            cells += [(g, labels.index(label), sketch, mine)] if len(mine) else []
    least = sum(sketch.documents[mine].sum() for _, _, sketch, mine in cells) / MOST_BLOCKS
    wanted = dict.fromkeys(range(len(labels)), least)  # documents a block, by stratum
    for _, h, sketch, mine in cells:
        wanted[h] = max(wanted[h], sketch.documents[mine].mean())
    parts = []
    for g, h, sketch, mine in cells:
        k = min(len(mine), max(1, round(sketch.documents[mine].sum() / wanted[h])))
        home, width = np.full(len(sketch.shard), -1), sketch.totals.shape[1]
        home[mine] = np.arange(len(mine)) * k // len(mine)
        near = slice(*np.searchsorted(sketch.block, [mine[0], mine[-1] + 1]))  # blocks ascend
        to = home[sketch.block[near]]
        keys = to[to >= 0] * width + sketch.token[near][to >= 0]
        counts = np.bincount(keys, sketch.count[near][to >= 0] / UNIT, k * width).reshape(k, width)
        ones = [sketch.nbytes / UNIT, sketch.tokens, sketch.documents]
        columns = np.column_stack([sketch.classes / UNIT, sketch.holding, *ones])[mine]
        columns = np.add.reduceat(columns, np.searchsorted(home[mine], np.arange(k)))
        parts.append((np.full(k, g), np.full(k, h), columns, counts))
    group, stratum, columns, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    weight, documents = counts.sum(1), columns[:, -1]
    sizes = np.stack([weight, documents, weight, documents], axis=1)
    sizes = np.repeat(sizes, [len(CLASSES), len(CLASSES), 1, 1], axis=1)
    totals = sum(sketch.totals[np.unique(sketch.shard[rows])].sum(0) for _, sketch, rows in groups)
    return Units(group, stratum, documents, counts, columns[:, :-1], sizes, totals)


def tested(
    units: Units,
    weights: np.ndarray,
    counts: np.ndarray,
    size: np.ndarray,
    scanned: np.ndarray,
    dealt: np.ndarray,
    alpha: float,
) -> Tested:
    """The permutation test of counts (n, k) against size (n, k or 1), for the columns in `scanned` (k,)."""
    rest = residuals(counts, size, units.stratum)
    largest = maxima(weights, rest[:, scanned], units.stratum, dealt)
    sd = spread(weights, rest, units.stratum)
    z = np.where(scanned, weights @ rest / sd, 0)
    here, there = ((side @ counts, np.maximum(side @ size, 1)) for side in (weights > 0, weights < 0))
    scale = 1 / here[1] + 1 / there[1]
    error = np.where(np.isfinite(sd), sd, 0) * scale
    limit = float(np.quantile(largest, 1 - alpha / 2, method="higher"))
    return Tested(
        z=z,
        p=p_value(np.abs(z), largest),
        here=here[0] / here[1],
        there=there[0] / there[1],
        difference=weights @ rest * scale,
        error=error,
        limit=limit,
        detectable=(limit + POWER_Z) * error.max(0),
    )


def judge(
    units: Units,
    weights: np.ndarray,
    dealt: np.ndarray,
    shards: tuple[str, ...],
    untested: dict[str, int],
    names: Sequence[str | int],
    alpha: float,
) -> Comparison:
    """Both families, and what they mean. `weights` (s, n) as `contrasts` gives them, for each of `shards`."""
    present = np.argsort(-units.totals, kind="stable")[: np.count_nonzero(units.totals)]
    counts, size = units.counts[:, present], units.counts.sum(1, keepdims=True)
    scan = units.totals[present] >= FEWEST_COUNTS
    scan[:COMMONEST] = False
    rare = tested(units, weights, counts, size, scan, dealt, alpha)
    both = np.hstack([units.features, counts[:, :COMMONEST]])
    sizes = np.hstack([units.sizes, np.repeat(size, both.shape[1] - len(FEATURES), axis=1)])
    common = tested(units, weights, both, sizes, np.ones(both.shape[1], bool), dealt, alpha)
    alarm = min(rare.p.min(), common.p.min()) <= alpha / 2
    lead = max((rare, common), key=lambda family: (-family.p.min(), np.abs(family.z).max()))
    s = int(np.abs(lead.z).max(axis=1).argmax())
    spelt = [(str(names[t]), int(t)) for t in present]
    limit = alpha / 2 if alarm else None
    seen = changes(common, s, [*((name, None) for name in FEATURES), *spelt], limit)
    seen = sorted([*changes(rare, s, spelt, limit), *seen], key=lambda change: (change.p, -abs(change.z)))
    varied = scan & (rare.error.max(0) > 0)
    ratio = rare.detectable[varied] / np.sqrt(counts.sum(0) / size.sum())[varied]
    floor = sqrt(0.5 / pi) * rare.error[s].sum()  # half of the sum of E|N(0, error)|
    return Comparison(
        verdict="drift" if alarm else "no drift seen",
        shards=shards,
        untested=untested,
        alpha=alpha,
        tokens=int(units.totals.sum()),
        documents=int(units.documents.sum()),
        p_rare=float(rare.p.min()),
        p_common=float(common.p.min()),
        shard=shards[s],
        subwords=tuple(c for c in seen if c.token is not None),
        classes=tuple(c for c in seen if c.token is None),
        variation=float(np.abs(rare.here[s] - rare.there[s]).sum() / 2),
        variation_floor=float(floor),
        vanishing=float(np.median(ratio) ** 2) if len(ratio) else 1.0,
        detectable=dict(zip(FEATURES, common.detectable.tolist(), strict=False)),
        diffuse_tokens=float(units.totals.sum() / len(shards) * (floor / 0.003) ** 2),
    )


def changes(
    family: Tested, s: int, spelt: Sequence[tuple[str, int | None]], limit: float | None, most: int = 20
) -> list[Change]:
    """What stands out in shard s: all with p <= limit, or without a limit the three most extreme."""
    order = np.argsort(-np.abs(family.z[s]), kind="stable")[: 3 if limit is None else most]
    low, high = (family.difference[s] + sign * 1.96 * family.error[s] for sign in (-1, 1))
    columns = (family.here[s], family.there[s], low, high, family.z[s], family.p[s])
    found = [Change(*spelt[i], *(float(c[i]) for c in columns), family.limit) for i in order]
    return [change for change in found if limit is None or change.p <= limit]
