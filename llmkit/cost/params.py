"""How many parameters a GPT has, exactly, and where they are.

    print(parameters(laptop().model).explain())      # a ModelConfig, or any mapping with its field names

C width, H query heads, K key/value heads, D head dimension, F hidden width of the MLP, V vocabulary, T
context, E routed experts. Memory holds all experts, a token pays for its top k and the shared ones:
`parameters(model, active=True)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmkit.cost.quantity import Quantity, total
from llmkit.errors import ConfigError

UNIT = "parameters"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides its cost. Field names are those of `llmkit.train.ModelConfig`."""

    vocab_size: int
    context: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int  # of the MLP
    head_dim: int
    position: str = "learned"
    norm: str = "layernorm"
    activation: str = "gelu"
    tied: bool = True
    bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    checkpointing: str = "none"
    loss_chunk: int | None = None
    experts: int = 0  # routed experts of a mixture layer; 0: dense
    top_k: int = 1  # of them, how many a token visits
    shared_experts: int = 0  # that every token visits
    expert_hidden: int = 0  # hidden width of one expert; 0: as `hidden`
    dense_layers: int = 0  # layers of a mixture that keep a dense MLP
    attention_weights: int = 0  # of one layer, where Q, K, V and output do not say it (latent attention)
    kv_numbers: int = 0  # kept per token and layer in the KV cache, where it is not 2 K D

    @property
    def matrices(self) -> int:
        """Weight matrices of one MLP: up and down, and a gate for SwiGLU."""
        return 3 if self.activation == "swiglu" else 2

    @property
    def mixture_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    def visited(self, active: bool = True) -> int:
        """Experts of one mixture layer: those a token visits, or all."""
        return (self.top_k if active else self.experts) + self.shared_experts


def shape_of(model: Mapping[str, Any] | object) -> Shape:
    """The shape of a ModelConfig, of its dict in run.json, or of any object with its field names.

    Raises:
        ConfigError: a field without a default is missing, a number is below 1, top_k is above the experts.
    """
    if isinstance(model, Shape):
        return model
    given = (
        dict(model)
        if isinstance(model, Mapping)
        else {name: getattr(model, name, None) for name in SHAPE_FIELDS}
    )
    given = {name: given[name] for name in SHAPE_FIELDS if given.get(name) is not None}
    for name in REQUIRED:
        if name not in given:
            raise ConfigError(
                f"the model has no `{name}`", expected="the fields of `llmkit.train.ModelConfig`"
            )
    for name in (*REQUIRED, "kv_heads", "head_dim", "mlp_hidden"):
        if name in given and not (isinstance(given[name], int) and given[name] >= 1):
            raise ConfigError(f"{name} is {given[name]}", expected="a whole number, at least 1")
    given.setdefault("kv_heads", given["heads"])
    if given["heads"] % given["kv_heads"]:
        raise ConfigError(f"kv_heads ({given['kv_heads']}) do not divide heads ({given['heads']})")
    given.setdefault("head_dim", given["width"] // given["heads"])
    hidden = given.pop("mlp_hidden", None)
    if hidden is None:
        gated = given.get("activation") == "swiglu"
        hidden = 8 * math.ceil(given["width"] / 3) if gated else 4 * given["width"]
    given["expert_hidden"] = given.get("expert_hidden") or hidden
    shape = Shape(hidden=hidden, **given)
    if shape.experts and not 1 <= shape.top_k <= shape.experts:
        raise ConfigError(f"top_k is {shape.top_k}", expected=f"1 to {shape.experts}, the experts of a layer")
    return shape


REQUIRED = ("vocab_size", "context", "layers", "width", "heads")
SHAPE_FIELDS = ("mlp_hidden", *(name for name in Shape.__annotations__ if name != "hidden"))


def parameters(model: Mapping[str, Any] | object, *, active: bool = False) -> Quantity:
    """Trained numbers of the model; a head tied to the embedding counts once.

    Args:
        model: a ModelConfig or a mapping with its field names.
        active: of a mixture of experts, count only what one token visits.

    Returns:
        A Quantity with the terms `embedding`, `positions`, `attention`, `mlp`, `norms`, `head`; a mixture has
        `experts` and `router` too.
    """
    s = shape_of(model)
    tables = (
        _count("embedding", s.vocab_size * s.width, "V C"),
        _count("positions", s.context * s.width if s.position == "learned" else 0, "T C if learned, else 0"),
    )
    head = _count("head", 0 if s.tied else s.vocab_size * s.width, "0 if tied, else V C")
    source = "counted matrix by matrix; equals llmkit.train.GPT"
    terms = (*tables, _attention(s), _mlp(s), *_mixture(s, active), _norms(s), head)
    return total("active parameters" if active else "parameters", UNIT, terms, source=source)


def block_matrices(s: Shape) -> int:
    """Weights of all blocks that multiply one token's activations: where FLOPs are spent, beside the head."""
    mixture = sum(term.value for term in _mixture(s, active=True))
    return s.layers * _projections(s) + _dense(s) * s.matrices * s.width * s.hidden + mixture


def _projections(s: Shape) -> int:
    return s.attention_weights or 2 * s.width * (s.heads + s.kv_heads) * s.head_dim


def _dense(s: Shape) -> int:
    """Layers with a dense MLP."""
    return s.layers - s.mixture_layers


def _attention(s: Shape) -> Quantity:
    biases = s.layers * ((s.heads + 2 * s.kv_heads) * s.head_dim + s.width) if s.bias else 0
    formula = "layers x (C (H + 2K) D + H D C" + (" + (H + 2K) D + C)" if s.bias else ")")
    formula = "layers x the weights given" if s.attention_weights else formula
    return _count("attention", s.layers * _projections(s) + biases, formula)


def _mlp(s: Shape) -> Quantity:
    weights = _dense(s) * s.matrices * s.width * s.hidden
    biases = _dense(s) * ((s.matrices - 1) * s.hidden + s.width) if s.bias else 0
    return _count("mlp", weights + biases, f"layers x {s.matrices} C F" + (", and biases" if s.bias else ""))


def _mixture(s: Shape, active: bool) -> tuple[Quantity, ...]:
    """Experts and routers, without biases; nothing for a dense model."""
    if not s.experts:
        return ()
    each, n = s.matrices * s.width * s.expert_hidden, s.visited(active)
    formula = f"mixture layers x {n} experts x {s.matrices} C F of an expert"
    experts = _count("experts", s.mixture_layers * n * each, formula)
    return experts, _count("router", s.mixture_layers * s.width * s.experts, "mixture layers x C E")


def _norms(s: Shape) -> Quantity:
    each = s.width * (2 if s.bias and s.norm == "layernorm" else 1)
    heads = s.layers * 2 * s.head_dim if s.qk_norm else 0
    formula = f"(2 layers + 1) x {each // s.width} C" + (
        ", and 2 D a layer for queries and keys" if heads else ""
    )
    return _count("norms", (2 * s.layers + 1) * each + heads, formula)


def _count(name: str, value: int, formula: str) -> Quantity:
    return Quantity(name=name, value=value, unit=UNIT, formula=formula)
