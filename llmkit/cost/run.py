"""GPU-hours, days and dollars of a whole run, failures and checkpoints included.

    print(run_cost(job).explain())

Without a measured step the utilisation of a whole run is that of published ones (`prior`), stretched by what
this plan waits for; with one (`calibrated`), the step's own, divided by goodput.
"""

from __future__ import annotations

import math

from llmkit.cost.activations import scaled
from llmkit.cost.job import Job
from llmkit.cost.params import parameters
from llmkit.cost.prior import run_utilisation
from llmkit.cost.quantity import Quantity
from llmkit.cost.step import model_flops, step_time

YOUNG = "Young 1974, A first order approximation to the optimum checkpoint interval"
USUAL_WAITS = 1.1  # step over its compute in published runs; assumption: 1.0 to 1.3 where the plan is known
GIGABYTE_PER_NODE_S = 1.0  # written to storage; assumption: BLOOM's 2.3 TB from 48 nodes took 40 s (1.2)


def gpu_hours(job: Job) -> Quantity:
    """GPU-hours of the run with an 80 % interval."""
    step = step_time(job)
    if job.efficiency is not None:
        up, hours = goodput(job), job.steps * job.gpus / 3600
        found = Quantity(
            name="GPU-hours", value=hours * float(step) / float(up), unit="GPU-hours", terms=(step, up),
            formula=f"{job.steps:,.0f} steps x step x {job.gpus:,} GPUs / 3600 / goodput",
        )  # fmt: skip
        return found.between(hours * step.interval[0], hours * step.interval[1] / up.interval[0])
    reached = run_utilisation(job.gpu, float(parameters(job.model, active=True)), recompute=job.policy)
    if job.model.experts:
        reached = scaled(reached, job.mixture_share, "x share of a mixture")
    stretch = float(step) / float(step["compute"]) / USUAL_WAITS
    formula = f"step / its compute, / {USUAL_WAITS} that the published runs waited too"
    waits = Quantity(name="waits", value=stretch, unit="", formula=formula, terms=(step,))
    ideal = job.steps * model_flops(job) / job.hardware.peak() / 3600 * stretch
    found = Quantity(
        name="GPU-hours", value=ideal / float(reached), unit="GPU-hours", terms=(reached, waits),
        formula="model FLOPs / (dense 16-bit peak x MFU of a run) x waits",
    )  # fmt: skip
    return found.between(ideal / reached.interval[1], ideal / reached.interval[0])


def price(job: Job) -> Quantity:
    if job.dollars_per_gpu_hour is None:
        return job.hardware.price()
    return Quantity(name="price", value=job.dollars_per_gpu_hour, unit="$/GPU-hour", source="given")


def run_cost(job: Job) -> Quantity:
    """Dollars of compute. Storage, egress, failed experiments and people are not in it.

    The interval multiplies that of the hours and that of the price.
    """
    hours, each = gpu_hours(job), price(job)
    cost = Quantity(
        name="cost",
        value=float(hours) * float(each),
        unit="$",
        formula="GPU-hours x price",
        terms=(hours, each),
    )
    return cost.between(*(h * p for h, p in zip(hours.interval, each.interval, strict=True)))


def days(job: Job) -> Quantity:
    """Wall-clock days."""
    hours = gpu_hours(job)
    formula = f"GPU-hours / {job.gpus:,} GPUs / 24"
    found = Quantity(
        name="days", value=float(hours) / job.gpus / 24, unit="days", formula=formula, terms=(hours,)
    )
    return found.between(*(h / job.gpus / 24 for h in hours.interval))


def checkpoint_interval(job: Job) -> Quantity:
    """Seconds between checkpoints that lose least, to saving and to work done twice."""
    between = Quantity(
        name="between failures", value=3600 * job.gpu_hours_per_failure / job.gpus, unit="s",
        formula=f"{job.gpu_hours_per_failure:,.0f} GPU-hours / {job.gpus:,} GPUs",
    )  # fmt: skip
    save = Quantity(
        name="save", value=_save_s(job), unit="s", formula="given, or 14 B x parameters / nodes x 1 GB/s"
    )
    best = math.sqrt(2 * float(save) * float(between))
    formula = "sqrt(2 x save x between failures)"
    return Quantity(
        name="checkpoint interval", value=best, unit="s", formula=formula, source=YOUNG, terms=(save, between)
    )


def goodput(job: Job) -> Quantity:
    """Share of the time in which the run gets further, at the best checkpoint interval.

    The interval: failures three times as often (OPT: 15,900 GPU-hours each) and none.
    """
    every = checkpoint_interval(job)

    def share(failure_s: float) -> float:
        best = math.sqrt(2 * float(every["save"]) * failure_s)
        return 1 / (1 + float(every["save"]) / best + (best / 2 + job.restart_s) / failure_s)

    found = Quantity(
        name="goodput", value=share(float(every["between failures"])), unit="", terms=(every,),
        formula="1 / (1 + save / interval + (interval / 2 + restart) / between failures)",
    )  # fmt: skip
    return found.between(share(float(every["between failures"]) / 3), 1.0)


def _save_s(job: Job) -> float:
    if job.save_s is not None:
        return job.save_s
    return 14 * float(parameters(job.model)) / (job.nodes * GIGABYTE_PER_NODE_S * 1e9)
