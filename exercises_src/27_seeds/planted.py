"""Wrong solutions of exercise 27, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["luck"]["the least of all"]
"""

from __future__ import annotations

import math
from itertools import combinations, product
from statistics import fmean, pvariance, variance

import numpy as np
import torch

# ---------------------------------------------------------------------------------------- wrong: components


def _parts(losses, free=lambda n, m: (n - 1) * (m - 1), spread=variance, share=lambda rest, of: rest / of):
    n, m = len(losses), len(losses[0])
    rows, columns = [fmean(r) for r in losses], [fmean(c) for c in zip(*losses, strict=True)]
    left = [losses[i][j] - rows[i] - columns[j] + fmean(rows) for i, j in product(range(n), range(m))]
    rest = sum(x * x for x in left) / free(n, m)
    return spread(rows) - share(rest, m), spread(columns) - share(rest, n), rest


def _components(form=lambda i, o, r: {"init": max(0.0, i), "order": max(0.0, o), "rest": r}, **changed):
    return lambda losses: form(*_parts(losses, **changed))


def _all_runs(losses):
    found = _components()(losses)
    return found | {"rest": variance([x for row in losses for x in row])}


def _first_row_and_column(losses):
    return _components()(losses) | {
        "init": variance([row[0] for row in losses]),
        "order": variance(losses[0]),
    }


def _squares_of_sums(losses):
    n, m = len(losses), len(losses[0])
    init, order, rest = _parts(losses)
    return {"init": max(0.0, init * m), "order": max(0.0, order * n), "rest": rest}


WRONG_COMPONENTS = {
    "rows and columns exchanged": (lambda x: _components()(list(zip(*x, strict=True))), "axes"),
    "divides by n": (_components(spread=pvariance), "spread"),
    "mean squares, not components": (_squares_of_sums, "spread"),
    "the rest is not taken off": (_components(share=lambda rest, of: 0.0), "corrected"),
    "all of the rest is taken off": (_components(share=lambda rest, of: rest), "corrected"),
    "the first row and the first column": (_first_row_and_column, "corrected"),
    "the rest over n m": (_components(free=lambda n, m: n * m), "rest"),
    "the rest over n m - 1": (_components(free=lambda n, m: n * m - 1), "rest"),
    "the rest is the variance of all": (_all_runs, "spread"),
    "negative parts stay": (_components(form=lambda i, o, r: {"init": i, "order": o, "rest": r}), "negative"),
    "absolute values": (
        _components(form=lambda i, o, r: {"init": abs(i), "order": abs(o), "rest": r}),
        "corrected",
    ),
    "standard deviations": (
        lambda x: {name: math.sqrt(part) for name, part in _components()(x).items()},
        "spread",
    ),
    "shares": (
        lambda x: {name: part / sum(_components()(x).values()) for name, part in _components()(x).items()},
        "spread",
    ),
    "a triple": (_components(form=lambda i, o, r: (max(0, i), max(0, o), r)), "form"),
    "without the rest": (_components(form=lambda i, o, r: {"init": max(0, i), "order": max(0, o)}), "form"),
}

# ---------------------------------------------------------------------------------------------- wrong: luck


def _luck(pick, form=lambda p, k: {"promised": p, "kept": k}):
    """`pick(chosen_by, fresh, k)` gives the runs kept, over all choices."""

    def luck(chosen_by, fresh, k):
        a, b = pick(chosen_by, fresh, k)
        return form(fmean(chosen_by) - a, fmean(fresh) - b)

    return luck


def _each(chosen_by, fresh, k, best=min, by=None):
    runs = [
        best(choice, key=(by or chosen_by).__getitem__) for choice in combinations(range(len(chosen_by)), k)
    ]
    return fmean(chosen_by[r] for r in runs), fmean(fresh[r] for r in runs)


def _with_replacement(chosen_by, fresh, k):
    runs = [min(c, key=chosen_by.__getitem__) for c in product(range(len(chosen_by)), repeat=min(k, 4))]
    return fmean(chosen_by[r] for r in runs), fmean(fresh[r] for r in runs)


def _first_k(chosen_by, fresh, k):
    run = min(range(k), key=chosen_by.__getitem__)
    return chosen_by[run], fresh[run]


def _best_of_all(chosen_by, fresh, k):
    run = min(range(len(chosen_by)), key=chosen_by.__getitem__)
    return chosen_by[run], fresh[run]


def _both_best(chosen_by, fresh, k):
    return _each(chosen_by, fresh, k)[0], _each(fresh, fresh, k)[0]


def _last_of_equal(chosen_by, fresh, k):
    return _each(chosen_by, fresh, k, best=lambda c, key: min(reversed(c), key=key))


def _of_k_means(chosen_by, fresh, k):
    chosen, other = sorted(chosen_by)[:k], sorted(fresh)[:k]
    return fmean(chosen), fmean(other)


