"""Seconds of one optimizer step, and which part of the cluster it waits for.

    print(step_time(job).explain())
    print(step_time(calibrated(job, [9.8, 10.1, 9.9])).explain())      # from three measured steps

Compute at the share of the peak that published steps reached, or that was measured; what tensor parallelism
and the pipeline add; of the data-parallel traffic what computation cannot hide; the loader, if it is slower
than all of that. Left out: stage-to-stage transfers, stragglers, the optimizer's own sweep over memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from llmkit.cost.activations import scaled
from llmkit.cost.flops import training_flops
from llmkit.cost.job import Job, job_of
from llmkit.cost.params import parameters
from llmkit.cost.prior import step_utilisation
from llmkit.cost.quantity import Quantity, total
from llmkit.errors import ConfigError

RING = "ring: 2 (n-1)/n V / bandwidth for an all-reduce, half of it for one way; NCCL reaches 0.8 of the link"
NCCL = 0.8  # stas00/ml-engineering network benchmarks: 78 % of the one-way link on A100, 82 % on H200
LATENCY_S = 10e-6  # of one hop of a ring; assumption, 3 to 30
TRAINERS = (0.8, 1.15)
"""Other trainers than the step table's: what widens its interval. The check measures what that covers."""
PIPELINE = "Narayanan et al. 2021 (arXiv 2104.04473), section 2.2: (p - 1) / (v m)"


def step_time(job: Job) -> Quantity:
    """Seconds of a step.

    Returns:
        A Quantity in s with the terms `compute`, `tensor parallel`, `pipeline bubble`, `data parallel` (what
        is not hidden) and `loader` (the wait for it); its interval is that of the efficiency.
    """
    flops = hardware_flops(job)
    reached = efficiency(job)
    formula = f"{flops:.3g} FLOP / ({job.gpus:,} GPUs x peak x {float(reached):.3f})"
    ideal = flops / (job.gpus * job.hardware.peak(job.precision))
    compute = Quantity(
        name="compute", value=ideal / float(reached), unit="s", formula=formula, terms=(reached,)
    )
    compute = compute.between(ideal / reached.interval[1], ideal / reached.interval[0])
    waits = tensor_parallel(job)
    busy = float(compute) + waits
    share = (job.pp - 1) / (job.interleave * job.micro_batches)
    traffic = data_parallel(job)
    open_traffic = traffic - min(job.overlap * traffic, busy)
    trained = busy * (1 + share) + open_traffic
    loader = max(0.0, job.step_tokens / job.loader_tokens_per_s - trained)
    bubble = f"({job.pp} - 1) / ({job.interleave} x {job.micro_batches} micro-batches) of the above"
    return total("step", "s", (
        compute,
        _s("tensor parallel", waits, "4 to 6 all-reduces a layer and micro-batch, in the open", RING),
        _s("pipeline bubble", busy * share, bubble, PIPELINE),
        _s("data parallel", open_traffic, f"{traffic:.3g} s, {job.overlap:.0%} of it hidden at best", RING),
        _s("loader", loader, "tokens of a step / its rate, less all of the above"),
    ))  # fmt: skip


def hardware_flops(job: Job) -> float:
    """FLOPs of one step as the machine does them, recomputation included."""
    return job.step_tokens * float(training_flops(job.model, recompute=job.recompute == "full"))


def model_flops(job: Job) -> float:
    """FLOPs of one step that the model needs: what MFU counts; attention not causal."""
    return job.step_tokens * float(training_flops(job.model, recompute=False))


def efficiency(job: Job) -> Quantity:
    """Share of the dense peak while computing (HFU): measured, or that of published steps of this size."""
    if job.efficiency is None:
        active = float(parameters(job.model, active=True))
        found = step_utilisation(job.gpu, active, "hfu", job.policy)
        found = in_fp8(job, found) if job.precision == "fp8" else found
        found = found.between(found.interval[0] * TRAINERS[0], min(1.0, found.interval[1] * TRAINERS[1]))
        return scaled(found, job.mixture_share, "x share of a mixture") if job.model.experts else found
    measured = Quantity(name="HFU while computing", value=job.efficiency, unit="", source="measured")
    off = job.efficiency * job.efficiency_spread
    return measured.between(job.efficiency - off, min(1.0, job.efficiency + off))


