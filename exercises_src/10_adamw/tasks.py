"""Exercise 10, AdamW: one step written out, with its state; and which parameters decay at all.

References in plain Python. Sources: Kingma and Ba, arXiv 1412.6980 (moments, correction, eps outside the
root); Loshchilov and Hutter, arXiv 1711.05101 (decoupled decay); St John, arXiv 2110.10828 (`delayed`).
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import agree, fp32
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ---------------------------------------------------------------------------------------------- 1. the step


def one_step(p: list, g: list, state: dict, how: dict) -> tuple[list, dict]:
    """Weights and state after one update of one parameter."""
    b1, b2, t = how["beta1"], how["beta2"], state["step"] + 1
    m = [b1 * old + (1 - b1) * x for old, x in zip(state["m"], g, strict=True)]
    v = [b2 * old + (1 - b2) * x * x for old, x in zip(state["v"], g, strict=True)]
    c1 = 1 - b1**t if how["correction"] == "standard" else 1.0
    c2 = 1.0 if how["correction"] == "none" else 1 - b2**t
    moves = [how["lr"] * a / c1 / (math.sqrt(b / c2) + how["eps"]) for a, b in zip(m, v, strict=True)]
    kept = 1 - how["lr"] * how["weight_decay"]
    new = [w * kept - move for w, move in zip(p, moves, strict=True)]
    return new, {"step": t, "m": m, "v": v}


def adamw_step(params: list[Tensor], steps: list, **how: Any) -> Answer:
    places = [list(p.values) for p in params]
    states = [{} for _ in params]
    trace = []
    for grads in steps:
        for i, g in enumerate(grads):
            if g is not None:
                zeros = [0.0] * len(places[i])
                places[i], states[i] = one_step(
                    places[i], list(g.values), states[i] or {"step": 0, "m": zeros, "v": zeros}, how
                )
        now = {"params": [list(p) for p in places], "state": [dict(one) for one in states]}
        trace.append(now | {"place": True, "grads": True})
    return Answer(value=trace)


def drive_adamw(function, params, steps, lr, beta1, beta2, eps, weight_decay, correction):
    """Several steps; after each weights, state, and whether tensors were replaced or gradients changed."""
    import torch

    state, trace, held = [{} for _ in params], [], list(params)
    shapes = [p.shape for p in params]
    for grads in steps:
        before = [None if g is None else g.clone() for g in grads]
        function(params, grads, state, lr, beta1, beta2, eps, weight_decay, correction)
        if not any(state) and any(g is not None for g in grads):
            return None
        same = all(a is b and a.shape == s for a, b, s in zip(params, held, shapes, strict=True))
        kept = all(a is None or torch.equal(a, b) for a, b in zip(before, grads, strict=True))
        flat = [
            {k: v.flatten().tolist() if torch.is_tensor(v) else v for k, v in one.items()} for one in state
        ]
        trace.append(
            {
                "params": [p.detach().flatten().tolist() for p in held],
                "state": flat,
                "place": same,
                "grads": kept,
            }
        )
    return trace


RELATIVE, ABSOLUTE = 2e-4, 1e-6  # float32


def near(got: Any, want: Any) -> bool:
    return agree(got, want, RELATIVE, ABSOLUTE)


def counts(got: Any, want: int) -> bool:
    return near(got, want) or near(got, [want])  # a tensor of one element comes as a list


def judge_adamw(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not isinstance(got.value, list) or len(got.value) != len(want.value):
        return "form"
    before = [list(p.values) for p in inputs["params"]]
    for grads, found, right in zip(inputs["steps"], got.value, want.value, strict=True):
        key = judge_once(inputs, grads, before, found, right)
        if key:
            return key
        before = right["params"]
    return ""


def judge_once(inputs: dict, grads: list, before: list, found: dict, right: dict) -> str:
    if not found["place"]:
        return "place"
    if not found["grads"]:
        return "grads"
    for i, grad in enumerate(grads):
        mine, state, true = found["params"][i], found["state"][i], right["state"][i]
        if grad is None:
            if (
                not near(mine, before[i])
                or set(state) != set(true)
                or (state and not counts(state["step"], true["step"]))
            ):
                return "frozen"
            continue
        if set(state) != {"step", "m", "v"}:
            return "form"
        if not counts(state["step"], true["step"]):
            return "count"
        if not near(state["m"], true["m"]) or not near(state["v"], true["v"]):
            return (
                "decay" if inputs["weight_decay"] and coupled(inputs, grad, before[i], state) else "moments"
            )
        if not near(mine, right["params"][i]):
            return which(inputs, before[i], mine, right["params"][i])
    return ""


def coupled(inputs: dict, grad: Tensor, before: list, state: dict) -> bool:
    """At a first step: does m hold the decay, as in Adam with L2?"""
    m = [
        (1 - inputs["beta1"]) * (g + inputs["weight_decay"] * w)
        for g, w in zip(grad.values, before, strict=True)
    ]
    return near(state["m"], m)


def which(inputs: dict, before: list, mine: list, true: list) -> str:
    """The property behind wrong weights whose moments are right."""
    kept = [(a - b) / w for a, b, w in zip(mine, true, before, strict=True) if abs(w) > 0.1]
    if inputs["weight_decay"] and kept and max(kept) - min(kept) < 1e-4:
        return "decay"
    if inputs["eps"] > 1e-3:
        return "eps"
    return "correction" if inputs["correction"] != "none" else "update"


SHAPES = [(2,), (3,), (2, 2), (1, 3), (4, 1), ()]


def tensor(rng: random.Random, shape: tuple, spread: float = 1.0) -> Tensor:
    return Tensor(
        tuple(fp32(rng.uniform(0.2, 1) * rng.choice([-spread, spread])) for _ in range(math.prod(shape))),
        shape,
    )


def case(
    rng: random.Random,
    pattern: str,
    correction: str = "none",
    eps: float = 1e-12,
    decay: float = 0.0,
    **more: Any,
) -> Case:
    """A case from a word per step: a letter per parameter, `g` with a gradient, `-` without."""
    words = pattern.split()
    shapes = [rng.choice(SHAPES) for _ in words[0]]
    params = [tensor(rng, shape) for shape in shapes]
    steps = [
        [tensor(rng, s) if c == "g" else None for c, s in zip(word, shapes, strict=True)] for word in words
    ]
    how = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99} | more
    return Case(params=params, steps=steps, **how, eps=eps, weight_decay=decay, correction=correction)


def hidden_adamw(rng: random.Random) -> list[Case]:
    cases = []
    for correction in ("standard", "none", "delayed"):
        beta = {"lr": rng.uniform(0.01, 0.2), "beta1": rng.uniform(0.5, 0.9), "beta2": rng.uniform(0.8, 0.99)}
        cases.append(case(rng, "ggg ggg ggg", correction, **beta))
        cases.append(case(rng, "gg gg gg", correction, eps=rng.uniform(0.05, 0.5), **beta))
        cases.append(case(rng, "g-g ggg -g-", correction, decay=rng.uniform(0.2, 1.0), **beta))
    return [*cases, case(rng, "-- g- gg", "standard", decay=0.5)]


FIXED = random.Random(10)

STEP = Task(
    name="adamw_step",
    lines=12,
    reference=adamw_step,
    judge=judge_adamw,
    drive=drive_adamw,
    properties={
        "form": Property(
            "the state of a parameter has the keys step, m and v, and no others",
            "what must a checkpoint of the optimizer hold?",
        ),
        "place": Property("the weights are changed in place", "which tensors does the model read?"),
        "grads": Property("the gradients are left as they are", "who else reads them: clipping, a log?"),
        "frozen": Property(
            "a parameter without gradient keeps its weights and its state",
            "does something decay that is not trained?",
        ),
        "count": Property(
            "each parameter counts its own updates, from 1",
            "how many updates has a parameter seen that was frozen at first?",
        ),
        "moments": Property(
            "m and v are running means of the gradient and of its square",
            "which of the two betas belongs to which?",
        ),
        "update": Property(
            "the update is lr * m / (sqrt(v) + eps)",
            "what becomes of a weight whose gradient is always the same?",
        ),
        "correction": Property(
            "m and v are corrected as `correction` says", "how large are m and v after the first step?"
        ),
        "eps": Property(
            "eps is added to the root of the corrected v, outside the root", "what is sqrt(1e-8)?"
        ),
        "decay": Property(
            "decay multiplies the weights by 1 - lr * weight_decay and enters no moment",
            "is the decay divided by sqrt(v)?",
        ),
    },
    public=(
        case(FIXED, "g"),
        case(FIXED, "g g"),
        case(FIXED, "g", "standard"),
        case(FIXED, "g g", "delayed"),
        case(FIXED, "g g", "standard"),
        case(FIXED, "g", eps=0.25),
        case(FIXED, "g g", "standard", eps=0.25),
        case(FIXED, "g", decay=0.5),
        case(FIXED, "g-", decay=0.5),
        case(FIXED, "-g gg", "standard"),
        case(FIXED, "g- gg", "standard"),
        case(FIXED, "gg -g gg", "delayed", decay=0.5),
    ),
    hidden=hidden_adamw,
    hints=(
        "Loop over parameters, gradients and states together. Fill an empty state with step 0 and zeros.",
        (
            "Order: count, decay the weights, update m and v, take c1 and c2 from the count, then "
            "subtract the update."
        ),
        (
            "`p -= lr * (m / c1) / ((v / c2).sqrt() + eps)`, with c1 = 1 except for `standard`, c2 = 1 "
            "for `none`."
        ),
    ),
)

# --------------------------------------------------------------------------------------- 2. who decays at all


def drive_groups(function, parameters, weight_decay):
    """A model of such parameters; the groups by name, and whether an optimizer takes them."""
    import torch

    model = torch.nn.Module()
    for name, shape, kind in parameters:
        place = model
        *path, last = name.split(".")
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        tied = model.get_parameter(kind) if kind not in ("trained", "frozen") else None
        made = torch.nn.Parameter(torch.zeros(shape), kind != "frozen") if tied is None else tied
        place.register_parameter(last, made)
    groups = function(model, weight_decay)
    if not isinstance(groups, (list, tuple)) or not all(isinstance(one, dict) for one in groups):
        return groups
    names = {id(p): name for name, p in model.named_parameters()}
    if not all(set(one) >= {"params", "weight_decay"} for one in groups):
        return "groups without `params` or `weight_decay`"
    return [
        {"decay": one["weight_decay"], "names": sorted(names.get(id(p), "unknown") for p in one["params"])}
        for one in groups
    ]


def decay_groups(parameters: list, weight_decay: float) -> Answer:
    held = [(name, shape) for name, shape, kind in parameters if kind == "trained"]
    wide = sorted(name for name, shape in held if len(shape) >= 2)
    thin = sorted(name for name, shape in held if len(shape) < 2)
    return Answer(value=[{"decay": weight_decay, "names": wide}, {"decay": 0.0, "names": thin}])


def judge_groups(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if (
        not isinstance(got.value, list)
        or len(got.value) != 2
        or not all(isinstance(g, dict) for g in got.value)
    ):
        return "form"
    given = [name for one in got.value for name in one["names"]]
    right = [name for one in want.value for name in one["names"]]
    frozen = {name for name, _, kind in inputs["parameters"] if kind == "frozen"}
    if frozen & set(given):
        return "frozen"
    if len(set(given)) < len(given):
        return "once"
    if set(given) != set(right):
        return "all"
    if got.value[0]["names"] != want.value[0]["names"]:
        return "split"
    return "" if agree([one["decay"] for one in got.value], [inputs["weight_decay"], 0.0]) else "decay"


def hidden_groups(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(6):
        parameters = [["embed.weight", [rng.randint(3, 9), 4], "trained"], ["norm.weight", [4], "trained"]]
        for i in range(rng.randint(1, 3)):
            frozen = rng.choice(["trained", "frozen"])
            parameters += [
                [f"blocks.{i}.mlp.weight", [4, 4], frozen],
                [f"blocks.{i}.bias", [4], rng.choice(["trained", "frozen"])],
            ]
        parameters += [
            ["gate", [], "trained"],
            ["scale.weight", [1, 1], "trained"],
            ["conv.bias.kernel", [2, 2, 2], "trained"],
        ]
        parameters += [
            ["head.weight", [3, 4], rng.choice(["embed.weight", "frozen"])],
            ["a.bias", [2, 2], "frozen"],
            ["b.weight", [3], "frozen"],
        ]
        parameters += [["tail.weight", [3, 4], "embed.weight"]]
        cases.append(Case(parameters=parameters, weight_decay=rng.choice([0.1, 0.01, 0.3])))
    wide = ["w", [rng.randint(2, 9), 2], "trained"]
    return [*cases, Case(parameters=[wide], weight_decay=0.2)]


def model(*parameters: tuple) -> Case:
    return Case(parameters=[list(one) for one in parameters], weight_decay=0.1)


W, B = ("w", [2, 2], "trained"), ("b", [2], "trained")
GROUPS = Task(
    name="decay_groups",
    lines=5,
    reference=decay_groups,
    judge=judge_groups,
    drive=drive_groups,
    properties={
        "form": Property(
            "two groups, each with `params` and `weight_decay`, the decaying one first",
            "what does torch.optim.AdamW take in place of parameters?",
        ),
        "frozen": Property("frozen parameters are in no group", "what marks a parameter as frozen?"),
        "once": Property(
            "a tied parameter stands once", "what does the optimizer do with one that stands twice?"
        ),
        "all": Property("every trainable parameter is in a group", "which parameters would never move?"),
        "split": Property(
            "parameters of two dimensions or more decay, the others do not",
            "what tells a matrix from a gain, whatever its name?",
        ),
        "decay": Property(
            "the first group has `weight_decay`, the second 0.0",
            "what does AdamW take for a group that names none?",
        ),
    },
    public=(
        model(W),
        model(W, B),
        model(B, ("norm.weight", [3], "trained")),
        model(W, ("f", [2, 2], "frozen")),
        model(W, ("head.weight", [2, 2], "w")),
        model(W, ("gate", [], "trained")),
        model(W, ("k.bias", [2, 1, 2], "trained"), ("f", [2], "frozen")),
    ),
    hidden=hidden_groups,
    hints=(
        "Collect the trainable parameters once, then split them by their number of dimensions.",
        "`model.parameters()` gives a tied parameter once. `p.requires_grad` and `p.dim()` say the rest.",
        (
            '`{"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay}`, and the '
            "others with 0.0."
        ),
    ),
)

EXERCISE = Exercise(
    name="10_adamw",
    version=1,
    title="AdamW",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S9",),
    tasks=(STEP, GROUPS),
    predictions={
        "first step": Prediction(
            answer=0.1 / math.sqrt(0.001),
            because=(
                "uncorrected, the first step is lr (1 - beta1) / sqrt(1 - beta2) = lr 0.1 / 0.0316; "
                "corrected, it is lr. Without correction the first steps are too large, not too small: v "
                "starts further below its mean than m does. With beta2 = 0.95 it is 0.45."
            ),
        )
    },
    hides=("train",),
    shortcuts=("AdamW", "Adam", "NAdam", "RAdam"),
)
