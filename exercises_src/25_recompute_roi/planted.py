"""Wrong solutions of exercise 25, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["time_ratio"]["turned round"]
"""

from __future__ import annotations

import numpy as np
import torch

# ---------------------------------------------------------------------------------------- wrong: what fits


def _fitting(budget, fixed, each, batch):
    return [b for b in range(1, batch + 1) if batch % b == 0 and fixed + b * each <= budget]


def _halves(budget, fixed, each, batch):
    size = batch
    while size and fixed + size * each > budget:
        size //= 2
    return size


def _first_that_fails(budget, fixed, each, batch):
    size = 0
    for b in range(1, batch + 1):
        if fixed + b * each > budget or batch % b:
            break
        size = b
    return size


WRONG_LARGEST = {
    "forgets that it must divide": (lambda B, f, e, n: max(0, min(n, (B - f) // e)), "divides"),
    "forgets the batch": (lambda B, f, e, n: max(0, (B - f) // e), "divides"),
    "forgets what is fixed": (lambda B, f, e, n: max(_fitting(B, 0, e, n), default=0), "fits"),
    "at least 1": (lambda B, f, e, n: max(_fitting(B, f, e, n), default=1), "none"),
    "minus 1 when nothing fits": (lambda B, f, e, n: max(_fitting(B, f, e, n), default=-1), "form"),
    "strictly below the budget": (lambda B, f, e, n: max(_fitting(B - 1, f, e, n), default=0), "largest"),
    "the smallest": (lambda B, f, e, n: min(_fitting(B, f, e, n), default=0), "largest"),
    "stops at the first that does not divide": (_first_that_fails, "largest"),
    "rounds up": (lambda B, f, e, n: max(_fitting(B + e - 1, f, e, n), default=0), "none"),
    "returns the number of micro-batches": (
        lambda B, f, e, n: n // max(_fitting(B, f, e, n)) if _fitting(B, f, e, n) else 0,
        "largest",
    ),
    "a share of a sequence": (lambda B, f, e, n: (B - f) / e, "form"),
    "crashes when nothing fits": (lambda B, f, e, n: max(_fitting(B, f, e, n)), ""),
}

# ------------------------------------------------------------------------------------- wrong: what it costs


def _time(b, half):
    return (b + half) / b


WRONG_RATIO = {
    "turned round": (lambda p, a, h, r: _time(p, h) / ((1 + r) * _time(a, h)), "turned"),
    "no recomputation": (lambda p, a, h, r: _time(a, h) / _time(p, h), "recompute"),
    "recomputation instead of a pass": (lambda p, a, h, r: r * _time(a, h) / _time(p, h), "recompute"),
    "recomputation saves": (lambda p, a, h, r: (1 - r) * _time(a, h) / _time(p, h), "recompute"),
    "a third whatever is said": (lambda p, a, h, r: 4 / 3 * _time(a, h) / _time(p, h), "recompute"),
    "the same micro-batch": (lambda p, a, h, r: 1 + r, "fixed"),
    "times of a micro-batch, not of a sequence": (lambda p, a, h, r: (1 + r) * (a + h) / (p + h), "fixed"),
    "time as one over the micro-batch": (lambda p, a, h, r: (1 + r) * p / a, "fixed"),
    "forgets half without checkpointing": (lambda p, a, h, r: (1 + r) * _time(a, h), "recompute"),
    "adds the two": (lambda p, a, h, r: _time(a, h) / _time(p, h) + r, "both"),
    "recomputes without half": (lambda p, a, h, r: ((1 + r) * a + h) / a / _time(p, h), "recompute"),
    "returns percent as text": (lambda p, a, h, r: f"{100 * (1 + r):.0f} %", "form"),
    "whole numbers": (lambda p, a, h, r: (1 + int(r)) * (a + int(h)) // a, "recompute"),
}

# ------------------------------------------------------------------------------------ wrong: what it is worth


def _worth(saved=None, even=None, form=lambda s, e: {"saved": s, "break_even": e}):
    def monthly_worth(gpus, hours, price, ratio, crashes, lost):
        given = {"g": gpus, "h": hours, "p": price, "r": ratio, "c": crashes, "l": lost}
        right = {
            "saved": lambda g, h, p, r, c, l: g * p * (c * l - h * (r - 1)),
            "even": lambda g, h, p, r, c, l: max(0.0, h * (r - 1) / l),
        }
        return form((saved or right["saved"])(**given), (even or right["even"])(**given))

    return monthly_worth


WRONG_WORTH = {
    "one GPU waits": (_worth(saved=lambda g, h, p, r, c, l: p * (c * l - g * h * (r - 1))), "sum"),
    "one GPU crashes": (_worth(saved=lambda g, h, p, r, c, l: p * (c * l - h * (r - 1))), "slower"),
    "forgets the crashes": (_worth(saved=lambda g, h, p, r, c, l: -g * p * h * (r - 1)), "crashes"),
    "one crash whatever is said": (
        _worth(saved=lambda g, h, p, r, c, l: g * p * (l - h * (r - 1))),
        "slower",
    ),
    "forgets that it is slower": (_worth(saved=lambda g, h, p, r, c, l: g * p * c * l), "slower"),
    "the sign turned round": (
        _worth(saved=lambda g, h, p, r, c, l: -g * p * (c * l - h * (r - 1))),
        "crashes",
    ),
    "slower on crash hours too": (
        _worth(saved=lambda g, h, p, r, c, l: g * p * (h + c * l) * (1 - r) + g * p * c * l),
        "sum",
    ),
    "never below nothing": (
        _worth(saved=lambda g, h, p, r, c, l: max(0.0, g * p * (c * l - h * (r - 1)))),
        "slower",
    ),
    "forgets the price": (_worth(saved=lambda g, h, p, r, c, l: g * (c * l - h * (r - 1))), "crashes"),
    "break-even per GPU": (_worth(even=lambda g, h, p, r, c, l: max(0.0, h * (r - 1) / l / g)), "even"),
    "break-even in dollars": (_worth(even=lambda g, h, p, r, c, l: max(0.0, g * p * h * (r - 1))), "even"),
    "break-even rounded down": (_worth(even=lambda g, h, p, r, c, l: max(0, int(h * (r - 1) / l))), "even"),
    "break-even of the whole time": (_worth(even=lambda g, h, p, r, c, l: h * r / l), "never"),
    "a negative break-even": (_worth(even=lambda g, h, p, r, c, l: h * (r - 1) / l), "never"),
    "a pair": (_worth(form=lambda s, e: (s, e)), "form"),
    "saved alone": (_worth(form=lambda s, e: s), "form"),
}

WRONG = {"largest_micro_batch": WRONG_LARGEST, "time_ratio": WRONG_RATIO, "monthly_worth": WRONG_WORTH}

# ------------------------------------------------------------------------------------- right, in other styles


def largest_down(budget, fixed, each, batch):
    size = min(batch, max(0, budget - fixed) // each)
    while size and batch % size:
        size -= 1
    return size


def largest_by_count(budget, fixed, each, batch):
    for count in range(1, batch + 1):
        if batch % count == 0 and fixed + batch // count * each <= budget:
            return torch.tensor(batch // count)
    return 0


def largest_numpy(budget, fixed, each, batch):
    sizes = np.arange(1, batch + 1)
    return np.where((batch % sizes == 0) & (fixed + sizes * each <= budget), sizes, 0).max()


def ratio_torch(plain, again, half, recompute):
    return torch.tensor(1 + recompute, dtype=torch.float64) * (1 + half / again) / (1 + half / plain)


def worth_one_line(gpus, hours, price, ratio, crashes, lost):
    extra = hours * (ratio - 1)
    even = extra / lost if ratio > 1 else 0
    return {"saved": gpus * price * (crashes * lost - extra), "break_even": even}


def worth_numpy(gpus, hours, price, ratio, crashes, lost):
    bills = price * gpus * np.array([hours + crashes * lost, hours * ratio])
    return {"break_even": np.maximum(0, (hours * ratio - hours) / lost), "saved": bills[0] - bills[1]}


def worth_per_gpu(gpus, hours, price, ratio, crashes, lost):
    one = price * (hours + crashes * lost) - price * hours * ratio
    return {
        "saved": torch.tensor(one * gpus, dtype=torch.float64),
        "break_even": max(0, hours * ratio / lost - hours / lost),
    }


RIGHT = {
    "largest_micro_batch": [largest_down, largest_by_count, largest_numpy],
    "time_ratio": [
        ratio_torch,
        lambda p, a, h, r: (1 + r) * (a * p + h * p) / (a * p + h * a),
        lambda p, a, h, r: np.float64(1 + r) * _time(a, h) / _time(p, h),
    ],
    "monthly_worth": [worth_one_line, worth_numpy, worth_per_gpu],
}
