"""A run: its parts, each of which can be swapped, and the batch on the device.

run = build(tiny(precision="fp16"))
run.schedule = lambda step: 1e-3        # a part is replaced by assignment
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.data import Batch, Loader, TokenDataset, open_dataset
from llmkit.errors import ConfigError
from llmkit.records import Event
from llmkit.train.config import RunConfig, substream
from llmkit.train.model import GPT
from llmkit.train.optim import WarmupCosine, adamw
from llmkit.train.parallel import Parallel, join
from llmkit.train.precision import Precision
from llmkit.train.scaler import LossScaler


class Clock:
    """Time, as a part that can be swapped."""

    now = staticmethod(time.perf_counter)  # seconds
    sleep = staticmethod(time.sleep)


class Stopwatch:
    """Where a step's seconds went. On a GPU, work is queued: what is measured is the host unless it waits."""

    def __init__(self, clock: Clock):
        self.clock, self.laps, self.started, self.last = clock, {}, 0.0, 0.0

    def start(self) -> None:
        self.laps, self.started = {}, self.clock.now()
        self.last = self.started

    def lap(self, name: str) -> None:
        """Charge the time since the last lap to `name`."""
        now = self.clock.now()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    @property
    def total(self) -> float:
        return self.clock.now() - self.started


@dataclass
class MicroBatch:
    """Rows of a batch that go through the model together."""

    x: Tensor  # (b, T) int64
    y: Tensor  # (b, T) int64
    weight: Tensor  # (b, T) float32
    index: int
    last: bool


class DeviceBatch:
    """This rank's share of one global batch, on the device, and what the step found out about it."""

    def __init__(self, batch: Batch, device: torch.device):
        self.numpy = batch
        self.x = torch.from_numpy(batch.x).to(device, non_blocking=True)
        self.y = torch.from_numpy(batch.y).to(device, non_blocking=True)
        self.weight = torch.from_numpy(batch.weight).to(device, non_blocking=True)
        self.losses: list[Tensor] = []  # per micro-batch (b, T), nats

    @property
    def documents(self) -> tuple[tuple[int, ...], ...]:
        """Ids of the documents whose tokens each sequence must predict, in order of appearance."""
        return tuple(tuple(dict.fromkeys(row)) for row in self.numpy.documents.tolist())

    def split(self, size: int | None) -> Iterator[MicroBatch]:
        size = size or len(self.x)
        starts = range(0, len(self.x), size)
        for index, start in enumerate(starts):
            rows = slice(start, start + size)
            yield MicroBatch(self.x[rows], self.y[rows], self.weight[rows], index, index == len(starts) - 1)

    def sums(self) -> Tensor:
        """(rows, 2): weighted loss and weight of each sequence."""
        losses = torch.cat(self.losses)
        # 0 * inf is nan: a target without weight must not be able to poison the sum
        weighted = torch.where(self.weight > 0, losses * self.weight, 0.0)
        return torch.stack((weighted.sum(1), self.weight.sum(1)), dim=1)


