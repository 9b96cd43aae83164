"""Which learning rates does a recipe survive, and does warmup move the edge? Every cell with its curve.

Eight learning rates, each twice the one before it, with four lengths of warmup, three seeds each. Gradients
are not clipped, so that nothing else holds the edge. Read it with llmkit.lab.stability.
"""

from __future__ import annotations

import math

from llmkit.data import TokenDataset
from llmkit.lab.sweep import Outcome, Sweep, curves
from llmkit.train import RunConfig, tiny

LRS = tuple(1e-3 * 2**k for k in range(8))
WARMUPS = (0, 5, 20, 40)  # of STEPS
STEPS, SEEDS = 100, 3


def arm(lr: float, warmup: int) -> str:
    return f"lr {lr:g}, warmup {warmup}"


def stability_sweep() -> Sweep:
    arms = {
        arm(lr, warmup): {"lr": lr, "min_lr": lr / 10, "warmup": warmup} for warmup in WARMUPS for lr in LRS
    }
    base = tiny(data="generated", device="cpu", batch=4, steps=STEPS, clip=math.inf)
    return Sweep(base, arms, range(SEEDS), measure=outcome)


def outcome(cfg: RunConfig, dataset: TokenDataset) -> Outcome:
    """Of one run: `losses`, nats, of each step that it lived to, four digits. NaN and infinity are kept."""
    return {"losses": [float(f"{loss:.4g}") for loss in curves(cfg, dataset)["losses"]]}
