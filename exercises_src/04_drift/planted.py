"""Wrong solutions of exercise 04, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["drift_test"]["looks at one shard in the dealings"]
"""

from __future__ import annotations

import itertools
import math
import random
from functools import partial
from statistics import NormalDist

import numpy as np

from .permutations import outcome_of
from .shares import WRONG_ERRORS, error_of, gaps_of, mean_hits, mean_of_ratios, ratio

# ----------------------------------------------------------------------------------------------- wrong: gaps


def _swapped(hits, tokens, shards):
    """Tokens of the others under hits of the shard."""
    found = gaps_of(hits, tokens, shards)
    return {s: found[s] * sum(hits) / sum(tokens) for s in found}


def _relative(hits, tokens, shards):
    inside = {s: ratio(hits, tokens, [one == s for one in shards]) for s in set(shards)}
    return {s: inside[s] / max(1e-9, inside[s] - gap) - 1 for s, gap in gaps_of(hits, tokens, shards).items()}


def _z(hits, tokens, shards):
    return {s: gap / error_of(hits, tokens) for s, gap in gaps_of(hits, tokens, shards).items()}


def _from_mean_of_shards(hits, tokens, shards):
    """Against the plain mean of the other shards' shares."""
    inside = {s: ratio(hits, tokens, [one == s for one in shards]) for s in set(shards)}
    return {s: inside[s] - np.mean([v for other, v in inside.items() if other != s]) for s in inside}


def _crash_on_zero(hits, tokens, shards):
    return {
        s: gap
        for s, gap in gaps_of(hits, tokens, shards).items()
        if 1 / min(h + (t < 0) for h, t in zip(hits, tokens, strict=True))
    }


WRONG_GAPS = {
    "takes the mean of shares": (partial(gaps_of, share=mean_of_ratios), "ratio"),
    "counts hits per document": (partial(gaps_of, share=mean_hits), "tokens"),
    "sets shards against all": (partial(gaps_of, rest=False), "others"),
    "turns the sign round": (lambda *a: {s: -gap for s, gap in gaps_of(*a).items()}, "sign"),
    "takes sizes": (lambda *a: {s: abs(gap) for s, gap in gaps_of(*a).items()}, "sign"),
    "takes the mean of the other shards": (_from_mean_of_shards, "value"),
    "divides by the others' share": (_relative, "value"),
    "divides by the standard error": (_z, "value"),
    "says percent": (lambda *a: {s: 100 * gap for s, gap in gaps_of(*a).items()}, "value"),
    "scales by the share": (_swapped, "value"),
    "returns shares": (
        lambda h, t, shards: {s: ratio(h, t, [one == s for one in shards]) for s in set(shards)},
        "value",
    ),
    "returns a list": (lambda *a: list(gaps_of(*a).values()), "form"),
    "returns the largest only": (lambda *a: max(gaps_of(*a).values()), "form"),
    "numbers the shards anew": (lambda *a: dict(enumerate(gaps_of(*a).values())), "form"),
    "divides by hits": (_crash_on_zero, ""),
}

# --------------------------------------------------------------------------------------------- wrong: errors


def _error(key):
    return lambda hits, tokens: WRONG_ERRORS[key](hits, tokens)


WRONG_ERROR = {
    "takes tokens for units": (_error("documents"), "documents"),
    "forgets the lengths": (_error("residual"), "residual"),
    "takes the mean of shares": (_error("ratio"), "ratio"),
    "divides by n": (_error("freedom"), "freedom"),
    "forgets the root": (lambda h, t: error_of(h, t) ** 2, "value"),
    "gives a standard deviation": (lambda h, t: error_of(h, t) * math.sqrt(len(h)), "value"),
    "gives an interval": (lambda h, t: 1.96 * error_of(h, t), "value"),
    "divides by the documents": (lambda h, t: error_of(h, t) * sum(t) / len(h), "value"),
    "adds deviations, not squares": (
        lambda h, t: abs(sum(a - sum(h) / sum(t) * b for a, b in zip(h, t, strict=True))) / sum(t),
        "value",
    ),
    "takes the mean deviation": (
        lambda h, t: sum(abs(a - sum(h) / sum(t) * b) for a, b in zip(h, t, strict=True)) / sum(t),
        "value",
    ),
    "returns both ends": (lambda h, t: [-error_of(h, t), error_of(h, t)], "form"),
    "returns text": (lambda h, t: f"{error_of(h, t):.6f}", "form"),
    "divides by what is missing": (lambda h, t: error_of(h, t) / (len(h) - h.count(0) and min(h)), ""),
}

# ----------------------------------------------------------------------------------------------- wrong: deal


