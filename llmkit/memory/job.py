"""What a rehearsal does: a model made without numbers, an optimizer, and one training step of them.

The one idea: it is the step of llmkit.train's loop without what asks for a number (`.item()`, the data), so
that it runs on real tensors and on fake ones alike, and one can be held against the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llmkit.errors import ConfigError, closest
from llmkit.memory.as_cuda import AsCuda
from llmkit.train import GPT, RunConfig
from llmkit.train.moe import Experts
from llmkit.train.precision import DTYPES


class Adam8bit(torch.optim.Optimizer):
    """The storage of bitsandbytes' block-wise 8-bit AdamW, which updates in place: one byte a moment, an fp32
    scale for every 256, tensors below 4,096 numbers in fp32. Nothing is computed."""

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not self.state[p]:
                    kind = torch.uint8 if p.numel() >= 4096 else torch.float32
                    for name in ("exp_avg", "exp_avg_sq"):
                        self.state[p][name] = torch.empty(p.shape, dtype=kind)
                        self.state[p][f"{name}_scale"] = torch.empty(math.ceil(p.numel() / 256))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda params: torch.optim.AdamW(params, fused=True),
    "adamw-foreach": lambda params: torch.optim.AdamW(params, foreach=True),
    "adamw-loop": lambda params: torch.optim.AdamW(params, foreach=False),
    "adamw-8bit": lambda params: Adam8bit(params, {}),
    "sgd": lambda params: torch.optim.SGD(params, foreach=False),
}


class Job:
    """What one step consists of."""

    def __init__(self, what: Any, inputs: Callable | None, precision: str | None, kernels: str):
        self.micro_batches = 1
        self.make, self.inputs = what, inputs
        if isinstance(what, RunConfig):
            size, precision = what.micro_batch or what.batch, precision or what.precision
            self.micro_batches = min(2, what.batch // size)  # the third needs what the second did
            self.make = lambda: GPT(what.model)
            self.inputs = lambda: torch.zeros(2, size, what.model.context, dtype=torch.int64).unbind()
        elif inputs is None:
            raise ConfigError(
                "a model of your own came without `inputs`", expected="a callable that makes them"
            )
        half, _, weights = (precision or "bf16").partition(" ")
        if half not in DTYPES or weights not in ("", "weights"):
            raise ConfigError(f"unknown precision `{precision}`", remedy=closest(precision, DTYPES))
        self.weights = DTYPES[half] if weights else None
        self.mode = AsCuda(None if half == "fp32" or weights else DTYPES[half], kernels)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """As the loop of llmkit.train does it. Inputs come first, as a loader's batch does."""
        optimizer.zero_grad(set_to_none=True)
        micros = [self.inputs() for _ in range(self.micro_batches)]
        for micro in micros:
            with self.mode:
                losses = model(*micro)
                losses = getattr(losses, "loss", losses)
                loss = (losses * torch.ones_like(losses)).sum() / losses.numel()
            loss.backward()
            del losses, loss
        params = [p for p in model.parameters() if p.grad is not None]
        norm = torch.stack(torch._foreach_norm([p.grad for p in params])).norm()
        nn.utils.clip_grads_with_norm_(params, 1.0, norm)
        optimizer.step()


@contextmanager
def convertible(fake: FakeTensorMode) -> Iterator[None]:
    """Inside, `.to(dtype)` works on fake weights: `swap_tensors` of PyTorch 2.13 refuses what the mode's own
    memo refers to weakly (pytorch/pytorch#184976). The memo only saves work."""
    swap = torch.utils.swap_tensors

    def forgetful(a: Tensor, b: Tensor) -> None:
        fake.fake_tensor_converter.tensor_memo.clear()
        swap(a, b)

    torch.utils.swap_tensors = forgetful
    try:
        yield
    finally:
        torch.utils.swap_tensors = swap


def settle(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Give the parameters and buffers of a model on the meta device a place, or all of them another dtype;
    ties stay tied."""
    known: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None and (value.device.type == "meta" or dtype is not None):
                    if value not in known:
                        kind = dtype if dtype is not None and value.is_floating_point() else value.dtype
                        empty = torch.empty(value.shape, dtype=kind)
                        known[value] = nn.Parameter(empty) if isinstance(value, nn.Parameter) else empty
                    held[name] = known[value]


def deal_evenly(model: nn.Module) -> None:
    """Routers choose by numbers, which fake tensors have not: each expert gets an even share of tokens."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.shares = functools.partial(_even, len(module.up))


def _even(experts: int, choices: Tensor) -> list[int]:
    return [len(range(first, len(choices), experts)) for first in range(experts)]


def numbers(model: nn.Module) -> tuple[int, int, int]:
    """Parameters of a model, of its largest layer and of all layers; layers are those of the largest list."""
    lists = [[_count(layer) for layer in m] for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = max(lists, key=sum, default=[]) or [0]
    return _count(model), max(layers), sum(layers)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
