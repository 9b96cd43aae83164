"""Wrong solutions of exercise 01, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["unscale"]["misses nan"]
"""

from __future__ import annotations

import math

import torch

from .scale import FP32_MAX, update_once

# ------------------------------------------------------------------------------------------ wrong solutions


def _unscale(overflowed, divide, none=True):
    def unscale(grads, scale):
        found = False
        for grad in grads:
            if grad is None and none:
                continue
            found = overflowed(found, grad)
            divide(grad, scale)
        return found

    return unscale


def _isfinite(grad):
    return bool(torch.isfinite(grad).all())


def early_return(grads, scale):
    for grad in grads:
        if grad is not None:
            if not _isfinite(grad):
                return True
            grad.div_(scale)
    return False


def out_of_place(grads, scale):
    present = [grad for grad in grads if grad is not None]
    copies = [grad / scale for grad in present]
    return not all(map(_isfinite, copies))


def replaces_the_list(grads, scale):
    found = not all(_isfinite(grad) for grad in grads if grad is not None)
    grads[:] = [torch.zeros(1) if grad is None else grad / scale for grad in grads]
    return found


def skips_on_overflow(grads, scale):
    found = not all(_isfinite(grad) for grad in grads if grad is not None)
    for grad in grads:
        if grad is not None and not found:
            grad.div_(scale)
    return found


def adds_first(grads, scale):
    total = sum(grad.sum() for grad in grads if grad is not None)
    for grad in grads:
        if grad is not None:
            grad.div_(scale)
    return not math.isfinite(float(total))


def zeroes_the_bad(grads, scale):
    found = not all(_isfinite(grad) for grad in grads if grad is not None)
    for grad in grads:
        if grad is not None:
            grad.div_(scale).nan_to_num_(0.0, 0.0, 0.0)
    return found


def _keep(found, grad):
    return found or not _isfinite(grad)


def _div(grad, scale):
    grad.div_(scale)


WRONG_UNSCALE = {
    "multiplies": (_unscale(_keep, lambda g, s: g.mul_(s)), "divide"),
    "does not divide": (_unscale(_keep, lambda g, s: None), "divide"),
    "out of place": (out_of_place, "divide"),
    "replaces the list": (replaces_the_list, "form"),
    "returns at the first overflow": (early_return, "all"),
    "leaves all alone on overflow": (skips_on_overflow, "all"),
    "zeroes what overflowed": (zeroes_the_bad, "all"),
    "sees the last gradient only": (_unscale(lambda f, g: not _isfinite(g), _div), "overflow"),
    "misses nan": (_unscale(lambda f, g: f or bool(torch.isinf(g).any()), _div), "overflow"),
    "misses inf": (_unscale(lambda f, g: f or bool(torch.isnan(g).any()), _div), "overflow"),
    "misses -inf": (
        _unscale(lambda f, g: f or bool((g == math.inf).any()) or bool(torch.isnan(g).any()), _div),
        "overflow",
    ),
    "any instead of all": (_unscale(lambda f, g: f or not bool(torch.isfinite(g).any()), _div), "overflow"),
    "always False": (_unscale(lambda f, g: False, _div), "overflow"),
    "adds up first": (adds_first, "finite"),
    "calls 65504 an overflow": (
        _unscale(lambda f, g: _keep(f, g) or bool((g.abs() > 65504).any()), _div),
        "finite",
    ),
    "says finite, not overflow": (lambda grads, scale: not _unscale(_keep, _div)(grads, scale), "finite"),
    "returns nothing": (lambda grads, scale: _unscale(_keep, _div)(grads, scale) and None, "bool"),
    "returns a count": (lambda grads, scale: int(_unscale(_keep, _div)(grads, scale)), "bool"),
    "crashes on None": (_unscale(_keep, _div, none=False), ""),
}


