"""Verdicts on a job, two jobs compared, and the assumption on which a verdict hangs.

    print(as_text(compare(dense, mixture, Limits(gpu_hours=12_000))))

A verdict is `yes`, `no` or `maybe`: where the interval lies on both sides of the limit, nobody knows yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llmkit.cost.decode import decode_latency, prefill_latency
from llmkit.cost.flops import training_flops
from llmkit.cost.job import Job, job_of
from llmkit.cost.memory import fits, training_memory
from llmkit.cost.params import parameters
from llmkit.cost.quantity import Quantity, amount
from llmkit.cost.run import days, goodput, gpu_hours, run_cost
from llmkit.cost.step import bottleneck, hardware_flops, step_time
from llmkit.errors import ConfigError

MONTH_HOURS = 730.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must not be exceeded. None: no such limit."""

    gpu_hours: float | None = None  # of the busiest month
    dollars: float | None = None  # of the run
    memory_gb: float | None = None  # of a GPU; None: what it has
    token_ms: float | None = None  # of a generated token
    first_token_ms: float | None = None  # of a prompt as long as the context
    serving_batch: int = 1
    serving_tp: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}", expected=f"{name} > 0")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a number stays within its limit."""

    name: str
    found: Quantity
    limit: float
    answer: str  # yes, no, maybe


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A job with its numbers: what is shown of it."""

    job: Job
    quantities: tuple[Quantity, ...]
    verdicts: tuple[Verdict, ...]
    bottleneck: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two jobs, b against a."""

    a: Estimate
    b: Estimate
    saved: Quantity  # dollars that b costs less than a
    naive: float  # change of cost that FLOPs alone predict, as a share of a's
    flips: tuple[str, ...]  # assumptions that change which one is cheaper, or a verdict
    break_even_runs: float | None  # runs after which b has earned its change; None: never


def estimate(job: Job, limits: Limits | None = None) -> Estimate:
    """All numbers of a job and its verdicts: memory always, the others where there is a limit."""
    limits = limits or Limits()
    step, fullest = step_time(job), max(training_memory(job), key=float)
    hours = gpu_hours(job)
    numbers = (
        parameters(job.model), parameters(job.model, active=True), training_flops(job.model), fullest, step,
        hours, days(job), run_cost(job), goodput(job),
    )  # fmt: skip
    return Estimate(job=job, quantities=numbers, verdicts=verdicts(job, limits), bottleneck=bottleneck(step))


def verdicts(job: Job, limits: Limits) -> tuple[Verdict, ...]:
    """Every limit that was set, and whether the job stays within it."""
    fullest = max(training_memory(job), key=float)
    room = limits.memory_gb or job.hardware.memory_gb
    found = [Verdict(name="memory", found=fullest, limit=room * 1e9, answer=fits(fullest, room))]
    if limits.gpu_hours:
        found.append(within("budget", busiest_month(job), limits.gpu_hours))
    if limits.dollars:
        found.append(within("dollars", run_cost(job), limits.dollars))
    serving = {"batch": limits.serving_batch, "tp": limits.serving_tp}
    if limits.token_ms:
        token = decode_latency(job.model, job.gpu, context=job.model.context, **serving)
        found.append(within("token", token, limits.token_ms))
    if limits.first_token_ms:
        prompt = prefill_latency(job.model, job.gpu, prompt=job.model.context, **serving)
        found.append(within("first token", prompt, limits.first_token_ms))
    return tuple(found)


def busiest_month(job: Job) -> Quantity:
    """GPU-hours of the month in which the job runs most: all of it, or every GPU all month."""
    hours, most = gpu_hours(job), job.gpus * MONTH_HOURS
    formula = f"the lower of GPU-hours and {job.gpus:,} GPUs x {MONTH_HOURS:.0f} h"
    month = Quantity(name="GPU-hours in a month", value=min(float(hours), most), unit="GPU-hours",
                     formula=formula, terms=(hours,))  # fmt: skip
    return month.between(*(min(h, most) for h in hours.interval))


def compare(a: Job, b: Job, limits: Limits | None = None, *, change_dollars: float = 0.0) -> Comparison:
    """What b costs and saves against a.

    Args:
        change_dollars: what it costs once to change from a to b: people, experiments.

    Returns:
        The two estimates, and dollars saved a run. Its interval is what the ASSUMPTIONS, one at a time and
        for both jobs, make of it; utilisation and price, where both jobs share them, only scale it.
    """
    limits = limits or Limits()
    left, right = run_cost(a), run_cost(b)
    saved = Quantity(
        name="saved", value=float(left) - float(right), unit="$", formula="a - b", terms=(left, right)
    )
    settings = [_saved(a, b, change) for change in ASSUMPTIONS.values()]
    saved = saved.between(min([*settings, float(saved)]), max([*settings, float(saved)]))
    flops = [hardware_flops(job) * job.steps for job in (a, b)]
    return Comparison(
        a=estimate(a, limits), b=estimate(b, limits), saved=saved, naive=flops[1] / flops[0] - 1,
        flips=flips(a, b, limits),
        break_even_runs=change_dollars / float(saved) if float(saved) > 0 else None,
    )  # fmt: skip


