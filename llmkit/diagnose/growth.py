"""What grows in memory and does not come back, and when that will have used it up.

A leak raises the floor: the least that will ever be kept again, where what is kept is what has outlived a
whole step. What comes and goes, a cache of keys and values or an allocator that warms up, does not raise it.

    growth = Growth({event.step: event.data for event in chart.events_of("memory")})
    growth.goes_on, growth.rises, forecast(steps, peaks, limit)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmkit.diagnose.opinion import EVENTS, fact
from llmkit.diagnose.signals import median
from llmkit.diagnose.words import size
from llmkit.records import Evidence

Z = 1.96


@dataclass
class Growth:
    """The steps of a run's `memory` events, and those at which the floor rose for good."""

    told: dict[int, dict[str, Any]]
    rises: list[int] = field(default_factory=list)

    def __post_init__(self):
        steps, floor = sorted(self.told), math.inf
        for step, after in reversed(list(pairwise(steps))):
            floor = min(floor, self.told[after]["kept"])
            if self.told[step]["kept"] < floor:
                self.rises.insert(0, after)

    @property
    def goes_on(self) -> bool:
        """Five rises or more, the last no longer ago than the longest pause, twice what ever came back."""
        gaps, top, fall = [b - a for a, b in pairwise(self.rises)], 0, 0
        for step in sorted(self.told):
            top = max(top, self.told[step]["kept"])
            fall = max(fall, top - self.told[step]["kept"])
        if len(gaps) < 4 or max(self.told) - self.rises[-1] > max(gaps):
            return False
        first = self.told[self.rises[0]]
        return self.told[max(self.told)]["kept"] - first["kept"] + first["grown"] > 2 * fall

    @property
    def share(self) -> float:
        """Of the steps since the first rise, how many rose."""
        return len(self.rises) / (max(self.told) - self.rises[0] + 1)

    @property
    def modules(self) -> float:
        """Whose memory grows at once, as a median over the rises."""
        return median([self.told[step]["modules"] for step in self.rises])

    def culprit(self) -> tuple[str, str, str]:
        """(module, category, line) with the most bytes among what grew."""
        held: Counter[tuple[str, str, str]] = Counter()
        for step in self.rises:
            for module, category, line, count in self.told[step]["lines"]:
                held[module, category, line] += count
        return max(held, key=held.__getitem__, default=("", "", ""))

    def evidence(self) -> tuple[Evidence, ...]:
        first, last = self.rises[0], max(self.told)
        grown = sum(self.told[step]["grown"] for step in self.rises)
        module, category, line = self.culprit()
        place = f"`{line}`" + (f" in `{module}`" if module else "")
        said = [
            fact(f"{size(grown)} have come to stay from step {first - 1} to step {last}", last, EVENTS),
            fact(f"most of it is {category}, allocated on {place}", first, EVENTS),
        ]
        steps = [step for step in sorted(self.told) if step >= first]
        cap = self.told[last]["limit"]
        low, mid, high = forecast(steps, [self.told[step]["peak"] for step in steps], cap)
        if cap and mid < math.inf:
            low, mid, high = math.floor(low), math.ceil(mid), math.ceil(high)
            says = f"the limit of {size(cap)} is reached at step {mid} (95 %: {low} to {high})"
            said.append(fact(says, last, EVENTS))
        return tuple(said)


def forecast(steps: Sequence[int], peaks: Sequence[float], cap: float) -> tuple[float, float, float]:
    """The step at which a straight line through the peaks reaches `cap`, and its 95 % interval.

    Least squares and inverse prediction: the standard error is s/b sqrt(1 + 1/n + (x0 - mean)^2 / Sxx), s the
    residual deviation, b the slope (Draper and Smith, Applied Regression Analysis, section 3.2). Where
    nothing rises or there are fewer than 5 points: never.
    """
    n = len(steps)
    if n < 5:
        return math.inf, math.inf, math.inf
    middle, level = sum(steps) / n, sum(peaks) / n
    sxx = sum((x - middle) ** 2 for x in steps)
    slope = sum((x - middle) * (y - level) for x, y in zip(steps, peaks, strict=True)) / sxx
    if slope <= 0:
        return math.inf, math.inf, math.inf
    rest = sum((y - level - slope * (x - middle)) ** 2 for x, y in zip(steps, peaks, strict=True))
    there = middle + (cap - level) / slope
    t = Z + (Z**3 + Z) / (4 * (n - 2))  # Student's t by its first correction
    wide = t * math.sqrt(rest / (n - 2)) / slope * math.sqrt(1 + 1 / n + (there - middle) ** 2 / sxx)
    return max(there - wide, steps[-1]), there, there + wide
