"""Exercise 11, the learning-rate schedule: a pure function of the step, and its use on parameter groups.

References in plain Python. Cosine decay: Loshchilov and Hutter, arXiv 1608.03983, without restarts.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree, close, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

ERROR = "ValueError"

# -------------------------------------------------------------------------------------------- 1. the schedule


def value_at(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float | str:
    if step < 0:
        return ERROR
    if step >= steps:
        return min_lr
    if step < warmup:
        return lr * (step + 1) / warmup
    turn = math.pi * (step - warmup) / max(1, steps - 1 - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(turn)) / 2


def drive_schedule(function, at, steps, warmup, lr, min_lr):
    """The rates at these steps; a ValueError by its name."""
    rates = []
    for step in at:
        try:
            rates.append(function(step, steps, warmup, lr, min_lr))
        except ValueError:
            rates.append("ValueError")
    return None if all(rate is None for rate in rates) else rates


def lr_at(at: list[int], steps: int, warmup: int, lr: float, min_lr: float) -> Answer:
    return Answer(value=[value_at(step, steps, warmup, lr, min_lr) for step in at])


def same(got: Any, want: float) -> bool:
    return close(number(got), want, 1e-6) or agree(got, want, 0.0, 1e-12)


def judge_schedule(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not isinstance(got.value, list):
        return "form"
    plan = {name: inputs[name] for name in ("steps", "warmup", "lr", "min_lr")}
    for step, found, right in zip(inputs["at"], got.value, want.value, strict=True):
        if right == ERROR or found == ERROR:
            if right != found:
                return "negative"
        elif isinstance(number(found), bool) or not isinstance(number(found), (int, float)):
            return "form"
        elif not same(found, right):
            return where(step, number(found), **plan)
    return ""


def where(step: int, found: float, steps: int, warmup: int, lr: float, min_lr: float) -> str:
    """The property that a wrong rate breaks, by the place of its step."""
    if step >= steps:
        return "after"
    clamped = max(min_lr, value_at(step, steps, warmup, lr, 0.0))
    if min_lr and same(found, clamped) and step != warmup:
        return "floor"
    if step < warmup:
        return "first" if step == 0 and warmup > 1 else "warmup"
    if step == warmup:
        return "peak"
    return "end" if step == steps - 1 else "cosine"


def case(*at: int, steps: int = 10, warmup: int = 4, lr: float = 1.0, min_lr: float = 0.0) -> Case:
    return Case(at=list(at), steps=steps, warmup=warmup, lr=lr, min_lr=min_lr)


def hidden_schedule(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(4):
        warmup, lr = rng.randint(2, 20), rng.uniform(1e-4, 1e-2)
        steps = warmup + rng.randint(5, 60)
        at = [*rng.sample(range(steps), 4), 0, warmup - 1, warmup, steps - 1, steps]
        at += [steps + rng.randint(1, 2 * steps)]
        cases.append(
            case(
                *at, -rng.randint(1, 9), steps=steps, warmup=warmup, lr=lr, min_lr=lr * rng.uniform(0.1, 0.6)
            )
        )
    steps, lr = rng.randint(3, 30), rng.uniform(1e-4, 1)
    cases += [
        case(*range(steps + 3), steps=steps, warmup=0, lr=lr),
        case(*range(steps + 3), steps=steps, warmup=steps, lr=lr, min_lr=lr / 9),
        case(*range(steps + 3), steps=steps, warmup=steps - 1, lr=lr, min_lr=lr / 5),
        case(0, 1, 2, steps=1, warmup=rng.randint(0, 1), lr=lr),
    ]
    return cases


SCHEDULE = Task(
    name="lr_at",
    lines=8,
    reference=lr_at,
    judge=judge_schedule,
    drive=drive_schedule,
    properties={
        "form": Property("the answer is a number", "what would you write into `group['lr']`?"),
        "first": Property(
            "step 0 is the first step of the warmup, lr / warmup", "what does a step with a rate of 0 do?"
        ),
        "warmup": Property(
            "step s of the warmup has lr * (s + 1) / warmup",
            "which step is the last of the warmup, and what is its rate?",
        ),
        "peak": Property(
            "step `warmup` has the full lr, also when it is the last one", "where does the cosine begin?"
        ),
        "cosine": Property(
            "between them is half a cosine from lr to min_lr",
            "how far along are you at this step, between 0 and 1?",
        ),
        "end": Property(
            "the last step, steps - 1, has min_lr",
            "how many intervals lie between the first and the last step of the cosine?",
        ),
        "floor": Property(
            "min_lr is where the cosine ends; nothing is clamped to it",
            "is the rate allowed to be below min_lr in the warmup, and where does the cosine reach it?",
        ),
        "after": Property(
            "from step `steps` on the rate stays at min_lr", "what does a cosine do after half a turn?"
        ),
        "negative": Property(
            "a step below 0 raises ValueError, no other step does", "what would a negative step mean?"
        ),
    },
    public=(
        case(0),
        case(0, 1, 2, 3),
        case(4),
        case(9),
        case(6),
        case(5, 7, 8),
        case(10),
        case(16, 1000),
        case(-1),
        case(0, min_lr=0.5),
        case(8, lr=1.0, min_lr=0.2),
        case(9, 10, 12, min_lr=0.2),
        case(0, 1, 5, warmup=0, steps=6, min_lr=0.1),
        case(4, steps=5, min_lr=0.1),
        case(3, 4, steps=4, min_lr=0.1),
    ),
    hidden=hidden_schedule,
    hints=(
        "Four regions in this order: below 0, at or beyond `steps`, warmup, cosine.",
        (
            "In the cosine, progress runs from 0 at `warmup` to 1 at `steps - 1`: divide by `steps - 1 "
            "- warmup`, but by no zero."
        ),
        "`min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))`.",
    ),
)

# ------------------------------------------------------------------------------------ 2. groups, and a resume


def drive_set(function, scales, visits, steps, warmup, lr, min_lr):
    """Groups of a fresh optimizer, the steps of a run that is resumed; the rates after each."""
    groups = [
        {"params": [], "lr": 0.001} | ({} if scale is None else {"lr_scale": scale}) for scale in scales
    ]
    held, trace = list(groups), []
    for step in visits:
        if step == "resume":  # a new process: the optimizer's groups come from the checkpoint
            groups = [dict(group) for group in groups]
            held = list(groups)
            continue
        function(groups, step, steps, warmup, lr, min_lr)
        same = [id(group) for group in groups] == [id(group) for group in held]
        plain = [{"params": []} | ({} if scale is None else {"lr_scale": scale}) for scale in scales]
        kept = [{k: v for k, v in group.items() if k != "lr"} for group in held] == plain
        trace.append({"lr": [group["lr"] for group in held], "place": same, "kept": kept})
    touched = any(not one["place"] or any(rate != 0.001 for rate in one["lr"]) for one in trace)
    return trace if touched else None


def set_lr(scales: list, visits: list, steps: int, warmup: int, lr: float, min_lr: float) -> Answer:
    trace = []
    for step in visits:
        if step != "resume":
            rate = value_at(step, steps, warmup, lr, min_lr)
            rates = [rate * (1.0 if scale is None else scale) for scale in scales]
            trace.append({"lr": rates, "place": True, "kept": True})
    return Answer(value=trace)


def judge_set(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not isinstance(got.value, list):
        return "all"
    scales, resumed, plain = inputs["scales"], "resume" in inputs["visits"], len(inputs["visits"]) == 1
    for found, right in zip(got.value, want.value, strict=True):
        if not found["place"] or not found["kept"]:
            return "place"
        for i, (mine, true) in enumerate(zip(found["lr"], right["lr"], strict=True)):
            if same(mine, true):
                continue
            if scales[i] == 0.0:
                return "zero"
            if scales[i] is not None:
                return "scale" if plain else "pure"
            return "all" if i else "pure" if resumed or not plain else "rate"
    return ""


def hidden_set(rng: random.Random) -> list[Case]:
    cases = []
    for scales in ([None, 0.5], [0.1, None, 0.0], [None], [2.0, None, None, 0.3]):
        warmup, steps = rng.randint(2, 6), rng.randint(12, 40)
        start = rng.randint(4, 9)
        first = list(range(start + rng.randint(0, 3)))
        visits = [*first, "resume", *range(start, steps + 2)]
        plan = {"steps": steps, "warmup": warmup, "lr": rng.uniform(0.01, 1), "min_lr": 0.002}
        cases.append(Case(scales=scales, visits=visits, **plan))
        cases.append(Case(scales=scales, visits=[rng.randint(1, steps)], **plan))
        cases.append(Case(scales=scales, visits=[warmup - 1, "resume", 0], **plan))
        cases.append(Case(scales=scales, visits=[*rng.sample(range(steps), 4)], **plan))
    return cases


PLAN = {"steps": 10, "warmup": 4, "lr": 1.0, "min_lr": 0.1}

SET = Task(
    name="set_lr",
    lines=3,
    reference=set_lr,
    judge=judge_set,
    drive=drive_set,
    properties={
        "rate": Property(
            "the rate of a group without lr_scale is lr_at(step)", "which step is it the rate of?"
        ),
        "all": Property("every group is set", "which groups keep the rate that they were made with?"),
        "scale": Property(
            "a group's rate is its lr_scale times the schedule", "which of the groups asked for another rate?"
        ),
        "zero": Property("an lr_scale of 0.0 is a rate of 0.0", "is 0.0 the same as not given?"),
        "pure": Property(
            "the rate depends on the step alone, not on rates or calls before",
            "what do you know after a resume except the step?",
        ),
        "place": Property(
            "the groups stay the same dicts, and only `lr` changes in them",
            "which dicts does the optimizer read?",
        ),
    },
    public=(
        Case(scales=[None], visits=[1], **PLAN),
        Case(scales=[None, None], visits=[3], **PLAN),
        Case(scales=[0.5], visits=[3], **PLAN),
        Case(scales=[0.0, None], visits=[3], **PLAN),
        Case(scales=[None], visits=[0, 1, 2], **PLAN),
        Case(scales=[None, 0.5], visits=[0, 1, 2], **PLAN),
        Case(scales=[None], visits=[0, 1, 2, "resume", 1, 2], **PLAN),
        Case(scales=[None, 0.5, 0.0], visits=[7, "resume", 5, 6, 12], **PLAN),
    ),
    hidden=hidden_set,
    hints=(
        "Ask your `lr_at` for the rate once, then write into every group.",
        (
            "`group.get(key, 1.0)` gives the value of a key, also when it is 0.0, and 1.0 only when it "
            "is missing."
        ),
        (
            '`group["lr"] = rate * group.get("lr_scale", 1.0)`: always from the schedule, never from '
            '`group["lr"]`.'
        ),
    ),
)

EXERCISE = Exercise(
    name="11_schedule",
    version=1,
    title="Warmup and cosine",
    minutes=20,
    round="phone screen",
    difficulty=1,
    rows=("S9",),
    tasks=(SCHEDULE, SET),
    predictions={
        "three quarters": Prediction(
            answer=(1 + math.cos(0.75 * math.pi)) / 2,
            because=(
                "(1 + cos(3 pi / 4)) / 2 = (1 - 0.707) / 2. A straight line would have 0.25 there: the "
                "last quarter "
                "of a cosine is spent at rates below 15 %."
            ),
        )
    },
    hides=("train",),
    shortcuts=("CosineAnnealingLR", "LambdaLR", "get_cosine_schedule_with_warmup", "WarmupCosine"),
)