def _update(**changed):
    """The right rule with one part replaced: each argument is a function of what that part sees."""

    def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
        part = {
            "on_overflow": lambda s, n: (s * backoff, 0),
            "due": lambda n: n + 1 == interval,
            "on_growth": lambda s, n: (s * growth if s * growth <= FP32_MAX else s, 0),
            "on_good": lambda s, n: (s, n + 1),
        } | {name: rule(growth, backoff, interval) for name, rule in changed.items()}
        if overflow:
            return part["on_overflow"](scale, good_steps)
        return part["on_growth" if part["due"](good_steps) else "on_good"](scale, good_steps)

    return update


WRONG_UPDATE = {
    "keeps the count after an overflow": (
        _update(on_overflow=lambda g, b, i: lambda s, n: (s * b, n)),
        "restart",
    ),
    "counts the overflow": (_update(on_overflow=lambda g, b, i: lambda s, n: (s * b, 1)), "restart"),
    "keeps the scale on overflow": (_update(on_overflow=lambda g, b, i: lambda s, n: (s, 0)), "backoff"),
    "halves whatever backoff says": (_update(on_overflow=lambda g, b, i: lambda s, n: (s / 2, 0)), "backoff"),
    "divides by backoff": (_update(on_overflow=lambda g, b, i: lambda s, n: (s / b, 0)), "backoff"),
    "grows on overflow": (_update(on_overflow=lambda g, b, i: lambda s, n: (s * g, 0)), "backoff"),
    "grows one step late": (_update(due=lambda g, b, i: lambda n: n == i), "growth"),
    "grows one step early": (_update(due=lambda g, b, i: lambda n: n + 2 >= i), "hold"),
    "grows at every good step": (_update(due=lambda g, b, i: lambda n: True), "hold"),
    "never grows": (_update(due=lambda g, b, i: lambda n: False), "growth"),
    "doubles whatever growth says": (
        _update(on_growth=lambda g, b, i: lambda s, n: (s * 2 if s * 2 <= FP32_MAX else s, 0)),
        "growth",
    ),
    "adds growth": (_update(on_growth=lambda g, b, i: lambda s, n: (s + g, 0)), "growth"),
    "keeps the count after a growth": (
        _update(on_growth=lambda g, b, i: lambda s, n: (s * g if s * g <= FP32_MAX else s, n + 1)),
        "regrow",
    ),
    "grows without bound": (_update(on_growth=lambda g, b, i: lambda s, n: (s * g, 0)), "bound"),
    "bounds at 2**24": (_update(on_growth=lambda g, b, i: lambda s, n: (min(s * g, 2.0**24), 0)), "bound"),
    "keeps the count at the bound": (
        _update(on_growth=lambda g, b, i: lambda s, n: (s * g, 0) if s * g <= FP32_MAX else (s, n + 1)),
        "regrow",
    ),
    "does not count": (_update(on_good=lambda g, b, i: lambda s, n: (s, n)), "count"),
    "returns the scale alone": (lambda s, n, o, g, b, i: s * b if o else s, "form"),
    "returns the pair turned round": (lambda *a: update_once(*a)[::-1], "form"),
    "returns text": (lambda *a: tuple(map(str, update_once(*a))), "form"),
}


def _floored(rule):
    def update_with_floor(scale, good_steps, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):
        new, count = update_once(scale, good_steps, overflow, growth, backoff, interval)
        return rule(scale, new, count, overflow, floor)

    return update_with_floor


