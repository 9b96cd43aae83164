"""Two whole training steps of a model of any size, on tensors that have a shape and no memory.

The one idea: under `FakeTensorMode` PyTorch runs everything of an operation but its arithmetic, so a budget
that counts storages counts those of a 70B model on a laptop. Two steps, since AdamW's moments appear in the
first and only the second shows what every later one needs.

    found = rehearse(named("gpt-7b", batch=1, model__checkpointing="selective"), card="A100-80")
    found.peak.bytes, found.fits, found.died.module
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llmkit.errors import ConfigError, closest
from llmkit.memory import fsdp
from llmkit.memory.budget import BORN, Budget
from llmkit.memory.facts import OutOfMemory, Peak
from llmkit.memory.job import OPTIMIZERS, Job, convertible, deal_evenly, numbers, settle
from llmkit.memory.ledger import Block
from llmkit.memory.sizes import parse_size, rounded
from llmkit.train import RunConfig
from llmkit.train.model import Attention

REFUSED = (  # what fake tensors cannot do, because the answer depends on numbers that are not there
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedOperatorException,
)
KINDS = ("logits", "weight copies", "fp32 norms", "optimizer temporaries", "gathered weights")


@dataclasses.dataclass(frozen=True)
class Moment:
    """The fullest moment of one module in one phase of the second step. Bytes."""

    live: int
    gradients: int
    copies: int  # autocast's half-precision weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What two steps would need. Bytes; emulated, but for the counting."""

    name: str
    parameters: int  # how many numbers
    peak: Peak
    stored: dict[str, int]  # by category, what outlives the step
    limit: int | None  # of the card; None: no card was named
    died: OutOfMemory | None  # the first allocation that would not fit; the rehearsal goes on
    kinds: dict[str, int]  # KINDS: the most of each that was live at once
    moments: dict[tuple[str, str], Moment]  # (phase, module)
    block: int = 0  # numbers in the largest layer of the largest ModuleList
    rest: int = 0  # numbers in no such layer

    @property
    def fits(self) -> bool:
        return self.died is None

    @property
    def headroom(self) -> int | None:
        """What the card has left at the peak; below 0 when it does not fit."""
        return None if self.limit is None else self.limit - self.peak.bytes


