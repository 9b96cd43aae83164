"""Wrong solutions of exercise 11, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["lr_at"]["climbs after the end"]
"""

from __future__ import annotations

import math

# --------------------------------------------------------------------------------------- wrong: the schedule


def _cosine(progress, lr, min_lr):
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))


def _schedule(
    warm=lambda step, warmup, lr, low: lr * (step + 1) / warmup,
    is_warm=lambda step, warmup: step < warmup,
    progress=lambda step, steps, warmup: (step - warmup) / max(1, steps - 1 - warmup),
    decay=_cosine,
    negative=lambda step: step < 0,
    after=lambda step, steps: step >= steps,
    late=lambda lr, low: low,
):
    """The right schedule, one part replaced."""

    def lr_at(step, steps, warmup, lr, min_lr):
        if negative(step):
            raise ValueError(step)
        if after(step, steps):
            return late(lr, min_lr)
        if is_warm(step, warmup):
            return warm(step, warmup, lr, min_lr)
        return decay(progress(step, steps, warmup), lr, min_lr)

    return lr_at


_right = _schedule()


def _never(step, steps):
    return False


WRONG_SCHEDULE = {
    "begins at 0": (_schedule(warm=lambda s, w, lr, low: lr * s / w), "first"),
    "one step too slow": (_schedule(warm=lambda s, w, lr, low: lr * (s + 1) / (w + 1)), "first"),
    "warmup from min_lr": (_schedule(warm=lambda s, w, lr, low: low + (lr - low) * (s + 1) / w), "first"),
    "warmup not below min_lr": (_schedule(warm=lambda s, w, lr, low: max(low, lr * (s + 1) / w)), "floor"),
    "a square warmup": (_schedule(warm=lambda s, w, lr, low: lr * ((s + 1) / w) ** 2), "first"),
    "the last warmup step is in the cosine": (_schedule(is_warm=lambda s, w: s < w - 1), "warmup"),
    "warmup one step longer": (
        _schedule(is_warm=lambda s, w: s <= w, warm=lambda s, w, lr, low: lr * min(s, w) / max(w, 1)),
        "first",
    ),
    "a peak of less": (
        _schedule(progress=lambda s, n, w: (s + 1 - w) / max(1, n - w)),
        "peak",
    ),
    "the end a step late": (_schedule(progress=lambda s, n, w: (s - w) / max(1, n - w)), "end"),
    "progress over all steps": (_schedule(progress=lambda s, n, w: s / max(1, n - 1)), "peak"),
    "a straight line": (_schedule(decay=lambda p, lr, low: lr + (low - lr) * p), "cosine"),
    "a quarter turn": (
        _schedule(decay=lambda p, lr, low: low + (lr - low) * math.cos(math.pi / 2 * p)),
        "cosine",
    ),
    "min_lr as a floor": (_schedule(decay=lambda p, lr, low: max(low, _cosine(p, lr, 0.0))), "floor"),
    "min_lr added": (_schedule(decay=lambda p, lr, low: low + _cosine(p, lr, 0.0)), "cosine"),
    "climbs after the end": (_schedule(after=_never), "after"),
    "zero after the end": (_schedule(late=lambda lr, low: 0.0), "after"),
    "the full rate after the end": (_schedule(late=lambda lr, low: lr), "after"),
    "raises after the end": (
        lambda step, steps, *rest: _right(step if step < steps else -1, steps, *rest),
        "negative",
    ),
    "takes negative steps": (_schedule(negative=lambda s: False), "negative"),
    "takes step 0 for negative": (_schedule(negative=lambda s: s <= 0), "negative"),
    "text": (lambda *a: str(_right(*a)), "form"),
    "divides by no interval": (_schedule(progress=lambda s, n, w: (s - w) / (n - 1 - w)), ""),
    "the last step before the warmup": (
        lambda s, n, w, lr, low: low if s == n - 1 else _right(s, n, w, lr, low),
        "peak",
    ),
}

# ----------------------------------------------------------------------------------------- wrong: the groups


def _set(rate=_right, scale=lambda group: group.get("lr_scale", 1.0), which=lambda groups: groups):
    def set_lr(groups, step, *plan):
        for group in which(groups):
            group["lr"] = rate(step, *plan) * scale(group)

    return set_lr


