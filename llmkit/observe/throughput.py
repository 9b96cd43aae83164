"""Tokens per second, and where the seconds of a step went.

    summary = throughput(folder.times(), last=64)
    print(summary)

prints `6,830 tokens/s, 0.300 s a step: data 1 %, forward 36 %, backward 58 %, optimizer 4 %, rest 1 %`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from llmkit.records import StepTimes

PARTS = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """A window of steps. Time between steps (the caller's own) is not in it."""

    steps: int
    tokens_per_s: float  # all tokens of the window / all seconds of it
    step_s: float  # median
    shares: dict[
        str, float
    ]  # data, forward, backward, optimizer, rest (observers, bookkeeping); they add up to 1
    slowest_step: int  # number of the step that took longest, -1 of no steps
    slowest_s: float
    memory_bytes: int  # largest in the window

    def __str__(self) -> str:
        if not self.steps:
            return "no steps"
        split = ", ".join(f"{name} {share * 100:.0f} %" for name, share in self.shares.items())
        return f"{self.tokens_per_s:,.0f} tokens/s, {self.step_s:.3f} s a step: {split}"


def throughput(times: Sequence[StepTimes], *, last: int = 64) -> Throughput:
    """Summary of the last `last` steps. Under several ranks: rank 0's times, everybody's tokens."""
    window = times[-last:]
    total = sum(t.total_s for t in window)
    tokens = sum(t.tokens_per_s * t.total_s for t in window)
    shares = {part: sum(getattr(t, f"{part}_s") for t in window) / total if total else 0.0 for part in PARTS}
    shares["rest"] = 1.0 - sum(shares.values()) if total else 0.0
    slowest = max(window, key=lambda t: t.total_s, default=StepTimes(step=-1))
    return Throughput(
        steps=len(window), tokens_per_s=tokens / total if total else 0.0,
        step_s=statistics.median(t.total_s for t in window) if window else 0.0,
        shares=shares, slowest_step=slowest.step, slowest_s=slowest.total_s,
        memory_bytes=max((t.memory_bytes for t in window), default=0),
    )  # fmt: skip
