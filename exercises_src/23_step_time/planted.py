"""Wrong solutions of exercise 23, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["step_time"]["the loader adds up"]
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

WRONG_BUBBLE = {
    "stages, not stages - 1": (lambda c, p, m, v: c * p / m / v, "one"),
    "the share alone": (lambda c, p, m, v: (p - 1) / m / v, "fill"),
    "the share of the whole": (lambda c, p, m, v: c * (p - 1) / (m + p - 1) / v, "fill"),
    "twice": (lambda c, p, m, v: 2 * c * (p - 1) / m / v, "fill"),
    "micro - 1": (lambda c, p, m, v: c * (p - 1) / (m - 1) / v, "fill"),
    "micro-batches multiply": (lambda c, p, m, v: c * (p - 1) * m / v, "fill"),
    "per stage": (lambda c, p, m, v: c * (p - 1) / m / v / p, "fill"),
    "with the compute": (lambda c, p, m, v: c * (1 + (p - 1) / m / v), "one"),
    "no interleaving": (lambda c, p, m, v: c * (p - 1) / m, "interleave"),
    "interleaving multiplies": (lambda c, p, m, v: c * (p - 1) * v / m, "interleave"),
    "interleaved stages": (lambda c, p, m, v: c * (p * v - 1) / m / v, "interleave"),
    "a pair": (lambda c, p, m, v: (c, c * (p - 1) / m / v), "form"),
}


def _step(
    hidden=lambda c, d, o: min(o * d, c * 2 / 3),
    busy=lambda c, b, t, e: c + b + t + e,
    step=lambda busy, loader: max(busy, loader),
    binds=None,
    form=lambda s, e, b: {"step": s, "exposed": e, "binds": b},
):
    def step_time(compute, bubble, tensor, data, overlap, loader):
        exposed = data - hidden(compute, data, overlap)
        total = busy(compute, bubble, tensor, exposed)
        parts = {"compute": compute, "bubble": bubble, "tensor": tensor, "data": exposed}
        name = (binds or _binds)(parts, total, loader)
        return form(step(total, loader), exposed, name)

    return step_time


def _binds(parts, total, loader):
    return "loader" if loader > total else max(parts, key=parts.get)


def _with_loader(parts, total, loader):
    parts = parts | {"loader": loader}
    return max(parts, key=parts.get)


def _last_of_equal(parts, total, loader):
    return "loader" if loader > total else max(reversed(parts), key=parts.get)


WRONG_STEP = {
    "nothing is hidden": (_step(hidden=lambda c, d, o: 0.0), "hidden"),
    "all is hidden": (_step(hidden=lambda c, d, o: min(d, c * 2 / 3)), "hidden"),
    "the overlap is what is left": (_step(hidden=lambda c, d, o: min((1 - o) * d, c * 2 / 3)), "hidden"),
    "a share of compute is hidden": (_step(hidden=lambda c, d, o: min(d, o * c * 2 / 3)), "hidden"),
    "more hides than the backward pass": (_step(hidden=lambda c, d, o: o * d), "backward"),
    "hides beside all of compute": (_step(hidden=lambda c, d, o: min(o * d, c)), "backward"),
    "hides beside a third": (_step(hidden=lambda c, d, o: min(o * d, c / 3)), "backward"),
    "the loader adds up": (_step(step=lambda busy, loader: busy + loader), "sum"),
    "the loader is free": (_step(step=lambda busy, loader: busy), "loader"),
    "the largest part is the step": (_step(busy=lambda *parts: max(parts)), "sum"),
    "without the bubble": (_step(busy=lambda c, b, t, e: c + t + e), "sum"),
    "without the tensor part": (_step(busy=lambda c, b, t, e: c + b + e), "sum"),
    "tensor parallelism overlaps": (_step(busy=lambda c, b, t, e: max(c, t) + b + e), "sum"),
    "the loader is a part among parts": (_step(binds=_with_loader), "binds"),
    "the last of equal ones": (_step(binds=_last_of_equal), "binds"),
    "the loader never binds": (_step(binds=lambda parts, total, loader: max(parts, key=parts.get)), "binds"),
    "no name": (_step(form=lambda s, e, b: {"step": s, "exposed": e}), "form"),
    "another name": (_step(form=lambda s, e, b: {"step": s, "exposed": e, "binds": b.upper()}), "form"),
}


def _ups(speedup=lambda a, b: a / b, efficiency=lambda s, g, h: s * g / h, base=lambda i: i - 1):
    def steps_up(gpus, measured):
        rows = []
        for i in range(1, len(gpus)):
            s = speedup(measured[base(i)], measured[i])
            rows.append([s, efficiency(s, gpus[base(i)], gpus[i])])
        return rows

    return steps_up


WRONG_UPS = {
    "after over before": (_ups(speedup=lambda a, b: b / a), "speedup"),
    "seconds saved": (_ups(speedup=lambda a, b: a - b), "speedup"),
    "the share saved": (_ups(speedup=lambda a, b: 1 - b / a), "speedup"),
    "against the first": (_ups(base=lambda i: 0), "neighbours"),
    "speedup times growth": (_ups(efficiency=lambda s, g, h: s * h / g), "efficiency"),
    "speedup over GPUs": (_ups(efficiency=lambda s, g, h: s / h), "efficiency"),
    "always a doubling": (_ups(efficiency=lambda s, g, h: s / 2), "efficiency"),
    "at most 1": (_ups(speedup=lambda a, b: max(1.0, a / b)), "speedup"),
    "over the GPUs added": (_ups(efficiency=lambda s, g, h: s / (h - g)), "efficiency"),
    "percent": (_ups(efficiency=lambda s, g, h: 100 * s * g / h), "efficiency"),
    "with the first size": (lambda g, t: [[1.0, 1.0], *_ups()(g, t)], "form"),
    "speedups alone": (lambda g, t: [s for s, _ in _ups()(g, t)], "form"),
}
WRONG = {"bubble": WRONG_BUBBLE, "step_time": WRONG_STEP, "steps_up": WRONG_UPS}


# ----------------------------------------------------------------------------------- right, in other styles


def bubble_by_slots(compute, stages, micro, interleave):
    slot = compute / (micro * interleave)
    return sum(slot for _ in range(stages - 1))


def step_by_ifs(compute, bubble, tensor, data, overlap, loader):
    window, hidden = compute - compute / 3, overlap * data
    if hidden > window:
        hidden = window
    parts = [("compute", compute), ("bubble", bubble), ("tensor", tensor), ("data", data - hidden)]
    busy, binds, most = 0.0, "", -1.0
    for name, seconds in parts:
        busy += seconds
        if seconds > most:
            binds, most = name, seconds
    late = loader > busy
    return {"binds": "loader" if late else binds, "step": loader if late else busy, "exposed": data - hidden}


def step_numpy(compute, bubble, tensor, data, overlap, loader):
    exposed = data - np.minimum(overlap * data, compute / 1.5)
    parts = np.array([compute, bubble, tensor, exposed])
    names = ["compute", "bubble", "tensor", "data"]
    binds = names[int(parts.argmax())] if loader <= parts.sum() else "loader"
    return {"step": np.maximum(parts.sum(), loader), "exposed": exposed, "binds": binds}


def ups_numpy(gpus, measured):
    g, t = np.array(gpus, float), np.array(measured)
    speedup = t[:-1] / t[1:]
    return np.stack([speedup, speedup * g[:-1] / g[1:]], axis=1)


def ups_hours(gpus, measured):
    """Efficiency is the ratio of GPU-hours."""
    hours = [g * t for g, t in zip(gpus, measured, strict=True)]
    times = [a / b for a, b in pairwise(measured)]
    return [(s, a / b) for s, (a, b) in zip(times, pairwise(hours), strict=True)]


RIGHT = {
    "bubble": [
        bubble_by_slots,
        lambda c, p, m, v: torch.tensor(c * (p - 1) / m / v, dtype=torch.float64),
        lambda c, p, m, v: np.float64(c) / (m * v) * (p - 1),
    ],
    "step_time": [step_by_ifs, step_numpy, _step()],
    "steps_up": [ups_numpy, ups_hours, _ups()],
}
