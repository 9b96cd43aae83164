"""Wrong solutions of exercise 10, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["adamw_step"]["eps inside the root"]
"""

from __future__ import annotations

import torch

# ------------------------------------------------------------------------------------------- wrong: the step


def _corrections(t, beta1, beta2, correction):
    c1 = 1 - beta1**t if correction == "standard" else 1.0
    return c1, 1.0 if correction == "none" else 1 - beta2**t


def _divide(m, v, c1, c2, eps):
    return m / c1 / ((v / c2).sqrt() + eps)


def _decay(p, lr, weight_decay):
    p.mul_(1 - lr * weight_decay)


def _step(
    grad=lambda g, p, wd: g,
    moments=lambda m, v, g, b1, b2: (b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g),
    corrections=_corrections,
    divide=_divide,
    decay=_decay,
    count=lambda state, states: state["step"],
    frozen=lambda p, state, lr, wd: None,
):
    """The right step, one part replaced."""

    def adamw_step(params, grads, states, lr, beta1, beta2, eps, weight_decay, correction):
        for p, g, state in zip(params, grads, states, strict=True):
            if g is None:
                frozen(p, state, lr, weight_decay)
                continue
            if not state:
                state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            state["step"] += 1
            g = grad(g, p, weight_decay)
            state["m"], state["v"] = moments(state["m"], state["v"], g, beta1, beta2)
            c1, c2 = corrections(count(state, states), beta1, beta2, correction)
            decay(p, lr, weight_decay)
            p -= lr * divide(state["m"], state["v"], c1, c2, eps)

    return adamw_step


_right = _step()


def _replaces(params, grads, states, *how):
    copies = [p.clone() for p in params]
    _right(copies, grads, states, *how)
    params[:] = copies


def _eats_gradients(params, grads, states, lr, beta1, beta2, eps, wd, correction):
    _right(params, grads, states, lr, beta1, beta2, eps, wd, correction)
    for grad in grads:
        if grad is not None:
            grad.zero_()


def _keyed(params, grads, states, *how):
    for state in states:
        if state:
            state.update(step=state.pop("t"), m=state.pop("exp_avg"), v=state.pop("exp_avg_sq"))
    _right(params, grads, states, *how)
    for state in states:
        if state:
            state.update(t=state.pop("step"), exp_avg=state.pop("m"), exp_avg_sq=state.pop("v"))


def _one_count(params, grads, states, *how):
    _right(params, grads, states, *how)
    most = max(state.get("step", 0) for state in states)
    for state in states:
        if state:
            state["step"] = most


def _counts_late(params, grads, states, *how):
    for state, grad in zip(states, grads, strict=True):
        if grad is not None and not state:
            state.update(step=-1, m=torch.zeros_like(grad), v=torch.zeros_like(grad))
    _right(params, grads, states, *how)


def _counts_frozen(p, state, lr, wd):
    if state:
        state["step"] += 1


def _fills_frozen(p, state, lr, wd):
    if not state:
        state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))


def _no_correction(t, beta1, beta2, correction):
    return 1.0, 1.0


