"""How large the numbers of the backward pass are: a histogram over their exponents, per layer.

The one idea: a number's exponent is eight of its bits, so a histogram needs no logarithm; and a loss scale of
2^k moves every exponent by k, so one histogram, taken before scaling, says for every scale what fp16 loses.

    exponents = Exponents(every=10)
    run.observers.append(exponents)
    look = exponents.looks[-1]
    look.underflow(2.0**16)         # share of the numbers that fp16 would hold as 0 at this scale

Watch a run in bf16 or fp32 for that: they keep what fp16 has already lost. A run in fp16 shows what is left.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmkit.observe.base import aside
from llmkit.records import StepRecord

BIAS = 127  # of fp32: the byte b stands for 2^(b - 127); 0 is zero (or below 2^-126), 255 is not finite
OVERFLOWS = 65520.0  # the smallest number that rounds to infinity in fp16: 65504 and half a step
VANISHES = -26  # an exponent up to this rounds to 0 in fp16, whose smallest number is 2^-24


@dataclass
class Look:
    """One step's numbers, divided by the loss scale they were seen at.

    Attributes:
        layers: name -> counts (256,) by exponent byte. A linear layer's name: gradients of its output;
            with `.weight`: of its weight, per micro-batch and before anything is added to it.
        largest: largest finite |value| of them.
        forward: the loss itself was not finite: no scale could have helped.
    """

    step: int
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    largest: float = 0.0
    forward: bool = False

    @property
    def counts(self) -> np.ndarray:
        """(256,) of all layers together."""
        return sum(self.layers.values(), np.zeros(256, dtype=np.int64))

    def underflow(self, scale: float, layer: str | None = None) -> float:
        """Share of the non-zero numbers that are 0 in fp16 once multiplied by `scale`."""
        return _share(self.counts if layer is None else self.layers[layer], scale, low=True)

    def overflow(self, scale: float, layer: str | None = None) -> float:
        """Share of the non-zero numbers that are infinite in fp16 once multiplied by `scale`, or were
        before."""
        return _share(self.counts if layer is None else self.layers[layer], scale, low=False)


def _share(counts: np.ndarray, scale: float, *, low: bool) -> float:
    exponents = np.arange(1, 256) - BIAS + (math.log2(scale) if scale > 0 else -math.inf)
    lost = exponents <= VANISHES if low else exponents > 15
    lost[-1] = not low  # infinities and NaN
    return float(counts[1:][lost].sum() / max(1, counts[1:].sum()))


class Exponents:
    """Watches what fp16 holds in the backward pass of linear layers: the gradients of outputs and weights.

    Not `p.grad`: a table that is embedding and head at once adds the embedding's gradient, which is fp32 and
    may be ten times as large.

    Cost of a sampled step: each layer's weight gradient is computed once more, a sixth of the step's
    products, and two device syncs a layer. Hooks are set for that step and taken off after it.

    Args:
        every: steps between looks.

    Attributes:
        looks: one per sampled step, skipped ones included.
    """

    def __init__(self, every: int = 1):
        self.every = every
        self.looks: list[Look] = []
        self._handles: list[Any] = []

    def on_batch(self, run: Any) -> None:
        self.close()
        if run.step % self.every == 0:
            self.looks.append(Look(run.step))
            for name, module in run.model.named_modules():
                if isinstance(module, nn.Linear):
                    hook = functools.partial(self._forward, name, run.scaler.current, run.precision.dtype)
                    self._handles.append(module.register_forward_hook(hook))

    def on_step(self, run: Any, record: StepRecord) -> None:
        if self._handles:
            self.looks[-1].forward = record.nonfinite == "loss"
        self.close()

    def close(self) -> None:
        """Take off the hooks of the step under way."""
        while self._handles:
            self._handles.pop().remove()

    def _forward(self, name, scale, dtype, module: nn.Module, args: tuple, output: Tensor) -> None:
        with aside(output.device):
            if output.requires_grad:
                output.register_hook(functools.partial(self._backward, name, scale, dtype, args[0].detach()))

    def _backward(self, name: str, scale: float, dtype: torch.dtype, x: Tensor, grad: Tensor) -> None:
        with aside(grad.device):
            x, grad = (t.detach().flatten(0, -2).to(dtype).float() for t in (x, grad))
            self._count(name, grad / scale)
            self._count(f"{name}.weight", (grad.T @ x).to(dtype).float() / scale)

    def _count(self, name: str, values: Tensor) -> None:
        exponents = (values.view(torch.int32) >> 23) & 255
        counts = torch.bincount(exponents.flatten(), minlength=256).cpu().numpy()
        look = self.looks[-1]
        look.layers[name] = look.layers.get(name, 0) + counts
        look.largest = max(look.largest, values.abs().nan_to_num(0.0, posinf=0.0).max().item())
