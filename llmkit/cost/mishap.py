"""What an incident costs a job that is planned: llmkit.cost.incident with the job's own step, size and price.

print(mishap(job, lost_steps=100, down_s=900).explain())
late, soon = (mishap(job, delay_s=seconds(after), chance=0.2) for after in ("3d", "30m"))
print(saved(late, soon))
"""

from __future__ import annotations

from dataclasses import replace

from llmkit.cost.incident import data_incident, incident
from llmkit.cost.job import Job
from llmkit.cost.quantity import Quantity
from llmkit.cost.run import price
from llmkit.cost.step import step_time
from llmkit.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """`90s`, `15m`, `4h` or `3d` in seconds. Raises ConfigError on anything else, and below 0."""
    try:
        value = float(text[:-1]) * UNITS[text[-1:]]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"`{text}` is no duration", expected="a number and its unit: 90s, 15m, 4h or 3d")
    return value


def mishap(
    job: Job, *, lost_steps: int = 0, down_s: float = 0.0, delay_s: float | None = None, chance: float = 1.0
) -> Quantity:
    """Dollars that something going wrong is expected to cost.

    Args:
        lost_steps: steps done again.
        down_s: seconds in which every GPU waits.
        delay_s: seconds of training on bad data until it is detected; None: the data were good.
        chance: of the bad data.

    Returns:
        As `incident` or, with a delay, `data_incident`; the interval multiplies that of the step and that of
        the price.

    Raises:
        ConfigError: nothing happened, a negative number, or steps lost beside bad data.
    """
    if delay_s is None and not lost_steps and not down_s:
        raise ConfigError("nothing was lost", expected="lost steps, a time down, or bad data for some time")
    if delay_s is not None and lost_steps:
        raise ConfigError("all steps since the bad data began are lost", remedy="leave lost steps out")
    step, each = step_time(job), price(job)

    def cost(step_s: float, dollars: float | Quantity) -> Quantity:
        common = {"gpus": job.gpus, "dollars_per_gpu_hour": dollars}
        if delay_s is None:
            return incident(lost_steps=lost_steps, step_s=step_s, restart_s=down_s, **common)
        rate = job.step_tokens / step_s
        return data_incident(delay_s=delay_s, tokens_per_s=rate, repair_s=down_s, chance=chance, **common)

    low, high = (float(cost(*ends)) for ends in zip(step.interval, each.interval, strict=True))
    found = cost(float(step), each)
    return found.between(low, high) if low < high else found


def saved(late: Quantity, soon: Quantity) -> Quantity:
    """What an earlier detection is worth, or (below 0) a later one costs: dollars, as the two were priced."""
    terms = (replace(late, name="late"), replace(soon, name="soon"))
    formula = "expected cost, detected late - detected soon"
    found = Quantity(name="saved", value=float(late) - float(soon), unit="$", formula=formula, terms=terms)
    ends = sorted(a - b for a, b in zip(late.interval, soon.interval, strict=True))
    return found.between(*ends) if ends[0] < ends[1] else found