def rehearse(
    what: RunConfig | Callable[[], nn.Module],
    *,
    card: int | str | None = None,
    optimizer: str = "adamw",
    inputs: Callable[[], tuple] | None = None,
    precision: str | None = None,
    kernels: str = "cuda",
    brief: bool = False,
    ranks: int = 1,
) -> Rehearsal:
    """Two steps of forward, backward, clipping and update, of which every allocation is counted.

    Args:
        what: a configuration, whose batch, micro-batch, context and precision count; or a callable without
            arguments that makes a model. That is built here, under fake tensors.
        card: a card or a size; the rehearsal notes where it would run out, and goes on.
        optimizer: one of OPTIMIZERS. `adamw` is fused; `adamw-8bit` is its storage, as arithmetic.
        inputs: for a callable: makes the arguments of its forward, which returns a loss, losses, or an object
            with `.loss`.
        precision: for a callable, or in place of the configuration's: `fp32`, autocast to `bf16` or `fp16`,
            or `bf16 weights`, where everything is stored in it.
        kernels: `cuda`; `plain`, without fused attention; or `cpu` for what this processor would need.
        brief: make the moments from gradients out of nowhere and rehearse one whole step: half the time.
        ranks: what one of so many devices needs under FSDP2 (llmkit.memory.fsdp): PyTorch's own code runs,
            and sends nothing. Weights are gathered in autocast's precision, which then makes no copies.

    The experts of a mixture get even shares of the tokens.

    Not seen: workspaces inside kernels (cuBLAS, flash attention's fp32 sums in backward), the CUDA context
    (about half a gigabyte), fragmentation.

    Raises:
        ConfigError: an unknown card or optimizer; an operation whose result depends on numbers, by its name;
            `ranks` inside a process group.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer `{optimizer}`", remedy=closest(optimizer, OPTIMIZERS))
    limit = None if card is None else parse_size(card)
    job = Job(what, inputs, precision, kernels)
    with fsdp.ranks(ranks) as mesh, FakeTensorMode() as fake:
        with convertible(fake):
            model = job.make()
        settle(model, job.weights)
        deal_evenly(model)
        if mesh is not None:
            fsdp.shard(model, mesh, job.mode.dtype)
        counted = Rehearsing(limit, model, OPTIMIZERS[optimizer](list(model.parameters())))
        with fsdp.seen(counted.resized) if mesh is not None else nullcontext():
            counted.perform(job, brief)
    parameters, block, whole = numbers(model)
    return Rehearsal(
        name=getattr(what, "name", "") or getattr(what, "__name__", type(model).__name__), limit=limit,
        parameters=parameters, block=block, rest=parameters - whole, peak=counted.peak,
        stored=counted.stored, died=counted.died,
        kinds=dict(counted.most), moments=counted.moments,
    )  # fmt: skip


def attention_memory(config: RunConfig, kernels: str = "cuda") -> int:
    """Bytes that one layer's attention keeps for backward: queries, keys, values, what its kernel saves, its
    result; not its input, its weights and their copies. Emulated.

    Args:
        kernels: as for `rehearse`. A fused kernel saves no scores, so a window has none to save; a plain one
            saves (B, H, T, T) of them. CUDA's fused kernels take a mask or shared heads, not both at once
            (as_cuda.attention): with a window and grouped queries the scores are back.
    """
    job, model = Job(config, None, None, kernels), config.model
    size = config.micro_batch or config.batch, model.context, model.width
    with FakeTensorMode():
        layer = Attention(model)
        x = torch.empty(size, dtype=job.mode.dtype or torch.float32, requires_grad=True)
        with Rehearsing(None, layer, OPTIMIZERS["sgd"](list(layer.parameters()))) as counted:
            counted._ledger.tell = counted._told
            with job.mode:
                _graph = layer(x).grad_fn  # holds what backward needs, and not the result itself
            counted._sort()
            return counted._ledger.by_category["activations"] - counted.kinds["weight copies"]


class Rehearsing(Budget):
    """A budget without a limit that notes where a card would have refused, and what is what."""

    def __init__(self, card: int | None, model: nn.Module, optimizer: torch.optim.Optimizer):
        super().__init__(math.inf, model, optimizer)
        self.card = math.inf if card is None else card
        self.died: OutOfMemory | None = None
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        self.vocabulary = tables[0].num_embeddings if tables else 0
        self.norms = {name for name, m in model.named_modules() if "norm" in type(m).__name__.lower()}
        self.kinds, self.most = Counter(), dict.fromkeys(KINDS, 0)
        self._kind, self.steady = "", False  # steady: the optimizer's state is there
        self._at: dict[tuple[str, str], tuple[int, int, int]] = {}  # place -> live, serial, weight copies

    def perform(self, job: Job, brief: bool) -> None:
        model, optimizer = self._given
        with self:
            self._ledger.tell = self._told
            job.mode.refuse = self.refusal
            if brief:
                for p in model.parameters():
                    p.grad = torch.empty_like(p)
                optimizer.step()
            else:
                job.step(model, optimizer)
            self._at, self.steady = {}, True
            job.step(model, optimizer)
            self._sort()
            self.stored = self._ledger.by_category.copy()
            blocks = sorted(b for b in map(self._gradient, self._ledger.blocks.values()) if b)
        serials = [serial for serial, _ in blocks]
        sums = [0, *accumulate(size for _, size in blocks)]
        self.moments = {
            place: Moment(live, sums[bisect_right(serials, serial)], copies)
            for place, (live, serial, copies) in self._at.items()
        }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # what it does on this rank's share comes by here again
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except REFUSED:
            raise self.refusal(str(func)) from None

    def refusal(self, operation: str) -> ConfigError:
        place = f" in `{module}`" if (module := self._places.module()) else ""
        return ConfigError(
            f"`{operation}`{place} needs numbers, and a rehearsal has none",
            expected="a step whose shapes follow from shapes, in PyTorch alone",
            remedy="give it a fixed shape there, or measure a smaller model with `memory.measure`",
        )

    @staticmethod
    def _gradient(block: Block) -> tuple[int, int] | None:
        return (block.serial, block.size) if block.category == "gradients" else None

    def fits(self, size: int, args: tuple) -> bool:
        if self.died is None and self._ledger.live + size > self.card:
            self.died = dataclasses.replace(self._explain(size, args), limit_bytes=self.card)
        return True

    def _count(self, out: Any, args: tuple) -> int:
        self._kind = self._kind_of(out[0] if isinstance(out, tuple | list) and out else out, args)
        ledger, before = self._ledger, self._ledger.serial
        refused = super()._count(out, args)
        self._kind = ""
        place = self.phase, self._places.module()
        if ledger.serial > before and ledger.live > self._at.get(place, (0,))[0]:
            self._at[place] = ledger.live, ledger.serial, self.kinds["weight copies"]
        return refused

    def resized(self, storage: torch.UntypedStorage, size: int) -> None:
        """FSDP gathers weights into a storage that it keeps, and empties it again."""
        ledger, places = self._ledger, self._places
        if (block := ledger.blocks.get(storage._cdata)) is not None:
            ledger._freed(block)
        places.update()
        self._kind = "gathered weights"
        self.fits(rounded(size), ())
        if ledger.add(storage, BORN[places.phase], places.module()):
            self._peak_place = places.module(), places.phase
        self._by_phase[places.phase] = max(self._by_phase[places.phase], ledger.live)
        self._kind = ""

    def _kind_of(self, out: Any, args: tuple) -> str:
        """What a new tensor is, if it is something that people forget."""
        if not isinstance(out, Tensor) or not args or out.dim() == 0:
            return ""
        if self.phase == "optimizer":
            return "optimizer temporaries" if self.steady else ""
        if out.shape[-1] == self.vocabulary and out.dim() > 1 and not self._weight(out):
            return "logits"
        if out.dtype in (torch.bfloat16, torch.float16):
            cast = self._weight(args[0]) and args[0].dtype != out.dtype
            return "weight copies" if cast else ""
        return "fp32 norms" if self._places.module() in self.norms and self.phase == "forward" else ""

    def _weight(self, value: Any) -> bool:
        block = isinstance(value, Tensor) and self._ledger.blocks.get(value.untyped_storage()._cdata)
        return bool(block) and block.category == "parameters"

    def _told(self, block: Block, born: bool) -> None:
        if born:
            block.place = self._kind
        if kind := block.place:
            self.kinds[kind] += block.size if born else -block.size
            self.most[kind] = max(self.most[kind], self.kinds[kind])
