"""Memory by arithmetic, in microseconds: what one drags sliders with, and what the rehearsal is held against.

The one idea: the peak of a training step is at one of a few instants (forward ends, backward begins, works in
a layer and ends, the optimizer steps), and each is a sum of sizes that a shape gives.

    found = estimate(named("gpt-7b").model, batch=1, precision="bf16")
    found.instant, found.bytes, found.parts["weight copies"]
    longest_context(named("llama3-8b").model, "48 GiB")        # tokens
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmkit.cost import Quantity, activations, kv_cache, parameters, shape_of
from llmkit.cost.quantity import total
from llmkit.memory.sizes import parse_size

MOMENTS = {"adamw": 8, "adamw-foreach": 8, "adamw-loop": 8, "adamw-8bit": 2 + 8 / 256, "sgd": 0}  # B a number
LOGIT = 12  # bytes a logit as backward begins: fp32 log-softmax and two gradients of its size
LOGIT_FORWARD = {False: 8, True: 10}  # as forward ends: logits and log-softmax; under autocast logits twice


@dataclass(frozen=True)
class Estimate:
    """The fullest instant of a training step. Bytes, by arithmetic."""

    instant: str  # a key of `estimate`'s instants, such as "backward ends"
    parts: dict[str, float]  # at that instant

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())


def layer_activations(model: Any, *, batch: int, precision: str = "bf16", policy: str = "none") -> Quantity:
    """Bytes one layer of llmkit's GPT keeps from forward to backward, in the kernels it runs.

    The published bill (llmkit.cost.activations) and what unfused kernels under autocast add to it: a residual
    stream in fp32, a normalised copy per RMSNorm, rotated queries and keys, one cast per product that reads
    them. `selective` is ours: every product's result is kept. S positions, C width, D head dimension.
    """
    s = shape_of(model)
    half = 2 if precision.startswith(("bf16", "fp16")) else 4
    stream = 4 if precision in ("fp32", "bf16", "fp16") else half  # of the residual stream
    n, each = s.context * batch, []
    heads = (s.heads + 2 * s.kv_heads) * s.head_dim
    sums = ("attention sums", 4 * s.heads * n, "4 H S: one fp32 sum a row of scores")
    plain = half == 4 and s.kv_heads != s.heads  # CUDA fuses no grouped queries in fp32 (as_cuda.attention)
    if policy == "full":
        each = [("layer input", stream * n * s.width, "S C")]
    elif policy == "selective":
        products = heads + (not plain) * s.heads * s.head_dim + 2 * s.width + (s.matrices - 1) * s.hidden
        each = [
            ("layer input", stream * n * s.width, "S C"),
            ("products", half * n * products, "QKV, fused attention, output, MLP up (and gate) and down"),
        ] + [sums] * (not plain)
    else:
        bill = activations(replace(s, kv_heads=s.heads) if plain else s, batch=batch, number_bytes=half)
        each = [(term.name, term.value, term.formula) for term in bill.terms]
        if plain:
            each.append(("scores", scores(s, batch), "4 H S S; keys and values are those of all H heads"))
        each.append(("fp32 residuals", 2 * (stream - half) * n * s.width, "2 norms read the stream in fp32"))
        if s.norm == "rmsnorm":
            each.append(("normalised copies", 2 * 4 * n * s.width, "x / rms before the gain, fp32, 2 norms"))
        if s.position == "rotary":
            rotated = (not plain) * half * n * (s.heads + s.kv_heads) * s.head_dim
            angles = 4 * 4 * s.context * s.head_dim / 2
            copied = half * n * s.width if half == 2 else 0  # flash returns rows in the order of its queries
            each.append(("rotated", rotated + angles + copied, "queries, keys, sines and cosines, output"))
        if s.matrices == 3 and stream > half:
            each.append(("second cast", half * n * s.width, "up and gate each cast their input"))
    terms = [Quantity(name=name, value=value, unit="B", formula=formula) for name, value, formula in each]
    return total("activations of a layer", "B", tuple(terms))


def scores(s: Any, batch: int) -> float:
    """Bytes of a layer's fp32 scores, (batch, H, S, S)."""
    return 4.0 * batch * s.heads * s.context**2


