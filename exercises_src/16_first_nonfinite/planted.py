"""Wrong solutions of exercise 16, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["first_nonfinite"]["registration order"]
"""

from __future__ import annotations

import contextlib

import torch


def _bad(tensors):
    return not all(bool(torch.isfinite(t).all()) for t in tensors if t is not None)


def _tuple(output):
    return output if isinstance(output, tuple) else (output,)


def _search(
    backward=False,
    bad=_bad,
    leaves=lambda module: not list(module.children()),
    pick=lambda found, model: found[0] if found else None,
    clean=True,
    copies=True,
    run=None,
    inputs=False,
):
    """The right search, one part replaced."""

    def search(model, x):
        found, handles = [], []

        def look(name):
            def hook(module, before, after):
                seen = before if backward or inputs else _tuple(after)
                if bad(seen):
                    found.append(name)

            return hook

        kind = "register_full_backward_hook" if backward else "register_forward_hook"
        try:
            for name, module in model.named_modules():
                if leaves(module):
                    handles.append(getattr(module, kind)(look(name)))
            (run or (_backward if backward else _forward))(model, x)
        finally:
            for handle in handles if clean else ():
                handle.remove()
        return pick(found, model)

    return search


def _forward(model, x):
    model(x)


def _backward(model, x):
    start = x.clone().requires_grad_()
    torch.autograd.grad(model(start).sum(), start)


def _fills_grad(model, x):
    model(x.clone().requires_grad_()).sum().backward()


def _touches_x(model, x):
    torch.autograd.grad(model(x.requires_grad_()).sum(), x)


def _swallows(model, x):
    with contextlib.suppress(RuntimeError):
        _forward(model, x)


def _swallows_backward(model, x):
    with contextlib.suppress(RuntimeError):
        _backward(model, x)


def _twice(model, x):
    model(x)
    model(x)


def _by_registration(found, model):
    return next((name for name, _ in model.named_modules() if name in found), None)


def _without_finally(backward):
    kind = "register_full_backward_hook" if backward else "register_forward_hook"

    def search(model, x):
        found, handles = [], []
        for name, module in model.named_modules():
            if not list(module.children()):
                handles.append(
                    getattr(module, kind)(
                        lambda m, i, o, n=name: (
                            found.append(n) if _bad(i if backward else _tuple(o)) else None
                        )
                    )
                )
        (_backward if backward else _forward)(model, x)
        for handle in handles:
            handle.remove()
        return found[0] if found else None

    return search


def _late_name(model, x):
    found, handles = [], []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(
                module.register_forward_hook(lambda m, i, o: found.append(name) if _bad(_tuple(o)) else None)  # noqa: B023
            )
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors_alone(model, x):
    return _search(bad=lambda seen: _bad(seen[:1]))(model, x)


WRONG_FORWARD = {
    "looks for NaN alone": (_search(bad=lambda seen: any(bool(t.isnan().any()) for t in seen)), "seen"),
    "looks for infinity alone": (_search(bad=lambda seen: any(bool(t.isinf().any()) for t in seen)), "seen"),
    "all must be bad": (_search(bad=lambda seen: any(not t.isfinite().any() for t in seen)), "seen"),
    "the first tensor of a tuple alone": (_tensors_alone, "seen"),
    "looks at the inputs": (_search(inputs=True), "first"),
    "the last bad one": (_search(pick=lambda found, model: found[-1] if found else None), "first"),
    "the order of registration": (_search(pick=_by_registration), "first"),
    "one name for all hooks": (_late_name, "first"),
    "containers count": (_search(leaves=lambda module: True, pick=lambda f, m: f[-1] if f else None), "leaf"),
    "calls large numbers bad": (_search(bad=lambda seen: _bad(seen) or seen[0].abs().max() > 1), "quiet"),
    "leaves its hooks": (_search(clean=False), "hooks"),
    "leaves its hooks after an error": (_without_finally(False), "unhooked"),
    "swallows the error": (_search(run=_swallows), "error"),
    "runs twice": (_search(run=_twice), "once"),
    "the module, not its name": (_search(pick=lambda f, m: m.get_submodule(f[0]) if f else None), "form"),
    "an empty list": (_search(pick=lambda f, m: f), "form"),
    "crashes on a tuple": (_search(bad=lambda seen: not torch.isfinite(torch.stack(seen)).all()), "error"),
}
WRONG_BACKWARD = {
    "looks at the outputs": (_search(), "seen"),
    "looks for infinity alone": (
        _search(True, bad=lambda seen: any(bool(t.isinf().any()) for t in seen if t is not None)),
        "seen",
    ),
    "the last bad one": (_search(True, pick=lambda f, m: f[-1] if f else None), "first"),
    "the order of registration": (_search(True, pick=_by_registration), "first"),
    "calls every gradient bad": (_search(True, bad=lambda seen: True), "quiet"),
    "leaves its hooks": (_search(True, clean=False), "hooks"),
    "leaves its hooks after an error": (_without_finally(True), "unhooked"),
    "fills .grad": (_search(True, run=_fills_grad), "trace"),
    "asks x itself for a gradient": (_search(True, run=_touches_x), "trace"),
    "swallows the error": (_search(True, run=_swallows_backward), "error"),
    "forward a second time": (
        _search(True, run=lambda model, x: (model(x), _backward(model, x))),
        "once",
    ),
    "a number": (_search(True, pick=lambda f, m: len(f)), "form"),
    "the container": (
        _search(True, pick=lambda f, m: f[0].rpartition(".")[0] or f[0] if f else None),
        "leaf",
    ),
    "no gradient asked for": (
        _search(True, run=lambda model, x: torch.autograd.grad(model(x).sum(), x)),
        "error",
    ),
}
WRONG = {"first_nonfinite": WRONG_FORWARD, "first_bad_gradient": WRONG_BACKWARD}


# ----------------------------------------------------------------------------------- right, in other styles


def forward_global(model, x):
    names = {
        module: name for name, module in model.named_modules() if not any(True for _ in module.children())
    }
    first = []

    def hook(module, inputs, output):
        if module in names and not first and _bad(_tuple(output)):
            first.append(names[module])

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        model(x)
    finally:
        handle.remove()
    return next(iter(first), None)


def forward_stack(model, x):
    seen = []
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if len(list(module.children())) == 0:
                handle = module.register_forward_hook(
                    lambda m, i, o, name=name: seen.append((name, _bad(_tuple(o))))
                )
                stack.callback(handle.remove)
        model(x)
    return next((name for name, bad in seen if bad), None)


def backward_stack(model, x):
    seen = []
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if len(list(module.children())) == 0:
                handle = module.register_full_backward_hook(
                    lambda m, i, o, name=name: seen.append((name, _bad(i)))
                )
                stack.callback(handle.remove)
        start = x.detach().clone().requires_grad_(True)
        torch.autograd.grad(model(start).sum(), [start])
    return next((name for name, bad in seen if bad), None)


def backward_keeps(model, x):
    kept = {p: None if p.grad is None else p.grad.clone() for p in model.parameters()}
    model.zero_grad(set_to_none=True)
    try:
        return _search(True, run=_fills_grad)(model, x)
    finally:
        for parameter, grad in kept.items():
            parameter.grad = grad


RIGHT = {
    "first_nonfinite": [forward_global, forward_stack, _search()],
    "first_bad_gradient": [backward_stack, backward_keeps, _search(True)],
}
