"""Exercise 08, causal attention: values and gradients, with cached keys, bfloat16 inputs, grouped heads."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from llmkit.grade.collect import Tensor
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

from .arithmetic import MISTAKES, apart, array, attend, draw, near, tensor

# ---------------------------------------------------------------------------------------------- 1. attention


def drive_attention(function, q, k, v, upstream):
    """The output, and the gradients of q, k and v when `upstream` comes back from above."""
    import torch

    q, k, v = (one.clone().requires_grad_() for one in (q, k, v))
    out = function(q, k, v)
    if out is None:
        return None
    if isinstance(out, torch.Tensor) and out.requires_grad and out.shape == upstream.shape:
        (out.float() * upstream).sum().backward()
    return {"out": out, "dq": q.grad, "dk": k.grad, "dv": v.grad}


def answer_of(arrays: tuple[np.ndarray, ...], dtype: str) -> Answer:
    return Answer(value=dict(zip(("out", "dq", "dk", "dv"), (tensor(a, dtype) for a in arrays), strict=True)))


def attention(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor) -> Answer:
    return answer_of(attend(*map(array, (q, k, v, upstream))), q.dtype)


def judge_attention(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    out = got.value.get("out") if isinstance(got.value, dict) else None
    if not isinstance(out, Tensor) or out.shape != want.value["out"].shape:
        return "form"
    if out.dtype != inputs["q"].dtype:
        return "dtype"
    if not np.isfinite(array(out)).all():
        return "finite"
    arrays = [array(inputs[name]) for name in ("q", "k", "v", "upstream")]
    right = attend(*arrays)
    size = 2.0**-7 * np.abs(arrays[2]).max() if out.dtype == "bfloat16" else 1e-5
    if near(out, right[0], size):
        return gradients(got.value, right[1:])
    for key, change in MISTAKES:
        if near(out, attend(*arrays, **change)[0], size):
            return key
    return "fp32" if out.dtype == "bfloat16" else "value"


def gradients(found: dict[str, Any], right: tuple[np.ndarray, ...]) -> str:
    """ "gradient" if one of the three is missing or wrong; in bfloat16 they may be sums of rounded parts."""
    for got, want in zip((found["dq"], found["dk"], found["dv"]), right, strict=True):
        if not isinstance(got, Tensor):
            return "gradient"
        if not near(got, want, 1e-5, 2.0**-4 if got.dtype == "bfloat16" else 1e-4):
            return "gradient"
    return ""


def case(rng: random.Random, lead: tuple[int, ...], t: int, s: int, d: int, e: int, **how: Any) -> Case:
    """`spread` and `grid` of q and k; `lifted` adds the same large number to every score."""
    spread, grid, dtype = how.get("spread", 1.0), how.get("grid", 0.0), how.get("dtype", "float32")
    lift = how.get("lifted", 0.0)
    q, k = (draw(rng, (*lead, n, d), spread, grid, lift) for n in (t, s))
    v = draw(rng, (*lead, s, e), 1.0, grid if lift else 0.0)
    q, k, v = (Tensor(one.values, one.shape, dtype) for one in (q, k, v))
    return Case(q=q, k=k, v=v, upstream=draw(rng, (*lead, t, e)))


def large_case(rng: random.Random) -> Case:
    while True:
        made = case(rng, (2,), 4, 4, 2, 3, spread=300.0)
        if apart(made.inputs["q"], made.inputs["k"]):
            return made


def hidden_attention(rng: random.Random) -> list[Case]:
    return [
        case(rng, (2,), 4, 4, 3, 3),
        case(rng, (), rng.randint(3, 5), rng.randint(6, 8), 5, 2),
        case(rng, (2, 3), 3, 5, 4, 6),
        case(rng, (1,), 1, 6, 7, 3),
        case(rng, (2,), 5, 5, 2, 1, spread=2.0),
        large_case(rng),
        case(rng, (2,), 6, 6, 16, 4, grid=0.125, lifted=11.0, dtype="bfloat16"),
        case(rng, (3,), 4, 7, 16, 8, grid=0.125, lifted=11.0, dtype="bfloat16"),
    ]


def rows(values: list[list[float]], dtype: str = "float32") -> Tensor:
    return tensor(np.array(values, dtype=np.float64), dtype)


def small(q: list, k: list, v: list, upstream: list, dtype: str = "float32") -> Case:
    return Case(q=rows(q, dtype), k=rows(k, dtype), v=rows(v, dtype), upstream=rows(upstream))


ONE, TWO = [[1.0]], [[1.0], [2.0]]
ATTENTION = Task(
    name="attention",
    lines=6,
    reference=attention,
    judge=judge_attention,
    drive=drive_attention,
    properties={
        "form": Property(
            "the output has one row per query, as long as a row of v", "which two shapes decide the output's?"
        ),
        "dtype": Property("the output has the dtype of q", "what will the next layer be handed?"),
        "finite": Property(
            "large scores give finite outputs", "what is exp(1000) in float32, and who takes care of it?"
        ),
        "mask": Property(
            "no query sees a later key, whatever its score",
            "which number does a masked score become, and is it small enough?",
        ),
        "offset": Property(
            "with more keys than queries the last query sees the last key",
            "the first keys come from the cache: at which position does the first query stand?",
        ),
        "past": Property(
            "each query weighs all keys up to its own position by their scores",
            "do the scores matter, and how far back does a query look?",
        ),
        "scale": Property(
            "scores are divided by the root of d, the length of a query",
            "how large do scores get when d grows, and what does softmax make of it?",
        ),
        "axis": Property("each query's weights sum to 1 over the keys", "along which axis do you normalise?"),
        "sum": Property(
            "the weights of what a query sees sum to 1",
            "does the mask come before softmax or after it?",
        ),
        "fp32": Property(
            "bfloat16 inputs: scores, softmax and sum are computed in float32",
            "how far apart are two neighbouring bfloat16 numbers near 20, and what does exp make of it?",
        ),
        "value": Property(
            "the output is softmax(q k^T / sqrt(d)) v over the keys that a query sees",
            "which factor differs?",
        ),
        "gradient": Property(
            "the gradients of q, k and v are those of this output",
            "is every part of your formula differentiable, and nothing detached?",
        ),
    },
    public=(
        small(ONE, ONE, [[3.0, 5.0]], [[1.0, 2.0]]),
        small([[1.0, 1.0, 1.0, 1.0]], [[2.0, 0.0, 0.0, 0.0], [0.0] * 4], [[4.0], [1.0]], ONE),
        small(TWO, [[1.0], [0.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [1.0, -1.0]]),
        small(TWO, [[1.0], [0.0], [2.0]], [[4.0], [8.0], [0.0]], TWO),
        small([[1.0], [2.0], [0.0]], [[1.0], [0.0], [2.0]], [[4.0], [8.0], [0.0]], [[1.0], [2.0], [1.0]]),
        small([[200.0], [200.0]], [[-200.0], [200.0]], [[4.0], [8.0]], TWO),
        small([[5.0] * 4], [[2.0, 2.0, 2.0, 2.125], [2.0] * 4], [[4.0], [-4.0]], ONE, "bfloat16"),
    ),
    hidden=hidden_attention,
    hints=(
        "Scores (..., T, S) first; then the mask; then softmax over the last axis; then times v.",
        (
            "`torch.ones(T, S, dtype=torch.bool).tril(S - T)` is True where a query may look. Fill the rest "
            "with minus infinity before the softmax."
        ),
        (
            "`scores = q.float() @ k.float().transpose(-2, -1) / math.sqrt(d)`, masked and softmaxed, then "
            "`@ v.float()`, and `.to(q.dtype)` last of all."
        ),
    ),
)

# -------------------------------------------------------------------------------------- 2. grouped_attention


def shared(kv: np.ndarray, heads: int, how: str = "right") -> np.ndarray:
    """Key or value heads (B, G, S, d) for each of the query heads; other `how` are known mistakes."""
    groups = kv.shape[1]
    of = {"right": np.arange(heads) * groups // heads, "tile": np.arange(heads) % groups}
    return kv[:, of.get(how, np.zeros(heads, dtype=int))]


def grouped(q: np.ndarray, k: np.ndarray, v: np.ndarray, upstream: np.ndarray) -> tuple[np.ndarray, ...]:
    heads, groups = q.shape[1], k.shape[1]
    out, dq, dk, dv = attend(q, shared(k, heads), shared(v, heads), upstream)
    back = [g.reshape(len(g), groups, heads // groups, *g.shape[2:]).sum(axis=2) for g in (dk, dv)]
    return out, dq, *back


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor) -> Answer:
    return answer_of(grouped(*map(array, (q, k, v, upstream))), q.dtype)


def judge_grouped(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    out = got.value.get("out") if isinstance(got.value, dict) else None
    if not isinstance(out, Tensor) or out.shape != want.value["out"].shape or out.dtype != inputs["q"].dtype:
        return "form"
    q, k, v, upstream = (array(inputs[name]) for name in ("q", "k", "v", "upstream"))
    right = grouped(q, k, v, upstream)
    if near(out, right[0], 1e-5):
        return gradients(got.value, right[1:])
    for how in ("tile", "first"):
        if near(out, attend(q, shared(k, q.shape[1], how), shared(v, q.shape[1], how), upstream)[0], 1e-5):
            return "group"
    return "attention" if q.shape[1] == k.shape[1] else "group"


def grouped_case(rng: random.Random, b: int, h: int, g: int, t: int, s: int, d: int, e: int) -> Case:
    return Case(
        q=draw(rng, (b, h, t, d)),
        k=draw(rng, (b, g, s, d)),
        v=draw(rng, (b, g, s, e)),
        upstream=draw(rng, (b, h, t, e)),
    )


def hidden_grouped(rng: random.Random) -> list[Case]:
    shapes = [(1, 4, 2, 3, 3, 4, 4), (2, 6, 2, 3, 4, 3, 5), (1, 6, 3, 4, 4, 2, 3), (2, 4, 4, 3, 5, 3, 2)]
    return [grouped_case(rng, *shape) for shape in [*shapes, (2, 3, 1, 4, 4, 5, 1), (1, 8, 4, 1, 6, 2, 2)]]


FIXED = random.Random(8)
GROUPED = Task(
    name="grouped_attention",
    lines=4,
    reference=grouped_attention,
    judge=judge_grouped,
    drive=drive_attention,
    properties={
        "form": Property(
            "the output has the heads, queries and dtype of q and the row length of v",
            "which shape does the output projection expect?",
        ),
        "attention": Property(
            "within a head it is the attention of task 1", "do heads of one group differ in anything else?"
        ),
        "group": Property(
            "query head h uses key and value head h // (heads / groups)",
            "of four query heads and two groups, which two share group 0?",
        ),
        "gradient": Property(
            "the gradient of a shared head is the sum over the query heads that use it",
            "how does the gradient find its way back through your copy?",
        ),
    },
    public=(
        grouped_case(FIXED, 1, 1, 1, 1, 2, 1, 1),
        grouped_case(FIXED, 1, 2, 2, 3, 3, 2, 1),
        grouped_case(FIXED, 1, 2, 1, 1, 2, 1, 1),
        grouped_case(FIXED, 1, 4, 2, 1, 2, 1, 1),
    ),
    hidden=hidden_grouped,
    hints=(
        "Give every query head its own copy of the keys and values, then it is task 1.",
        "`repeat` and `repeat_interleave` order the copies differently: a a b b is wanted, not a b a b.",
        "`k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)`, the same for v, then `attention`.",
    ),
)

EXERCISE = Exercise(
    name="08_attention",
    version=1,
    title="Causal attention",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S1", "S13"),
    tasks=(ATTENTION, GROUPED),
    predictions={
        "spread of a score": Prediction(
            answer=8.0,
            because=(
                "A score is a sum of 64 products, each of variance 1, so its variance is 64. Softmax over "
                "scores of spread 8 gives nearly everything to one key, and gradients next to nothing: "
                "dividing by sqrt(64) brings the spread back to 1, whatever d is."
            ),
        )
    },
    hides=("train",),
    shortcuts=("scaled_dot_product_attention", "MultiheadAttention"),
)
