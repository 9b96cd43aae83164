"""What backward needs of forward: bytes of activations per layer, per pipeline stage, and of the logits.

    print(activations(laptop().model, batch=8).explain())
    print(stage_activations(model, batch=1, tp=8, pp=8, micro_batches=64)[0].explain())

S = context x sequences of a micro-batch; the other letters are those of `params`. The bill is that of
Korthikanti et al. 2022 (arXiv 2205.05198, section 4), tensor by tensor, so that grouped queries, a gated MLP
and any hidden width have their own; with GELU, H D = C, F = 4 C, dropout: their 34 S C + 5 H T S bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit.cost.params import Shape, shape_of
from llmkit.cost.quantity import Quantity, total
from llmkit.errors import ConfigError

POLICIES = ("none", "selective", "full")
KORTHIKANTI = "Korthikanti et al. 2022 (arXiv 2205.05198), section 4"
EAGER = 1.65
"""Most that unfused kernels were seen to keep over the tensor bill: norms upcast to fp32, rotated queries and
keys, repeated keys and values. Bytes over S C: 48 for 34.7 (SmolLM2-360M), 56 for 41 (Llama-3.1-8B), 76 for
46.4 (Qwen3-4B), 96 for 76.5 (gemma-1.1-2b); stas00/ml-engineering training/performance."""


def activations(
    model: Mapping[str, Any] | object,
    *,
    batch: int,
    tp: int = 1,
    sequence_parallel: bool = False,
    recompute: str = "none",
    flash: bool = True,
    dropout: bool = False,
    number_bytes: int = 2,
) -> Quantity:
    """Bytes that one layer keeps on one GPU for one micro-batch.

    Args:
        model: a ModelConfig or a mapping with its field names.
        batch: sequences of the micro-batch.
        tp: tensor-parallel GPUs; they divide heads and hidden width, and with `sequence_parallel` the rest.
        recompute: `none`; `selective` (attention scores again, in backward); `full` (only the layer's input).
        flash: attention whose kernel never stores the scores.
        dropout: masks and dropped scores are kept too.
        number_bytes: of one activation; 4 under fp32.

    Returns:
        A Quantity in bytes with the terms `norms and inputs`, `attention`, `mlp`, `scores`; under `full` only
        `layer input`. Modern blocks (rotary, RMSNorm, SwiGLU) carry an interval: fused kernels to eager ones.

    Raises:
        ConfigError: an unknown policy, or heads that tp does not divide.
    """
    s = shape_of(model)
    if recompute not in POLICIES:
        raise ConfigError(f"recompute is `{recompute}`", expected="none, selective or full")
    if tp < 1 or s.heads % tp:
        raise ConfigError(f"tp ({tp}) does not divide heads ({s.heads})", remedy="lower tp")
    n, spread = s.context * batch * number_bytes, tp if sequence_parallel else 1
    if recompute == "full":
        return total("activations of a layer", "B", (_bytes("layer input", n * s.width / spread, "S C"),))
    masks = (
        s.context * batch * s.width * 2 if dropout else 0
    )  # one byte each, after attention and after the MLP
    kept = 4 * n * s.width + masks
    formula = "4 S C: inputs of two norms, of attention and of the MLP" + (", masks" if dropout else "")
    scores = _scores(s, n, batch, tp, flash, dropout)
    attention = n * (2 * s.heads + 2 * s.kv_heads) * s.head_dim / tp
    terms = (
        _bytes("norms and inputs", kept / spread, formula + (f"; / {spread}" if spread > 1 else "")),
        _bytes("attention", attention, f"(2 H + 2 K) D S / {tp}: queries, keys, values, output"),
        _bytes("mlp", n * _hidden(s) / tp, f"{'4 F' if s.matrices == 3 else '2 F'} S / {tp}"),
        _bytes(
            "scores",
            0 if recompute == "selective" and not flash else scores,
            "H T S per copy; H S under flash",
        ),
    )
    bill = total("activations of a layer", "B", terms, source=KORTHIKANTI)
    modern = s.matrices == 3 or s.norm == "rmsnorm" or s.position == "rotary"
    return bill.between(bill.value, EAGER * bill.value) if modern else bill


def stage_activations(
    model: Mapping[str, Any] | object,
    *,
    pp: int = 1,
    micro_batches: int = 1,
    interleave: int = 1,
    **layer: Any,
) -> list[Quantity]:
    """Bytes of activations on one GPU of every pipeline stage, at the fullest moment of a 1F1B schedule.

    Args:
        pp, interleave: stages, and model chunks a stage holds (virtual stages).
        micro_batches: of one step; fewer than the stages and the pipeline never fills.
        **layer: as for `activations`.

    Returns:
        One Quantity per stage with the terms `activations of a layer` and, under full recomputation,
        `working set`: the layer that is being recomputed. Stage 0 holds
        (1 + (pp - 1) / (pp x interleave)) x L layers' worth when interleaved (section 4.2.3), L without.
    """
    s, stages = shape_of(model), []
    each = activations(s, **layer)
    again = activations(s, **(layer | {"recompute": "none"})) if layer.get("recompute") == "full" else None
    for stage, layers in enumerate(stage_layers(s.layers, pp)):
        warm = (
            pp - stage if interleave == 1 else (2 * (pp - stage - 1) + (interleave - 1) * pp + 1) / interleave
        )
        flight = min(warm, micro_batches) if pp > 1 else 1
        kept = scaled(each, layers * flight, f"{layers} layers x {flight:g} micro-batches in flight")
        again_now = (
            () if again is None else (scaled(again, 1, "one layer, while it is recomputed", "working set"),)
        )
        terms = (kept, *again_now)
        stages.append(total("activations", "B", terms, source=KORTHIKANTI))
    return stages


def stage_layers(layers: int, pp: int) -> list[int]:
    """Layers of each stage; what does not divide goes to the last, with the fewest micro-batches in flight.

    Raises:
        ConfigError: more stages than layers.
    """
    if not 1 <= pp <= layers:
        raise ConfigError(f"pp ({pp}) is above layers ({layers})", expected="1 <= pp <= layers")
    least, more = divmod(layers, pp)
    return [least + (stage >= pp - more) for stage in range(pp)]


def logits(model: Mapping[str, Any] | object, *, batch: int, tp: int = 1) -> Quantity:
    """Bytes of the logits and of what cross-entropy makes of them, at their peak on the last stage.

    Half precision logits (2), a kept fp32 softmax (4), fp32 copies and gradients (4 each) while backward
    begins: 6 to 14 bytes a logit. A loss that is fused in pieces has next to none.
    """
    s = shape_of(model)
    n = s.context * batch * s.vocab_size / tp
    return _bytes("logits", 10 * n, "10 B x S V / tp: logits, fp32 softmax, its gradient").between(
        6 * n, 14 * n
    )


def scaled(q: Quantity, by: float, formula: str, name: str = "") -> Quantity:
    """A multiple of a quantity and of its interval."""
    more = Quantity(name=name or q.name, value=q.value * by, unit=q.unit, formula=formula, terms=(q,))
    return more if q.low is None else more.between(q.interval[0] * by, q.interval[1] * by)


def _hidden(s: Shape) -> float:
    """Numbers a token keeps in the MLP: before and after the non-linearity, and SwiGLU's gate and product. In
    a mixture a token passes the experts it visits; the mean over layers."""
    copies = 4 if s.matrices == 3 else 2
    mixture = s.mixture_layers * s.visited() * s.expert_hidden
    return copies * ((s.layers - s.mixture_layers) * s.hidden + mixture) / s.layers


def _scores(s: Shape, n: int, batch: int, tp: int, flash: bool, dropout: bool) -> float:
    """Softmax output; with dropout its mask (1 B) and result too. A flash kernel keeps one fp32 sum a row."""
    if flash:
        return 4.0 * s.heads * s.context * batch / tp
    square = s.heads * s.context / tp
    return square * (n * (2 if dropout else 1) + (s.context * batch if dropout else 0))


def _bytes(name: str, value: float, formula: str) -> Quantity:
    return Quantity(name=name, value=value, unit="B", formula=formula)
