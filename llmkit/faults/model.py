"""Models that are not what was configured: a second softmax, an untied head, scores and sums that grow.

The one idea: a module's `forward` is wrapped, so that hooks see what they would see if the bug were in the
module's own code.

    with DoubleSoftmax(run, at=40):
        list(train(run))
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmkit.errors import FaultError
from llmkit.faults.base import Fault, find_module

WRITERS = (
    "attention.out.weight",
    "mlp.down.weight",
    "mlp.down",
)  # matrices whose output is added to the residual stream


class ModuleFault(Fault):
    """Changes what one module computes.

    Args:
        module: path of the module. None: `place`, with the middle block's number in it.
    """

    lasts, place = math.inf, "head"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self._target = find_module(run, None, self.place)[1]

    def install(self) -> None:
        self.wrap(self._target, "forward")

    def call(self, inner: Any, x: Tensor) -> Tensor:
        return self.instead(inner, x) if self.active() else inner(x)

    def instead(self, inner: Any, x: Tensor) -> Tensor:
        raise NotImplementedError


class DoubleSoftmax(ModuleFault):
    """The head gives probabilities, and the loss takes their softmax once more."""

    name = "double-softmax"

    def instead(self, inner: Any, x: Tensor) -> Tensor:
        return torch.softmax(inner(x), dim=-1)


class UntiedHead(ModuleFault):
    """The head is a copy of the embedding, made at step `at`, that no optimizer holds."""

    name = "untied-head"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        if not run.config.model.tied:
            raise FaultError("the head of this model is its own by configuration", remedy="set tied to true")
        self._copy: Tensor | None = None

    def instead(self, inner: Any, x: Tensor) -> Tensor:
        if self._copy is None or self.run.step == self.at:
            self._copy = inner.__self__.weight.detach().clone()
        return linear(x, self._copy)


class AttentionGrowth(ModuleFault):
    """Attention scores of one layer grow from step to step.

    Args:
        module: path of an attention layer. None: that of the middle block.
        rate: growth per step, as a multiple of the scores that the weights give.
    """

    name = "attention-growth"

    def __init__(self, run: Any, module: str | None = None, rate: float = 5.0, **when: Any):
        super().__init__(run, **when)
        middle = f"blocks.{len(getattr(run.model, 'blocks', ())) // 2}.attention"
        self.module, self._attention = find_module(run, module, middle)
        if not hasattr(self._attention, "qkv") or run.config.model.qk_norm or not rate > 0:
            raise FaultError(
                f"scores of `{self.module}` cannot grow by {rate:g} a step",
                expected="an attention layer without QK-norm, and a positive rate",
            )
        self._target, self.rate = self._attention.qkv, rate

    def instead(self, inner: Any, x: Tensor) -> Tensor:
        out, cfg = inner(x), self.run.config.model
        queries = cfg.heads * cfg.head_dim
        factor = 1 + self.rate * (self.run.step - self.at + 1)
        return torch.cat((out[..., :queries] * factor, out[..., queries:]), dim=-1)


class ResidualGrowth(Fault):
    """Matrices that write to the residual stream are larger than they were drawn to be, from step `at` on.

    Args:
        factor: how many times; 10 stands for a deviation of 0.2, without the division by sqrt(2 layers) more.
    """

    name = "residual-growth"

    def __init__(self, run: Any, factor: float = 10.0, **when: Any):
        super().__init__(run, **when)
        if not factor > 1:
            raise FaultError(f"factor is {factor:g}", expected="a factor above 1")
        self.factor = factor

    def install(self) -> None:
        self.wrap(self.run, "guard")

    @torch.no_grad()
    def call(self, inner: Any) -> AbstractContextManager:
        if self.active():
            for name, p in self.run.model.named_parameters():
                if name.endswith(WRITERS):
                    p.mul_(self.factor)
        return inner()


class DropoutInEval(Fault):
    """`model.eval()` does nothing: an evaluation drops out as training does."""

    name, lasts = "dropout-in-eval", math.inf

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        if not run.config.model.dropout:
            raise FaultError("this model has no dropout", remedy="set model__dropout=0.1")

    def install(self) -> None:
        self.wrap(self.run.model, "eval")

    def call(self, inner: Any) -> Any:
        return inner.__self__ if self.active() else inner()
