"""The way of a token through a run: what stands where, with bytes, FLOPs, seconds and GB at each station.

for station in stations(job): print(station.title, station.lines, station.passes)
"""

from __future__ import annotations

from dataclasses import dataclass

from llmkit.cost.job import Job
from llmkit.cost.memory import stage_parameters, states, training_memory
from llmkit.cost.params import parameters
from llmkit.cost.quantity import Quantity, amount
from llmkit.cost.run import checkpoint_interval, days, gpu_hours, run_cost
from llmkit.cost.step import data_parallel, hardware_flops, mfu, step_time

KEPT = 3  # checkpoints in rotation
SMALL_VOCABULARY = 2**16  # ids of two bytes


@dataclass(frozen=True, kw_only=True)
class Station:
    """A box of the drawing, and what the arrow that leaves it carries."""

    title: str
    lines: tuple[str, ...]
    passes: str = ""


def stations(job: Job) -> tuple[Station, ...]:
    """Shards to checkpoint rotation, in the order in which a token passes."""
    s, step = job.model, step_time(job)
    token_bytes = 2 if s.vocab_size <= SMALL_VOCABULARY else 4
    rate = job.step_tokens / float(step)
    held = max(stage_parameters(job))
    weights, gradients, optimizer = map(float, states(job, held))
    fullest = float(max(training_memory(job), key=float))
    saved, every = 14.0 * float(parameters(s)), checkpoint_interval(job)
    sweep = (weights + gradients + 2 * optimizer) / (
        job.hardware.hbm_gbs * 1e9
    )  # moments are read and written
    kind = "all-reduce" if job.zero == 0 else "scatter, gather"
    compute, traffic, in_the_open = float(step["compute"]), data_parallel(job), float(step["data parallel"])
    way = (
        ("shards", f"{amount(float(job.tokens))} tokens", _b(job.tokens * token_bytes),
         f"{_b(rate * token_bytes)}/s"),
        ("loader", f"{amount(rate)} tokens/s", f"{job.ranks} ranks, shuffled",
         f"{job.batch:,} x {s.context:,}"),
        ("micro-batches", f"{job.micro_batches} x {job.micro_batch} sequences a rank",
         f"{job.pp} stages, {job.tp} tensor-parallel", f"{_b(2.0 * job.micro_batch * s.context * s.width)}"),
        ("forward, backward", f"{amount(hardware_flops(job))} FLOP a step",
         f"{compute:.3g} s, {_b(fullest)} a GPU", f"{_b(held * job.gradient_bytes)} each"),
        ("accumulation", f"{job.micro_batches} micro-batches", f"{_b(gradients)} kept",
         f"{_b(held * job.gradient_bytes)}"),
        (kind, f"{job.ranks} ranks {'in' if job.nodes == 1 else 'between'} nodes",
         f"{traffic:.2g} s, {in_the_open:.2g} s in the open", f"{_b(gradients)} a GPU"),
        ("optimizer", f"AdamW, fp32: {_b(optimizer)} a GPU", f"{sweep:.2g} s of memory traffic", _b(saved)),
        ("checkpoints", f"{KEPT} kept: {_b(KEPT * saved)}",
         f"every {float(every) / 60:.0f} min, {float(every['save']):.2g} s each", ""),
    )  # fmt: skip
    return tuple(Station(title=name, lines=(one, two), passes=passes) for name, one, two, passes in way)


def headline(job: Job) -> tuple[str, str]:
    """(what it is, what it takes) for the top and the foot of the drawing."""
    step, cost = step_time(job), run_cost(job)
    cluster = f"{job.nodes} x {min(job.gpus, job.gpus_per_node)} {job.gpu}"
    plan = f"data x tensor x pipeline {job.ranks} x {job.tp} x {job.pp}"
    what = f"{job.name}: {amount(float(parameters(job.model)))} parameters, {cluster}, {plan}"
    takes = (
        f"step {_range(step)}, MFU {float(mfu(job, float(step))):.0%}; {job.steps:,.0f} steps; "
        f"{_range(gpu_hours(job))}; {_range(days(job))}; {_range(cost)}"
    )
    return what, takes


def _range(q: Quantity) -> str:
    return f"{q} ({amount(q.interval[0])} to {amount(q.interval[1])})"


def _b(value: float) -> str:
    return str(Quantity(name="", value=float(value), unit="B"))
