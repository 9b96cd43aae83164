"""Exercise 25, what checkpointing is worth: the micro-batch it allows, its time, the crashes it saves."""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.compare import agree, close, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ------------------------------------------------------------------------------- 1. what fits, and divides


def largest(budget: int, fixed: int, each: int, batch: int) -> Answer:
    return Answer(
        value=max((b for b in range(1, batch + 1) if not batch % b and fixed + b * each <= budget), default=0)
    )


def judge_largest(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, batch = number(got.value), inputs["batch"]
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int or found < 0:
        return "form"
    if want.value == 0 or found == 0:
        return "" if found == want.value else "none"
    if inputs["fixed"] + found * inputs["each"] > inputs["budget"]:
        return "fits"
    return "divides" if found > batch or batch % found else "" if found == want.value else "largest"


def hidden_largest(rng: random.Random) -> list[Case]:
    cases = []
    for batch in (rng.choice([12, 24, 36, 60]), 64, rng.choice([7, 11, 13]), 48, 30, rng.choice([40, 42])):
        fixed, each = rng.randint(9_000, 60_000), rng.randint(300, 4_000)
        room = rng.randint(1, batch + 8)
        cases.append(
            Case(budget=fixed + room * each + rng.randrange(each), fixed=fixed, each=each, batch=batch)
        )
    cases.append(Case(budget=fixed + 5 * each, fixed=fixed, each=each, batch=10))  # to the last MiB
    cases.append(Case(budget=fixed + 7 * each, fixed=fixed, each=each, batch=36))  # 7 fit, 6 divide
    cases.append(Case(budget=fixed + 99 * each, fixed=fixed, each=each, batch=6))  # more fit than there are
    cases.append(Case(budget=fixed + each - 1, fixed=fixed, each=each, batch=8))
    return [*cases, Case(budget=fixed - 5 * each, fixed=fixed, each=each, batch=8)]


LARGEST = Task(
    name="largest_micro_batch",
    lines=3,
    reference=largest,
    judge=judge_largest,
    properties={
        "form": Property("the answer is a whole number, 0 or more", "can a micro-batch be half a sequence?"),
        "none": Property(
            "0 means exactly that not even one sequence fits", "what if `fixed` alone is too much?"
        ),
        "fits": Property(
            "fixed + micro-batch x each is at most the budget", "what else lies in memory beside activations?"
        ),
        "divides": Property(
            "the micro-batch divides the batch, so that the global batch stays what it was",
            "what is left over when 7 sequences at a time make a batch of 36?",
        ),
        "largest": Property("no larger micro-batch fits and divides", "which numbers divide the batch?"),
    },
    public=(
        Case(budget=20, fixed=8, each=5, batch=1),
        Case(budget=20, fixed=8, each=5, batch=2),
        Case(budget=20, fixed=8, each=4, batch=6),
        Case(budget=20, fixed=8, each=2, batch=8),
        Case(budget=12, fixed=8, each=5, batch=4),
        Case(budget=20, fixed=30, each=5, batch=4),
        Case(budget=38, fixed=8, each=5, batch=4),
    ),
    hidden=hidden_largest,
    hints=(
        "Two conditions: it fits, and it divides the batch. Count down from the more generous of the two.",
        "At most `(budget - fixed) // each` sequences fit, and never more than `batch`.",
        "`max((b for b in range(1, batch + 1) if ... and ...), default=0)`",
    ),
)

# ---------------------------------------------------------------------------------------- 2. what it costs


def ratio(plain: int, again: int, half: float, recompute: float) -> Answer:
    return Answer(value=(1 + recompute) * (1 + half / again) / (1 + half / plain))


def judge_ratio(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return "form"
    if close(found, want.value, 1e-6):
        return ""
    if close(found, 1 / want.value, 1e-6) and not close(want.value, 1.0, 1e-6):
        return "turned"
    if inputs["plain"] == inputs["again"] or not inputs["half"]:
        return "recompute"
    return "fixed" if not inputs["recompute"] else "both"


def hidden_ratio(rng: random.Random) -> list[Case]:
    cases = [Case(plain=3, again=3, half=rng.uniform(1, 9), recompute=rng.uniform(0.1, 0.4))]
    cases.append(Case(plain=2, again=rng.randint(3, 9), half=rng.uniform(0.5, 6), recompute=0.0))
    for _ in range(5):
        plain = rng.randint(1, 12)
        cases.append(
            Case(
                plain=plain,
                again=plain * rng.randint(2, 9),
                half=rng.uniform(0.2, 9),
                recompute=rng.uniform(0.02, 0.4),
            )
        )
    return cases


RATIO = Task(
    name="time_ratio",
    lines=3,
    reference=ratio,
    judge=judge_ratio,
    properties={
        "form": Property("the answer is one number", "a ratio of two times has no unit: what is left?"),
        "turned": Property(
            "it is the time with checkpointing over the time without", "above 1: is the run slower or faster?"
        ),
        "recompute": Property(
            "at the same micro-batch a step takes 1 + recompute times as long",
            "is the forward pass repeated instead of a pass, or beside it?",
        ),
        "fixed": Property(
            "a micro-batch of b sequences takes a time of b + half, spread over b sequences",
            "how long do 12 sequences take, 1 at a time and 4 at a time?",
        ),
        "both": Property(
            "a larger micro-batch pays `half` less often, and recomputation lengthens all of it",
            "does the fixed part of a micro-batch grow by recomputation too?",
        ),
    },
    public=(
        Case(plain=1, again=1, half=0.0, recompute=0.5),
        Case(plain=2, again=2, half=2.0, recompute=0.25),
        Case(plain=1, again=3, half=3.0, recompute=0.0),
        Case(plain=1, again=2, half=1.0, recompute=0.5),
        Case(plain=2, again=8, half=4.0, recompute=0.25),
    ),
    hidden=hidden_ratio,
    hints=(
        "Write the time of one *sequence* without checkpointing, then the same with it, then divide.",
        "A sequence takes (b + half) / b at micro-batch b; with checkpointing 1 + recompute times that.",
        "`(1 + recompute) * (again + half) / again` over `(plain + half) / plain`",
    ),
)

# ------------------------------------------------------------------------------------- 3. what it is worth


def worth(gpus: int, hours: float, price: float, ratio: float, crashes: float, lost: float) -> Answer:
    saved = gpus * price * (hours + crashes * lost - hours * ratio)
    return Answer(value={"saved": saved, "break_even": max(0.0, hours * (ratio - 1) / lost)})


def judge_worth(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != {"saved", "break_even"}:
        return "form"
    saved, even = number(found["saved"]), number(found["break_even"])
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (saved, even)):
        return "form"
    if not agree(saved, want.value["saved"], 1e-6, 1e-6):
        if inputs["ratio"] == 1:
            return "crashes"
        return "slower" if not inputs["crashes"] else "sum"
    if agree(even, want.value["break_even"], 1e-6, 1e-9):
        return ""
    return "never" if inputs["ratio"] <= 1 else "even"


def hidden_worth(rng: random.Random) -> list[Case]:
    def case(ratio: float, crashes: float) -> Case:
        gpus, price = rng.choice([8, 24, 64, 96]), round(rng.uniform(1.2, 4.5), 2)
        return Case(
            gpus=gpus,
            hours=rng.uniform(200, 700),
            price=price,
            ratio=ratio,
            crashes=crashes,
            lost=rng.uniform(3, 24),
        )

    slow, fast = rng.uniform(1.02, 1.35), rng.uniform(0.8, 0.98)
    return [
        case(1.0, 2.0),
        case(slow, 0.0),
        case(slow, rng.uniform(1, 9)),
        case(fast, rng.uniform(1, 4)),
        case(fast, 0.0),
    ]


WORTH = Task(
    name="monthly_worth",
    lines=5,
    reference=worth,
    judge=judge_worth,
    properties={
        "form": Property(
            'the answer is {"saved": number, "break_even": number}',
            "which two numbers does a manager ask for?",
        ),
        "crashes": Property(
            "each crash costs `lost` hours of every GPU", "who waits while one GPU is out of memory?"
        ),
        "slower": Property(
            "checkpointing costs (ratio - 1) x hours on every GPU, a negative saving where nothing crashed",
            "what has a longer step cost you by the end of the month?",
        ),
        "sum": Property(
            "saved is the month without checkpointing minus the month with it",
            "which of the two months has crashes?",
        ),
        "even": Property(
            "break_even is the number of crashes a month at which saved is 0",
            "set saved to 0 and solve for crashes: do GPUs and price stay in?",
        ),
        "never": Property(
            "where checkpointing is not slower, break_even is 0", "can a number of crashes be negative?"
        ),
    },
    public=(
        Case(gpus=1, hours=100.0, price=2.0, ratio=1.0, crashes=1.0, lost=10.0),
        Case(gpus=2, hours=100.0, price=3.0, ratio=1.1, crashes=0.0, lost=5.0),
        Case(gpus=8, hours=300.0, price=2.5, ratio=1.2, crashes=4.0, lost=18.0),
        Case(gpus=4, hours=200.0, price=2.0, ratio=0.9, crashes=1.0, lost=6.0),
    ),
    hidden=hidden_worth,
    hints=(
        "Write the GPU-hours of the month without checkpointing, then with it. Only one of them has crashes.",
        "Without: gpus x (hours + crashes x lost). With: gpus x hours x ratio. The price multiplies both.",
        "break_even: hours x (ratio - 1) / lost, and never below 0; GPUs and price cancel.",
    ),
)

EXERCISE = Exercise(
    name="25_recompute_roi",
    version=1,
    title="What checkpointing is worth",
    minutes=20,
    round="system design",
    difficulty=2,
    rows=("S17",),
    tasks=(LARGEST, RATIO, WORTH),
    predictions={
        "percent longer": Prediction(
            answer=33.3,
            because=(
                "a backward pass costs two forward passes, so a step is 3 of them and recomputing all of the "
                "forward pass makes it 4: a third more FLOPs. Selective recomputation repeats attention's "
                "scores alone, a few percent (Korthikanti et al. 2022)."
            ),
        )
    },
    hides=("cost", "memory"),
)
