"""Wrong solutions of exercise 29, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["got_worse"]["each on its own"]
"""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, pstdev, stdev

import numpy as np
import torch

# ------------------------------------------------------------------------------------------ wrong: the diff


def _diff(**parts):
    def data_diff(old, new):
        found = {
            "added": lambda a, b: [n for n in b if n not in a],
            "removed": lambda a, b: [n for n in a if n not in b],
            "changed": lambda a, b: [n for n in a if n in b and a[n][0] != b[n][0]],
            "moved": lambda a, b: [n for n in a if n in b and a[n][1] != b[n][1]],
        } | parts
        return {kind: sorted(find(old, new)) for kind, find in found.items()}

    return data_diff


def _by_text(old, new):
    texts, fresh = {text for text, _ in old.values()}, {text for text, _ in new.values()}
    found = _diff()(old, new)
    added = sorted(n for n, (text, _) in new.items() if text not in texts)
    return found | {"added": added, "removed": sorted(n for n, (text, _) in old.items() if text not in fresh)}


def _unsorted(old, new):
    found = _diff()(old, new)
    return found | {"added": [n for n in new if n in found["added"]]}


def _crash(old, new):
    return _diff(changed=lambda a, b: [n for n in a if a[n][0] != b[n][0]])(old, new)


WRONG_DIFF = {
    "old and new exchanged": (lambda a, b: _diff()(b, a), "added"),
    "by text, not by name": (_by_text, "added"),
    "all new ones are added": (_diff(added=lambda a, b: list(b)), "added"),
    "all old ones are removed": (_diff(removed=lambda a, b: list(a)), "removed"),
    "changed ones are removed too": (
        _diff(removed=lambda a, b: [n for n in a if n not in b or a[n][0] != b[n][0]]),
        "removed",
    ),
    "another split is changed": (
        _diff(changed=lambda a, b: [n for n in a if n in b and a[n] != b[n]]),
        "changed",
    ),
    "a moved one is not changed": (
        _diff(changed=lambda a, b: [n for n in a if n in b and a[n][0] != b[n][0] and a[n][1] == b[n][1]]),
        "changed",
    ),
    "a changed one has not moved": (
        _diff(moved=lambda a, b: [n for n in a if n in b and a[n][0] == b[n][0] and a[n][1] != b[n][1]]),
        "moved",
    ),
    "moves to validation alone": (
        _diff(moved=lambda a, b: [n for n in a if n in b and (a[n][1], b[n][1]) == ("train", "val")]),
        "moved",
    ),
    "added ones have moved": (
        _diff(moved=lambda a, b: [n for n in b if n not in a or a[n][1] != b[n][1]]),
        "moved",
    ),
    "in the order of the file": (_unsorted, "sorted"),
    "counts": (lambda a, b: {kind: len(names) for kind, names in _diff()(a, b).items()}, "form"),
    "without the moves": (lambda a, b: {k: v for k, v in _diff()(a, b).items() if k != "moved"}, "form"),
    "crashes on a removed one": (_crash, ""),
}

# ----------------------------------------------------------------------------------------- wrong: one input


def _p(z):
    return 0.5 * math.erfc(z / math.sqrt(2))


def _paired(sd=stdev, root=math.sqrt, tail=_p, still=lambda mean: 0.0 if mean > 0 else 1.0):
    def chance_of_no_change(before, after):
        gaps = [b - a for a, b in zip(before, after, strict=True)]
        if max(gaps) == min(gaps):
            return still(gaps[0])
        return tail(fmean(gaps) / (sd(gaps) / root(len(gaps))))

    return chance_of_no_change


def _unpaired(before, after):
    if len({b - a for a, b in zip(before, after, strict=True)}) == 1:
        return 0.0 if after[0] > before[0] else 1.0
    error = math.sqrt((stdev(before) ** 2 + stdev(after) ** 2) / len(before))
    return _p((fmean(after) - fmean(before)) / error)


def _signs(before, after):
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    up, n = sum(gap > 0 for gap in gaps), len(gaps)
    return sum(math.comb(n, k) for k in range(up, n + 1)) / 2**n


WRONG_CHANCE = {
    "before against after": (_paired(tail=lambda z: _p(-z)), "worse"),
    "two-sided": (_paired(tail=lambda z: 2 * _p(abs(z))), "worse"),
    "not paired": (_unpaired, "paired"),
    "counts signs": (_signs, "same"),
    "without the root of n": (_paired(root=lambda n: 1.0), "paired"),
    "divides by n": (_paired(root=lambda n: n), "paired"),
    "sd with n": (_paired(sd=pstdev), "paired"),
    "the variance": (_paired(sd=lambda x: stdev(x) ** 2), "paired"),
    "erfc of z": (_paired(tail=lambda z: 0.5 * math.erfc(z)), "paired"),
    "not halved": (_paired(tail=lambda z: min(1.0, math.erfc(z / math.sqrt(2)))), "worse"),
    "1 whenever all are equal": (_paired(still=lambda mean: 1.0), "same"),
    "0 whenever all are equal": (_paired(still=lambda mean: 0.0), "same"),
    "one half when nothing changed": (_paired(still=lambda mean: 0.0 if mean > 0 else 0.5), "same"),
    "the score": (_paired(tail=lambda z: 2 + abs(z)), "form"),
    "yes or no": (_paired(tail=lambda z: _p(z) < 0.05), "form"),
    "divides by a zero sd": (
        lambda a, b: _p(fmean(b) / stdev([y - x for x, y in zip(a, b, strict=True)])),
        "",
    ),
}