WRONG_STEP = {
    "eps inside the root": (_step(divide=lambda m, v, a, b, eps: m / a / (v / b + eps).sqrt()), "eps"),
    "eps before the correction": (
        _step(divide=lambda m, v, a, b, eps: m / a / ((v.sqrt() + eps) / b**0.5)),
        "eps",
    ),
    "eps a thousandfold": (_step(divide=lambda m, v, a, b, eps: _divide(m, v, a, b, 1000 * eps)), "eps"),
    "no eps": (_step(divide=lambda m, v, a, b, eps: _divide(m, v, a, b, 0.0)), "eps"),
    "never corrects": (_step(corrections=_no_correction), "correction"),
    "corrects m alone": (
        _step(corrections=lambda t, a, b, c: (_corrections(t, a, b, c)[0], 1.0)),
        "correction",
    ),
    "corrects v alone": (
        _step(corrections=lambda t, a, b, c: (1.0, _corrections(t, a, b, c)[1])),
        "correction",
    ),
    "always corrects": (
        _step(corrections=lambda t, a, b, c: _corrections(t, a, b, "standard")),
        "update",
    ),
    "delayed is standard": (
        _step(corrections=lambda t, a, b, c: _corrections(t, a, b, "none" if c == "none" else "standard")),
        "correction",
    ),
    "corrects as at the first step": (
        _step(corrections=lambda t, a, b, c: _corrections(1, a, b, c)),
        "correction",
    ),
    "corrects by the most updates": (
        _step(count=lambda state, states: max(s["step"] for s in states if s)),
        "correction",
    ),
    "L2 in the gradient": (_step(grad=lambda g, p, wd: g + wd * p, decay=lambda *a: None), "decay"),
    "decay without lr": (_step(decay=lambda p, lr, wd: p.mul_(1 - wd)), "decay"),
    "no decay": (_step(decay=lambda p, lr, wd: None), "decay"),
    "grows the weights": (_step(decay=lambda p, lr, wd: p.mul_(1 + lr * wd)), "decay"),
    "decays what is frozen": (_step(frozen=lambda p, state, lr, wd: _decay(p, lr, wd)), "frozen"),
    "counts what is frozen": (_step(frozen=_counts_frozen), "frozen"),
    "state for what is frozen": (_step(frozen=_fills_frozen), "frozen"),
    "one count for all": (_one_count, "count"),
    "counts from 0": (_counts_late, "count"),
    "the betas changed round": (
        _step(moments=lambda m, v, g, a, b: (b * m + (1 - b) * g, a * v + (1 - a) * g * g)),
        "moments",
    ),
    "adds the gradient whole": (
        _step(moments=lambda m, v, g, a, b: (a * m + g, b * v + g * g)),
        "moments",
    ),
    "m squared": (
        _step(moments=lambda m, v, g, a, b: (m := a * m + (1 - a) * g, b * v + (1 - b) * m * m)),
        "moments",
    ),
    "no root": (_step(divide=lambda m, v, a, b, eps: m / a / (v / b + eps)), "update"),
    "climbs": (_step(divide=lambda m, v, a, b, eps: -_divide(m, v, a, b, eps)), "update"),
    "the gradient for m": (_step(moments=lambda m, v, g, a, b: (g, b * v + (1 - b) * g * g)), "moments"),
    "replaces the weights": (_replaces, "place"),
    "zeroes the gradients": (_eats_gradients, "grads"),
    "other names": (_keyed, "form"),
    "crashes on None": (
        lambda params, grads, states, *how: [g.mul(1) for g in grads] and _right(params, grads, states, *how),
        "",
    ),
}

# ----------------------------------------------------------------------------------------- wrong: the groups


def _groups(
    held=lambda model: [p for p in model.parameters() if p.requires_grad],
    wide=lambda p: p.dim() >= 2,
    decays=lambda wd: (wd, 0.0),
):
    def decay_groups(model, weight_decay):
        first, second = decays(weight_decay)
        params = held(model)
        return [
            {"params": [p for p in params if wide(p)], "weight_decay": first},
            {"params": [p for p in params if not wide(p)], "weight_decay": second},
        ]

    return decay_groups


def _by_name(rule):
    def decay_groups(model, weight_decay):
        held = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in held if rule(name)], "weight_decay": weight_decay},
            {"params": [p for name, p in held if not rule(name)], "weight_decay": 0.0},
        ]

    return decay_groups


def _with_duplicates(model):
    return [p for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]


def _top_level(model):
    return [p for p in model.parameters(recurse=False) if p.requires_grad]


def _overlap(model, weight_decay):
    params = [p for p in model.parameters() if p.requires_grad]
    thin = [p for p in params if p.dim() < 2]
    return [{"params": params, "weight_decay": weight_decay}, {"params": thin, "weight_decay": 0.0}]


