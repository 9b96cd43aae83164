"""The calculator: parameters, FLOPs, memory, time and money, each number with its working. No torch here.

from llmkit.cost import estimate, job_of, parameters
print(parameters(laptop().model).explain())
job = job_of({"model": "gpt3-2.7b", "tokens": "60B", "gpus": 32, "gpu": "A100-SXM-80", "batch": 512})
for number in estimate(job).quantities: print(number.explain())

How close it comes to what was published: docs/cost-check.md.
"""

from llmkit.cost.activations import activations, logits, stage_activations
from llmkit.cost.decide import Limits, as_text, compare, estimate
from llmkit.cost.decode import decode_latency, prefill_latency
from llmkit.cost.flops import forward_flops, training_flops
from llmkit.cost.incident import (
    Hardware,
    data_incident,
    gpu,
    hardware,
    incident,
    lost_to_rescues,
    reference_incident,
)
from llmkit.cost.job import Job, job_of, published_shapes, shape_named
from llmkit.cost.memory import fits, kv_cache, serving_memory, training_memory
from llmkit.cost.params import Shape, parameters, shape_of
from llmkit.cost.plausible import flags
from llmkit.cost.quantity import Quantity
from llmkit.cost.run import checkpoint_interval, days, goodput, gpu_hours, run_cost
from llmkit.cost.scaling import batch_tradeoff, compute_optimal, expected_loss
from llmkit.cost.step import bottleneck, calibrated, mfu, step_time

__all__ = [
    "Hardware",
    "Job",
    "Limits",
    "Quantity",
    "Shape",
    "activations",
    "as_text",
    "batch_tradeoff",
    "bottleneck",
    "calibrated",
    "checkpoint_interval",
    "compare",
    "compute_optimal",
    "data_incident",
    "days",
    "decode_latency",
    "estimate",
    "expected_loss",
    "fits",
    "flags",
    "forward_flops",
    "goodput",
    "gpu",
    "gpu_hours",
    "hardware",
    "incident",
    "job_of",
    "kv_cache",
    "logits",
    "lost_to_rescues",
    "mfu",
    "parameters",
    "prefill_latency",
    "published_shapes",
    "reference_incident",
    "run_cost",
    "serving_memory",
    "shape_named",
    "shape_of",
    "stage_activations",
    "step_time",
    "training_flops",
    "training_memory",
]
