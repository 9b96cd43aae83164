"""Numbers that stop being numbers: a 0/0, and an activation that fp16 cannot hold.

The one idea: the module's `forward` is wrapped, not hooked, so that every hook (the tracer's too) sees the
output as it would if the bug stood in the module's own code.

    with NanDivision(run, module="blocks.1.mlp", at=40):
        list(train(run))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llmkit.errors import FaultError
from llmkit.faults.base import Fault, Wrapper, find_module

FP16_MAX = 65504.0


def middle_mlp(run: Any) -> str:
    """The MLP halfway up: not the first module, not the last, so that finding it means something."""
    return f"blocks.{len(getattr(run.model, 'blocks', ())) // 2}.mlp"


class Witness(Wrapper):
    """Lets the fault know which tokens are on their way through the model."""

    def __call__(self, tokens: Tensor) -> Any:
        self.fault.tokens = tokens
        return self.inner(tokens)


class NanDivision(Fault):
    """A normalisation by a count that is zero: 0/0 in some sequences, every other value as it was.

    Args:
        module: path of the module whose output it spoils. None: the MLP of the middle block.
        row: the sequence of each micro-batch whose count is zero; -1: all of them.
        documents: ids of documents for which the count is zero, instead of `row`; a number, a list, or
            "3,14". It then lasts until `until`, and a loader that does not serve these documents is a cure.
    """

    name = "nan-division"

    def __init__(
        self,
        run: Any,
        module: str | None = None,
        row: int = 0,
        documents: str | int | Sequence[int] | None = None,
        until: float | None = None,
        **when: Any,
    ):
        super().__init__(run, until=math.inf if until is None and documents is not None else until, **when)
        self.module, self._target = find_module(run, module, middle_mlp(run))
        self.row, self.documents, self.tokens = row, document_ids(documents), None

    def install(self) -> None:
        self.wrap(self._target, "forward")
        if self.documents:
            self.wrap(find_module(self.run, "embed", "embed")[1], "forward", Witness)

    def call(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        if not self.active():
            return out
        if not isinstance(out, Tensor):
            raise FaultError(
                f"module `{self.module}` returns {type(out).__name__}",
                expected="one tensor, whose first dimension is the sequence",
                remedy="name a module inside it",
            )
        count = out.new_ones(len(out), *[1] * (out.dim() - 1))  # (B, 1, ...)
        count[self.rows(len(out))] = 0
        return out * (count / count)  # 0/0 in the chosen rows; 1, which changes no bit, in the others

    def rows(self, size: int) -> slice | list[int]:
        """Rows of the micro-batch under way that are hit."""
        if not self.documents:
            return slice(None) if self.row < 0 else [self.row % size]
        batch, x = self.run.batch, self.tokens
        if batch is None or x.untyped_storage().data_ptr() != batch.x.untyped_storage().data_ptr():
            return []  # not the training batch: an evaluation
        # a micro-batch is rows of the batch
        first = (x.storage_offset() - batch.x.storage_offset()) // x.stride(0)
        part = slice(first, first + size)
        hit = np.isin(batch.numpy.documents[part], self.documents) & (batch.numpy.weight[part] > 0)
        return np.flatnonzero(hit.any(axis=1)).tolist()


def document_ids(chosen: str | int | Sequence[int] | None) -> list[int]:
    """`"3,14"`, `3` or `[3, 14]` as a list. Raises FaultError where that cannot be read."""
    try:
        parts = chosen.split(",") if isinstance(chosen, str) else chosen
        parts = parts if isinstance(parts, Sequence) else [parts]
        return [int(part) for part in parts if part is not None]
    except (TypeError, ValueError):
        raise FaultError(f"documents `{chosen}` cannot be read", expected="ids, such as 3,14") from None


class Fp16Overflow(Fault):
    """Activations and weights of one matrix product grown so far that the result passes 65504.

    Both factors are grown alike and stay small enough for fp16 themselves; it is their product that has no
    fp16 number. In fp32 and bf16 the same product is an ordinary, finite one.

    Args:
        module: path of a module; the last linear layer in it is the one that overflows. None: the middle MLP.
        excess: the largest result, as a multiple of 65504.
    """

    name = "fp16-overflow"

    def __init__(self, run: Any, module: str | None = None, excess: float = 2.0, **when: Any):
        super().__init__(run, **when)
        if run.precision.name != "fp16":
            raise FaultError(
                f"`{self.name}` does not apply: the run computes in {run.precision.name}, which holds such "
                "numbers",
                expected="precision `fp16`, whose largest number is 65504",
                remedy='train with precision="fp16"',
            )
        name, target = find_module(run, module, middle_mlp(run))
        layers = [(path, m) for path, m in target.named_modules(prefix=name) if isinstance(m, nn.Linear)]
        if not layers:
            raise FaultError(
                f"module `{name}` has no linear layer, so no product to overflow",
                remedy="name a block, attention or mlp",
            )
        if not excess > 1:
            raise FaultError(f"excess is {excess:g}: the product would still fit", expected="excess > 1")
        (self.module, self._target), self.excess = layers[-1], excess

    def install(self) -> None:
        self.wrap(self._target, "forward")

    def call(self, inner: Any, x: Tensor) -> Tensor:
        if not self.active():
            return inner(x)
        layer = inner.__self__  # not self._target: a copy of the model meets the fault with its own weights
        return linear(*grown(x, layer.weight, self.excess * FP16_MAX), layer.bias)


def grown(x: Tensor, weight: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """x (..., K) and weight (N, K), scaled until the largest element of x @ weight.T is `largest`.

    Both end with the same largest element, about the square root of the result's, which fp16 can hold.
    """
    with torch.no_grad(), torch._C.DisableTorchFunction():  # nothing is rounded while we look for the factors
        x_max, weight_max, product = (t.abs().max().item() for t in (x, weight, x.float() @ weight.float().T))
    if not 0 < product < math.inf:  # nothing to grow, or spoiled before it came here
        return x, weight
    factor = largest / product
    share = (factor * weight_max / x_max) ** 0.5
    return x * share, weight * (factor / share)
