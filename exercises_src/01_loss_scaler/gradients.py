"""Tasks 1 and 4 of the loss scaler: unscale, and clip after unscaling. References in plain Python.

Oracles: `torch.amp.GradScaler.unscale_` and `torch.nn.utils.clip_grad_norm_`.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import (
    all_close,
    close,
    map_grads,
    number,
    random_grads,
    same_form,
    values,
    vector,
)
from llmkit.grade.exercise import Answer, Case, Property, Task

# ------------------------------------------------------------------------------------------------- 1. unscale


def unscale(grads: list[Tensor | None], scale: float) -> Answer:
    overflow = not all(math.isfinite(v) for v in values(grads))
    return Answer(value=overflow, args={"grads": map_grads(grads, lambda v: v / scale)})


def judge_unscale(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, after = number(got.value), got.args["grads"]
    if not isinstance(found, bool):
        return "bool"
    if not same_form(after, want.args["grads"]):
        return "form"
    if not all_close(after, want.args["grads"]):
        return "all" if want.value else "divide"
    if found != want.value:
        return "overflow" if want.value else "finite"
    return ""


def hidden_unscale(rng: random.Random) -> list[Case]:
    cases = []
    for bad in (None, None, None, math.inf, -math.inf, math.nan, math.nan):
        scale = 2.0 ** rng.randint(4, 16)
        grads = random_grads(rng, 0.1 * scale, frozen=rng.random() < 0.7)
        if bad is not None:
            place = rng.choice([i for i, g in enumerate(grads) if g is not None])
            numbers = list(grads[place].values)
            numbers[rng.randrange(len(numbers))] = bad
            grads[place] = Tensor(tuple(numbers), grads[place].shape)
        cases.append(Case(grads=grads, scale=scale))
    cases.append(Case(grads=[vector(3e38, 3e38, rng.uniform(1e38, 2e38)), vector(3e38)], scale=1024.0))
    rng.shuffle(cases)
    return cases


UNSCALE = Task(
    name="unscale",
    lines=6,
    reference=unscale,
    judge=judge_unscale,
    watch=("grads",),
    properties={
        "bool": Property("the function returns True or False", "what must the caller know to skip the step?"),
        "form": Property(
            "the gradients stay the same tensors, changed in place", "which tensors will the optimizer read?"
        ),
        "divide": Property(
            "every gradient is divided by `scale`, in place", "which operation undoes `loss * scale`?"
        ),
        "all": Property(
            "all gradients are divided, also when one of them overflowed",
            "what is left of the later gradients when you return at the first bad one?",
        ),
        "overflow": Property(
            "an infinity or a NaN in any gradient is an overflow",
            "does your test see inf, -inf and NaN, wherever it stands?",
        ),
        "finite": Property(
            "finite gradients, however large, are no overflow", "can finite numbers add up to an infinity?"
        ),
    },
    public=(
        Case(grads=[vector(8.0)], scale=8.0),
        Case(grads=[], scale=2.0),
        Case(grads=[vector(4.0, -2.0), None, vector(1.0)], scale=2.0),
        Case(grads=[vector(math.inf), vector(2.0)], scale=2.0),
        Case(grads=[vector(2.0), vector(1.0, -math.inf)], scale=2.0),
        Case(grads=[vector(math.nan, 2.0), None], scale=4.0),
        Case(grads=[vector(3e38, 3e38)], scale=4.0),
        Case(grads=[vector(4.0), vector(0.0), Tensor((2.0,), ())], scale=4.0),
    ),
    hidden=hidden_unscale,
    hints=(
        "Loop over the gradients, skip None, and keep one flag that only ever turns from False to True.",
        (
            "`torch.isfinite(grad).all()` looks at every element; `grad.div_(scale)` divides in place. Do "
            "both for each one."
        ),
        (
            "Per gradient: `overflow = overflow or not bool(torch.isfinite(grad).all())`, then the "
            "division. Return after the loop."
        ),
    ),
)


# ------------------------------------------------------------------------------------- 4. clip_after_unscale


def norm_of(grads: list[Tensor | None]) -> float:
    return math.sqrt(math.fsum(v * v for v in values(grads)))


def clip_after_unscale(grads: list[Tensor | None], scale: float, max_norm: float) -> Answer:
    unscaled = map_grads(grads, lambda v: v / scale)
    norm = norm_of(unscaled)
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return Answer(value=norm, args={"grads": map_grads(unscaled, lambda v: v * factor)})


TOLERANCE = 1e-4  # torch divides by norm + 1e-6, others by norm: both are right at the norms used here


def judge_clip(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    norm, after = number(got.value), got.args["grads"]
    if isinstance(norm, bool) or not isinstance(norm, (int, float)):
        return "number"
    if not same_form(after, want.args["grads"]):
        return "form"
    if not close(norm, want.value, TOLERANCE):
        scaled, clipped = norm_of(inputs["grads"]), norm_of(want.args["grads"])
        return (
            "unscaled"
            if close(norm, scaled, TOLERANCE)
            else "before"
            if close(norm, clipped, TOLERANCE)
            else "norm"
        )
    if not all_close(after, want.args["grads"], TOLERANCE):
        return "clip" if want.value > inputs["max_norm"] else "leave"
    return ""


def hidden_clip(rng: random.Random) -> list[Case]:
    cases = []
    for times in (0.2, 0.6, 0.95, 1.5, 3.0, 10.0, 30.0):
        scale, max_norm = 2.0 ** rng.randint(4, 14), rng.choice([1.0, 0.5, 2.0, 5.0])
        grads = random_grads(rng, 1.0, frozen=rng.random() < 0.7)
        stretch = times * max_norm * scale / norm_of(grads)
        cases.append(Case(grads=map_grads(grads, lambda v, s=stretch: v * s), scale=scale, max_norm=max_norm))
    rng.shuffle(cases)
    return cases


CLIP = Task(
    name="clip_after_unscale",
    lines=7,
    reference=clip_after_unscale,
    judge=judge_clip,
    watch=("grads",),
    properties={
        "number": Property("the function returns the norm, a number", "what would you log for this step?"),
        "form": Property(
            "the gradients stay the same tensors, changed in place", "which tensors will the optimizer read?"
        ),
        "unscaled": Property(
            "the norm is that of the unscaled gradients", "against which gradients was `max_norm` chosen?"
        ),
        "before": Property(
            "the norm returned is the one before clipping", "which of the two norms shows a spike?"
        ),
        "norm": Property(
            "the norm is the root of the sum of squares over all elements of all gradients",
            "is it one norm for the whole model, or one per tensor?",
        ),
        "clip": Property(
            "gradients above `max_norm` are scaled down together, to norm `max_norm`",
            "does the direction of the step survive your clipping?",
        ),
        "leave": Property(
            "gradients at or below `max_norm` are unscaled and otherwise left alone",
            "when does clipping do nothing?",
        ),
    },
    public=(
        Case(grads=[vector(2.0)], scale=4.0, max_norm=1.0),
        Case(grads=[vector(6.0, 8.0)], scale=1.0, max_norm=5.0),
        Case(grads=[vector(12.0, 16.0)], scale=4.0, max_norm=5.0),
        Case(grads=[vector(24.0), None, vector(32.0)], scale=4.0, max_norm=2.0),
        Case(grads=[vector(0.0, 0.0)], scale=4.0, max_norm=1.0),
        Case(grads=[vector(48.0, 0.0), Tensor((64.0,), (1, 1))], scale=16.0, max_norm=1.0),
    ),
    hidden=hidden_clip,
    hints=(
        (
            "Three passes over the gradients: unscale, measure, clip. Only then is there one norm for all "
            "of them."
        ),
        (
            "The norm of all gradients together is the root of the sum of their squared norms. Multiply "
            "every gradient by the same factor."
        ),
        "`factor = max_norm / norm`, applied only when `norm > max_norm`; return `norm` as it was measured.",
    ),
)