WRONG_FLOOR = {
    "has no floor": (_floored(lambda s, new, n, o, f: (new, n, bool(o and new <= f))), "floor"),
    "floors at 1.0 always": (_floored(lambda s, new, n, o, f: (max(new, 1.0), n, o and new <= f)), "floor"),
    "keeps the scale when the back-off would pass the floor": (
        _floored(lambda s, new, n, o, f: (s if new < f else new, n, o and new <= f)),
        "floor",
    ),
    "never reports": (_floored(lambda s, new, n, o, f: (max(new, f), n, False)), "report"),
    "reports only below the floor": (
        _floored(lambda s, new, n, o, f: (max(new, f), n, o and new < f)),
        "report",
    ),
    "reports only the arrival": (
        _floored(lambda s, new, n, o, f: (max(new, f), n, o and new <= f and s > f)),
        "report",
    ),
    "reports every overflow": (_floored(lambda s, new, n, o, f: (max(new, f), n, bool(o))), "quiet"),
    "reports while at the floor": (_floored(lambda s, new, n, o, f: (max(new, f), n, new <= f)), "quiet"),
    "keeps the count at the floor": (
        _floored(lambda s, new, n, o, f: (max(new, f), 1 if o and new <= f else n, o and new <= f)),
        "rule",
    ),
    "forgets to grow above the floor": (
        _floored(lambda s, new, n, o, f: (max(min(new, s), f), n, o and new <= f)),
        "rule",
    ),
    "returns two values": (_floored(lambda s, new, n, o, f: (max(new, f), n)), "form"),
    "reports a number": (_floored(lambda s, new, n, o, f: (max(new, f), n, int(o and new <= f))), "form"),
}


def _clip(norm_of, factor_of, before=None, after=None, result=lambda norm, clipped: norm):
    def clip_after_unscale(grads, scale, max_norm):
        present = [grad for grad in grads if grad is not None]
        if before:
            before(present, scale)
        norm = norm_of(present)
        for grad in present:
            grad.mul_(factor_of(norm, max_norm))
        if after:
            after(present, scale)
        return result(norm, _norm(present))

    return clip_after_unscale


def _unscale_all(grads, scale):
    for grad in grads:
        grad.div_(scale)


def _norm(grads):
    return math.sqrt(sum(float(grad.double().square().sum()) for grad in grads))


def _factor(norm, max_norm):
    return min(1.0, max_norm / norm) if norm else 1.0


def one_by_one(grads, scale, max_norm):
    present = [grad for grad in grads if grad is not None]
    _unscale_all(present, scale)
    norm = _norm(present)
    for grad in present:
        grad.mul_(_factor(_norm([grad]), max_norm))
    return norm


def clamps(grads, scale, max_norm):
    present = [grad for grad in grads if grad is not None]
    _unscale_all(present, scale)
    norm = _norm(present)
    for grad in present:
        if norm > max_norm:
            grad.clamp_(-max_norm, max_norm)
    return norm


def new_gradients(grads, scale, max_norm):
    norm = _norm([grad / scale for grad in grads if grad is not None])
    grads[:] = [grad / scale * _factor(norm, max_norm) for grad in grads if grad is not None]
    return norm


def crashes_on_none(grads, scale, max_norm):
    _unscale_all(grads, scale)
    norm = _norm(grads)
    for grad in grads:
        grad.mul_(_factor(norm, max_norm))
    return norm


WRONG_CLIP = {
    "leaves out what is frozen": (new_gradients, "form"),
    "clips, then unscales": (_clip(_norm, _factor, after=_unscale_all), "unscaled"),
    "never unscales": (_clip(_norm, _factor), "unscaled"),
    "returns the norm after clipping": (
        _clip(_norm, _factor, before=_unscale_all, result=lambda norm, clipped: clipped),
        "before",
    ),
    "adds the norms": (_clip(lambda g: sum(_norm([x]) for x in g), _factor, before=_unscale_all), "norm"),
    "takes the largest norm": (
        _clip(lambda g: max(_norm([x]) for x in g), _factor, before=_unscale_all),
        "norm",
    ),
    "takes the largest element": (
        _clip(lambda g: max(float(x.abs().max()) for x in g), _factor, before=_unscale_all),
        "norm",
    ),
    "forgets the root": (_clip(lambda g: _norm(g) ** 2, _factor, before=_unscale_all), "norm"),
    "takes the mean square": (
        _clip(lambda g: _norm(g) / math.sqrt(sum(x.numel() for x in g)), _factor, before=_unscale_all),
        "norm",
    ),
    "clips each gradient alone": (one_by_one, "clip"),
    "clamps the elements": (clamps, "clip"),
    "never clips": (_clip(_norm, lambda n, m: 1.0, before=_unscale_all), "clip"),
    "clips to a hundredth": (
        _clip(_norm, lambda n, m: 0.01 * m / n if n > m else 1.0, before=_unscale_all),
        "clip",
    ),
    "stretches small gradients": (
        _clip(_norm, lambda n, m: m / n if n else 1.0, before=_unscale_all),
        "leave",
    ),
    "returns nothing": (_clip(_norm, _factor, before=_unscale_all, result=lambda *_: None), "number"),
    "crashes on None": (crashes_on_none, ""),
}

