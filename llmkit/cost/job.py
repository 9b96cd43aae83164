"""A training run on a cluster, as a YAML file says it: what of it decides memory, time and money.

    job_of({"model": "llama3-8b", "tokens": "300B", "gpus": 64, "gpu": "H100-SXM", "batch": 512})

What is not given has the default named here. `model` is a shape with the field names of `ModelConfig`, or the
name of a published one (`published_shapes()`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmkit.cost.activations import POLICIES
from llmkit.cost.incident import Hardware, gpu
from llmkit.cost.params import Shape, shape_of
from llmkit.cost.tables import table
from llmkit.errors import ConfigError, closest

SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
POSITIVE = (
    "gradient_bytes", "messages", "loader_tokens_per_s", "mixture_share", "dollars_per_gpu_hour",
    "gpu_hours_per_failure", "save_s", "restart_s",
)  # fmt: skip
PRECISIONS = ("bf16", "fp16", "fp8")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run. GPUs = tp x pp x data-parallel ranks."""

    model: Shape
    tokens: float  # of the whole run
    gpus: int
    gpu: str  # a name of `hardware()`
    batch: int  # sequences of one optimizer step, over all GPUs
    name: str = "run"
    micro_batch: int = 1  # sequences of one forward pass
    tp: int = 1  # tensor-parallel GPUs
    pp: int = 1  # pipeline stages
    interleave: int = 1  # model chunks a stage holds
    zero: int = 1  # 0: all states on every rank; 1: optimizer, 2: and gradients, 3: and weights are sharded
    precision: str = "bf16"
    gradient_bytes: int = 4  # Megatron's main gradients; 2 where they stay in half precision
    recompute: str = "none"  # none, selective, full
    sequence_parallel: bool = False
    flash: bool = True
    dropout: bool = False
    gpus_per_node: int = 8
    overlap: float = 0.8  # share of data-parallel traffic that can hide; llm-foundry's rows fit 0.8 to 0.95
    messages: int = 1  # collectives per layer, ZeRO 3: FSDP gathers a layer, early DeepSpeed each tensor
    loader_tokens_per_s: float = math.inf  # of the whole cluster
    efficiency: float | None = None  # share of the peak while computing; None: from published steps
    efficiency_spread: float = 0.0  # of a measured efficiency, relative
    mixture_share: float = 0.9  # utilisation of a mixture over a dense model's: Llama 4 over Llama 3, 0.89
    dollars_per_gpu_hour: float | None = None  # None: the typical price of the accelerator
    gpu_hours_per_failure: float = 50_700.0  # Llama 3 405B: 419 unexpected in 54 days on 16,384
    save_s: float | None = None  # pause of one checkpoint; None: 14 B a parameter, 1 GB/s a node
    restart_s: float = 900.0

    def __post_init__(self):
        for field in ("tokens", "gpus", "batch", "micro_batch", "tp", "pp", "interleave", "gpus_per_node"):
            if not 1 <= getattr(self, field) < math.inf:
                raise ConfigError(f"{field} is {getattr(self, field)}", expected=f"{field} >= 1")
        for field in POSITIVE:
            if (value := getattr(self, field)) is not None and not value > 0:
                raise ConfigError(f"{field} is {value}", expected=f"{field} > 0")
        self.hardware.peak(self.precision)
        for field, known in (("precision", PRECISIONS), ("recompute", POLICIES), ("zero", (0, 1, 2, 3))):
            if getattr(self, field) not in known:
                found = f"{field} is {getattr(self, field)}"
                raise ConfigError(found, expected=f"one of {', '.join(map(str, known))}")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"overlap is {self.overlap}", expected="0 to 1")
        if self.efficiency is not None and not 0 < self.efficiency <= 1:
            raise ConfigError(
                f"efficiency is {self.efficiency:.3g} of the peak of {self.gpu}", expected="0 to 1",
                remedy="check the peak: dense, of this machine and precision, and every GPU counted",
            )  # fmt: skip
        if self.gpus % (self.tp * self.pp):
            raise ConfigError(f"tp x pp ({self.tp} x {self.pp}) does not divide gpus ({self.gpus})")
        if self.batch % (self.ranks * self.micro_batch):
            raise ConfigError(
                f"batch ({self.batch}) is no multiple of {self.ranks} ranks x {self.micro_batch} sequences",
                remedy="raise batch, lower micro_batch, or give GPUs to tp or pp",
            )
        if self.micro_batches < self.pp:
            raise ConfigError(
                f"a rank has {self.micro_batches} micro-batches for {self.pp} pipeline stages",
                expected="micro-batches >= pp, or stages idle at all times", remedy="raise batch or lower pp",
            )  # fmt: skip

    @property
    def ranks(self) -> int:
        """Data-parallel ranks."""
        return self.gpus // (self.tp * self.pp)

    @property
    def micro_batches(self) -> int:
        return self.batch // (self.ranks * self.micro_batch)

    @property
    def step_tokens(self) -> int:
        return self.batch * self.model.context

    @property
    def steps(self) -> float:
        return self.tokens / self.step_tokens

    @property
    def nodes(self) -> int:
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def policy(self) -> str:
        """Which published steps are like this one: selective recomputation costs next to nothing."""
        return "full" if self.recompute == "full" else "none"

    @property
    def hardware(self) -> Hardware:
        return gpu(self.gpu)


def job_of(given: Mapping[str, Any] | Job, **changes: Any) -> Job:
    """A job from a mapping, with changes. Numbers may be written 300B, 1.5T, 12k.

    Raises:
        ConfigError: an unknown or missing field (with the closest one), a unit, or a plan that cannot be.
    """
    fields = {field.name: field for field in dataclasses.fields(Job)}
    given = {**(vars(given) if isinstance(given, Job) else given), **changes}
    for name in given:
        if name not in fields:
            raise ConfigError(f"a job has no `{name}`", remedy=closest(name, fields))
    if missing := [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in given]:
        raise ConfigError(f"the job lacks {', '.join(missing)}")
    numbers = {n: number(n, v) for n, v in given.items() if fields[n].type not in ("Shape", "str", "bool")}
    model = given["model"]
    return Job(
        **{**given, **numbers, "model": shape_named(model) if isinstance(model, str) else shape_of(model)}
    )


def published_shapes() -> dict[str, dict[str, Any]]:
    """Published models whose shape is complete, by name."""
    return {row["id"]: row for row in table("published/runs") if "shape" in row and "vocab_size" in row}


def shape_named(name: str) -> Shape:
    """The shape of a published model. Raises ConfigError on an unknown one."""
    if name not in published_shapes():
        raise ConfigError(f"no published shape `{name}`", remedy=closest(name, published_shapes()))
    return shape_of(published_shapes()[name])


def number(name: str, value: Any) -> Any:
    """A number, or the text of one with a suffix: 300B. Raises ConfigError on anything else."""
    if isinstance(value, str):
        digits, unit = (value[:-1], SUFFIXES[value[-1]]) if value[-1:] in SUFFIXES else (value, 1)
        try:
            value = float(digits) * unit
        except ValueError:
            raise ConfigError(f"{name} is `{value}`", expected="a number, or one with k, M, B or T") from None
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
        raise ConfigError(f"{name} is {value!r}", expected="a number")
    return value