def _with(draw, generator=random.Random):
    def deal(shards, times, seed):
        source = generator(seed)
        return [draw(source, list(shards)) for _ in range(times)]

    return deal


def _shuffled(source, shards):
    source.shuffle(shards)
    return shards


def _swap(source, shards):
    i, j = source.sample(range(len(shards)), 2)
    shards[i], shards[j] = shards[j], shards[i]
    return shards


def _rotate(source, shards):
    turn = source.randrange(len(shards))
    return shards[turn:] + shards[:turn]


def _global(shards, times, seed):
    return [random.sample(shards, len(shards)) for _ in range(times)]


def _seeds_global(shards, times, seed):
    random.seed(seed)
    return [random.sample(shards, len(shards)) for _ in range(times)]


def _one_list(shards, times, seed):
    source, dealings = random.Random(seed), []
    for _ in range(times):
        source.shuffle(shards)
        dealings.append(shards)
    return dealings


def _seeded_inside(shards, times, seed):
    return [random.Random(seed).sample(shards, len(shards)) for _ in range(times)]


def _none_back(shards, times, seed):
    source = random.Random(seed)
    return [source.shuffle(list(shards)) for _ in range(times)]


def _documents(shards, times, seed):
    source = random.Random(seed)
    return [source.sample(range(len(shards)), len(shards)) for _ in range(times)]


def _numpy_global(shards, times, seed):
    np.random.seed(seed)
    return [np.random.permutation(shards).tolist() for _ in range(times)]


def _keeps_first(source, shards):
    return [shards[0], *source.sample(shards[1:], len(shards) - 1)]


WRONG_DEAL = {
    "draws labels with replacement": (_with(lambda g, s: g.choices(s, k=len(s))), "counts"),
    "draws shards at random": (_with(lambda g, s: [g.choice(sorted(set(s))) for _ in s]), "counts"),
    "deals document numbers": (_documents, "counts"),
    "does not shuffle": (_with(lambda g, s: s), "uniform"),
    "rotates the labels": (_with(_rotate), "uniform"),
    "swaps two labels": (_with(_swap), "uniform"),
    "leaves the first where it is": (_with(_keeps_first), "uniform"),
    "deals one list again and again": (_one_list, "uniform"),
    "starts the generator anew each time": (_seeded_inside, "uniform"),
    "sorts the labels backwards": (_with(lambda g, s: sorted(s, reverse=True)), "uniform"),
    "draws from the global generator": (_global, "pure"),
    "seeds the global generator": (_seeds_global, "global"),
    "seeds numpy's": (_numpy_global, "global"),
    "ignores the seed": (_with(_shuffled, lambda seed: random.Random(0)), "seed"),
    "returns what shuffle returns": (_none_back, "form"),
    "deals once": (lambda s, times, seed: _with(_shuffled)(s, 1, seed), "form"),
    "returns one flat list": (lambda *a: list(itertools.chain(*_with(_shuffled)(*a))), "form"),
    "seeds with a list": (lambda s, t, seed: _with(_shuffled)(s, t, [seed]), ""),
}

# ----------------------------------------------------------------------------------------------- wrong: test


def _dealt_hits(hits, tokens, shards, dealings):
    """Deals hits without their documents' tokens."""
    seen = outcome_of(hits, tokens, shards, [])
    count = 0
    for dealing in dealings:
        order = sorted(range(len(hits)), key=lambda i: dealing[i])
        labels = sorted(shards)
        moved = [hits[i] for i in order]
        count += max(map(abs, gaps_of(moved, tokens, labels).values())) >= abs(seen[0])
    return seen[0], seen[1], (1 + count) / (1 + len(dealings))


def _by_normal(hits, tokens, shards, dealings):
    gap, shard, _ = outcome_of(hits, tokens, shards, [])
    share, total = sum(hits) / sum(tokens), sum(tokens)
    inside = sum(t for t, s in zip(tokens, shards, strict=True) if s == shard)
    error = math.sqrt(share * (1 - share) * (1 / inside + 1 / (total - inside)))
    return gap, shard, 2 * (1 - NormalDist().cdf(abs(gap) / error))


def _most(hits, tokens, shards, dealings):
    found = gaps_of(hits, tokens, shards)
    shard = max(found, key=found.get)
    return found[shard], shard, outcome_of(hits, tokens, shards, dealings)[2]


def _right(*arguments):
    return outcome_of(*arguments)


def _percentile(*arguments):
    gap, shard, p = outcome_of(*arguments)
    return gap, shard, 1 - p


