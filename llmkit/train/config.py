"""What a run is, as two frozen dataclasses.

    cfg = vary(RunConfig(data="docstrings"), steps=60, precision="fp16", model__dropout=0.1)

Every field says its meaning, its unit and a sensible range. A configuration that cannot run is refused here,
before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from llmkit.errors import ConfigError, closest

PRECISIONS = ("fp32", "bf16", "fp16")
CHECKPOINTING = ("none", "selective", "full")
MIXTURE = ("top_k", "expert_hidden", "capacity_factor", "balance_loss", "z_loss")  # mean nothing when dense
OPTIMIZER = {  # what train/adamw.py lets one choose; the first of each is torch's
    "bias_correction": ("standard", "none", "delayed", "rectified"),
    "beta2_schedule": ("constant", "power"),
    "eps_place": ("outside", "inside"),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT: pre-norm, decoder only."""

    vocab_size: int = 512
    """Rows of the embedding. Must equal the tokenizer's vocabulary."""
    context: int = 64
    """Tokens the model sees at once, and targets a sample holds. 64 to 4,096."""
    layers: int = 2
    """Transformer blocks."""
    width: int = 64
    """Residual stream width, a multiple of `heads`."""
    heads: int = 4
    """Query heads. Head dimension is width / heads; 64 or 128 at scale."""
    kv_heads: int | None = None
    """Key and value heads. None: as many as `heads` (multi-head); fewer: grouped-query attention."""
    mlp_hidden: int | None = None
    """Hidden width of the MLP. None: 4 x width for GELU, 8/3 x width rounded up to a multiple of 8 for
    SwiGLU."""
    position: str = "learned"
    """`learned` (a table of `context` rows) or `rotary` (no parameters)."""
    norm: str = "layernorm"
    """`layernorm` or `rmsnorm`."""
    activation: str = "gelu"
    """`gelu` (two matrices) or `swiglu` (three)."""
    tied: bool = True
    """Whether the output head is the embedding table."""
    bias: bool = False
    """Whether linear layers and LayerNorm have biases (GPT-2 has, most later models have not)."""
    qk_norm: bool = False
    """Normalise queries and keys per head before the product: bounds the attention scores."""
    init_std: float = 0.02
    """Standard deviation of initial weights; those that write to the residual stream are divided by
    sqrt(2 layers). 0.004 to 0.02."""
    dropout: float = 0.0
    """Dropout rate on embeddings, attention weights and residual branches. 0 for one pass over the data."""
    window: int | None = None
    """Positions that a token attends to, itself the last (sliding window). None: all before it."""
    checkpointing: str = "none"
    """Activation checkpointing: `none`, `selective` (products are kept) or `full` (block inputs are)."""
    loss_chunk: int | None = None
    """Positions whose logits are held at once; backward computes them again. None: all, once."""
    experts: int = 0
    """MLPs of each block among which a router chooses (train/moe.py). 0: a dense model, one MLP. 8 to 256."""
    top_k: int = 1
    """Experts that a token visits. 1 (Switch), 2 (Mixtral), 8 (DeepSeek-V3)."""
    expert_hidden: int | None = None
    """Hidden width of one expert. None: that of the MLP."""
    capacity_factor: float | None = None
    """Places of an expert over its even share of the tokens; those beyond it are dropped. None: dropless."""
    balance_loss: float = 0.01
    """Weight of the load-balance loss, per layer. Switch's 0.01; too small lets experts starve."""
    z_loss: float = 0.001
    """Weight of the router z-loss, per layer: keeps the router's logits small. ST-MoE's 0.001."""

    def __post_init__(self):
        sizes = ("vocab_size", "context", "layers", "width", "heads", "window", "loss_chunk", "expert_hidden")
        for name in (*sizes, "top_k"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        self._check_mixture()
        if self.width % self.heads:
            raise ConfigError(
                f"heads ({self.heads}) do not divide width ({self.width})",
                expected="width a multiple of heads",
                remedy=f"set width to {math.ceil(self.width / self.heads) * self.heads} or change heads",
            )
        if self.heads % self.n_kv_heads:
            raise ConfigError(
                f"kv_heads ({self.kv_heads}) do not divide heads ({self.heads})",
                expected="heads a multiple of kv_heads",
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ConfigError(
                f"rotary positions need an even head dimension, found {self.head_dim}",
                remedy="change width or heads, or set position to `learned`",
            )
        _one_of("position", self.position, ("learned", "rotary"))
        _one_of("norm", self.norm, ("layernorm", "rmsnorm"))
        _one_of("activation", self.activation, ("gelu", "swiglu"))
        _one_of("checkpointing", self.checkpointing, CHECKPOINTING)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}", expected="0 <= dropout < 1")
        if not self.init_std > 0:
            raise ConfigError(f"init_std is {self.init_std}", expected="init_std > 0")

    def _check_mixture(self) -> None:
        for name in ("experts", "balance_loss", "z_loss"):
            _at_least(name, getattr(self, name), 0)
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            raise ConfigError(f"capacity_factor is {self.capacity_factor}", expected="above 0, or null")
        for name in MIXTURE:
            if not self.experts and getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ConfigError(f"{name} is {getattr(self, name)} in a dense model", remedy="set experts")
        if self.experts and self.top_k > self.experts:
            raise ConfigError(f"top_k ({self.top_k}) is above experts ({self.experts})")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def n_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def hidden(self) -> int:
        """Of the MLP; 8/3 keeps SwiGLU's three matrices at GELU's parameter count (arXiv 2002.05202)."""
        if self.mlp_hidden is not None:
            return self.mlp_hidden
        return 4 * self.width if self.activation == "gelu" else 8 * math.ceil(self.width / 3)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes."""

    name: str = "tiny"
    """Name of the configuration this one came from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model's shape."""
    data: str = "generated"
    """`generated`, `docstrings`, or the folder of a data set built with `llmkit data build`."""
    seed: int = 0
    """Seed of initialisation, data order and dropout, unless one of the next three is set."""
    init_seed: int | None = None
    """Seed of the initial weights alone."""
    data_seed: int | None = None
    """Seed of the data order alone."""
    dropout_seed: int | None = None
    """Seed of the dropout masks alone."""
    steps: int = 200
    """Optimizer steps."""
    batch: int = 8
    """Sequences an optimizer step sees, over all ranks and micro-batches."""
    micro_batch: int | None = None
    """Sequences per forward pass and rank. None: the rank's whole share at once (no accumulation)."""
    lr: float = 1.5e-3
    """Peak learning rate. 1e-4 to 1e-2; smaller for wider models."""
    min_lr: float = 1.5e-4
    """Learning rate at the end of the cosine."""
    warmup: int = 20
    """Steps of linear warmup from 0. 1 to 5 % of the run."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's eps; `eps_place` says where it is added."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices; norms, biases and nothing else are exempt."""
    bias_correction: str = "standard"
    """`standard`, `none`, `delayed` (of v alone) or `rectified` (RAdam): see train/adamw.py."""
    beta2_schedule: str = "constant"
    """`constant`, or `power`: 1 - t^-0.8 at update t, in place of betas[1]."""
    eps_place: str = "outside"
    """`outside` the root of v, or `inside` it."""
    update_clip: float | None = None
    """StableAdamW's limit on the RMS of g / sqrt(v) of a tensor, 1 as published. None: off."""
    clip: float = 1.0
    """Global gradient norm is scaled down to this. `inf` turns clipping off."""
    precision: str = "fp32"
    """`fp32`, `bf16` or `fp16`: autocast on a GPU, emulated on a CPU. Weights and moments stay fp32."""
    loss_scale: float = 65536.0
    """Initial loss scale under fp16; other precisions do not scale."""
    growth_interval: int = 2000
    """Good steps in a row after which the loss scale doubles."""
    scale_floor: float = 1.0
    """The loss scale never goes below this (torch.amp has no floor, and breaks at 0)."""
    loss_sum: bool = False
    """Backward from the loss summed over targets, not from their mean; gradients are divided by their number
    after unscaling. Same update; fp16 then needs a loss scale smaller by the tokens of a step (metaseq's)."""
    patience: int = 3
    """Non-finite steps in a row, with no loss scale left to lower, that the run survives."""
    save_every: int = 50
    """Steps between checkpoints. 0: none."""
    keep_last: int = 2
    """Newest checkpoints kept. At least 2: the newest may be the bad one."""
    keep_every: int | None = None
    """Checkpoints at multiples of this many steps are kept for ever."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu` or `cuda`."""
    threads: int | None = None
    """CPU threads. None: leave PyTorch's choice. Results are equal bit for bit only at equal thread
    counts."""

    def __post_init__(self):
        if isinstance(self.model, dict):
            object.__setattr__(self, "model", ModelConfig(**self.model))
        object.__setattr__(self, "betas", tuple(self.betas))
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        for name, known in OPTIMIZER.items():
            _one_of(name, getattr(self, name), known)
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("patience", 1), ("save_every", 0)):
            _at_least(name, getattr(self, name), least)
        _at_least("keep_last", self.keep_last, 2)
        if self.warmup > self.steps:
            raise ConfigError(
                f"warmup ({self.warmup} steps) is longer than the run ({self.steps} steps)",
                remedy="lower warmup or raise steps",
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ConfigError(
                f"micro_batch ({self.micro_batch}) does not divide batch ({self.batch})",
                expected="batch a multiple of micro_batch",
            )
        for name in ("lr", "clip", "loss_scale", "scale_floor", "eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", expected=f"{name} > 0")
        if self.update_clip is not None and not self.update_clip > 0:
            raise ConfigError(f"update_clip is {self.update_clip}", expected="update_clip > 0, or null")
        if self.bias_correction == "rectified" and self.beta2_schedule != "constant":
            raise ConfigError(
                f"bias_correction `rectified` with beta2_schedule `{self.beta2_schedule}`",
                expected="a constant beta2: rectification counts the gradients behind it",
            )
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(f"min_lr is {self.min_lr}", expected=f"0 <= min_lr <= lr ({self.lr})")

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.model.context

    def stream(self, use: str) -> int:
        """Seed of one use of randomness: `init`, `data` or `dropout`."""
        own = getattr(self, f"{use}_seed")
        return substream(self.seed if own is None else own, use)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`. Raises ConfigError on an unknown field."""
        model = {f"model__{name}": value for name, value in plain.get("model", {}).items()}
        return vary(cls(), **{name: value for name, value in plain.items() if name != "model"}, **model)


def substream(*parts: object) -> int:
    """A 63-bit seed from any parts, the same on every machine: no two uses of randomness share a stream."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def vary(config: RunConfig, **overrides: Any) -> RunConfig:
    """A copy with some fields changed; `model__width=128` reaches into the model.

    Raises:
        ConfigError: an unknown field, or a combination that cannot run.
    """
    own = {f.name for f in dataclasses.fields(RunConfig)}
    inner = {f"model__{f.name}" for f in dataclasses.fields(ModelConfig)}
    for name in overrides:
        if name not in own | inner:
            raise ConfigError(f"unknown setting `{name}`", remedy=closest(name, own | inner))
    model = {k.removeprefix("model__"): v for k, v in overrides.items() if k in inner}
    outer = {k: v for k, v in overrides.items() if k in own}
    if model:
        outer["model"] = dataclasses.replace(outer.get("model", config.model), **model)
    if outer.get("warmup") is None and config.warmup > outer.get("steps", config.steps):
        outer["warmup"] = max(1, outer["steps"] // 10)  # a shorter run keeps a sensible warmup
    return dataclasses.replace(config, **outer)


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}", expected=f"{name} >= {least}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} `{value}`", remedy=closest(value, known))
