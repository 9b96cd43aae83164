"""How unusual a number is, given the numbers before it: the one statistic behind every rule.

A loss falls as it trains, so a spike is not a high value but a high *change*. `Surprise` measures the change
from the median of the last 8 healthy values, in robust standard deviations (1.4826 x median absolute
deviation) of that same change over the last 64 healthy steps. A spike cannot hide in a falling curve, nor
inflate its own yardstick.

    surprise = Surprise(floor=0.005)
    z = surprise.see(4.17).z        # NaN until 11 healthy values were seen
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 64  # healthy steps that set the yardstick
BASE = 8  # healthy steps whose median is "what was expected"
YOUNG = 3  # healthy values before the first change is measured
ENOUGH = 8  # changes before anything is called unusual
MAD_TO_SD = 1.4826  # of a normal distribution


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. NaN when empty."""
    if not values:
        return math.nan
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def spread(values: Sequence[float]) -> float:
    """Robust standard deviation: 1.4826 x median absolute deviation."""
    middle = median(values)
    return MAD_TO_SD * median([abs(value - middle) for value in values])


def limit(seen: int, z: float) -> float:
    """An alarm limit that is wider while the yardstick is young.

    The MAD of n normal values has a relative error of about 1.17/sqrt(n) (Rousseeuw and Croux 1993: 37 %
    efficiency); the limit is raised by twice that error beyond what it is at 64 values, so 8 values ask for
    1.5 times the z.
    """
    return z * (1 + 2 * 1.17 * max(0.0, 1 / math.sqrt(seen or 1) - 1 / math.sqrt(WINDOW)))


@dataclass(frozen=True)
class Reading:
    """One value against its past."""

    value: float
    base: float = math.nan  # median of the last 8 healthy values: what was expected
    spread: float = math.nan  # robust standard deviation of the change from the base
    z: float = math.nan  # (value - base) / spread
    seen: int = 0  # changes that set the spread, at most 64

    def above(self, z: float) -> bool:
        """Higher than expected by more than `z`, the limit widened while the yardstick is young."""
        return self.z > limit(self.seen, z)


class Surprise:
    """Readings of a series, one value at a time.

    Args:
        floor: smallest spread, as a share of the base (`relative`) or in the unit of the values: a series
            that never moves would else make its first ripple infinitely surprising.
        relative: whether the floor is a share of the base.
    """

    def __init__(self, floor: float, *, relative: bool = True):
        self.floor, self.relative = floor, relative
        self.values: deque[float] = deque(maxlen=BASE)
        self.changes: deque[float] = deque(maxlen=WINDOW)

    def see(self, value: float, *, healthy: bool = True) -> Reading:
        """Read `value` against the past; a healthy value becomes part of the past."""
        base, seen = median(self.values), len(self.changes)
        reading = Reading(value, base=base, seen=seen)
        if seen >= ENOUGH:
            least = self.floor * abs(base) if self.relative else self.floor
            wide = max(spread(self.changes), least, 1e-12)
            reading = Reading(value, base, wide, (value - base) / wide, seen)
        if healthy and math.isfinite(value):
            if len(self.values) >= YOUNG:
                self.changes.append(value - base)
            self.values.append(value)
        return reading