WRONG_TEST = {
    "looks at one shard in the dealings": (partial(outcome_of, one=True), "inside"),
    "leaves out the order seen": (partial(outcome_of, plus=0), "plus"),
    "asks for more extreme ones": (partial(outcome_of, at_least=False), "least"),
    "compares with the sign": (partial(outcome_of, size=float), "side"),
    "multiplies by the shards": (
        lambda h, t, s, d: outcome_of(h, t, s, d, times=len(set(s))),
        "count",
    ),
    "deals hits without their tokens": (_dealt_hits, "count"),
    "takes tokens for units": (_by_normal, "count"),
    "returns 1 - p": (_percentile, "plus"),
    "counts, and does not divide": (
        lambda *a: (*_right(*a)[:2], _right(*a)[2] * (1 + len(a[3]))),
        "count",
    ),
    "names the shard with most": (_most, "shard"),
    "names the smallest gap": (
        lambda h, t, s, d: (
            *min((abs(g), shard) for shard, g in gaps_of(h, t, s).items()),
            outcome_of(h, t, s, d)[2],
        ),
        "shard",
    ),
    "gives the size of the gap": (lambda *a: (abs(_right(*a)[0]), *_right(*a)[1:]), "gap"),
    "names the last of two alike": (
        lambda h, t, s, d: (
            *max((abs(g), shard) for shard, g in gaps_of(h, t, s).items()),
            outcome_of(h, t, s, d)[2],
        ),
        "shard",
    ),
    "returns p alone": (lambda *a: _right(*a)[2], "form"),
    "returns a verdict": (lambda *a: _right(*a)[2] < 0.05, "form"),
}

WRONG = {"gaps": WRONG_GAPS, "standard_error": WRONG_ERROR, "deal": WRONG_DEAL, "drift_test": WRONG_TEST}

# ---------------------------------------------------------------------------------- right ones, other styles


def gaps_numpy(hits, tokens, shards):
    h, t, s = map(np.array, (hits, tokens, shards))
    return {
        int(k): h[s == k].sum() / t[s == k].sum() - h[s != k].sum() / t[s != k].sum() for k in np.unique(s)
    }


def gaps_counters(hits, tokens, shards):
    h, t = dict.fromkeys(shards, 0), dict.fromkeys(shards, 0)
    for a, b, s in zip(hits, tokens, shards, strict=True):
        h[s] += a
        t[s] += b
    return {s: h[s] / t[s] - (sum(h.values()) - h[s]) / (sum(t.values()) - t[s]) for s in h}


def error_numpy(hits, tokens):
    h, t = np.array(hits, dtype=float), np.array(tokens, dtype=float)
    d = h - h.sum() / t.sum() * t
    return np.sqrt(len(h)) * d.std(ddof=1) / t.sum()  # the deviations have mean 0


def error_by_mean(hits, tokens):
    n, mean = len(hits), sum(tokens) / len(tokens)
    share = sum(hits) / sum(tokens)
    variance = sum((h - share * t) ** 2 for h, t in zip(hits, tokens, strict=True)) / (n - 1)
    return (variance / n) ** 0.5 / mean


def deal_numpy(shards, times, seed):
    source = np.random.default_rng(seed)
    return [source.permutation(shards) for _ in range(times)]


def deal_sorted_keys(shards, times, seed):
    source = random.Random(f"dealing {seed}")
    return [[s for _, s in sorted((source.random(), s) for s in shards)] for _ in range(times)]


def deal_matrix(shards, times, seed):
    return np.random.default_rng(seed).permuted(np.tile(shards, (times, 1)), axis=1)


def drift_numpy(hits, tokens, shards, dealings):
    largest = [max(abs(g) for g in gaps_numpy(hits, tokens, d).values()) for d in [shards, *dealings]]
    found = gaps_numpy(hits, tokens, shards)
    shard = min(s for s, gap in found.items() if abs(gap) >= largest[0])
    return np.float64(found[shard]), shard, float(np.mean(np.array(largest) >= largest[0]))


def drift_fractions(hits, tokens, shards, dealings):
    """Exact, in fractions."""
    from fractions import Fraction

    def gaps(labels):
        return gaps_counters([Fraction(h) for h in hits], tokens, labels)

    found = gaps(shards)
    size = max(map(abs, found.values()))
    shard = min(s for s in found if abs(found[s]) == size)
    count = 1 + sum(max(map(abs, gaps(d).values())) >= size for d in dealings)
    return [float(found[shard]), shard, count / (1 + len(dealings))]


RIGHT = {
    "gaps": [gaps_numpy, gaps_counters, gaps_of],
    "standard_error": [error_numpy, error_by_mean, error_of],
    "deal": [deal_numpy, deal_sorted_keys, deal_matrix],
    "drift_test": [drift_numpy, drift_fractions, _right],
}
