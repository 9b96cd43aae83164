"""How many parameters a GPT has, exactly, and where they are.

    print(parameters(laptop().model).explain())      # a ModelConfig, or any mapping with its field names

C width, H query heads, K key/value heads, D head dimension, F hidden width of the MLP, V vocabulary, T
context.
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
    position: str = "learned"
    norm: str = "layernorm"
    activation: str = "gelu"
    tied: bool = True
    bias: bool = False
    qk_norm: bool = False
    checkpoint_blocks: bool = False

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def matrices(self) -> int:
        """Weight matrices of one MLP: up and down, and a gate for SwiGLU."""
        return 3 if self.activation == "swiglu" else 2


def shape_of(model: Mapping[str, Any] | object) -> Shape:
    """The shape of a ModelConfig, of its dict in run.json, or of any object with its field names.

    Raises:
        ConfigError: a field without a default is missing.
    """
    if isinstance(model, Shape):
        return model
    given = (
        dict(model) if isinstance(model, Mapping) else {name: getattr(model, name, None) for name in _NAMES}
    )
    given = {name: given[name] for name in _NAMES if given.get(name) is not None}
    for name in ("vocab_size", "context", "layers", "width", "heads"):
        if name not in given:
            raise ConfigError(
                f"the model has no `{name}`", expected="the fields of `llmkit.train.ModelConfig`"
            )
    given.setdefault("kv_heads", given["heads"])
    hidden = given.pop("mlp_hidden", None)
    if hidden is None:
        gated = given.get("activation") == "swiglu"
        hidden = 8 * math.ceil(given["width"] / 3) if gated else 4 * given["width"]
    return Shape(hidden=hidden, **given)


_NAMES = ("mlp_hidden", *(name for name in Shape.__annotations__ if name != "hidden"))


def parameters(model: Mapping[str, Any] | object) -> Quantity:
    """Trained numbers of the model; a head tied to the embedding counts once.

    Returns:
        A Quantity with the terms `embedding`, `positions`, `attention`, `mlp`, `norms`, `head`.
    """
    s = shape_of(model)
    tables = (
        _count("embedding", s.vocab_size * s.width, "V C"),
        _count("positions", s.context * s.width if s.position == "learned" else 0, "T C if learned, else 0"),
    )
    head = _count("head", 0 if s.tied else s.vocab_size * s.width, "0 if tied, else V C")
    source = "counted matrix by matrix; equals llmkit.train.GPT"
    return total("parameters", UNIT, (*tables, _attention(s), _mlp(s), _norms(s), head), source=source)


def block_matrices(s: Shape) -> int:
    """Weights of all blocks that multiply activations: where FLOPs are spent, beside the head."""
    attention = s.width * (s.heads + 2 * s.kv_heads) * s.head_dim + s.width * s.width
    return s.layers * (attention + s.matrices * s.width * s.hidden)


def _attention(s: Shape) -> Quantity:
    wide = (s.heads + 2 * s.kv_heads) * s.head_dim
    weights = s.layers * (s.width * wide + s.width * s.width)
    biases = s.layers * (wide + s.width) if s.bias else 0
    formula = "layers x (C (H + 2K) D + C C" + (" + (H + 2K) D + C)" if s.bias else ")")
    return _count("attention", weights + biases, formula)


def _mlp(s: Shape) -> Quantity:
    weights = s.layers * s.matrices * s.width * s.hidden
    biases = s.layers * ((s.matrices - 1) * s.hidden + s.width) if s.bias else 0
    return _count("mlp", weights + biases, f"layers x {s.matrices} C F" + (", and biases" if s.bias else ""))


def _norms(s: Shape) -> Quantity:
    each = s.width * (2 if s.bias and s.norm == "layernorm" else 1)
    heads = s.layers * 2 * s.head_dim if s.qk_norm else 0
    formula = f"(2 layers + 1) x {each // s.width} C" + (
        ", and 2 D a layer for queries and keys" if heads else ""
    )
    return _count("norms", (2 * s.layers + 1) * each + heads, formula)


def _count(name: str, value: int, formula: str) -> Quantity:
    return Quantity(name=name, value=value, unit=UNIT, formula=formula)