WRONG = {"unscale": WRONG_UNSCALE, "update": WRONG_UPDATE, "update_with_floor": WRONG_FLOOR}
WRONG["clip_after_unscale"] = WRONG_CLIP


# ----------------------------------------------------------------------------------- right ones, other styles


def unscale_foreach(grads, scale):
    present = [grad for grad in grads if grad is not None]
    if not present:
        return False
    found = not all(_isfinite(grad) for grad in present)
    torch._foreach_mul_(present, 1.0 / scale)
    return found


def unscale_tensor_flag(grads, scale):
    found = torch.zeros(1)
    torch._amp_foreach_non_finite_check_and_unscale_(
        [g for g in grads if g is not None], found, torch.tensor(1.0 / scale)
    )
    return found.bool()[0]


def unscale_after(grads, scale):
    found = False
    for grad in filter(lambda g: g is not None, grads):
        grad /= scale
        found |= not torch.isfinite(grad).all().item()
    return found


def update_list(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    good_steps = 0 if overflow else good_steps + 1
    if overflow:
        scale *= backoff
    elif good_steps >= interval:
        good_steps = 0
        scale = scale * growth if scale * growth < math.inf and scale * growth <= FP32_MAX else scale
    return [scale, good_steps]


def update_torch(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    scale, count = torch.tensor(float(scale)), torch.tensor(int(good_steps), dtype=torch.int32)
    torch._amp_update_scale_(scale, count, torch.tensor([float(overflow)]), growth, backoff, interval)
    return scale, count


def update_float_count(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    scale, count = update_list(scale, good_steps, overflow, growth, backoff, interval)
    return scale, float(count)


def floor_clamped(scale, good_steps, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return max(floor, scale * backoff), 0, scale * backoff <= floor
    return (*update_list(scale, good_steps, False, growth, backoff, interval), False)


def floor_tensor_flag(*arguments):
    scale, count, flag = floor_clamped(*arguments)
    return [scale, count, torch.tensor(flag)]


def floor_isclose(scale, good_steps, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):
    scale, count = update_list(scale, good_steps, overflow, growth, backoff, interval)
    scale = max(scale, floor)
    return scale, count, bool(overflow) and math.isclose(scale, floor)


def clip_torch(grads, scale, max_norm):
    parameters = []
    for grad in grads:
        if grad is not None:
            grad.div_(scale)
            parameters.append(torch.zeros_like(grad).requires_grad_())
            parameters[-1].grad = grad
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def clip_flat(grads, scale, max_norm):
    present = [grad for grad in grads if grad is not None]
    for grad in present:
        grad /= scale
    norm = torch.cat([grad.flatten() for grad in present]).norm()
    for grad in present:
        grad *= min(1.0, max_norm / max(norm.item(), 1e-12))
    return norm


def clip_foreach(grads, scale, max_norm):
    present = [grad for grad in grads if grad is not None]
    torch._foreach_div_(present, scale)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present))).item()
    torch._foreach_mul_(present, min(1.0, max_norm / (norm + 1e-6)))
    return norm


RIGHT = {
    "unscale": [unscale_foreach, unscale_tensor_flag, unscale_after],
    "update": [update_list, update_torch, update_float_count],
    "update_with_floor": [floor_clamped, floor_tensor_flag, floor_isclose],
    "clip_after_unscale": [clip_torch, clip_flat, clip_foreach],
}
