"""How often does a run explode, and which one change makes it rarer?

A run **explodes** at the first step whose loss is not finite, or is at least one nat above the lowest loss
before it. Its gradients **surge** at the first step whose norm, before clipping, is at least ten times the
median of the sixteen before it. The two are counted apart, for they are not the same runs.

The model is the smallest that shows it: 42 thousand parameters, 128 tokens a step, 32 steps. It starts with
PyTorch's betas, no warmup and no clipping, at ten times the learning rate of `tiny()`. That was chosen in a
pilot on other seeds, in which 6 of 100 runs of the base exploded: at 0 or 100 % nothing is seen to help.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from llmkit.data import TokenDataset
from llmkit.lab.sweep import Outcome, Sweep, curves
from llmkit.train import RunConfig, tiny

RISE = 1.0  # nats above the lowest loss so far: an explosion
SURGE = 10.0  # times the median gradient norm of the last WINDOW steps
WINDOW, LEAST = 16, 8  # steps, and how many of them there must be
SEEDS = 300
LR = 0.015

CHANGES = {  # one at a time
    "base": {},
    "bias correction: none": {"bias_correction": "none"},
    "bias correction: delayed": {"bias_correction": "delayed"},
    "bias correction: rectified": {"bias_correction": "rectified"},
    "beta2 0.95": {"betas": (0.9, 0.95)},
    "update clip 1": {"update_clip": 1.0},
    "clip 1": {"clip": 1.0},
    "warmup 8": {"warmup": 8},
    "QK-norm": {"model__qk_norm": True},
    "init std 0.006": {"model__init_std": 0.006},
    "lr / 10": {"lr": LR / 10, "min_lr": LR / 100},
}


def explosion_sweep() -> Sweep:
    shape = {"model__width": 32, "model__heads": 2, "model__context": 32, "batch": 4, "steps": 32}
    recipe = {"lr": LR, "min_lr": LR / 10, "warmup": 0, "betas": (0.9, 0.999), "clip": math.inf}
    base = tiny(data="generated", device="cpu", **shape, **recipe)
    return Sweep(base, CHANGES, range(SEEDS), measure=outcome)


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