WRONG_LUCK = {
    "the least of all": (_luck(_best_of_all), "one"),
    "the first k alone": (_luck(_first_k), "one"),
    "the worst": (_luck(lambda a, b, k: _each(a, b, k, best=max)), "best"),
    "with replacement": (_luck(_with_replacement), "best"),
    "the mean of the k best": (_luck(_of_k_means), "one"),
    "chosen by the fresh losses": (_luck(lambda a, b, k: _each(a, b, k, by=b)), "best"),
    "the fresh best": (_luck(_both_best), "kept"),
    "keeps what it promised": (_luck(_each, form=lambda p, k: {"promised": p, "kept": p}), "kept"),
    "keeps nothing": (_luck(_each, form=lambda p, k: {"promised": p, "kept": 0.0}), "kept"),
    "the sign turned round": (_luck(_each, form=lambda p, k: {"promised": -p, "kept": -k}), "sign"),
    "never negative": (_luck(_each, form=lambda p, k: {"promised": p, "kept": max(0.0, k)}), "kept"),
    "one too few": (_luck(lambda a, b, k: _each(a, b, max(1, k - 1))), "best"),
    "losses, not gains": (
        lambda a, b, k: dict(zip(("promised", "kept"), _each(a, b, k), strict=True)),
        "one",
    ),
    "a pair": (_luck(_each, form=lambda p, k: (p, k)), "form"),
}

# --------------------------------------------------------------------------------------- wrong: runs needed


def _size(sd, gap, z=2.8, twice=2):
    return twice * (z * sd / gap) ** 2


WRONG_NEEDED = {
    "runs of both together": (lambda s, g: max(2, 2 * math.ceil(_size(s, g))), "size"),
    "one sample": (lambda s, g: max(2, math.ceil(_size(s, g, twice=1))), "size"),
    "without the power": (lambda s, g: max(2, math.ceil(_size(s, g, z=1.96))), "size"),
    "not squared": (lambda s, g: max(2, math.ceil(2 * 2.8 * s / g)), "size"),
    "turned round": (lambda s, g: max(2, math.ceil(_size(g, s))), "least"),
    "the variance as sd": (lambda s, g: max(2, math.ceil(_size(math.sqrt(s), g))), "size"),
    "rounds down": (lambda s, g: max(2, int(_size(s, g))), "whole"),
    "rounds to the nearest": (lambda s, g: max(2, round(_size(s, g))), "whole"),
    "may be 1": (lambda s, g: math.ceil(_size(s, g)), "least"),
    "may be 0": (lambda s, g: int(_size(s, g)), "least"),
    "half runs": (lambda s, g: max(2.0, _size(s, g) + 0.01), "form"),
}

WRONG = {"components": WRONG_COMPONENTS, "luck": WRONG_LUCK, "runs_needed": WRONG_NEEDED}

# ----------------------------------------------------------------------------------- right, in other styles


def components_numpy(losses):
    x = np.array(losses)
    n, m = x.shape
    rows, columns = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    rest = ((x - rows - columns + x.mean()) ** 2).sum() / ((n - 1) * (m - 1))
    init, order = rows.var(ddof=1) - rest / m, columns.var(ddof=1) - rest / n
    return {"rest": rest, "order": max(order, 0), "init": max(init, 0)}


def components_torch(losses):
    x = torch.tensor(losses, dtype=torch.float64)
    n, m = x.shape
    left = x - x.mean(1, keepdim=True) - x.mean(0) + x.mean()
    rest = left.square().sum() / (n - 1) / (m - 1)
    parts = torch.stack([x.mean(1).var() - rest / m, x.mean(0).var() - rest / n]).clamp_min(0)
    return {"init": parts[0], "order": parts[1], "rest": rest}


def luck_by_weights(chosen_by, fresh, k):
    order = np.argsort(chosen_by, kind="stable")
    n = len(order)
    weights = [math.comb(n - 1 - place, k - 1) / math.comb(n, k) for place in range(n)]
    return {
        name: np.mean(losses) - np.dot(np.array(losses)[order], weights)
        for name, losses in (("promised", chosen_by), ("kept", fresh))
    }


def luck_by_pairs(chosen_by, fresh, k):
    runs = list(enumerate(zip(chosen_by, fresh, strict=True)))
    best = [min(choice, key=lambda run: (run[1][0], run[0]))[1] for choice in combinations(runs, k)]
    promised = fmean(chosen_by) - sum(first for first, _ in best) / len(best)
    kept = fmean(fresh) - sum(second for _, second in best) / len(best)
    return {"promised": torch.tensor(promised, dtype=torch.float64), "kept": kept}


def needed_by_counting(sd, gap):
    runs = 2
    while runs < _size(sd, gap):
        runs += 1
    return runs


RIGHT = {
    "components": [components_numpy, components_torch, _components()],
    "luck": [luck_by_weights, luck_by_pairs, _luck(_each)],
    "runs_needed": [
        needed_by_counting,
        lambda s, g: np.maximum(2, np.ceil(_size(s, g))),
        lambda s, g: max(-int(-_size(s, g) // 1), 2),
    ],
}
