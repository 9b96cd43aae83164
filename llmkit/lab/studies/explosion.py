"""How often does a run explode, and which one change makes it rarer? llmkit.lab.explosions defines the word.

The model is the smallest that shows it: 42 thousand parameters, 128 tokens a step, 32 steps. The base is the
usual recipe with PyTorch's betas: a warmup, no clipping, and eight times the learning rate of `tiny()`. That
was chosen in a pilot on other seeds, in which 5 of 40 runs exploded: at 0 or 100 % nothing is seen to help.
"""

from __future__ import annotations

import math

from llmkit.lab.explosions import outcome
from llmkit.lab.sweep import Sweep
from llmkit.train import tiny

SEEDS = 300
LR = 0.012

CHANGES = {  # one at a time; and a control, for without bias correction a step is 3 to 6 times as long
    "base": {},
    "bias correction: none": {"bias_correction": "none"},
    "bias correction: none, lr / 5": {"bias_correction": "none", "lr": LR / 5, "min_lr": LR / 50},
    "bias correction: delayed": {"bias_correction": "delayed"},
    "bias correction: rectified": {"bias_correction": "rectified"},
    "beta2 0.95": {"betas": (0.9, 0.95)},
    "update clip 1": {"update_clip": 1.0},
    "clip 0.3": {"clip": 0.3},
    "no warmup": {"warmup": 0},
    "warmup 16": {"warmup": 16},
    "QK-norm": {"model__qk_norm": True},
    "init std 0.006": {"model__init_std": 0.006},
    "lr / 3": {"lr": LR / 3, "min_lr": LR / 30},
    "lr / 10": {"lr": LR / 10, "min_lr": LR / 100},
}


def explosion_sweep() -> Sweep:
    shape = {"model__width": 32, "model__heads": 2, "model__context": 32, "batch": 4, "steps": 32}
    recipe = {"lr": LR, "min_lr": LR / 10, "warmup": 8, "betas": (0.9, 0.999), "clip": math.inf}
    base = tiny(data="generated", device="cpu", **shape, **recipe)
    return Sweep(base, CHANGES, range(SEEDS), measure=outcome)
