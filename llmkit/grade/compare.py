"""What references and judges share: float32 rounding, comparison, random gradients.

close(0.1 + 0.2, 0.3), same_form(got, want), random_grads(random.Random(0), spread=1.0)
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any

from llmkit.grade.collect import Tensor, nested


def fp32(value: float) -> float:
    """The nearest float32; inf beyond its range."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def close(got: Any, want: float, relative: float = 1e-5) -> bool:
    """Plain numbers, equal to within `relative`; infinities and NaN equal only themselves."""
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        return False
    if not math.isfinite(want) or not math.isfinite(got):
        return got == want or (got != got and want != want)
    return abs(got - want) <= relative * abs(want)


def agree(got: Any, want: Any, relative: float = 1e-5, absolute: float = 0.0) -> bool:
    """Same structure, same text and flags, numbers to within `relative` or `absolute`, shapes alike.

    A tuple is a list, a number may stand in a tensor of one element, an integer may come as a whole float; a
    bool is only a bool, and a dtype is compared only by its kind (float, integer, bool).
    """
    got = number(got) if not isinstance(want, Tensor) else got
    if isinstance(want, bool) or want is None or isinstance(want, str):
        return type(got) is type(want) and got == want
    if isinstance(want, (int, float)):
        return close(got, want, relative) or _near(got, want, absolute)
    if isinstance(want, (list, tuple)):
        got = nested(list(got.values), got.shape) if isinstance(got, Tensor) else got
        inside = isinstance(got, (list, tuple)) and len(got) == len(want)
        return inside and all(agree(g, w, relative, absolute) for g, w in zip(got, want, strict=True))
    if isinstance(want, dict):
        inside = isinstance(got, dict) and set(got) == set(want)
        return inside and all(agree(got[key], want[key], relative, absolute) for key in want)
    if not isinstance(want, Tensor) or not isinstance(got, Tensor) or got.shape != want.shape:
        return False
    return _kind(got) == _kind(want) and agree(list(got.values), list(want.values), relative, absolute)


def _near(got: Any, want: float, absolute: float) -> bool:
    number = isinstance(got, (int, float)) and not isinstance(got, bool)
    return number and math.isfinite(got) and abs(got - want) <= absolute


def _kind(tensor: Tensor) -> str:
    return tensor.dtype.rstrip("0123456789").replace("bfloat", "float").replace("uint", "int")


def plain(value: Any) -> bool:
    """A number, or a tensor that holds one; a flag is none."""
    found = number(value)
    return isinstance(found, (int, float)) and not isinstance(found, bool)


def number(value: Any) -> Any:
    """The number in a tensor of one element; anything else as it is."""
    return (
        value.values[0] if isinstance(value, Tensor) and len(value.values) == 1 and not value.shape else value
    )


def same_form(got: Any, want: list[Tensor | None]) -> bool:
    """A list of tensors of the wanted shapes and dtypes, None where None is wanted."""
    if not isinstance(got, list) or len(got) != len(want):
        return False
    pairs = list(zip(got, want, strict=True))
    return all(
        g is None if w is None else isinstance(g, Tensor) and (g.shape, g.dtype) == (w.shape, w.dtype)
        for g, w in pairs
    )


def values(grads: list[Tensor | None]) -> list[float]:
    return [v for grad in grads if grad is not None for v in grad.values]


def all_close(got: list, want: list, relative: float = 1e-5) -> bool:
    return all(close(g, w, relative) for g, w in zip(values(got), values(want), strict=True))


def vector(*numbers: float) -> Tensor:
    return Tensor(tuple(fp32(v) for v in numbers), (len(numbers),))


def map_grads(grads: list[Tensor | None], rule: Callable[[float], float]) -> list[Tensor | None]:
    return [g and Tensor(tuple(fp32(rule(v)) for v in g.values), g.shape, g.dtype) for g in grads]


def random_grads(rng: random.Random, spread: float, frozen: bool = True) -> list[Tensor | None]:
    """Two to five gradients of unequal shapes with entries near `spread`, one of them None if `frozen`."""
    shapes = rng.sample([(), (1,), (3,), (5,), (2, 3), (3, 1, 2)], rng.randint(2, 4))
    found: list[Tensor | None] = [
        Tensor(tuple(fp32(rng.gauss(0, spread)) for _ in range(math.prod(shape))), shape) for shape in shapes
    ]
    if frozen:
        found.insert(rng.randint(0, len(found)), None)
    return found
