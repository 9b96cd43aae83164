"""Curves for a live screen: at most 250 points each, no spike lost, axes that grow by doubling.

The one idea: steps fall into buckets of a power of two; a bucket keeps its lowest and its highest point and
the first that is not finite. When there are too many points two buckets become one. What is on screen never
shifts sideways, and a front end needs only what changed since it last asked.

    curve = Curve()
    curve.add(0, 6.24)
    curve.patch()       # {"from": 0, "points": [[0, 6.24]], ...}; None when nothing is new
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

Point = tuple[int, float]  # (step, value)

WHOLE, RECENT, BRANCH, BRANCHES = 160, 120, 30, 3  # points; on screen are WHOLE or RECENT, and the branches


class Curve:
    """One quantity over the steps of a run, and the branches that a rollback cut off."""

    def __init__(self) -> None:
        self.width = 1  # steps of a bucket
        self.buckets: dict[int, list[Point]] = {}
        self.recent: deque[Point] = deque(maxlen=RECENT)  # every one of the last steps
        self.branches: deque[list[Point]] = deque(maxlen=BRANCHES)
        self._sent()

    @property
    def last(self) -> Point | None:
        return self.recent[-1] if self.recent else None

    def points(self, since: float = -1) -> list[Point]:
        """The whole run, from step `since` on."""
        return [point for bucket in self.buckets.values() for point in bucket if point[0] >= since]

    def add(self, step: int, value: float) -> None:
        """Append a point. A step that was there already begins the curve again from that step."""
        if self.last and step <= self.last[0]:
            self.rewind(step)
        number = step // self.width
        bucket = self.buckets.setdefault(number, [])
        self._from = min(self._from, bucket[0][0] if bucket else step)
        bucket.append((step, value))
        self.buckets[number] = telling(bucket)
        self.recent.append((step, value))
        self._fresh.append((step, value))
        if sum(map(len, self.buckets.values())) > WHOLE:
            self.buckets, self.width = thinned(self.points(), WHOLE // 2, self.width)
            self._from = -1

    def rewind(self, step: int, *, branch: bool = True) -> None:
        """Take off everything from `step` on; with `branch` it stays as a branch, joined to what is left."""
        known = list(self.recent) if self.recent and self.recent[0][0] < step else self.points()
        lost = [point for point in known if point[0] >= step]
        if not lost:
            return
        if branch:
            joint = [point for point in known if point[0] < step][-1:]
            buckets, _ = thinned(lost, BRANCH - 1, 1)
            self.branches.append(joint + [point for bucket in buckets.values() for point in bucket])
        kept = {number: [p for p in bucket if p[0] < step] for number, bucket in self.buckets.items()}
        self.buckets = {number: bucket for number, bucket in kept.items() if bucket}
        self.recent = deque((point for point in self.recent if point[0] < step), maxlen=RECENT)
        self._from, self._branched = -1, True

    def patch(self) -> dict[str, Any] | None:
        """What a front end must change: drop what it has from step `from` on, and append. None: nothing."""
        if self._from == math.inf:
            return None
        recent = self.recent if self._from < 0 else self._fresh[-RECENT:]
        changed = {"from": self._from, "points": packed(self.points(self._from)), "recent": packed(recent)}
        if self._branched or self._from < 0:
            changed["branches"] = [packed(branch) for branch in self.branches]
        self._sent()
        return changed

    def everything(self) -> dict[str, Any] | None:
        """The patch that a front end with nothing needs."""
        self._from = -1
        return self.patch()

    def _sent(self) -> None:
        self._from: float = math.inf  # first step of what changed since the last patch
        self._fresh: list[Point] = []
        self._branched = False


def telling(points: list[Point]) -> list[Point]:
    """The lowest and the highest point and the first that is not finite, in order of step."""
    if len(points) < 3:
        return points
    finite = [point for point in points if math.isfinite(point[1])]
    kept = {point for point in points if not math.isfinite(point[1])}
    kept = {min(kept)} if kept else kept
    if finite:
        kept |= {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}
    return sorted(kept, key=lambda p: p[0])


def thinned(points: list[Point], limit: int, width: int) -> tuple[dict[int, list[Point]], int]:
    """Buckets of at most `limit` points, and their width: `width`, doubled as often as it takes."""
    while True:
        buckets: dict[int, list[Point]] = {}
        for point in points:
            buckets.setdefault(point[0] // width, []).append(point)
        buckets = {number: telling(bucket) for number, bucket in buckets.items()}
        if sum(map(len, buckets.values())) <= limit:
            return buckets, width
        width *= 2


def packed(points: Any) -> list[list[Any]]:
    """For strict JSON: five digits are more than a screen has; what is not finite becomes its name."""
    return [
        [step, float(f"{v:.5g}") if math.isfinite(v) else "NaN" if math.isnan(v) else "inf"]
        for step, v in points
    ]


@dataclass
class Axis:
    """Limits that only grow, each time to twice the span: lines move on every update, the scale seldom does.

    `kind` is `linear`, `log10` or `log2`; the limits are in units of it: decades, powers of two.
    """

    kind: str = "linear"
    low: float = math.nan
    high: float = math.nan
    least: float = -math.inf  # it never goes below
    most: float = math.inf  # nor above

    def take(self, value: float) -> None:
        """Make room for `value`; what is not finite, or has no logarithm, needs none."""
        if not math.isfinite(value) or (self.kind != "linear" and value <= 0):
            return
        at = value if self.kind == "linear" else getattr(math, self.kind)(value)
        if math.isnan(self.low):
            self.low, self.high = max(math.floor(at) - 1, self.least), math.ceil(at) + 1
        while at < self.low and self.low > self.least:
            self.low = max(2 * self.low - self.high, self.least)
        while at > self.high and self.high < self.most:
            self.high = min(2 * self.high - self.low, self.most)

    def limits(self) -> list[float]:
        """[low, high]; [0, 1] before the first value."""
        return [0.0, 1.0] if math.isnan(self.low) else [self.low, self.high]
