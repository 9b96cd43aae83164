"""Wrong solutions of exercise 28, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["stable_edges"]["a lucky one counts"]
"""

from __future__ import annotations

import math
from statistics import fmean, median

import numpy as np
import torch

# ---------------------------------------------------------------------------------------- wrong: is it lost


def _lost(finite=lambda x: all(map(math.isfinite, x)), tail=lambda x, n: fmean(x[-n:]), best=min):
    def is_lost(losses, last, margin):
        if not finite(losses):
            return True
        kept = [x for x in losses if math.isfinite(x)] or [0.0]
        return tail(kept, last) > best(kept) + margin

    return is_lost


def _no_nan(losses):
    return not any(map(math.isnan, losses))


WRONG_LOST = {
    "does not look for NaN": (lambda x, n, m: fmean(x[-n:]) > min(x) + m, "finite"),
    "looks for NaN alone": (_lost(finite=_no_nan), "finite"),
    "looks for infinity alone": (_lost(finite=lambda x: not any(map(math.isinf, x))), "finite"),
    "looks at the last loss alone for NaN": (_lost(finite=lambda x: math.isfinite(x[-1])), "finite"),
    "looks at the end alone for NaN": (
        lambda x, n, m: _lost()(x[-n:], n, m) or _lost(_no_nan)(x, n, m),
        "finite",
    ),
    "compares with the start": (_lost(best=lambda x: x[0]), "lost"),
    "compares with the mean": (_lost(best=fmean), "lost"),
    "compares with the lowest of the end": (
        lambda x, n, m: not all(map(math.isfinite, x)) or fmean(x[-n:]) > min(x[-n:]) + m,
        "lost",
    ),
    "the largest of the last": (_lost(tail=lambda x, n: max(x[-n:])), "spike"),
    "the largest of all": (_lost(tail=lambda x, n: max(x)), "fine"),
    "the last loss alone": (_lost(tail=lambda x, n: x[-1]), "spike"),
    "the median": (_lost(tail=lambda x, n: median(sorted(x)[-n:])), "fine"),
    "the mean of all": (_lost(tail=lambda x, n: fmean(x)), "fine"),
    "above 5 is lost": (_lost(best=lambda x: 4.0), "fine"),
    "returns the excess": (lambda x, n, m: fmean(x[-n:]) - min(x) - m, "form"),
}

# ------------------------------------------------------------------------------------------ wrong: how sure


def _ends(middle, half):
    return max(0.0, middle - half), min(1.0, middle + half)


def _wald(lost, runs, z=1.96):
    share = lost / runs
    return _ends(share, z * math.sqrt(share * (1 - share) / runs))


def _wilson(lost, runs, z=1.96, root=1.0, centre=1.0, whole=1.0):
    half = z * math.sqrt(lost * (1 - lost / runs) + root * z * z / 4)
    over = runs + whole * z * z
    return _ends((lost + centre * z * z / 2) / over, half / over)


def _agresti(lost, runs):
    n = runs + 1.96**2
    share = (lost + 1.96**2 / 2) / n
    return _ends(share, 1.96 * math.sqrt(share * (1 - share) / n))


def _unclipped_wald(lost, runs):
    share = (lost + 1) / (runs + 2)
    half = 1.96 * math.sqrt(share * (1 - share) / runs)
    return share - half, share + half


WRONG_WILSON = {
    "share and standard error": (_wald, "certain"),
    "the share twice": (lambda x, n: (x / n, x / n), "certain"),
    "outside 0 to 1": (_unclipped_wald, "bounds"),
    "90 %": (lambda x, n: _wilson(x, n, z=1.645), "edge"),
    "99 %": (lambda x, n: _wilson(x, n, z=2.576), "edge"),
    "z not squared under the root": (lambda x, n: _wilson(x, n, root=1 / 1.96), "edge"),
    "nothing under the root": (lambda x, n: _wilson(x, n, root=0.0), "certain"),
    "not pulled to one half": (lambda x, n: _wilson(x, n, centre=0.0), "edge"),
    "over the runs alone": (lambda x, n: _wilson(x, n, whole=0.0), "edge"),
    "over runs and 2 z squared": (lambda x, n: _wilson(x, n, whole=2.0), "edge"),
    "adds two and two": (_agresti, "edge"),
    "rule of three": (lambda x, n: (0.0, min(1.0, 3 / n)) if not x else _wilson(x, n), "edge"),
    "right at the ends alone": (lambda x, n: _wilson(x, n) if x in (0, n) else _wald(x, n), "middle"),
    "upper end first": (lambda x, n: _wilson(x, n)[::-1], "form"),
    "the upper end alone": (lambda x, n: _wilson(x, n)[1], "form"),
}

