"""AdamW with its two parameter groups, and the learning-rate schedule as a function of the step.

optimizer = adamw(model, cfg)
lr = WarmupCosine(cfg)(step)
"""

from __future__ import annotations

import math

import torch
from torch import nn

from llmkit.train.adamw import AdamW
from llmkit.train.config import OPTIMIZER, RunConfig


def adamw(model: nn.Module, cfg: RunConfig) -> torch.optim.AdamW | AdamW:
    """Matrices decay, vectors (norm gains, biases) do not; every trainable parameter is in exactly one group.

    A tied embedding is one parameter and decays once. torch's `fused` does the update in one pass over
    memory, without the parameter-sized temporaries of `foreach`; where the configuration asks for what torch
    does not have, it is `AdamW` of train/adamw.py.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": cfg.weight_decay, "name": "decay"},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0, "name": "no_decay"},
    ]
    common = {"lr": cfg.lr, "betas": cfg.betas, "eps": cfg.eps}
    chosen = {name: getattr(cfg, name) for name in (*OPTIMIZER, "update_clip")}
    if all(chosen[name] == known[0] for name, known in OPTIMIZER.items()) and cfg.update_clip is None:
        return torch.optim.AdamW(groups, **common, fused=True)
    return AdamW(groups, **common, **chosen)


class WarmupCosine:
    """Linear warmup to `lr`, then half a cosine down to `min_lr` at the last step.

    A pure function of the step: a resumed run needs no scheduler state, and a log can be checked against it.
    """

    def __init__(self, cfg: RunConfig):
        self.lr, self.min_lr, self.warmup, self.steps = cfg.lr, cfg.min_lr, cfg.warmup, cfg.steps

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))
