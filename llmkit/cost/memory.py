"""Bytes on a GPU: states, activations, logits and what no formula has; in training and while serving.

for stage in training_memory(job): print(stage.explain())
print(kv_cache(model, batch=8, context=4096).explain())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit.cost.activations import logits, scaled, stage_activations, stage_layers
from llmkit.cost.job import Job
from llmkit.cost.params import parameters, shape_of
from llmkit.cost.quantity import Quantity, total

ZERO = "Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3"
UNSEEN = "assumption: CUDA context, cuBLAS and NCCL; EleutherAI/cookbook admits about 5 GiB"
FRAGMENTATION = "assumption: of all else, 0 to 10 %"
SERVING = "Pope et al. 2022 (arXiv 2211.05102), section 2"


def training_memory(job: Job) -> list[Quantity]:
    """Peak bytes on one GPU of every pipeline stage.

    The peak is taken as if states, activations and logits met. They do when backward begins, if gradients
    outlive a micro-batch: under accumulation, or in a trainer's own buffers. A step of one micro-batch whose
    gradients are freed before it needs a tenth to a fifth less; `llmkit.memory.rehearse` counts it. Experts
    are sharded like every other weight; expert parallelism is not modelled.

    Returns:
        One Quantity per stage with the terms `weights`, `gradients`, `optimizer`, `activations`, `logits`,
        `buffers`, `fragmentation`.
    """
    s, stages = job.model, []
    kept = stage_activations(
        s, pp=job.pp, micro_batches=job.micro_batches, interleave=job.interleave, batch=job.micro_batch,
        tp=job.tp, sequence_parallel=job.sequence_parallel, recompute=job.recompute, flash=job.flash,
        dropout=job.dropout,
    )  # fmt: skip
    for stage, held in enumerate(stage_parameters(job)):
        terms = [*states(job, held), kept[stage]]
        if stage == job.pp - 1:
            terms.append(logits(s, batch=job.micro_batch, tp=job.tp))
        buffers = Quantity(name="buffers", value=2.0 * 2**30, unit="B", source=UNSEEN)
        terms.append(buffers.between(1 * 2**30, 5 * 2**30))
        lost = sum(float(t) for t in terms)
        gaps = Quantity(
            name="fragmentation", value=0.03 * lost, unit="B", formula="3 %", source=FRAGMENTATION
        )
        terms.append(gaps.between(0, 0.1 * lost))
        stages.append(total(f"memory of stage {stage}", "B", tuple(terms)))
    return stages


def states(job: Job, held: float) -> tuple[Quantity, Quantity, Quantity]:
    """Weights, gradients and optimizer (fp32 master, two moments) of `held` parameters on one GPU."""
    n, layer = job.ranks, held / max(1, job.model.layers // job.pp)
    gathered = (
        2 * layer * 2 * (1 - 1 / n) if job.zero == 3 else 0
    )  # this layer and the next, in half precision
    return (
        _state("weights", 2 * held / (n if job.zero == 3 else 1) + gathered, "2 B", job.zero == 3, n),
        _state("gradients", job.gradient_bytes * held / (n if job.zero >= 2 else 1),
               f"{job.gradient_bytes} B", job.zero >= 2, n),
        _state("optimizer", 12 * held / (n if job.zero >= 1 else 1), "12 B", job.zero >= 1, n),
    )  # fmt: skip


def stage_parameters(job: Job) -> list[float]:
    """Parameters on one GPU of every stage: its layers, the embedding on the first, the head on the last."""
    count, s = parameters(job.model), job.model
    table = float(count["embedding"]) + float(count["positions"])
    blocks = float(count) - table - float(count["head"])
    held = [blocks * layers / s.layers for layers in stage_layers(s.layers, job.pp)]
    held[0] += table
    if job.pp > 1 or not s.tied:
        held[-1] += s.vocab_size * s.width  # a tied head has its own copy where the embedding is elsewhere
    return [each / job.tp for each in held]


def kv_cache(
    model: Mapping[str, Any] | object, *, batch: int, context: int, number_bytes: int = 2
) -> Quantity:
    """Bytes of keys and values of `batch` sequences of `context` tokens, on all GPUs together.

    Query heads do not matter, their groups do; a latent cache (MLA) gives its numbers as `kv_numbers`.
    """
    s = shape_of(model)
    each = s.kv_numbers or 2 * s.kv_heads * s.head_dim
    per_token = Quantity(
        name="a token", value=s.layers * each * number_bytes, unit="B",
        formula=f"{'latent numbers' if s.kv_numbers else '2 K D'} x layers x {number_bytes} B",
    )  # fmt: skip
    return scaled(per_token, batch * context, f"{batch} sequences x {context} tokens", "KV cache")


def serving_memory(
    model: Mapping[str, Any] | object, *, batch: int, context: int, tp: int = 1, weight_bytes: float = 2
) -> Quantity:
    """Bytes on one of `tp` GPUs that serve a model: all experts' weights, the KV cache, buffers."""
    weights = Quantity(
        name="weights", value=float(parameters(model)) * weight_bytes / tp, unit="B",
        formula=f"parameters x {weight_bytes:g} B / {tp}",
    )  # fmt: skip
    cache = scaled(kv_cache(model, batch=batch, context=context), 1 / tp, f"/ {tp}", "KV cache")
    buffers = Quantity(name="buffers", value=2.0 * 2**30, unit="B", source=UNSEEN).between(2**30, 5 * 2**30)
    return total("memory of a serving GPU", "B", (weights, cache, buffers), source=SERVING)


def fits(memory: Quantity, gigabytes: float) -> str:
    """`yes`, `no`, or `maybe` where the interval lies on both sides of a capacity of 10^9 bytes each."""
    low, high = memory.interval
    return "yes" if high <= gigabytes * 1e9 else "no" if low > gigabytes * 1e9 else "maybe"


def _state(name: str, value: float, bytes_each: str, sharded: bool, ranks: int) -> Quantity:
    formula = f"{bytes_each} x parameters of the stage" + (
        f" / {ranks} ranks" if sharded and ranks > 1 else ""
    )
    return Quantity(name=name, value=value, unit="B", formula=formula, source=ZERO)
