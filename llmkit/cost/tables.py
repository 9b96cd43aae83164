"""What was published, as rows: runs, steps, memory, decoding, interruptions; accelerators; what is assumed.

    table("published/runs")[0]["parameters"]

Facts only, each with its source and whether it was read or is from memory; nothing that we derived.
`kind` says what a row is for: `held_out` rows were looked up after every prior was fixed and feed none.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any


@cache
def table(name: str) -> tuple[dict[str, Any], ...]:
    """Rows of a table of the package. Numbers are numbers; a cell that is empty is absent."""
    text = resources.files("llmkit.cost").joinpath(f"{name}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple({key: _typed(cell) for key, cell in row.items() if cell != ""} for row in rows)


def _typed(cell: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def quantile(values: Sequence[float], share: float, weights: Iterable[float] | None = None) -> float:
    """The smallest value below or at which this share of the weight lies (all weights equal by default)."""
    ranked = sorted(zip(values, weights or [1.0] * len(values), strict=True))
    wanted, seen = share * math.fsum(weight for _, weight in ranked) - 1e-9, 0.0
    return next(value for value, weight in ranked if (seen := seen + weight) >= wanted)
