"""How long a step takes, and when it takes too long: a pure state machine on seconds.

The one idea: step times are compared with the median of the last 64, never with a limit in seconds, and the
first steps (cold caches, first allocations) do not count.

    pace = Pace()
    slow = pace.see({"data": 0.9, "forward": 0.1})      # None, or how slow and in which phase
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

MAD_TO_SD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Slow:
    """A step that took too long."""

    z: float  # robust standard deviations of the logarithm of the step time
    seconds: float
    usual_s: float  # median of the steps before
    phase: str  # where most of the excess went: "data", "forward", "backward" or "optimizer"


class Pace:
    """Args:
    window: steps that set the median and the spread.
    warmup: first steps that are not looked at; a resumed run has them again.
    ratio: a slow step takes at least this many medians.
    z: and is this many robust standard deviations out, on a logarithmic scale.
    least_s: and costs at least this much more than usual: a step that lasts 10 ms is tripled by any other
    process.
    relearn: this many slow steps in a row are the new pace.
    """

    def __init__(
        self,
        *,
        window: int = 64,
        warmup: int = 3,
        ratio: float = 5.0,
        z: float = 8.0,
        least_s: float = 0.4,
        relearn: int = 16,
    ):
        self.warmup, self.ratio, self.z, self.least_s, self.relearn = warmup, ratio, z, least_s, relearn
        self.totals: deque[float] = deque(maxlen=window)
        self.phases: deque[dict[str, float]] = deque(maxlen=window)
        self.seen = self.slow = 0

    @property
    def usual(self) -> float:
        """Median step, seconds; NaN before the first one that counts."""
        return median(self.totals) if self.totals else math.nan

    def see(self, phases: Mapping[str, float], total: float | None = None) -> Slow | None:
        """Judge a finished step, then remember it. A slow step is not remembered.

        Args:
            phases: seconds by phase of the step.
            total: seconds of the step; None: the sum of the phases.
        """
        total = sum(phases.values()) if total is None else total
        self.seen += 1
        if self.seen <= self.warmup:
            return None
        slow = self._judge(phases, total)
        self.slow = self.slow + 1 if slow else 0
        if self.slow >= self.relearn:
            self.totals.clear()
            self.phases.clear()
        if slow is None:
            self.totals.append(total)
            self.phases.append(dict(phases))
        return slow

    def _judge(self, phases: Mapping[str, float], total: float) -> Slow | None:
        if len(self.totals) < 8:
            return None
        usual = self.usual
        if total < self.ratio * usual or total - usual < self.least_s:
            return None
        logs = [math.log(max(t, 1e-9)) for t in self.totals]
        middle = median(logs)
        spread = max(MAD_TO_SD * median(abs(value - middle) for value in logs), 0.05)
        z = (math.log(total) - middle) / spread
        return Slow(z, total, usual, self._grown(phases)) if z > self.z else None

    def _grown(self, phases: Mapping[str, float]) -> str:
        """The phase with the largest excess over its own median."""
        excess = {
            name: spent - median(past.get(name, 0.0) for past in self.phases)
            for name, spent in phases.items()
        }
        return max(excess, key=excess.__getitem__, default="")
