"""Exercise 24, failures and their price: how often to save, what share of the time is progress, what a slow
detection costs.

Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17, 1974; the
goodput is that of `llmkit.cost.goodput`, with an interval that may be given.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree, close, number, plain
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ------------------------------------------------------------------------------------- 1. how often to save


def every(step_s: float, save_s: float, gpu_hours: float, gpus: int) -> Answer:
    interval = math.sqrt(2 * save_s * 3600 * gpu_hours / gpus)
    return Answer(value=max(1, int(interval / step_s)))


def judge_every(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int:
        return "form"
    if found == want.value:
        return ""
    if want.value == 1 or found < 1:
        return "least"
    if inputs["gpus"] == 1 and inputs["step_s"] == 1:
        return "young"
    if inputs["gpus"] == 1:
        return "steps"
    return "whole" if abs(found - want.value) == 1 else "gpus"


def hidden_every(rng: random.Random) -> list[Case]:
    cases = [Case(step_s=rng.uniform(40, 90), save_s=1.0, gpu_hours=rng.uniform(200, 900), gpus=16_384)]
    for _ in range(6):
        gpus = rng.choice([8, 64, 384, 1024, 2048])
        step, save, hours = rng.uniform(0.3, 12), rng.uniform(5, 240), rng.uniform(8_000, 90_000)
        seconds = math.sqrt(2 * save * 3600 * hours / gpus)
        step = seconds / (int(seconds / step) + rng.uniform(0.55, 0.9))  # rounding up would be another answer
        cases.append(Case(step_s=step, save_s=save, gpu_hours=hours, gpus=gpus))
    return cases


EVERY = Task(
    name="steps_between_saves",
    lines=3,
    reference=every,
    judge=judge_every,
    properties={
        "form": Property("the answer is a whole number of steps", "can a run save in the middle of a step?"),
        "young": Property(
            "Young's interval is sqrt(2 x save x time between failures), all in seconds",
            "how many seconds lie between two failures?",
        ),
        "steps": Property("the interval in seconds is counted in steps", "how many steps fit into it?"),
        "gpus": Property(
            "the job fails when any of its GPUs fails",
            "how much sooner does one of 1,000 fail than one alone?",
        ),
        "whole": Property("steps are rounded down", "is the last step finished when the interval ends?"),
        "least": Property("it is at least 1", "what does `step % 0` do?"),
    },
    public=(
        Case(step_s=1.0, save_s=2.0, gpu_hours=1.0, gpus=1),
        Case(step_s=2.5, save_s=2.0, gpu_hours=1.0, gpus=1),
        Case(step_s=1.0, save_s=8.0, gpu_hours=4.0, gpus=16),
        Case(step_s=8.0, save_s=60.0, gpu_hours=50_000.0, gpus=1000),
        Case(step_s=500.0, save_s=2.0, gpu_hours=1.0, gpus=4),
    ),
    hidden=hidden_every,
    hints=(
        "First the seconds between two failures of the whole job, then Young's square root, then steps.",
        "One GPU fails once in gpu_hours x 3600 seconds; the job `gpus` times as often.",
        "`max(1, int(sqrt(2 * save_s * 3600 * gpu_hours / gpus) / step_s))`",
    ),
)

# ----------------------------------------------------------------------------------------------- 2. goodput


def share(every_s: float, save_s: float, restart_s: float, between_s: float) -> Answer:
    return Answer(value=1 / (1 + save_s / every_s + (every_s / 2 + restart_s) / between_s))


def judge_share(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if not plain(found) or not 0 <= found <= 1:
        return "form"
    if close(found, want.value, 1e-6):
        return ""
    if inputs["between_s"] > 1e14:
        return "saving"
    if not inputs["save_s"]:
        return "restart" if inputs["every_s"] < 1e-6 else "lost"
    return "sum"


def hidden_share(rng: random.Random) -> list[Case]:
    def case(**zero: float) -> Case:
        inputs = {
            "every_s": rng.uniform(300, 9000),
            "save_s": rng.uniform(5, 240),
            "restart_s": rng.uniform(60, 1800),
            "between_s": rng.uniform(9000, 900_000),
        }
        return Case(**inputs | zero)

    return [
        case(between_s=1e15),
        case(save_s=0.0, every_s=1e-9),
        case(save_s=0.0),
        *(case() for _ in range(4)),
    ]


SHARE = Task(
    name="goodput",
    lines=3,
    reference=share,
    judge=judge_share,
    properties={
        "form": Property("a share is a number from 0 to 1", "can more be lost than there is?"),
        "saving": Property(
            "without failures the run makes every_s of progress in every_s + save_s",
            "is saving time taken out of the interval or added to it?",
        ),
        "restart": Property(
            "each failure costs restart_s, once in between_s of progress",
            "how many failures does a day have?",
        ),
        "lost": Property(
            "a failure throws away half an interval on average",
            "when, between two saves, does a failure come?",
        ),
        "sum": Property(
            "the share is 1 / (1 + what is wasted per second of progress)",
            "do saving, lost work and restarts add up or multiply?",
        ),
    },
    public=(
        Case(every_s=90.0, save_s=10.0, restart_s=5.0, between_s=1e15),
        Case(every_s=1e-9, save_s=0.0, restart_s=25.0, between_s=100.0),
        Case(every_s=50.0, save_s=0.0, restart_s=0.0, between_s=100.0),
        Case(every_s=100.0, save_s=10.0, restart_s=20.0, between_s=700.0),
    ),
    hidden=hidden_share,
    hints=(
        "For one second of progress: how many seconds go into saving, into work done twice, into restarts?",
        "save_s / every_s, then (every_s / 2) / between_s, then restart_s / between_s.",
        "`1 / (1 + save_s / every_s + (every_s / 2 + restart_s) / between_s)`",
    ),
)

# ------------------------------------------------------------------------- 3. the price of finding out late


def worth(gpus: int, price: float, chance: float, delay: float, faster: float, check: float) -> Answer:
    expected = chance * delay * gpus * price
    return Answer(value={"expected": expected, "saved": expected - (chance * faster + check) * gpus * price})


def judge_worth(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != {"expected", "saved"}:
        return "form"
    if not all(plain(number(found[name])) for name in found):
        return "form"
    if not agree(number(found["expected"]), want.value["expected"], 1e-6):
        return "cluster" if inputs["chance"] == 1 else "chance"
    if agree(number(found["saved"]), want.value["saved"], 1e-6, 1e-6):
        return ""
    return "delay" if not inputs["check"] else "check"


def hidden_worth(rng: random.Random) -> list[Case]:
    def case(**given: float) -> Case:
        delay = rng.uniform(12, 200)
        inputs = {
            "gpus": rng.choice([64, 256, 1024]),
            "price": round(rng.uniform(1.5, 4), 2),
            "chance": rng.uniform(0.02, 0.6),
            "delay": delay,
            "faster": delay * rng.uniform(0.05, 0.7),
            "check": rng.uniform(0.1, 3),
        }
        return Case(**inputs | given)

    return [case(chance=1.0), case(check=0.0), case(chance=0.001), *(case() for _ in range(3))]


WORTH = Task(
    name="detection_worth",
    lines=4,
    reference=worth,
    judge=judge_worth,
    properties={
        "form": Property(
            'the answer is {"expected": dollars, "saved": dollars}',
            "which two numbers does a manager ask for?",
        ),
        "cluster": Property(
            "until somebody notices, every GPU trains for nothing",
            "how many GPU-hours is one hour of delay?",
        ),
        "chance": Property("the expected price is the price times the chance", "does every run meet it?"),
        "delay": Property(
            "a check saves the hours between the slower and the faster detection, with the same chance",
            "does the faster check find it at once?",
        ),
        "check": Property(
            "the check is paid in every run, by the whole cluster",
            "do GPUs train while it runs at the start?",
        ),
    },
    public=(
        Case(gpus=10, price=2.0, chance=1.0, delay=5.0, faster=1.0, check=0.0),
        Case(gpus=10, price=2.0, chance=0.5, delay=5.0, faster=2.0, check=0.0),
        Case(gpus=8, price=2.5, chance=0.25, delay=40.0, faster=4.0, check=0.5),
        Case(gpus=1024, price=3.0, chance=0.0625, delay=8.0, faster=2.0, check=1.0),
    ),
    hidden=hidden_worth,
    hints=(
        "One hour of the cluster costs gpus x price. Count hours first, dollars last.",
        "Without the check: chance x delay hours. With it: chance x faster hours, and `check` for sure.",
        '`hour = gpus * price`; "saved" is `(chance * delay - chance * faster - check) * hour`',
    ),
)

EXERCISE = Exercise(
    name="24_young_daly",
    version=1,
    title="Failures and their price",
    minutes=25,
    round="system design",
    difficulty=2,
    rows=("S7", "S16"),
    tasks=(EVERY, SHARE, WORTH),
    predictions={
        "hours between failures": Prediction(
            answer=3.1,
            because=(
                "54 days are 1,296 hours, and 1,296 / 419 = 3.1. Times 16,384 GPUs that is 50,700 GPU-hours: "
                "one GPU alone would run for almost six years (Llama 3, section 3.3.4)."
            ),
        )
    },
    hides=("cost",),
)
