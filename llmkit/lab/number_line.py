"""Where a number falls in each format: what is stored, its neighbours, and what was lost on the way.

The one idea: positive floats are in the order of their bits, so the neighbour is the bit pattern plus one.

    place("fp16", 1e-8)         # Place(stored=0.0, ..., verdict="becomes 0")
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FORMATS = {  # name -> dtype, and the integer of its width
    "fp32": (torch.float32, torch.int32),
    "bf16": (torch.bfloat16, torch.int16),
    "fp16": (torch.float16, torch.int16),
    "fp8 e5m2": (torch.float8_e5m2, torch.int8),
    "fp8 e4m3": (torch.float8_e4m3fn, torch.int8),
}


@dataclass(frozen=True)
class Format:
    """A format in numbers: the smallest positive one, the smallest with all its digits, the largest."""

    tiniest: float
    smallest: float
    largest: float
    digits: int  # binary, the leading one included


@dataclass(frozen=True)
class Place:
    """A positive number in a format."""

    stored: float
    below: (
        float  # the format's neighbours of what is stored; NaN beside what is not finite, above e4m3's last
    )
    above: float
    verdict: (
        str  # "exact", "rounded", "subnormal" (rounded, fewer digits), "saturated", "becomes 0" or "... inf"
    )

    def error(self, value: float) -> float:
        """Relative error of what is stored."""
        return abs(self.stored - value) / value


def facts(name: str) -> Format:
    """PyTorch's own limits of a format."""
    info = torch.finfo(FORMATS[name][0])
    tiniest = info.smallest_normal * info.eps
    return Format(tiniest, info.smallest_normal, info.max, 1 - round(math.log2(info.eps)))


def place(name: str, value: float) -> Place:
    """Where `value` > 0 falls, rounded as PyTorch rounds: to the nearest, ties to even."""
    dtype, integer = FORMATS[name]
    known, kept = facts(name), torch.tensor([value], dtype=torch.float64).float().to(dtype)
    stored = kept.float().item()
    if not math.isfinite(stored):
        return Place(stored, math.nan, math.nan, f"becomes {stored}")
    bits = kept.view(integer) + torch.tensor([-1, 1], dtype=integer)  # 0 has no positive number below it
    below, above = (bits.view(dtype).float().tolist()) if stored else (0.0, known.tiniest)
    if stored == value:
        return Place(stored, below, above, "exact")
    beyond = stored == known.largest and value >= stored + (stored - below) / 2  # e4m3 has no infinity
    small = "becomes 0" if not stored else "subnormal" if stored < known.smallest else "rounded"
    return Place(stored, below, above, "saturated" if beyond else small)
