"""Attention and its gradients in NumPy float64, and the answers that known mistakes give.

    out, dq, dk, dv = attend(q, k, v, upstream)                 # the right ones
    attend(q, k, v, upstream, seen="top left")[0]               # as a mask without the cached keys has it

Vaswani et al. 2017 (arXiv 1706.03762), equation 1; the backward pass is the chain rule, checked in
tests/grade/test_08_reference.py against torch.
"""

from __future__ import annotations

import math
import random

import numpy as np

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import fp32

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.values, dtype=np.float64).reshape(tensor.shape)


def tensor(values: np.ndarray, dtype: str = "float32") -> Tensor:
    return Tensor(tuple(fp32(float(v)) for v in values.ravel()), values.shape, dtype)


def visible(queries: int, keys: int, kind: str) -> np.ndarray:
    """(queries, keys): which key each query sees; "right" lets the last query see the last key."""
    offset = 0 if kind == "top left" else keys - queries
    behind = np.arange(queries)[:, None] + offset - np.arange(keys)[None, :]
    masks = {"all": behind == behind, "itself": behind == 0, "one more": behind >= -1}
    return masks.get(kind, behind >= 0)


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    upstream: np.ndarray,
    scale: float | None = None,
    seen: str = "right",
    flat: bool = False,
    axis: int = -1,
    late: bool = False,
) -> Arrays:
    """Output and gradients for q (..., T, d), k (..., S, d), v (..., S, e); the options are known mistakes.

    Args:
        upstream: gradient of the output (..., T, e).
        scale: of the scores; 1/sqrt(d) is right.
        seen: kind of mask; see `visible`.
        flat: all scores 0, so that what is seen is averaged.
        axis: of the softmax.
        late: the mask is applied after the softmax.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    mask = visible(q.shape[-2], k.shape[-2], seen)
    scores = q @ k.swapaxes(-1, -2) * (0 if flat else scale)
    scores = scores if late else np.where(mask, scores, -np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        top = scores.max(axis=axis, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
        weights = weights / weights.sum(axis=axis, keepdims=True)
    weights = np.where(mask, weights, 0) if late else weights
    back = upstream @ v.swapaxes(-1, -2)
    inner = weights * (back - (weights * back).sum(axis=-1, keepdims=True)) * scale
    return weights @ v, inner @ k, inner.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ upstream


MISTAKES: tuple[tuple[str, dict], ...] = (
    ("scale", {"scale": 1.0}),
    ("mask", {"seen": "all"}),
    ("mask", {"seen": "one more"}),
    ("offset", {"seen": "top left"}),
    ("past", {"seen": "itself"}),
    ("past", {"flat": True}),
    ("axis", {"axis": -2}),
    ("sum", {"late": True}),
)


def near(got: Tensor, want: np.ndarray, size: float, share: float = 1e-4) -> bool:
    """Same shape, every number within `size` or within `share` of the largest wanted."""
    slack = max(size, share * float(np.abs(want).max(initial=0)))
    found = array(got)
    return found.shape == want.shape and bool((np.abs(found - want) <= slack).all())


def apart(q: Tensor, k: Tensor) -> bool:
    """In each row the two largest scores are far apart, and in one row all that is seen is below -20,000."""
    scores = array(q) @ array(k).swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    seen = np.sort(np.where(visible(q.shape[-2], k.shape[-2], "right"), scores, -np.inf), axis=-1)
    return bool((seen[..., -1] - seen[..., -2] > 50).all() and (seen[..., -1] < -2e4).any())


def draw(
    rng: random.Random, shape: tuple[int, ...], spread: float = 1.0, grid: float = 0.0, lift: float = 0.0
) -> Tensor:
    """Normal numbers, on a grid if one is given: 1/8 up to 16 is exact in bfloat16.

    Args:
        lift: the first entry of every row: two such rows multiply to lift^2 and little more.
    """
    numbers = np.array([rng.gauss(0, spread) for _ in range(math.prod(shape))]).reshape(shape)
    numbers = np.round(numbers / grid) * grid if grid else numbers
    if lift:
        numbers[..., 0] = lift
    return tensor(numbers)
