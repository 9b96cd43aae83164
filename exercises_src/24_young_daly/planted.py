"""Wrong solutions of exercise 24, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["goodput"]["loses whole intervals"]
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

# --------------------------------------------------------------------------------- wrong: how often to save


def _young(step_s, save_s, gpu_hours, gpus):
    return math.sqrt(2 * save_s * 3600 * gpu_hours / gpus) / step_s


WRONG_EVERY = {
    "without the 2": (lambda s, d, h, n: max(1, int(_young(s, d / 2, h, n))), "young"),
    "without the root": (lambda s, d, h, n: max(1, int(2 * d * 3600 * h / n / s)), "young"),
    "hours as seconds": (lambda s, d, h, n: max(1, int(_young(s, d, h / 3600, n))), "young"),
    "hours as minutes": (lambda s, d, h, n: max(1, int(_young(s, d, h / 60, n))), "young"),
    "the save taken off": (lambda s, d, h, n: max(1, int(_young(s, d, h, n) - d / s)), "young"),
    "seconds instead of steps": (lambda s, d, h, n: max(1, int(_young(1, d, h, n))), "steps"),
    "times the step": (lambda s, d, h, n: max(1, int(_young(1 / s, d, h, n))), "steps"),
    "one GPU": (lambda s, d, h, n: max(1, int(_young(s, d, h, 1))), "gpus"),
    "more GPUs fail less": (lambda s, d, h, n: max(1, int(_young(s, d, h * n, 1))), "gpus"),
    "divides by the GPUs outside the root": (lambda s, d, h, n: max(1, int(_young(s, d, h, 1) / n)), "gpus"),
    "rounds up": (lambda s, d, h, n: max(1, math.ceil(_young(s, d, h, n))), "whole"),
    "rounds to the nearest": (lambda s, d, h, n: max(1, round(_young(s, d, h, n))), "whole"),
    "may be 0": (lambda s, d, h, n: int(_young(s, d, h, n)), "least"),
    "not whole": (lambda s, d, h, n: max(1.0, _young(s, d, h, n) + 0.25), "form"),
}

# ------------------------------------------------------------------------------------------- wrong: goodput


def _wasted(saving=lambda t, d: d / t, lost=lambda t, m: t / 2 / m, restart=lambda r, m: r / m):
    def goodput(every_s, save_s, restart_s, between_s):
        parts = saving(every_s, save_s), lost(every_s, between_s), restart(restart_s, between_s)
        return 1 / (1 + sum(parts))

    return goodput


WRONG_SHARE = {
    "loses whole intervals": (_wasted(lost=lambda t, m: t / m), "lost"),
    "loses no work": (_wasted(lost=lambda t, m: 0), "lost"),
    "loses a quarter": (_wasted(lost=lambda t, m: t / 4 / m), "lost"),
    "no restart": (_wasted(restart=lambda r, m: 0), "restart"),
    "half a restart": (_wasted(restart=lambda r, m: r / 2 / m), "restart"),
    "no saving": (_wasted(saving=lambda t, d: 0), "saving"),
    "saving turned round": (_wasted(saving=lambda t, d: t / d if d else 0), "saving"),
    "saving within the interval": (_wasted(saving=lambda t, d: d / (t - d)), "saving"),
    "one minus the waste": (
        lambda t, d, r, m: max(0.0, 1 - d / t - (t / 2 + r) / m),
        "saving",
    ),
    "the shares multiplied": (lambda t, d, r, m: t / (t + d) / (1 + (t / 2 + r) / m), "sum"),
    "loses the save too": (lambda t, d, r, m: 1 / (1 + d / t + ((t + d) / 2 + r) / m), "sum"),
    "the waste, not the goodput": (lambda t, d, r, m: 1 - 1 / (1 + d / t + (t / 2 + r) / m), "saving"),
    "percent": (lambda t, d, r, m: 100 / (1 + d / t + (t / 2 + r) / m), "form"),
    "seconds of progress a day": (lambda t, d, r, m: int(86_400 / (1 + d / t + (t / 2 + r) / m)), "form"),
}

# ---------------------------------------------------------------------------------- wrong: finding out late


def _worth(expected=None, saved=None, form=lambda e, s: {"expected": e, "saved": s}):
    def detection_worth(gpus, price, chance, delay, faster, check):
        g = {"H": gpus * price, "n": gpus, "p": price, "c": chance, "d": delay, "f": faster, "k": check}
        e = (expected or (lambda H, n, p, c, d, f, k: c * d * H))(**g)
        s = (saved or (lambda H, n, p, c, d, f, k: (c * (d - f) - k) * H))(**g)
        return form(e, s)

    return detection_worth


WRONG_WORTH = {
    "one GPU": (_worth(expected=lambda H, n, p, c, d, f, k: c * d * p), "cluster"),
    "GPU-hours, not dollars": (_worth(expected=lambda H, n, p, c, d, f, k: c * d * n), "cluster"),
    "expects the faster delay": (_worth(expected=lambda H, n, p, c, d, f, k: c * f * H), "cluster"),
    "the check is in it already": (_worth(expected=lambda H, n, p, c, d, f, k: (c * d + k) * H), "chance"),
    "forgets the chance": (_worth(expected=lambda H, n, p, c, d, f, k: d * H), "chance"),
    "divides by the chance": (_worth(expected=lambda H, n, p, c, d, f, k: d * H / c), "chance"),
    "finds it at once": (_worth(saved=lambda H, n, p, c, d, f, k: (c * d - k) * H), "delay"),
    "saves the faster delay": (_worth(saved=lambda H, n, p, c, d, f, k: (c * f - k) * H), "delay"),
    "saves without the chance": (_worth(saved=lambda H, n, p, c, d, f, k: (d - f - k) * H), "delay"),
    "the check is free": (_worth(saved=lambda H, n, p, c, d, f, k: c * (d - f) * H), "check"),
    "the check is paid only when it finds": (
        _worth(saved=lambda H, n, p, c, d, f, k: c * (d - f - k) * H),
        "check",
    ),
    "one GPU checks": (_worth(saved=lambda H, n, p, c, d, f, k: c * (d - f) * H - k * p), "check"),
    "never negative": (_worth(saved=lambda H, n, p, c, d, f, k: max(0.0, (c * (d - f) - k) * H)), "check"),
    "a pair": (_worth(form=lambda e, s: (e, s)), "form"),
    "saved alone": (_worth(form=lambda e, s: {"saved": s}), "form"),
}

WRONG = {"steps_between_saves": WRONG_EVERY, "goodput": WRONG_SHARE, "detection_worth": WRONG_WORTH}

# ----------------------------------------------------------------------------------- right, in other styles


def every_by_rate(step_s, save_s, gpu_hours, gpus):
    failures_per_s = gpus / (gpu_hours * 3600)
    return np.maximum(1, np.floor(np.sqrt(2 * save_s / failures_per_s) / step_s).astype(int))


def every_by_count(step_s, save_s, gpu_hours, gpus):
    steps = int((7200 * save_s * gpu_hours / gpus) ** 0.5 // step_s)
    return torch.tensor(steps) if steps else 1


def share_by_cycle(every_s, save_s, restart_s, between_s):
    progress = between_s
    wasted = progress / every_s * save_s + every_s / 2 + restart_s
    return progress / (progress + wasted)


def share_exact(*seconds):
    every_s, save_s, restart_s, between_s = map(Fraction, seconds)
    return float(1 / (1 + save_s / every_s + (every_s / 2 + restart_s) / between_s))


def worth_by_hours(gpus, price, chance, delay, faster, check):
    hours = np.array([chance * delay, chance * delay - chance * faster - check])
    return dict(zip(("expected", "saved"), hours * gpus * price, strict=True))


def worth_named(gpus, price, chance, delay, faster, check):
    def dollars(hours):
        return hours * price * gpus

    return {"expected": chance * dollars(delay), "saved": dollars(chance * (delay - faster)) - dollars(check)}


RIGHT = {
    "steps_between_saves": [
        every_by_rate,
        every_by_count,
        lambda s, d, h, n: max(int(_young(s, d, h, n)), 1),
    ],
    "goodput": [share_by_cycle, share_exact, _wasted()],
    "detection_worth": [worth_by_hours, worth_named, lambda *a: worth_named(*map(float, a))],
}
