"""What backward computes again instead of keeping: activation checkpointing, which trades time for memory.

none        keeps all that backward needs; computes nothing twice
selective   keeps a block's input, its matrix products and what fused attention returns; computes norms,
            activation functions, rotations, casts and residual sums again: no product runs twice. What
            torchtitan calls selective per operator (torchtitan/distributed/activation_checkpoint.py).
            Korthikanti et al. 2022 (arXiv 2205.05198) mean the attention scores by the word, which
            fused attention never holds.
full        keeps a block's input alone; the whole forward pass of the block runs twice

h = recomputed(block, h, policy="full")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from llmkit.train.precision import recompute_contexts

PRODUCTS = ("aten::mm", "aten::addmm", "aten::_scaled_dot_product_")  # beginnings of operator names; fused
# attention is one operator under several names, and the scores of unfused attention are `bmm`: not kept


def recomputed(function: Callable[..., Tensor], *args: Tensor, policy: str) -> Tensor:
    """`function(*args)`, of which backward computes again what `policy` did not keep: same bits, dropout
    masks and emulated rounding included. Without gradients there is nothing to keep."""
    if policy == "none" or not torch.is_grad_enabled():
        return function(*args)
    contexts = _selective_contexts if policy == "selective" else recompute_contexts
    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _selective_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For forward and for the recomputation: the first keeps the products, the second hands them back."""
    keep, give_back = create_selective_checkpoint_contexts(_policy)
    before, again = recompute_contexts()
    return _both(before, keep), _both(again, give_back)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operator.name().startswith(PRODUCTS)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _both(first: AbstractContextManager, second: AbstractContextManager) -> Iterator[None]:
    with first, second:
        yield
