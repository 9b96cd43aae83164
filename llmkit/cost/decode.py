"""Milliseconds while serving: of a generated token, and of reading the prompt.

    print(decode_latency(model, "A100-SXM-80", context=4096).explain())

A token at a small batch waits for memory: every weight and every key and value is read once. To that comes a
fixed time a layer, which a roofline has not: a 7B model on eight GPUs takes 3.8 times its floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from llmkit.cost.incident import gpu
from llmkit.cost.memory import kv_cache
from llmkit.cost.params import block_matrices, parameters, shape_of
from llmkit.cost.quantity import Quantity
from llmkit.cost.tables import table
from llmkit.errors import ConfigError

PREFILL = (0.4, 0.65, 0.87)  # share of the peak; assumption, the highest is what plain products reach
SPREAD = (0.9, 1.35)  # of a decode step, around the prediction: quantised weights of 70B are 6 to 27 % slower


@cache
def reading() -> tuple[float, float]:
    """(share of the memory bandwidth, seconds a layer): least squares of the relative error over the `fit`
    rows of `published/decode`, one 7B model in bf16 on 1, 2, 4 and 8 GPUs. The 70B rows test it."""
    rows = [r for r in table("published/decode") if r.get("kind") == "fit"]
    points = [
        (r["params"] * 2 / r["tp"] / (gpu(r["gpu"]).hbm_gbs * 1e9), r["layers"], r["ms"] / 1e3) for r in rows
    ]
    ideal, layers = [p / t for p, _, t in points], [n / t for _, n, t in points]
    ii, ll = sum(x * x for x in ideal), sum(x * x for x in layers)
    il, i1, l1 = sum(x * y for x, y in zip(ideal, layers, strict=True)), sum(ideal), sum(layers)
    slow = (i1 * ll - l1 * il) / (ii * ll - il * il)
    return 1 / slow, (l1 - slow * il) / ll


@cache
def unpacking() -> float:
    """Seconds over what the bytes of quantised weights take: their kernels convert what they read. From one
    row of `published/decode`, 7B in int8 on one GPU; the rows of 70B in int8 and int4 test it."""
    share, layer_s = reading()
    (row,) = (r for r in table("published/decode") if r.get("kind") == "fit int8")
    bytes_s = row["params"] / row["tp"] / (gpu(row["gpu"]).hbm_gbs * 1e9 * share)
    return (row["ms"] / 1e3 - row["layers"] * layer_s) / bytes_s


def decode_latency(
    model: Mapping[str, Any] | object, machine: str, *, batch: int = 1, context: int = 1, tp: int = 1,
    weight_bytes: float = 2,
) -> Quantity:  # fmt: skip
    """Milliseconds of one generated token of each of `batch` sequences.

    A mixture reads the experts that the batch touches, E (1 - (1 - k/E)^batch) of them if routing is uniform.

    Args:
        weight_bytes: of a weight, its part of scales and zeros included; below 2 it is unpacked.

    Returns:
        A Quantity in ms with the terms `weights`, `keys and values`, `products` and `layers`; memory and
        arithmetic overlap, so that the longer of the two counts.

    Raises:
        ConfigError: batch, context or tp below 1.
    """
    if min(batch, context, tp) < 1:
        raise ConfigError(f"batch {batch}, context {context}, tp {tp}", expected="each at least 1")
    s, hw, (share, layer_s) = shape_of(model), gpu(machine), reading()
    rate = tp * hw.hbm_gbs * 1e9 * share / 1e3  # bytes a millisecond
    touched = s.experts * (1 - (1 - s.top_k / s.experts) ** batch) if s.experts else 0
    idle = s.mixture_layers * (s.experts - touched) * s.matrices * s.width * s.expert_hidden
    lookup = 0 if s.tied else s.vocab_size * s.width  # one row of it is read
    read = (float(parameters(s)) - idle - lookup) * weight_bytes
    flops = (
        2
        * batch
        * (block_matrices(s) + s.width * s.vocab_size + 2 * s.layers * s.heads * s.head_dim * context)
    )
    slow = unpacking() if weight_bytes < 2 else 1.0
    formula = f"{read:.3g} B / ({tp} x {share:.2f} of {hw.hbm_gbs:g} GB/s)"
    weights = _ms("weights", read / rate * slow, formula + (f" x {slow:.2f} to unpack" if slow > 1 else ""))
    cache_ms = float(kv_cache(s, batch=batch, context=context)) / rate
    terms = (
        weights, _ms("keys and values", cache_ms, "KV cache / the same rate"),
        _ms("products", flops / (tp * hw.peak() * PREFILL[1]) * 1e3, "2 FLOPs a weight and sequence"),
        _ms("layers", s.layers * layer_s * 1e3, f"{s.layers} layers x {layer_s * 1e6:.0f} us"),
    )  # fmt: skip
    value = max(float(weights) + cache_ms, float(terms[2])) + float(terms[3])
    found = Quantity(name="a token", value=value, unit="ms", terms=terms, source="fitted to gpt-fast, 7B",
                     formula="max(weights + keys and values, products) + layers")  # fmt: skip
    return found.between(*(value * factor for factor in SPREAD))


def prefill_latency(
    model: Mapping[str, Any] | object, machine: str, *, prompt: int, batch: int = 1, tp: int = 1
) -> Quantity:
    """Milliseconds until the first token: the whole prompt through the model, causal attention.

    Raises:
        ConfigError: prompt, batch or tp below 1.
    """
    if min(prompt, batch, tp) < 1:
        raise ConfigError(f"prompt {prompt}, batch {batch}, tp {tp}", expected="each at least 1")
    s = shape_of(model)
    each = 2 * block_matrices(s) + 2 * s.layers * s.heads * s.head_dim * prompt
    flops = batch * (prompt * each + 2 * s.width * s.vocab_size)
    low, middle, high = (flops / (tp * gpu(machine).peak() * share) * 1e3 for share in reversed(PREFILL))
    return _ms("prompt", middle, f"{flops:.3g} FLOP / ({tp} x peak x {PREFILL[1]})").between(low, high)


def _ms(name: str, value: float, formula: str) -> Quantity:
    return Quantity(name=name, value=value, unit="ms", formula=formula)