def _matrices(model):
    return [p for p in model.parameters() if p.requires_grad and p.dim() >= 1]


WRONG_GROUPS = {
    "frozen ones too": (_groups(held=lambda model: list(model.parameters())), "frozen"),
    "tied ones twice": (_groups(held=_with_duplicates), "once"),
    "vectors in both groups": (_overlap, "once"),
    "the top level alone": (_groups(held=_top_level), "all"),
    "forgets scalars": (_groups(held=_matrices), "all"),
    "by name: weight": (_by_name(lambda name: name.endswith("weight")), "split"),
    "by name: no bias": (_by_name(lambda name: "bias" not in name), "split"),
    "exactly two dimensions": (_groups(wide=lambda p: p.dim() == 2), "split"),
    "vectors decay too": (_groups(wide=lambda p: p.dim() >= 1), "split"),
    "by size": (_groups(wide=lambda p: p.numel() > 4), "split"),
    "all decays": (_groups(decays=lambda wd: (wd, wd)), "decay"),
    "changed round": (_groups(decays=lambda wd: (0.0, wd)), "decay"),
    "always 0.01": (_groups(decays=lambda wd: (0.01, 0.0)), "decay"),
    "the second group first": (lambda model, wd: _groups()(model, wd)[::-1], "split"),
    "a list of parameters": (lambda model, wd: list(model.parameters()), "form"),
    "without the decay": (
        lambda model, wd: [{"params": one["params"]} for one in _groups()(model, wd)],
        "form",
    ),
    "empty groups left out": (
        lambda model, wd: [one for one in _groups()(model, wd) if one["params"]],
        "form",
    ),
}
WRONG = {"adamw_step": WRONG_STEP, "decay_groups": WRONG_GROUPS}

# ----------------------------------------------------------------------------------- right, in other styles


def in_place(params, grads, states, lr, beta1, beta2, eps, weight_decay, correction):
    for p, g, state in zip(params, grads, states, strict=True):
        if g is None:
            continue
        state.setdefault("step", torch.tensor(0.0))
        m, v = state.setdefault("m", torch.zeros_like(p)), state.setdefault("v", torch.zeros_like(p))
        state["step"] += 1
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        c1, c2 = _corrections(float(state["step"]), beta1, beta2, correction)
        p.mul_(1 - lr * weight_decay).addcdiv_(m, v.sqrt().div_(c2**0.5).add_(eps), value=-lr / c1)


def decay_with_the_update(params, grads, states, lr, beta1, beta2, eps, weight_decay, correction):
    for p, g, state in zip(params, grads, states, strict=True):
        if g is not None:
            m, v = state.get("m", 0 * p), state.get("v", 0 * p)
            state["step"] = state.get("step", 0) + 1
            state["m"] = m + (g - m) * (1 - beta1)
            state["v"] = v + (g**2 - v) * (1 - beta2)
            c1, c2 = _corrections(state["step"], beta1, beta2, correction)
            p.copy_(p - lr * (state["m"] / c1 / (state["v"].div(c2) ** 0.5 + eps) + weight_decay * p))


def by_dict(model, weight_decay):
    found = {True: [], False: []}
    for _, p in model.named_parameters():
        if p.requires_grad:
            found[p.ndim > 1].append(p)
    return (
        {"params": found[True], "weight_decay": weight_decay, "name": "decay"},
        {"params": found[False], "weight_decay": 0},
    )


def by_filter(model, weight_decay):
    trained = list(filter(lambda p: p.requires_grad, model.parameters()))
    thin = [p for p in trained if len(p.shape) in (0, 1)]
    wide = [p for p in trained if not any(p is q for q in thin)]
    return [{"params": group, "weight_decay": decay} for group, decay in ((wide, weight_decay), (thin, 0.0))]


RIGHT = {
    "adamw_step": [_right, in_place, decay_with_the_update],
    "decay_groups": [_groups(), by_dict, by_filter],
}