# ------------------------------------------------------------------------------------------ wrong: the edge


def _edges(pick, order=sorted):
    """`pick([(rate, is stable)])` from small to large gives the edge of a row."""

    def stable_edges(rates, lost, runs, limit):
        rows = ([(rate, count) for rate, count in order(zip(rates, row, strict=True))] for row in lost)
        return [pick([(rate, _wilson(count, runs)[1] <= limit) for rate, count in row]) for row in rows]

    return stable_edges


def _stretch(row):
    edge = None
    for rate, stable in row:
        if not stable:
            break
        edge = rate
    return edge


def _by_share(rates, lost, runs, limit):
    return [
        _stretch([(rate, count / runs <= limit) for rate, count in sorted(zip(rates, row, strict=True))])
        for row in lost
    ]


def _by_lower_end(rates, lost, runs, limit):
    return [
        _stretch([(r, _wilson(count, runs)[0] <= limit) for r, count in sorted(zip(rates, row, strict=True))])
        for row in lost
    ]


def _all_warmups(rates, lost, runs, limit):
    worst = [max(row[r] for row in lost) for r in range(len(rates))]
    return _edges(_stretch)(rates, [worst] * len(lost), runs, limit)


def _first_unstable(row):
    return next((rate for rate, stable in row if not stable), row[-1][0])


WRONG_EDGES = {
    "a lucky one counts": (_edges(lambda row: max((r for r, s in row if s), default=None)), "gap"),
    "the rates as they come": (_edges(_stretch, order=list), "none"),
    "the share, not its upper end": (_by_share, "upper"),
    "the lower end": (_by_lower_end, "upper"),
    "strictly the smallest": (_edges(lambda row: row[0][0] if row[0][1] else None), "largest"),
    "the first unstable one": (_edges(_first_unstable), "upper"),
    "the smallest when none is stable": (_edges(lambda row: _stretch(row) or row[0][0]), "none"),
    "one edge for all warmups": (_all_warmups, "largest"),
    "skips an unstable one": (
        _edges(lambda row: _stretch([x for i, x in enumerate(row) if x[1] or i != len(row) - 2])),
        "gap",
    ),
    "from the large end": (_edges(lambda row: next((r for r, s in reversed(row) if s), None)), "gap"),
    "one step before the edge": (_edges(lambda row: _stretch(row[:-1]) or _stretch(row)), "largest"),
    "the number of the rate": (_edges(lambda row: len([s for _, s in row if s])), "form"),
    "0 for none": (_edges(lambda row: _stretch(row) or 0.0), "form"),
    "one number": (lambda *a: _edges(_stretch)(*a)[0], "form"),
}

WRONG = {"is_lost": WRONG_LOST, "wilson": WRONG_WILSON, "stable_edges": WRONG_EDGES}

# ----------------------------------------------------------------------------------- right, in other styles


def lost_torch(losses, last, margin):
    x = torch.tensor(losses, dtype=torch.float64)
    return bool(~x.isfinite().all() | (x[-last:].mean() > x.min() + margin))


def lost_numpy(losses, last, margin):
    x = np.array(losses)
    return not np.isfinite(x).all() or np.mean(x[-last:]) - x.min() > margin


def wilson_solved(lost, runs):
    """The roots of (share - p)² = z² p (1 - p) / runs."""
    a, share = 1.96**2 / runs, lost / runs
    roots = np.roots([1 + a, -(2 * share + a), share * share])
    return [max(0.0, float(min(roots.real))), min(1.0, float(max(roots.real)))]


def wilson_share(lost, runs):
    p, z = lost / runs, 1.96
    half = z / (1 + z * z / runs) * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs**2))
    middle = (p + z * z / (2 * runs)) / (1 + z * z / runs)
    return torch.tensor([max(0.0, middle - half), min(1.0, middle + half)], dtype=torch.float64)


def edges_numpy(rates, lost, runs, limit):
    order = np.argsort(rates)
    stable = np.array([[_wilson(count, runs)[1] <= limit for count in row] for row in lost])[:, order]
    lengths = np.cumprod(stable, axis=1).sum(axis=1)
    return [float(np.array(rates)[order][n - 1]) if n else None for n in lengths]


def edges_by_all(rates, lost, runs, limit):
    def edge(row):
        upper = {rate: _wilson(count, runs)[1] for rate, count in zip(rates, row, strict=True)}
        good = [r for r in rates if all(upper[s] <= limit for s in rates if s <= r)]
        return max(good) if good else None

    return tuple(map(edge, lost))


RIGHT = {
    "is_lost": [lost_torch, lost_numpy, _lost()],
    "wilson": [wilson_solved, wilson_share, _wilson],
    "stable_edges": [edges_numpy, edges_by_all, _edges(_stretch)],
}
