"""What an incident costs: steps done twice, time at a stand-still, and the price of both, with the working
shown.

    print(incident(lost_steps=12, step_s=0.31, restart_s=4.0).explain())
    print(incident(lost_steps=100, step_s=10, restart_s=900, gpus=1024, dollars_per_gpu_hour=2.95))

A price is an input with a date, never a constant: pages about the same machine differ by a factor of three.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from llmkit.cost.quantity import Quantity, total
from llmkit.errors import ConfigError, closest
from llmkit.records import Event, StepTimes

REFERENCE_GPUS, REFERENCE_STEP_S, REFERENCE_RESTART_S = 1024, 10.0, 900.0  # a job to compare with


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One accelerator. The peak is dense, without sparsity; prices are on-demand cloud prices, dated."""

    gpu: str
    bf16_dense_tflops: float
    memory_gb: float
    dollars_low: float  # per GPU-hour
    dollars_typical: float
    dollars_high: float
    price_date: str  # year and month
    price_source: str
    spec_source: str

    def price(self) -> Quantity:
        """Typical dollars of a GPU-hour, with its source."""
        source = f"{self.price_source} ({self.price_date}); {self.dollars_low:g} to {self.dollars_high:g}"
        name = f"price of one {self.gpu}"
        return Quantity(name=name, value=self.dollars_typical, unit="$/GPU-hour", source=source)


@cache
def hardware() -> dict[str, Hardware]:
    """Every accelerator with a price, by name."""
    text = resources.files("llmkit.cost").joinpath("hardware.csv").read_text(encoding="utf-8")
    words = ("gpu", "price_date", "price_source", "spec_source")
    rows = csv.DictReader(text.splitlines())
    typed = [{k: v if k in words else float(v) for k, v in row.items()} for row in rows]
    return {row["gpu"]: Hardware(**row) for row in typed}


def gpu(name: str) -> Hardware:
    """One accelerator. Raises ConfigError on an unknown name."""
    if name not in hardware():
        raise ConfigError(f"unknown accelerator `{name}`", remedy=closest(name, hardware()))
    return hardware()[name]


def incident(
    *,
    lost_steps: int,
    step_s: float,
    restart_s: float = 0.0,
    gpus: int = 1,
    dollars_per_gpu_hour: float | Quantity = 0.0,
) -> Quantity:
    """The price of doing steps again and of standing still meanwhile.

    Args:
        lost_steps: optimizer steps done in vain and done again, or skipped.
        step_s: seconds of one step.
        restart_s: seconds without training: noticing, loading, starting.
        gpus: how many wait.
        dollars_per_gpu_hour: a price, or `gpu("H100-SXM").price()`.

    Returns:
        Dollars, with the terms `GPU-hours lost` (of `time lost`) and the price.

    Raises:
        ConfigError: a negative number.
    """
    for name, value in (
        ("lost_steps", lost_steps),
        ("step_s", step_s),
        ("restart_s", restart_s),
        ("gpus", gpus),
    ):
        if value < 0:
            raise ConfigError(f"{name} is {value}", expected=f"{name} >= 0")
    again = Quantity(
        name="steps again",
        value=lost_steps * step_s,
        unit="s",
        formula=f"{lost_steps:,} steps x {step_s:.3g} s",
    )
    still = Quantity(name="stand-still", value=float(restart_s), unit="s")
    lost = total("time lost", "s", (again, still))
    hours = Quantity(
        name="GPU-hours lost", value=lost.value * gpus / 3600, unit="GPU-hours",
        formula=f"time lost x {gpus:,} {'GPU' if gpus == 1 else 'GPUs'} / 3600", terms=(lost,),
    )  # fmt: skip
    price = dollars_per_gpu_hour
    if not isinstance(price, Quantity):
        price = Quantity(name="price", value=float(price), unit="$/GPU-hour", source="given")
    formula = f"GPU-hours lost x {price.name}"
    return Quantity(
        name="incident", value=hours.value * price.value, unit="$", formula=formula, terms=(hours, price)
    )


def reference_incident(lost_steps: int, gpu_name: str = "H100-SXM") -> Quantity:
    """The same number of steps lost by a job of 1,024 GPUs at 10 s a step, with a restart of 15 minutes."""
    return incident(
        lost_steps=lost_steps, step_s=REFERENCE_STEP_S, restart_s=REFERENCE_RESTART_S, gpus=REFERENCE_GPUS,
        dollars_per_gpu_hour=gpu(gpu_name).price(),
    )  # fmt: skip


def lost_to_rescues(rescues: Sequence[Event], times: Sequence[StepTimes]) -> Quantity:
    """Seconds that this run lost to its rescues: steps done again at its median step time, and the rescues
    themselves.

    Args:
        rescues: events of kind `rescue`; `data` has `lost_steps` and `seconds`.
        times: times.jsonl of the run.
    """
    totals = sorted(t.total_s for t in times if t.total_s > 0)
    step_s = totals[len(totals) // 2] if totals else 0.0
    steps = sum(int(event.data.get("lost_steps") or 0) for event in rescues)
    still = sum(float(event.data.get("seconds") or 0.0) for event in rescues)
    return incident(lost_steps=steps, step_s=step_s, restart_s=still)["GPU-hours lost"]["time lost"]