@dataclass
class Run:
    """The parts of a run. Faults swap them and put them back; learners plug in their own."""

    config: RunConfig
    model: nn.Module
    replica: nn.Module  # `model`, or its DistributedDataParallel wrapper
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    loader: Loader
    schedule: Callable[[int], float]
    precision: Precision
    parallel: Parallel
    dataset: TokenDataset
    micro_batch: int | None = None  # sequences per forward pass; None: all of this rank's
    step: int = 0  # the next step to do
    stop_asked: bool = False  # this rank would like to stop; agreed on in the next all-reduce
    stopped: bool = False  # all ranks have agreed; the step under way is finished
    veto: str = ""  # set in on_backward to skip this update; the reason goes into the log
    stuck: int = 0  # non-finite steps in a row that no smaller scale can cure
    observers: list[Any] = field(default_factory=list)
    parts: dict[str, Any] = field(
        default_factory=dict
    )  # name -> anything with state_dict, saved in checkpoints
    sinks: list[Callable[[Event], None]] = field(default_factory=list)
    clock: Any = field(default_factory=Clock)
    guard: Callable[[], AbstractContextManager] = nullcontext  # entered around each step's work
    batch: DeviceBatch | None = None
    found: dict[str, Any] = field(
        default_factory=dict
    )  # loss, grad_norm, norms, nonfinite of the step under way

    def __post_init__(self):
        self.stopwatch = Stopwatch(self.clock)
        self.scaler.tell = self.tell

    @property
    def device(self) -> torch.device:
        return self.parallel.device

    @property
    def positions(self) -> int:
        """What the loss sum is divided by before backward: target positions of this rank's share of a full
        global batch; 1 under `loss_sum`."""
        return 1 if self.config.loss_sum else self.config.tokens_per_step // self.parallel.world

    def named_grads(self) -> list[tuple[str, Tensor]]:
        return [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]

    def tell(self, kind: str, says: str, /, **data: Any) -> None:
        """Report something that happened in the current step."""
        event = Event(kind=kind, step=self.step, says=says, data=data)
        for sink in self.sinks:
            sink(event)

    def notify(self, moment: str, *args: Any) -> None:
        """Tell the observers: `on_batch`, `on_backward` or `on_step`."""
        for observer in self.observers:
            hook = getattr(observer, moment, None)
            if hook is not None:
                hook(self, *args)

    @contextmanager
    def dropout_masks(self, index: int) -> Iterator[None]:
        """Masks are a pure function of (seed, step, rank, micro-batch); the caller's global generator is left
        alone."""
        if not self.config.model.dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(substream(self.config.stream("dropout"), self.step, self.parallel.rank, index))
            yield


def build(cfg: RunConfig, dataset: TokenDataset | None = None, parallel: Parallel | None = None) -> Run:
    """A run at step 0.

    Args:
        dataset: the data; None opens `cfg.data`.
        parallel: the ranks; None asks torchrun's environment.

    Raises:
        ConfigError: vocabulary or batch do not fit the data or the number of ranks, or there is no such
        device. DataError: the data cannot be opened.
    """
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    parallel = parallel or join(cfg.device)
    dataset = dataset or open_dataset(cfg.data, vocab_size=cfg.model.vocab_size)
    check_fit(cfg, dataset, parallel.world)
    model = GPT(cfg.model, generator=torch.Generator().manual_seed(cfg.stream("init"))).to(parallel.device)
    loader = Loader(
        dataset, batch=cfg.batch, context=cfg.model.context, seed=cfg.stream("data"), rank=parallel.rank,
        world=parallel.world,
    )  # fmt: skip
    scaler = LossScaler(
        cfg.loss_scale,
        growth_interval=cfg.growth_interval,
        floor=cfg.scale_floor,
        enabled=cfg.precision == "fp16",
    )
    return Run(
        config=cfg, model=model, replica=parallel.wrap(model), optimizer=adamw(model, cfg), scaler=scaler,
        loader=loader, schedule=WarmupCosine(cfg), precision=Precision(cfg.precision, parallel.device),
        parallel=parallel, dataset=dataset, micro_batch=cfg.micro_batch,
    )  # fmt: skip


def check_fit(cfg: RunConfig, dataset: TokenDataset, world: int) -> None:
    """Refuse a configuration that this data or this number of ranks cannot serve."""
    if dataset.vocab_size != cfg.model.vocab_size:
        raise ConfigError(
            f"the model has a vocabulary of {cfg.model.vocab_size} and data set `{dataset.name}` one of "
            f"{dataset.vocab_size}",
            expected="equal vocabularies",
            remedy=f"set model vocab_size to {dataset.vocab_size}, or rebuild the data with the model's",
        )
    if cfg.batch % world:
        raise ConfigError(
            f"batch ({cfg.batch} sequences) cannot be shared by {world} ranks",
            expected="batch a multiple of the number of ranks",
        )
    share = cfg.batch // world
    if cfg.micro_batch is not None and share % cfg.micro_batch:
        raise ConfigError(
            f"micro_batch ({cfg.micro_batch}) does not divide the {share} sequences of each of {world} ranks",
            remedy=f"set micro_batch to a divisor of {share}",
        )
