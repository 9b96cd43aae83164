"""What an incident costs: steps done twice, time at a stand-still, training on bad data, and the price of
each, with the working shown.

    print(incident(lost_steps=12, step_s=0.31, restart_s=4.0).explain())
    print(incident(lost_steps=100, step_s=10, restart_s=900, gpus=1024, dollars_per_gpu_hour=2.95))
    print(data_incident(delay_s=259_200, tokens_per_s=4e6, gpus=1024, dollars_per_gpu_hour=2.95, chance=0.2))

A price is an input with a date, never a constant: pages about the same machine differ by a factor of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache

from llmkit.cost.quantity import Quantity, total
from llmkit.cost.tables import table
from llmkit.errors import ConfigError, closest
from llmkit.records import Event, StepTimes

REFERENCE_GPUS, REFERENCE_STEP_S, REFERENCE_RESTART_S = 1024, 10.0, 900.0  # a job to compare with


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One accelerator. The peak is dense, without sparsity; prices are on-demand cloud prices, dated."""

    gpu: str
    bf16_dense_tflops: float
    fp8_dense_tflops: float  # 0: has no fp8
    matmul_tflops: float  # the most that a bf16 product was measured to reach; 0: not measured
    fp8_matmul_tflops: float  # the same in fp8
    memory_gb: float
    hbm_gbs: float
    intra_gbs: float  # GB/s in one direction between GPUs of a node
    node_gbs: float  # GB/s in one direction that a node has for the others, as usually bought
    dollars_low: float  # per GPU-hour
    dollars_typical: float
    dollars_high: float
    price_date: str  # year, and month where it is known
    price_source: str
    spec_source: str

    def price(self, today: date | None = None) -> Quantity:
        """Typical dollars of a GPU-hour, its range, and its source, which says if it is older than a year."""
        today = today or date.today()
        year, month = (int(part) for part in f"{self.price_date}-01".split("-")[:2])
        old = ", older than a year" if (today.year - year) * 12 + today.month - month > 12 else ""
        source = f"{self.price_source} ({self.price_date}{old})"
        name = f"price of one {self.gpu}"
        price = Quantity(name=name, value=self.dollars_typical, unit="$/GPU-hour", source=source)
        return price.between(self.dollars_low, self.dollars_high)

    def peak(self, precision: str = "bf16") -> float:
        """Dense FLOP/s in fp8, else in 16 bits. Raises ConfigError where the machine has no fp8."""
        if precision == "fp8" and not self.fp8_dense_tflops:
            raise ConfigError(f"`{self.gpu}` has no fp8", remedy="set precision to bf16")
        return 1e12 * (self.fp8_dense_tflops if precision == "fp8" else self.bf16_dense_tflops)


@cache
def hardware() -> dict[str, Hardware]:
    """Every accelerator with a price, by name."""
    return {row["gpu"]: Hardware(**row | {"price_date": str(row["price_date"])}) for row in table("hardware")}


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
    _not_negative(lost_steps=lost_steps, step_s=step_s, restart_s=restart_s, gpus=gpus)
    formula = f"{lost_steps:,} steps x {step_s:.3g} s"
    again = Quantity(name="steps again", value=lost_steps * step_s, unit="s", formula=formula)
    still = Quantity(name="stand-still", value=float(restart_s), unit="s")
    return _priced("incident", (again, still), gpus, dollars_per_gpu_hour)


def data_incident(
    *,
    delay_s: float,
    tokens_per_s: float,
    repair_s: float = 0.0,
    gpus: int = 1,
    dollars_per_gpu_hour: float | Quantity = 0.0,
    chance: float = 1.0,
) -> Quantity:
    """What bad data is expected to cost: all that is trained on from its first step until somebody notices.

    A run cannot unlearn. The work since the first bad token is thrown away, whether it is rolled back or the
    model; so the price is proportional to the delay of detection, and a check that halves the delay or the
    chance is worth half of it.

    Args:
        delay_s: seconds of training from the first bad token to the moment somebody notices.
        tokens_per_s: of the whole cluster.
        repair_s: seconds in which the cluster waits for mended data and a restart.
        gpus, dollars_per_gpu_hour: as for `incident`.
        chance: that it happens to this run, 0 to 1.

    Returns:
        Expected dollars, with the terms `chance` and `data incident`; in that, time, tokens and price.

    Raises:
        ConfigError: a negative number, or a chance above 1.
    """
    _not_negative(delay_s=delay_s, tokens_per_s=tokens_per_s, repair_s=repair_s, gpus=gpus, chance=chance)
    if chance > 1:
        raise ConfigError(f"chance is {chance}", expected="0 to 1")
    formula = f"{delay_s:,.0f} s x {tokens_per_s:,.0f} tokens/s"
    tokens = Quantity(name="bad tokens", value=float(delay_s * tokens_per_s), unit="tokens", formula=formula)
    trained = Quantity(name="training on bad data", value=float(delay_s), unit="s", terms=(tokens,))
    repair = Quantity(name="repair", value=float(repair_s), unit="s")
    once = _priced("data incident", (trained, repair), gpus, dollars_per_gpu_hour)
    share = Quantity(name="chance", value=float(chance), unit="")
    value, formula = share.value * once.value, "chance x data incident"
    return Quantity(name="expected cost", value=value, unit="$", formula=formula, terms=(share, once))


def _not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise ConfigError(f"{name} is {value}", expected=f"{name} >= 0")


def _priced(name: str, losses: tuple[Quantity, ...], gpus: int, price: float | Quantity) -> Quantity:
    """Seconds lost by every GPU, in dollars."""
    lost = total("time lost", "s", losses)
    hours = Quantity(
        name="GPU-hours lost", value=lost.value * gpus / 3600, unit="GPU-hours",
        formula=f"time lost x {gpus:,} {'GPU' if gpus == 1 else 'GPUs'} / 3600", terms=(lost,),
    )  # fmt: skip
    if not isinstance(price, Quantity):
        price = Quantity(name="price", value=float(price), unit="$/GPU-hour", source="given")
    formula = f"GPU-hours lost x {price.name}"
    return Quantity(
        name=name, value=hours.value * price.value, unit="$", formula=formula, terms=(hours, price)
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
