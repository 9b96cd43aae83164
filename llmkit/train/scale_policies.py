"""How other trainers answer the same question: the step overflowed, or it did not; what is the next scale?

Each policy is a `LossScaler` with a `next_scale` of its own, so each can train a run:

    run.scaler = POLICIES["megatron"](tell=run.tell)

They differ in four things. *Hysteresis*: whether the first overflow is forgiven. *The count*: which good
step is the one that doubles the scale. *The window*: whether it stays as long as it is. *The floor*: none,
one that holds, or one that ends the run. Scales and windows are powers of two, as everywhere.

Read at: NVIDIA/apex apex/amp/scaler.py @b82c6bd; deepspeedai/DeepSpeed runtime/fp16/fused_optimizer.py
@b97b870, runtime/fp16/loss_scaler.py @18fd4c9, runtime/precision_config.py @0ac4684; NVIDIA/Megatron-LM
core/optimizer/grad_scaler.py @00caa53; facebookresearch/metaseq metaseq/optim/dynamic_loss_scaler.py
@0ba5657; torch/amp/grad_scaler.py of torch 2.13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmkit.errors import NonFiniteError
from llmkit.train.scaler import LossScaler

SMALLEST = 2.0**-149  # fp32's smallest number: half of it is 0
INVERTIBLE = 2.0**-127  # below this, 1 / scale is above fp32's largest number: infinite


class Static(LossScaler):
    """The scale that was chosen, whatever happens; an overflowing step is skipped all the same."""

    def __init__(self, scale: float = 2.0**16, **options: Any):
        super().__init__(scale, **({"floor": scale} | options))

    def next_scale(self, overflowed: bool) -> float:
        return self.current


class TorchAmp(LossScaler):
    """Ours without the floor, and with what happens then: half of fp32's smallest number is 0."""

    def next_scale(self, overflowed: bool) -> float:
        scale = super().next_scale(overflowed)
        return scale if scale >= SMALLEST else 0.0

    def unscale_(self, named_grads: Sequence[tuple[str, Tensor]], correction: float = 1.0) -> Tensor:
        """As ours, but torch looks before it divides: at scale 0 at zeros, which 0 * inf then makes NaN."""
        if self.current >= INVERTIBLE:
            return super().unscale_(named_grads, correction)
        looked = torch.stack(torch._foreach_norm([grad for _, grad in named_grads]))
        super().unscale_(named_grads, correction)
        return looked


class Apex(LossScaler):
    """torch.amp's ancestor: the same count, in Python floats, and never above 2^24."""

    ceiling = 2.0**24


class Hysteresis(LossScaler):
    """Forgives `hysteresis - 1` overflows before it backs off; after that none, until it is refilled.

    Args:
        consecutive: refilled by every good step. By default a doubling of the scale is what refills it, and
            in between single overflows add up, however far apart they are.
    """

    counters = ("good_steps", "left")
    ceiling = math.inf

    def __init__(self, *args: Any, hysteresis: int = 2, consecutive: bool = False, **options: Any):
        super().__init__(*args, **options)
        self.hysteresis, self.left, self.consecutive = hysteresis, hysteresis, consecutive

    def next_scale(self, overflowed: bool) -> float:
        scale = super().next_scale(overflowed)
        if overflowed:
            self.left -= 1
            return scale if self.left <= 0 else self.current
        if self.consecutive or scale > self.current:
            self.left = self.hysteresis
        return scale


class Megatron(Hysteresis):
    """torch.amp's count with hysteresis and a floor. Its docstring says "consecutive"; its code does not."""


class DeepSpeedFused(LossScaler):
    """FP16_Optimizer, fused or not: no hysteresis; its first doubling takes one good step more."""

    ceiling = math.inf

    def next_scale(self, overflowed: bool) -> float:
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            return self.current * self.backoff_factor
        due = self.good_steps > 1 and (self.good_steps - 1) % self.growth_interval == 0
        return self.current * self.growth_factor if due else self.current


class DeepSpeedZero(Hysteresis, DeepSpeedFused):
    """The ZeRO optimizers': hysteresis on top, and an overflow at the floor ends the run."""

    def next_scale(self, overflowed: bool) -> float:
        scale = super().next_scale(overflowed)
        if scale < self.current == self.floor:
            raise NonFiniteError(
                f"a step overflowed at the lowest loss scale, {self.floor:g}",
                remedy="lower the learning rate, or go back to before the scale fell",
            )
        return scale


class Opt(LossScaler):
    """metaseq's, which trained OPT-175B: the window doubles and halves with the scale.

    A high scale is therefore rarely tried again and a low one soon left. Below the floor the scale stays
    where it is, and the window goes on shrinking, to 1.
    """

    counters = ("good_steps", "growth_interval")

    def next_scale(self, overflowed: bool) -> float:
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.growth_interval = max(self.growth_interval // 2, 1)
            lower = self.current * self.backoff_factor
            return lower if lower >= self.floor else self.current
        if self.good_steps % self.growth_interval:
            return self.current
        self.growth_interval *= 2
        return self.current * self.growth_factor


POLICIES: dict[str, Callable[..., LossScaler]] = {  # with each trainer's defaults
    "llmkit": LossScaler,
    "static": Static,
    "torch.amp": partial(TorchAmp, floor=0.0),
    "apex": partial(Apex, floor=0.0),
    "deepspeed-fused": partial(DeepSpeedFused, growth_interval=1000),
    "deepspeed-zero": partial(DeepSpeedZero, growth_interval=1000),
    "megatron": partial(Megatron, scale=2.0**32, growth_interval=1000),
    "opt": partial(Opt, scale=4.0, growth_interval=256, floor=2.0**-5),
}
