"""Memory by arithmetic, in microseconds: what one drags sliders with, and what the rehearsal is held against.

The one idea: the peak of a training step is at one of four instants (forward ends, backward begins and
ends, the optimizer steps), and each is a sum of sizes that a shape gives.

    found = estimate(named("gpt-7b").model, batch=1, precision="bf16")
    found.instant, found.bytes, found.parts["weight copies"]
    longest_context(named("llama3-8b").model, "48 GiB")        # tokens
"""

from __future__ import annotations

from dataclasses import dataclass
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

    instant: str  # "forward ends", "backward begins", "backward ends" or "the optimizer steps"
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
    if policy == "full":
        each = [("layer input", stream * n * s.width, "S C")]
    elif policy == "selective":
        products = heads + s.heads * s.head_dim + 2 * s.width + (s.matrices - 1) * s.hidden
        each = [
            ("layer input", stream * n * s.width, "S C"),
            ("products", half * n * products, "QKV, attention, output, MLP up (and gate) and down"),
            sums,
        ]
    else:
        bill = activations(s, batch=batch, number_bytes=half)
        each = [(term.name, term.value, term.formula) for term in bill.terms]
        each.append(("fp32 residuals", 2 * (stream - half) * n * s.width, "2 norms read the stream in fp32"))
        if s.norm == "rmsnorm":
            each.append(("normalised copies", 2 * 4 * n * s.width, "x / rms before the gain, fp32, 2 norms"))
        if s.position == "rotary":
            rotated = half * n * (s.heads + s.kv_heads) * s.head_dim
            angles = 4 * 4 * s.context * s.head_dim / 2
            copied = half * n * s.width if half == 2 else 0  # flash returns rows in the order of its queries
            each.append(("rotated", rotated + angles + copied, "queries, keys, sines and cosines, output"))
        if s.matrices == 3 and stream > half:
            each.append(("second cast", half * n * s.width, "up and gate each cast their input"))
    terms = [Quantity(name=name, value=value, unit="B", formula=formula) for name, value, formula in each]
    return total("activations of a layer", "B", tuple(terms))


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
    matrices = parameters(s)["attention"].value + parameters(s)["mlp"].value
    logits = s.vocab_size * min(n, s.loss_chunk or n)
    kept = layer_activations(s, batch=batch, precision=precision, policy=s.checkpointing).value
    again = (
        layer_activations(s, batch=batch, precision=precision).value if s.checkpointing != "none" else kept
    )
    stream, half = (4 if mixed else number) * n * s.width, 2 if mixed else number
    head = 2 * s.vocab_size * s.width if mixed else 0  # its copy is kept; checkpointing drops the others
    final = (s.norm == "rmsnorm") * 4 * n * s.width + stream + half * n * s.width
    always = {"parameters": number * count, "optimizer state": MOMENTS[optimizer] * count * number / 4}
    forward = {
        "gradients": number * count if accumulate else 0,
        "weight copies": 2 * matrices + head if mixed else 0,
        "activations": s.layers * kept + final,
        "logits": LOGIT_FORWARD[mixed] * logits,
    }
    begins = forward | {
        "weight copies": head if s.checkpointing != "none" else forward["weight copies"],
        "logits": LOGIT * logits,
    }
    ends = {
        "gradients": number * count,
        "activations": max(stream, again - 3 * table if s.tied else again - table),
        "temporaries": 2 * table if s.tied else 0,  # the head's gradient, the table's, and their sum
    }
    steps = {
        "gradients": number * count,
        "temporaries": {"adamw-foreach": number * count, "adamw-loop": 2 * table}.get(optimizer, 0),
    }
    instants = {
        "forward ends": forward,
        "backward begins": begins,
        "backward ends": ends,
        "the optimizer steps": steps,
    }
    instant = max(instants, key=lambda name: sum(instants[name].values()))
    return Estimate(instant, always | instants[instant])


def longest_context(model: Any, card: int | str, *, sequences: int = 1, number_bytes: int = 2) -> int | None:
    """Tokens of context whose KV cache fits on a card beside the weights; None: any number, because a sliding
    window forgets the rest. Activations of one token and the allocator's share are not in it."""
    s = shape_of(model)
    room = parse_size(card) - number_bytes * parameters(s).value
    tokens = int(room // kv_cache(s, batch=sequences, context=1, number_bytes=number_bytes).value)
    return None if s.window is not None and tokens >= s.window else max(0, tokens)
