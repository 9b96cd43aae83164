"""One rank of many, alone: FSDP's own code under PyTorch's fake process group, which sends nothing.

The one idea: what a rank allocates follows from shapes and from FSDP's Python code; no other rank is needed
for either.

    with ranks(8) as mesh:
        shard(model, mesh, torch.bfloat16)      # weights gathered in bf16, gradients reduced in fp32
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from llmkit.errors import ConfigError


@contextmanager
def ranks(count: int) -> Iterator[Any]:
    """The mesh of `count` ranks of which this process is the first, without the others; None for one rank.

    Raises:
        ConfigError: fewer than one, or this process belongs to a process group already.
    """
    if count < 1:
        raise ConfigError(f"{count} ranks cannot be", expected="1 or more")
    if count == 1:
        yield None
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ConfigError(
            "this process belongs to a process group already", remedy="rehearse outside torchrun"
        )
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, mesh: Any, half: torch.dtype | None) -> None:
    """FSDP2 (`fully_shard`) on every layer of the largest ModuleList, and on the rest of the model.

    Args:
        half: what weights are gathered in where training is mixed; they are stored and reduced in fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=half and torch.float32)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    largest = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()), default=())
    for layer in largest:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


@contextmanager
def seen(told: Callable[[torch.UntypedStorage, int], None]) -> Iterator[None]:
    """`told` hears of every storage that is resized in place, and of its new size: FSDP frees and refills
    gathered weights so, and no dispatch mode sees it. And DTensor's way to find a result's shape, which runs
    the operation on fake tensors of the unsharded size, is kept from all dispatch modes."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    resize, shapes = torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached

    def told_resize(storage: torch.UntypedStorage, size: int) -> Any:
        out = resize(storage, size)
        told(storage, size)
        return out

    def unseen(*args: Any) -> Any:
        with _disable_current_modes():
            return shapes(*args)

    torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached = told_resize, unseen
    try:
        with warnings.catch_warnings():  # of in-place operations on a view that is returned: none here
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield
    finally:
        torch.UntypedStorage.resize_ = resize
        ShardingPropagator._propagate_tensor_meta_non_cached = shapes
