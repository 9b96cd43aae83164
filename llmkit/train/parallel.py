"""One process or many: everything the loop needs to know about ranks.

Under `torchrun --nproc-per-node 2 -m llmkit train ...` each process holds a replica and a share of every
batch (DistributedDataParallel; gloo on CPUs, NCCL on GPUs). Alone, the same calls cost nothing. Global
numbers (loss, norms) come only from here, never from a local shard.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmkit.errors import ConfigError


class Parallel:
    """The ranks of a run.

    Attributes:
        rank, world: this process and how many there are.
        device: where this rank computes.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1):
        self.device, self.rank, self.world = device, rank, world

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The callable whose backward averages gradients over ranks."""
        if self.world == 1:
            return model
        # static buckets, no unused parameters: the order of the sums is the same in every step
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def accumulating(self, replica: nn.Module, last: bool) -> AbstractContextManager:
        """Hold back the gradient all-reduce on every micro-batch but the last."""
        return nullcontext() if last or self.world == 1 else replica.no_sync()

    def total(self, values: Tensor) -> list[float]:
        """Sum over ranks, as floats. One all-reduce; on a GPU this waits for the device."""
        if self.world > 1:
            dist.all_reduce(values)
        return values.tolist()

    def norm(self, norms: Tensor) -> float:
        """Global L2 norm from per-parameter norms, shape (n,). Gradients are whole on every rank here; a
        sharded strategy sums the squares over ranks in this one place."""
        return torch.linalg.vector_norm(norms).item()

    def gather(self, value: object) -> list[object]:
        """`value` of every rank, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(device: str = "auto", timeout_s: float = 120.0) -> Parallel:
    """The ranks of this process: torchrun's if it started us, else alone.

    Args:
        device: `auto`, `cpu` or `cuda`.
        timeout_s: a collective that waits longer for a peer fails, so that a dead rank ends the job.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is `cuda`, and PyTorch sees no GPU here",
            remedy="use device `cpu`, or install a CUDA build",
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Parallel(torch.device("cuda" if on_gpu else "cpu"))
    local = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    return Parallel(local, dist.get_rank(), dist.get_world_size())