# --------------------------------------------------------------------------------------- wrong: many inputs


def _step(p, limits, stops=True, strict=False):
    found = []
    for place, name in enumerate(sorted(p, key=p.get)):
        limit = limits(place, len(p))
        if p[name] > limit or (strict and p[name] == limit):
            if stops:
                break
            continue
        found.append(name)
    return sorted(found)


def _hochberg(p, alpha):
    order = sorted(p, key=p.get)
    last = max((k for k, name in enumerate(order) if p[name] <= alpha / (len(p) - k)), default=-1)
    return sorted(order[: last + 1])


WRONG_HOLM = {
    "each on its own": (lambda p, a: sorted(n for n in p if p[n] <= a), "many"),
    "Bonferroni": (lambda p, a: sorted(n for n in p if p[n] <= a / len(p)), "step"),
    "Benjamini and Hochberg's limits": (lambda p, a: _step(p, lambda k, n: a * (k + 1) / n), "many"),
    "goes on after the first that fails": (
        lambda p, a: _step(p, lambda k, n: a / (n - k), stops=False),
        "many",
    ),
    "from the largest down": (_hochberg, "many"),
    "one step wide": (lambda p, a: _step(p, lambda k, n: a / max(1, n - k - 1)), "many"),
    "one step narrow": (lambda p, a: _step(p, lambda k, n: a / (n - k + 1)), "first"),
    "the limit itself is not found": (lambda p, a: _step(p, lambda k, n: a / (n - k), strict=True), "first"),
    "alpha halved": (lambda p, a: _step(p, lambda k, n: a / 2 / (n - k)), "first"),
    "the smallest alone": (lambda p, a: _step(p, lambda k, n: a / n if not k else -1.0), "step"),
    "in the order of their p": (
        lambda p, a: sorted(_step(p, lambda k, n: a / (n - k)), key=p.get),
        "sorted",
    ),
    "how many": (lambda p, a: len(_step(p, lambda k, n: a / (n - k))), "form"),
    "their p-values": (lambda p, a: [p[n] for n in p], "form"),
    "the ones that did not": (lambda p, a: sorted(set(p) - set(_step(p, lambda k, n: a / (n - k)))), "first"),
}

WRONG = {"data_diff": WRONG_DIFF, "chance_of_no_change": WRONG_CHANCE, "got_worse": WRONG_HOLM}

# ----------------------------------------------------------------------------------- right, in other styles


def diff_by_loops(old, new):
    found = {"moved": [], "changed": [], "removed": [], "added": []}
    for name in sorted(old | new):
        if name not in old:
            found["added"].append(name)
        elif name not in new:
            found["removed"].append(name)
        else:
            for kind, (before, after) in zip(
                ("changed", "moved"), zip(old[name], new[name], strict=True), strict=True
            ):
                if before != after:
                    found[kind].append(name)
    return found


def diff_by_items(old, new):
    texts = set(old) & set(new) - {n for n, (t, _) in old.items() if new.get(n, [t])[0] == t}
    splits = {n for n in old.keys() & new.keys() if old[n][1] != new[n][1]}
    names = old.keys() ^ new.keys()
    return {
        "added": tuple(sorted(names & new.keys())),
        "removed": tuple(sorted(names & old.keys())),
        "changed": sorted(texts),
        "moved": sorted(splits),
    }


def chance_numpy(before, after):
    gaps = np.subtract(after, before)
    if np.ptp(gaps) == 0:
        return float(gaps[0] <= 0)
    z = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(gaps.size))
    return NormalDist().cdf(-z)


def chance_torch(before, after):
    gaps = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    error = gaps.std() / len(gaps) ** 0.5
    if error == 0:
        return torch.tensor(0.0 if gaps[0] > 0 else 1.0)
    return torch.special.ndtr(-gaps.mean() / error)


def holm_adjusted(p, alpha):
    """Adjusted p-values: the largest so far of (n - k) p."""
    order, largest, found = sorted(p, key=p.get), 0.0, []
    for k, name in enumerate(order):
        largest = max(largest, (len(p) - k) * p[name])
        if largest <= alpha * (1 + 1e-12):
            found += [name]
    return sorted(found)


def holm_shrinking(p, alpha):
    left, found = dict(p), []
    while left and min(left.values()) <= alpha / len(left):
        name = min(left, key=left.get)
        found.append(name)
        del left[name]
    return sorted(found)


RIGHT = {
    "data_diff": [diff_by_loops, diff_by_items, _diff()],
    "chance_of_no_change": [chance_numpy, chance_torch, _paired()],
    "got_worse": [holm_adjusted, holm_shrinking, lambda p, a: _step(p, lambda k, n: a / (n - k))],
}