ASSUMPTIONS: dict[str, Callable[[Job], Job]] = {
    "no traffic hides behind computation": lambda job: job_of(job, overlap=0.0),
    "all traffic can hide": lambda job: job_of(job, overlap=1.0),
    "a mixture is as efficient as a dense model": lambda job: job_of(job, mixture_share=1.0),
    "a mixture reaches 0.7 of a dense model's utilisation": lambda job: job_of(job, mixture_share=0.7),
    "failures three times as often": lambda job: job_of(
        job, gpu_hours_per_failure=job.gpu_hours_per_failure / 3
    ),
    "the loader gives half": lambda job: job_of(job, loader_tokens_per_s=job.loader_tokens_per_s / 2),
    "the lowest price": lambda job: job_of(job, dollars_per_gpu_hour=_price(job, 0)),
    "the highest price": lambda job: job_of(job, dollars_per_gpu_hour=_price(job, 1)),
}


def flips(a: Job, b: Job, limits: Limits) -> tuple[str, ...]:
    """Assumptions that, changed for both jobs, turn a verdict or which of the two is cheaper."""
    found = []
    for says, change in ASSUMPTIONS.items():
        if (_saved(a, b, lambda job: job) > 0) != (_saved(a, b, change) > 0):
            found.append(f"{says}: the other one is cheaper")
        for name, job in (("a", a), ("b", b)):
            pairs = zip(verdicts(job, limits), verdicts(change(job), limits), strict=True)
            found += [
                f"{says}: {new.name} of {name} is {new.answer}"
                for old, new in pairs
                if old.answer != new.answer
            ]
    return tuple(found)


def as_text(found: Estimate | Comparison) -> str:
    """Columns for people: value, interval, unit; then the verdicts, and what would turn them."""
    if isinstance(found, Estimate):
        lines = [f"{found.job.name}: {found.job.gpus:,} x {found.job.gpu}"]
        lines += [f"  {q.name:<20} {_shown(q):>22}  {_range(q)}".rstrip() for q in found.quantities]
        return "\n".join([*lines, *_verdict_lines(found)])
    a, b = found.a, found.b
    lines = [f"  {'':<20} {'a: ' + a.job.name:>24} {'b: ' + b.job.name:>24}      b / a"]
    for x, y in zip(a.quantities, b.quantities, strict=True):
        lines.append(f"  {x.name:<20} {_shown(x):>24} {_shown(y):>24} {float(y) / float(x):>10.2f}")
    lines += [f"  {'bottleneck':<20} {a.bottleneck:>24} {b.bottleneck:>24}"]
    lines += ["a:", *_verdict_lines(a), "b:", *_verdict_lines(b)]
    lines += [
        f"b saves {found.saved} a run {_range(found.saved)}; training FLOPs alone say {found.naive:+.1%}"
    ]
    if found.break_even_runs:
        lines.append(f"the change is earned after {found.break_even_runs:.1f} runs")
    return "\n".join([*lines, *(f"turns if {says}" for says in found.flips)])


def _shown(q: Quantity) -> str:
    """The value; its unit where the name does not say it."""
    return str(q).removesuffix(f" {q.unit}") if q.name.endswith(q.unit) else str(q)


def _verdict_lines(found: Estimate) -> list[str]:
    words = {"yes": "within", "no": "over", "maybe": "may be over"}
    return [
        f"  {v.name}: {words[v.answer]} {replace(v.found, value=v.limit)}: {v.found} {_range(v.found)}"
        for v in found.verdicts
    ]


def _range(q: Quantity) -> str:
    return "" if q.low is None else f"({amount(q.interval[0])} to {amount(q.interval[1])})"


def within(name: str, found: Quantity, limit: float) -> Verdict:
    """`yes` if the whole interval is at most the limit, `no` if none of it is, else `maybe`."""
    low, high = found.interval
    answer = "yes" if high <= limit else "no" if low > limit else "maybe"
    return Verdict(name=name, found=found, limit=limit, answer=answer)


def _saved(a: Job, b: Job, change: Callable[[Job], Job]) -> float:
    return float(run_cost(change(a))) - float(run_cost(change(b)))


def _price(job: Job, end: int) -> float:
    if job.dollars_per_gpu_hour is not None:
        return job.dollars_per_gpu_hour
    return job.hardware.price().interval[end]