def _compounds(groups, step, *plan):
    before = _right(step - 1, *plan) if step else None
    for group in groups:
        if before is None or group["lr"] == 0.001:
            group["lr"] = _right(step, *plan) * group.get("lr_scale", 1.0)
        else:
            group["lr"] *= _right(step, *plan) / before


def _multiplies(groups, step, *plan):
    for group in groups:
        group["lr"] *= _right(step, *plan) * group.get("lr_scale", 1.0)


def _remembers():
    def set_lr(groups, step, *plan):
        for group in groups:
            group.setdefault("initial", group["lr"])
        _set()(groups, step, *plan)

    return set_lr


def _never_back(groups, step, *plan):
    warm = step < plan[1]
    for group in groups:
        rate = _right(step, *plan) * group.get("lr_scale", 1.0)
        group["lr"] = rate if group["lr"] == 0.001 or not warm else max(rate, group["lr"])


def _new_dicts(groups, step, *plan):
    groups[:] = [dict(group) for group in groups]
    _set()(groups, step, *plan)


def _pops(groups, step, *plan):
    for group in groups:
        group["lr"] = _right(step, *plan) * group.pop("lr_scale", 1.0)


WRONG_SET = {
    "the step after": (_set(rate=lambda step, *plan: _right(step + 1, *plan)), "rate"),
    "the peak rate": (_set(rate=lambda step, n, w, lr, low: lr), "rate"),
    "the step before": (_set(rate=lambda step, *plan: _right(max(step - 1, 0), *plan)), "rate"),
    "the first group alone": (_set(which=lambda groups: groups[:1]), "all"),
    "ignores the scale": (_set(scale=lambda group: 1.0), "scale"),
    "the scale alone": (_set(rate=lambda *a: 1.0, scale=lambda g: g.get("lr_scale", 1.0)), "rate"),
    "divides by the scale": (
        _set(scale=lambda g: 1 / g["lr_scale"] if g.get("lr_scale") else g.get("lr_scale", 1.0)),
        "scale",
    ),
    "the square root of the scale": (_set(scale=lambda g: g.get("lr_scale", 1.0) ** 0.5), "scale"),
    "takes 0.0 for not given": (_set(scale=lambda group: group.get("lr_scale") or 1.0), "zero"),
    "skips a scale of 0.0": (_set(which=lambda gs: [g for g in gs if g.get("lr_scale") != 0.0]), "zero"),
    "multiplies the rate before": (_multiplies, "rate"),
    "by the ratio to the step before": (_compounds, "pure"),
    "never back in the warmup": (_never_back, "pure"),
    "new dicts": (_new_dicts, "place"),
    "takes the scale out": (_pops, "place"),
    "remembers in the group": (_remembers(), "place"),
    "needs the scale": (_set(scale=lambda group: group["lr_scale"]), ""),
}
WRONG = {"lr_at": WRONG_SCHEDULE, "set_lr": WRONG_SET}

# ----------------------------------------------------------------------------------- right, in other styles


def by_regions(step, steps, warmup, lr, min_lr):
    match (step < 0, step < steps, step < warmup):
        case (True, _, _):
            raise ValueError(f"step {step}")
        case (_, False, _):
            return min_lr
        case (_, _, True):
            return lr / warmup * (step + 1)
    share = math.cos(math.pi / 2 * (step - warmup) / (max(warmup + 1, steps - 1) - warmup)) ** 2
    return lr * share + min_lr * (1 - share)


def by_table(step, steps, warmup, lr, min_lr):
    if step < 0:
        raise ValueError("negative")
    up = [lr * k / warmup for k in range(1, warmup + 1)]
    n = steps - warmup
    down = [lr - (lr - min_lr) * (1 - math.cos(math.pi * k / (n - 1 or 1))) / 2 for k in range(n)]
    return [*up, *down, min_lr][min(step, steps)]


def set_by_index(groups, step, *plan):
    rate = by_regions(step, *plan)
    for i in range(len(groups)):
        groups[i]["lr"] = rate * groups[i]["lr_scale"] if "lr_scale" in groups[i] else rate


def set_by_update(groups, step, steps, warmup, lr, min_lr):
    for group in groups:
        scale = group.get("lr_scale")
        scale = 1 if scale is None else scale
        group.update(lr=by_table(step, steps, warmup, lr * scale, min_lr * scale))


RIGHT = {"lr_at": [_right, by_regions, by_table], "set_lr": [_set(), set_by_index, set_by_update]}
