"""What an explosion is, counted in a run's curves.

A run **explodes** at the first step whose loss is not finite, or is at least one nat above the lowest loss
before it. Its gradients **surge** at the first step whose norm, before clipping, is at least ten times the
median of the sixteen before it. The two are counted apart: they need not be the same runs.

    exploded = rise([record.loss for record in records]) >= RISE
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from llmkit.data import TokenDataset
from llmkit.lab.sweep import Outcome, curves
from llmkit.train import RunConfig

RISE = 1.0  # nats above the lowest loss so far: an explosion
SURGE = 10.0  # times the median gradient norm of the last WINDOW steps
WINDOW, LEAST = 16, 8  # steps, and how many of them there must be


def outcome(cfg: RunConfig, dataset: TokenDataset) -> Outcome:
    """Of one run: `rise` (nats), `surge` (ratio), the loss of the `first` and of the `fifth` step, and the
    mean of the `last` five; four digits."""
    kept = curves(cfg, dataset)
    losses, norms = kept["losses"], kept["grad_norms"]
    found = {
        "rise": rise(losses), "surge": surge(norms),
        "first": losses[0], "fifth": losses[4], "last": fmean(losses[-5:]),
    }  # fmt: skip
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def rise(losses: Sequence[float]) -> float:
    """Largest rise of the loss above the lowest before it, in nats; inf where one is not finite.

    >>> rise([6.0, 5.0, 5.5, 7.0, 4.0])
    2.0
    """
    lowest, most = math.inf, 0.0
    for loss in losses:
        if not math.isfinite(loss):
            return math.inf
        most, lowest = max(most, loss - lowest), min(lowest, loss)
    return most


def surge(norms: Sequence[float]) -> float:
    """Largest gradient norm as a multiple of the median of up to WINDOW before it; inf where not finite."""
    if not all(map(math.isfinite, norms)):
        return math.inf
    before = ((norm, norms[max(0, i - WINDOW) : i]) for i, norm in enumerate(norms) if i >= LEAST)
    return max((norm / median(seen) for norm, seen in before), default=0.0)
