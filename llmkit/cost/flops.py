"""How many floating-point operations a token costs, with the conventions said aloud.

    print(training_flops(laptop().model).explain())

A multiply-add is two operations. Looking an embedding up is none; the head is a product, tied or not.
Attention scores are counted over the whole context unless `causal`: published numbers differ by 5 to 11 % on
this alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit.cost.params import Shape, block_matrices, shape_of
from llmkit.cost.quantity import Quantity, total

UNIT = "FLOP/token"
KAPLAN = "Kaplan et al. 2020 (arXiv 2001.08361), table 1"
PALM = "Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B"


def forward_flops(model: Mapping[str, Any] | object, *, causal: bool = False) -> Quantity:
    """One token through the model, as part of a full context.

    Args:
        model: a ModelConfig or a mapping with its field names.
        causal: count only the scores a causal mask keeps: half of them. PaLM and most published utilisations
            do not.

    Returns:
        A Quantity with the terms `blocks`, `attention scores`, `head`.
    """
    s = shape_of(model)
    return total("forward", UNIT, (_blocks(s), _scores(s, causal), _head(s)), source=_convention(causal))


def training_flops(
    model: Mapping[str, Any] | object, *, causal: bool = False, recompute: bool | None = None
) -> Quantity:
    """One token through forward and backward.

    Args:
        causal: as in `forward_flops`.
        recompute: add the second forward pass of the blocks that full activation checkpointing costs. That is
            what the hardware does (HFU); what the model needs (MFU) is without it. None: as the model is
            configured, a chunked loss included, whose head runs twice.

    Returns:
        A Quantity with the terms `forward`, `backward` and, if asked for, `recomputation`.
    """
    s = shape_of(model)
    forward = forward_flops(s, causal=causal)
    backward = Quantity(
        name="backward", value=2 * forward.value, unit=UNIT, formula="2 x forward", source=KAPLAN
    )
    terms = [forward, backward]
    again = [
        *("blocks", "attention scores") * (s.checkpointing == "full" if recompute is None else recompute),
        *("head",) * (bool(s.loss_chunk) and recompute is None),
    ]
    if again:
        value, formula = sum(forward[name].value for name in again), f"{' + '.join(again)}, once more"
        terms.append(Quantity(name="recomputation", value=value, unit=UNIT, formula=formula))
    return total("training", UNIT, tuple(terms), source=_convention(causal))


def _blocks(s: Shape) -> Quantity:
    weights = block_matrices(s)
    formula = f"2 x {weights:,} matrix weights of {s.layers} blocks"
    return Quantity(name="blocks", value=2 * weights, unit=UNIT, formula=formula, source=KAPLAN)


def _scores(s: Shape, causal: bool) -> Quantity:
    seen = min(s.window or s.context, s.context)  # keys of a query, without the mask
    full = 4 * s.layers * s.heads * s.head_dim * seen
    formula = f"{2 if causal else 4} x layers x H D x T: queries x keys, scores x values"
    if seen < s.context:
        formula = f"4 x layers x H D x {'(W - W W / 2 T)' if causal else 'W'}, W = {seen}: the sliding window"
    kept = full * (2 * s.context - seen) // (2 * s.context) if causal else full
    return Quantity(name="attention scores", value=kept, unit=UNIT, formula=formula, source=PALM)


def _head(s: Shape) -> Quantity:
    return Quantity(name="head", value=2 * s.width * s.vocab_size, unit=UNIT, formula="2 C V")


def _convention(causal: bool) -> str:
    return f"attention {'causal' if causal else 'not causal'}, embedding lookup free, head counted"