def estimate(
    model: Any, *, batch: int, precision: str = "bf16", optimizer: str = "adamw", accumulate: bool = False
) -> Estimate:
    """Peak of a step of llmkit's GPT with a micro-batch of `batch` sequences.

    Args:
        model: a ModelConfig; its checkpointing and loss_chunk count.
        precision, optimizer: as for `rehearse`.
        accumulate: gradients of an earlier micro-batch are there while the next one runs.
    """
    s = shape_of(model)
    mixed = precision in ("bf16", "fp16")
    number = 2 if precision.endswith("weights") else 4
    count, n, table = parameters(s).value, s.context * batch, number * s.vocab_size * s.width
    attention, mlp = (parameters(s)[name].value for name in ("attention", "mlp"))
    logits = s.vocab_size * min(n, s.loss_chunk or n)
    kept = layer_activations(s, batch=batch, precision=precision, policy=s.checkpointing).value
    again = layer_activations(s, batch=batch, precision=precision).value  # what recomputation brings back
    stream, half = (4 if mixed else number) * n * s.width, 2 if mixed else number
    head = 2 * s.vocab_size * s.width if mixed else 0  # its copy is kept; checkpointing drops the others
    final = (s.norm == "rmsnorm") * 4 * n * s.width + stream + half * n * s.width
    weights = number * count
    always = {"parameters": weights, "optimizer state": MOMENTS[optimizer] * weights / 4}
    forward = {
        "gradients": weights if accumulate else 0,
        "weight copies": 2 * (attention + mlp) + head if mixed else 0,
        "activations": s.layers * kept + final,
        "logits": LOGIT_FORWARD[mixed] * logits,
    }
    begins = forward | {
        "weight copies": head if s.checkpointing != "none" else forward["weight copies"],
        "logits": LOGIT * logits,
        # the head's gradient and that of its input are there early if they are made chunk by chunk
        "temporaries": bool(s.loss_chunk) * (half / number * table + stream + mixed * half * n * s.width),
    }
    instants = {
        "forward ends": forward,
        "backward begins": begins,
        "backward ends": {
            "gradients": weights, "activations": max(stream, again - (3 if s.tied else 1) * table),
            "temporaries": 2 * table if s.tied else 0,  # the head's gradient, the table's, and their sum
        },
        "the optimizer steps": {
            "gradients": weights,
            "temporaries": {"adamw-foreach": weights, "adamw-loop": 2 * table}.get(optimizer, 0),
        },
    }  # fmt: skip
    instants |= _inside_a_layer(s, batch, stream, half, mixed * 2 * (attention + mlp) / s.layers, {
        "last": (table + number * mlp / s.layers / s.matrices, (s.layers - 1) * kept + again),
        "first": (number * (count - (attention + mlp) / s.layers) - (not s.tied) * table, again),
    })  # fmt: skip
    instant = max(instants, key=lambda name: sum(instants[name].values()))
    return Estimate(instant, always | instants[instant])


def _inside_a_layer(
    s: Any, batch: int, stream: float, half: int, copies: float, ends: dict[str, tuple[float, float]]
) -> dict[str, dict[str, float]]:
    """Instants as backward works in a layer; `ends` has (gradients, activations) that are there then.

    In the MLP a gradient of its hidden width is added. In unfused attention the scores' gradient and its
    product with them are, when what the MLP kept is gone.
    """
    hidden, gated, found = half * s.context * batch * s.hidden, s.matrices == 3, {}
    for end, (gradients, kept) in ends.items():
        held = {"gradients": gradients, "activations": kept}
        if s.checkpointing != "none":
            found[f"backward of the {end} layer"] = held | {
                "temporaries": (1 + gated) * hidden + stream, "weight copies": copies,
            }  # fmt: skip
        if half == 4 and s.kv_heads != s.heads:
            found[f"backward of the {end} layer's attention"] = held | {
                "activations": kept - (2 + 2 * gated) * hidden, "temporaries": 2 * scores(s, batch) + stream,
            }  # fmt: skip
    return found


def longest_context(model: Any, card: int | str, *, sequences: int = 1, number_bytes: int = 2) -> int | None:
    """Tokens of context whose KV cache fits on a card beside the weights; None: any number, because a sliding
    window forgets the rest. Activations of one token and the allocator's share are not in it."""
    s = shape_of(model)
    room = parse_size(card) - number_bytes * parameters(s).value
    tokens = int(room // kv_cache(s, batch=sequences, context=1, number_bytes=number_bytes).value)
    return None if s.window is not None and tokens >= s.window else max(0, tokens)