def in_fp8(job: Job, half: Quantity) -> Quantity:
    """Share of the fp8 peak of a job that reaches the share `half` of the 16-bit peak in 16 bits.

    Only the products of the blocks' matrices are faster, by what products were measured to reach, or else by
    the ratio of the peaks; attention and the head stay in 16 bits (Micikevicius et al. 2022, arXiv
    2209.05433), and nothing is taken for the casts.
    """
    hw, forward = job.hardware, training_flops(job.model)["forward"]
    peaks = hw.peak() / hw.peak("fp8")
    took = hw.matmul_tflops / hw.fp8_matmul_tflops if hw.matmul_tflops and hw.fp8_matmul_tflops else peaks
    share = float(forward["blocks"]) / float(forward)
    formula = f"x {peaks:.2f} of the peak / (1 - {1 - took:.2f} x {share:.2f} of the FLOPs)"
    return scaled(half, peaks / (1 - (1 - took) * share), formula)


def tensor_parallel(job: Job) -> float:
    """Seconds of all-reduces inside tensor-parallel groups: two forward, two backward, two more when the
    layer is computed again. Sequence parallelism moves as much in two halves."""
    s = job.model
    volume = 2 * s.context * job.micro_batch * s.width * (6 if job.recompute == "full" else 4)
    link = (
        job.hardware.intra_gbs if job.tp <= job.gpus_per_node else job.hardware.node_gbs / job.gpus_per_node
    )
    each = 2 * (job.tp - 1) / job.tp * volume / (NCCL * link * 1e9)
    return each * s.layers / job.pp * job.micro_batches


def data_parallel(job: Job) -> float:
    """Seconds of gradients and weights between data-parallel ranks, nothing of it hidden.

    A ring through whole nodes has their full network; tensor-parallel neighbours share it, with a part of the
    model each. ZeRO 3 gathers weights for forward and backward of every micro-batch.
    """
    n, held = job.ranks, float(parameters(job.model)) / (job.tp * job.pp)
    if n == 1:
        return 0.0
    hw, inside = job.hardware, job.gpus <= job.gpus_per_node
    link = hw.intra_gbs if inside else hw.node_gbs / min(job.tp, job.gpus_per_node)
    if job.zero < 3:
        volume, ways = held * (2 * job.gradient_bytes if job.zero == 0 else job.gradient_bytes + 2), 2
    else:
        volume = held * (4 + job.gradient_bytes) * job.micro_batches
        ways = 3 * job.messages * job.model.layers / job.pp * job.micro_batches
    return (n - 1) / n * volume / (NCCL * link * 1e9) + ways * (n - 1) * LATENCY_S


def mfu(job: Job, step_s: float) -> Quantity:
    """Model FLOPs of a step over what the peak could do meanwhile.

    Raises:
        ConfigError: above 1, which no machine reaches.
    """
    share = model_flops(job) / (step_s * job.gpus * job.hardware.peak(job.precision))
    if share > 1:
        raise ConfigError(
            f"{step_s:.3g} s a step would be {share:.0%} of the peak of {job.gpus} {job.gpu}",
            expected="an MFU below 100 %, usually 20 to 60 %",
            remedy="check seconds, GPUs, batch and the peak (dense, of this machine and precision)",
        )
    return Quantity(name="MFU", value=share, unit="", formula="model FLOPs / (s x GPUs x dense peak)",
                    source="attention not causal, head counted, recomputation not")  # fmt: skip


def calibrated(job: Job, measured_s: Sequence[float]) -> Job:
    """The same job with the efficiency that makes its step time the mean of measured steps.

    The interval is twice the relative spread of the steps, at least 2 %: what three steps can say.

    Raises:
        ConfigError: no step, one that took no time, or one faster than the peak or than the network allows.
    """
    if not measured_s or not all(0 < seconds < math.inf for seconds in measured_s):
        raise ConfigError(f"measured steps are {list(measured_s)}", expected="seconds, each above 0")
    mean = fmean(measured_s)
    mfu(job, mean)
    low, high = 1e-6, 1.0
    if float(step_time(job_of(job, efficiency=high))) > mean:
        raise ConfigError(
            f"{mean:.3g} s a step leaves no time for the network or the loader of this plan",
            remedy="check overlap, zero, tp and loader_tokens_per_s",
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if float(step_time(job_of(job, efficiency=middle))) > mean else (low, middle)
        )
    spread = max(0.02, 2 * (max(measured_s) - min(measured_s)) / mean)
    return job_of(job, efficiency=high, efficiency_spread=min(spread, 0.9))


def bottleneck(step: Quantity) -> str:
    """The part of a step that takes longest; `compute` is the one that one pays for."""
    return max(step.terms, key=float).name


def _s(name: str, value: float, formula: str, source: str = "") -> Quantity:
    return Quantity(name=name, value=value, unit="s", formula=formula, source=source)
