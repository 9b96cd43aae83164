"""What runs like this one have reached: utilisation as published, with the interval that their spread gives.

    print(step_utilisation("H100-SXM", 7e9).explain())       # a step, from a published benchmark
    print(run_utilisation("H100-SXM", 7e9).explain())        # a whole run, stops and all

A step's figure comes from `published/steps` (one trainer, three machines, 8 to 512 GPUs). A run reaches
less: restarts, evaluations, slower networks, a poorer trainer. The ratio of the two is taken from the full
runs that published their GPU-hours, every family of models counting once; the check leaves out the family
that it asks about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from functools import cache
from statistics import median
from typing import Any

from llmkit.cost.flops import training_flops
from llmkit.cost.incident import gpu
from llmkit.cost.params import shape_of
from llmkit.cost.quantity import Quantity
from llmkit.cost.tables import quantile, table
from llmkit.errors import ConfigError

WITHIN = 3.0  # rows of models up to this many times larger or smaller are like this one
SHARES = (0.1, 0.5, 0.9)  # of the 80 % interval and its middle
NOT_RUNS = ("llmc-gpt3-125m",)  # its own numbers contradict each other: 105 % MFU


@cache
def step_utilisation(machine: str, active: float, column: str = "mfu", recompute: str = "") -> Quantity:
    """Share of the dense 16-bit peak that a training step of this size reaches on such a machine.

    Args:
        machine: a name of `hardware()`; rows are of Ampere and Hopper, others take all rows.
        active: parameters a token passes.
        column: `mfu` or `hfu`.
        recompute: rows with this policy (`full` or `none`) if there are any of that size; empty: all.

    Returns:
        The median of the rows within a factor of three in size (the nearest, if there are none), with the
        spread of the machine's rows around it, 10 % to 90 %.
    """
    rows = [r for r in table("published/steps") if r["precision"] != "fp8"]
    rows = [r for r in rows if _generation(r["gpu"]) == _generation(machine)] or rows
    far = [(abs(math.log(r["params"] / active)), r) for r in rows]
    near = [r for d, r in far if d <= math.log(WITHIN) and recompute in ("", r["recompute"])]
    nearest = max(math.log(WITHIN), min(distance for distance, _ in far) + 1e-9)
    near = near or [r for distance, r in far if distance <= nearest]
    middle = median(r[column] for r in near) / 100
    low, all_rows, high = (quantile([r[column] for r in rows], share) for share in SHARES)
    says = f"median of {len(near)} near {active:.3g} parameters, of {len(rows)} {_generation(machine)} rows"
    name, source = f"{column.upper()} of a step", rows[0]["source"]
    found = Quantity(name=name, value=middle, unit="", formula=says, source=source)
    return found.between(middle * low / all_rows, min(1.0, middle * high / all_rows))


@cache
def run_utilisation(
    machine: str, active: float, without: Collection[str] = (), recompute: str = ""
) -> Quantity:
    """Share of the dense 16-bit peak that a whole run reaches, from its GPU-hours: nothing of it measured.

    Args:
        machine, active, recompute: as for `step_utilisation`.
        without: families of models whose runs are left out.
    """
    ratios = [(r["family"], ratio) for r, ratio in run_ratios() if r["family"] not in without]
    size = Counter(family for family, _ in ratios)
    weights = [1 / size[family] for family, _ in ratios]
    low, middle, high = (quantile([ratio for _, ratio in ratios], share, weights) for share in SHARES)
    step = step_utilisation(machine, active, recompute=recompute)
    found = Quantity(
        name="MFU of a run", value=middle * step.value, unit="", terms=(step,),
        formula=f"{middle:.2f} x MFU of a step: median of {len(ratios)} runs, {len(size)} families",
        source="published/runs: GPU-hours of full runs",
    )  # fmt: skip
    return found.between(low * step.value, min(1.0, high * step.value))


@cache
def run_ratios() -> tuple[tuple[dict[str, Any], float], ...]:
    """(row, MFU over the run / MFU of a step like it) of every full run that published its GPU-hours."""
    rows = [r for r in table("published/runs") if r["kind"] == "full_run" and r["id"] not in NOT_RUNS]
    rows = [r for r in rows if {"parameters", "tokens", "hours"} <= set(r)]
    return tuple((r, run_mfu(r) / float(step_utilisation(r["gpu"], active_of(r)))) for r in rows)


def run_mfu(row: dict[str, Any]) -> float:
    """MFU of a published run from its GPU-hours; attention counted, not causal, where its shape is known."""
    return run_flops(row) / (row["hours"] * 3600 * gpu(row["gpu"]).peak())


def run_flops(row: dict[str, Any]) -> float:
    try:
        scores = 3 * float(training_flops(shape_of(row))["forward"]["attention scores"].value)
    except ConfigError:
        scores = 0.0
    return (6 * active_of(row) + scores) * row["tokens"]


def active_of(row: dict[str, Any]) -> float:
    return float(row.get("active", row["parameters"]))


def _generation(machine: str) -> str:
    """Ampere and Hopper are those that the step table has; nothing tells the others apart."""
    return {"A": "Ampere", "H": "Hopper"}.get(machine[0], "known")
