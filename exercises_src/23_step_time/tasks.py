"""Exercise 23, the time of a step: bubble, exposed communication, the part that binds, what more GPUs buy.

Source of the bubble: Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
Megatron-LM", 2021, section 2.2.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.collect import Tensor, nested
from llmkit.grade.compare import agree, close, number, plain
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

PARTS = ("compute", "bubble", "tensor", "data")


# ------------------------------------------------------------------------------------------------ 1. bubble


def idle(compute: float, stages: int, micro: int, interleave: int) -> Answer:
    return Answer(value=compute * (stages - 1) / micro / interleave)


def judge_bubble(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if not plain(found):
        return "form"
    if close(found, want.value, 1e-6) or abs(found - want.value) < 1e-9:
        return ""
    if inputs["stages"] == 1:
        return "one"
    return "fill" if inputs["interleave"] == 1 else "interleave"


def hidden_bubble(rng: random.Random) -> list[Case]:
    def case(**given: int) -> Case:
        inputs = {"stages": rng.randint(2, 16), "micro": rng.randint(3, 64), "interleave": 1}
        return Case(compute=rng.uniform(0.5, 20), **inputs | given)

    return [
        case(stages=1),
        case(stages=1, interleave=3),
        case(),
        case(),
        *(case(interleave=i) for i in (2, 3, 6)),
    ]


BUBBLE = Task(
    name="bubble",
    lines=2,
    reference=idle,
    judge=judge_bubble,
    properties={
        "form": Property("the answer is a number of seconds", "what is a share of `compute` in seconds?"),
        "one": Property("one stage has no bubble", "whom would a single stage wait for?"),
        "fill": Property(
            "filling and draining cost (stages - 1) / micro of the compute",
            "how many micro-batches pass before the last stage has work?",
        ),
        "interleave": Property(
            "interleaving divides the bubble by the pieces a GPU has",
            "how much shorter is a piece of half a stage?",
        ),
    },
    public=(
        Case(compute=8.0, stages=1, micro=4, interleave=1),
        Case(compute=8.0, stages=3, micro=4, interleave=1),
        Case(compute=8.0, stages=3, micro=4, interleave=2),
        Case(compute=2.5, stages=8, micro=5, interleave=6),
    ),
    hidden=hidden_bubble,
    hints=(
        "The share that is idle first, then times compute.",
        "The last stage waits for stages - 1 micro-batches, the first one as long at the end, of `micro`.",
        "`compute * (stages - 1) / (micro * interleave)`",
    ),
)

# -------------------------------------------------------------------------------------------------- 2. step


def step(compute: float, bubble: float, tensor: float, data: float, overlap: float, loader: float) -> Answer:
    exposed = data - min(overlap * data, 2 * compute / 3)
    parts = dict(zip(PARTS, (compute, bubble, tensor, exposed), strict=True))
    busy = compute + bubble + tensor + exposed
    binds = "loader" if loader > busy else max(parts, key=lambda name: parts[name])
    return Answer(value={"step": max(busy, loader), "exposed": exposed, "binds": binds})


def judge_step(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict) or set(found) != {"step", "exposed", "binds"}:
        return "form"
    seconds, exposed = number(found["step"]), number(found["exposed"])
    if not plain(seconds) or not plain(exposed) or found["binds"] not in (*PARTS, "loader"):
        return "form"
    if not agree(exposed, right["exposed"], 1e-6, 1e-9):
        return "hidden" if inputs["overlap"] * inputs["data"] <= 2 * inputs["compute"] / 3 else "backward"
    if not agree(seconds, right["step"], 1e-6, 1e-9):
        return "loader" if right["binds"] == "loader" else "sum"
    return "" if found["binds"] == right["binds"] else "binds"


def hidden_step(rng: random.Random) -> list[Case]:
    def case(**given: float) -> Case:
        inputs = {"compute": rng.uniform(2, 9), "bubble": rng.uniform(0, 3), "tensor": rng.uniform(0, 3)}
        inputs |= {"data": rng.uniform(1, 4), "overlap": rng.uniform(0.2, 0.9), "loader": rng.uniform(0.1, 2)}
        return Case(**inputs | given)

    return [
        case(data=0.0), case(), case(overlap=0.0),
        case(compute=rng.uniform(1, 2), data=rng.uniform(9, 15), overlap=1.0),
        case(bubble=rng.uniform(10, 20)), case(tensor=rng.uniform(10, 20)), case(loader=rng.uniform(30, 60)),
        case(compute=3.0, bubble=3.0, data=0.0, tensor=1.0), case(data=rng.uniform(20, 30), overlap=0.1),
        case(compute=3.0, bubble=3.0, tensor=2.0, data=0.0, loader=rng.uniform(6, 7.5)),
    ]  # fmt: skip


STEP = Task(
    name="step_time",
    lines=7,
    reference=step,
    judge=judge_step,
    properties={
        "form": Property(
            'the answer is {"step": seconds, "exposed": seconds, "binds": name}',
            "which three things are asked?",
        ),
        "hidden": Property(
            "a share `overlap` of the gradient exchange is hidden", "which share is left over?"
        ),
        "backward": Property(
            "no more can hide than the backward pass lasts, two thirds of compute",
            "beside what does the exchange run?",
        ),
        "loader": Property(
            "the step takes as long as the slower of loader and training",
            "does the loader add up, if it makes the next batch meanwhile?",
        ),
        "sum": Property(
            "compute, bubble, tensor and the exposed exchange follow one another",
            "which of them run at the same time?",
        ),
        "binds": Property(
            "the loader binds when it is the slower one, else the largest of the four parts",
            "what would shorten the step if it were halved?",
        ),
    },
    public=(
        Case(compute=6.0, bubble=0.0, tensor=0.0, data=0.0, overlap=0.0, loader=1.0),
        Case(compute=6.0, bubble=0.0, tensor=0.0, data=2.0, overlap=0.25, loader=1.0),
        Case(compute=3.0, bubble=0.0, tensor=0.0, data=8.0, overlap=1.0, loader=1.0),
        Case(compute=3.0, bubble=1.0, tensor=2.0, data=0.0, overlap=0.0, loader=4.0),
        Case(compute=3.0, bubble=1.0, tensor=1.0, data=0.0, overlap=0.0, loader=9.0),
        Case(compute=3.0, bubble=1.0, tensor=4.0, data=6.0, overlap=0.5, loader=7.0),
        Case(compute=3.0, bubble=3.0, tensor=2.0, data=1.0, overlap=0.0, loader=2.0),
    ),
    hidden=hidden_step,
    hints=(
        "The exposed exchange first, then the sum of four parts, then the loader against that sum.",
        "hidden = min(overlap x data, compute x 2 / 3); exposed = data - hidden.",
        '`busy = sum(parts.values())`; "loader" if `loader > busy`, else `max(parts, key=parts.get)`',
    ),
)

# ---------------------------------------------------------------------------------------------- 3. steps up


def ups(gpus: list[int], measured: list[float]) -> Answer:
    found = []
    for i in range(1, len(gpus)):
        speedup = measured[i - 1] / measured[i]
        found.append([speedup, speedup * gpus[i - 1] / gpus[i]])
    return Answer(value=found)


def judge_ups(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if isinstance(found, Tensor):
        found = nested(list(found.values), found.shape)
    if not isinstance(found, list) or len(found) != len(right):
        return "form"
    pairs = [[number(v) for v in pair] if isinstance(pair, list) else [] for pair in found]
    if not all(len(pair) == 2 and all(map(plain, pair)) for pair in pairs):
        return "form"
    for (speedup, efficiency), want_pair in zip(pairs, right, strict=True):
        if not close(speedup, want_pair[0], 1e-6):
            return "neighbours" if close(right[0][0], pairs[0][0], 1e-6) else "speedup"
        if not close(efficiency, want_pair[1], 1e-6):
            return "efficiency"
    return ""


def hidden_ups(rng: random.Random) -> list[Case]:
    cases = []
    for n in (2, 3, 4, 5):
        gpus, fixed, work = [rng.choice([1, 3, 8, 64])], rng.uniform(0.2, 3), rng.uniform(5, 40)
        for _ in range(n - 1):
            gpus.append(gpus[-1] * rng.choice([2, 3, 4, 1.5]) // 1)
        gpus = sorted({int(g) for g in gpus} | {gpus[0] * 7, gpus[0] * 50})
        cases.append(
            Case(gpus=gpus, measured=[fixed + work / g * gpus[0] + rng.uniform(0, 0.1) for g in gpus])
        )
    return [*cases, Case(gpus=[2, 4], measured=[3.0, 3.5])]


UPS = Task(
    name="steps_up",
    lines=6,
    reference=ups,
    judge=judge_ups,
    properties={
        "form": Property(
            "the answer has one [speedup, efficiency] for each pair of neighbours",
            "how many pairs are there?",
        ),
        "speedup": Property(
            "speedup is the time before over the time after", "is a faster run above or below 1?"
        ),
        "neighbours": Property(
            "each size is compared with the one before it", "is 8 GPUs compared with 4, or with 1?"
        ),
        "efficiency": Property(
            "efficiency is the speedup over the growth in GPUs",
            "three times the GPUs: which speedup would be all of it?",
        ),
    },
    public=(
        Case(gpus=[1, 2], measured=[8.0, 4.0]),
        Case(gpus=[2, 8], measured=[8.0, 4.0]),
        Case(gpus=[2, 4, 8], measured=[8.0, 5.0, 5.0]),
        Case(gpus=[2, 3], measured=[3.0, 4.0]),
    ),
    hidden=hidden_ups,
    hints=(
        "Walk through the places 1, 2 ... and look back by one.",
        "growth = gpus[i] / gpus[i - 1]; efficiency = speedup / growth.",
        "`speedup = measured[i - 1] / measured[i]`",
    ),
)

EXERCISE = Exercise(
    name="23_step_time",
    version=1,
    title="What a step is made of",
    minutes=30,
    round="system design",
    difficulty=2,
    rows=("S18", "S7"),
    tasks=(BUBBLE, STEP, UPS),
    predictions={
        "four times the GPUs": Prediction(
            answer=2.5,
            because="8 s become 2 s and the other 2 s stay: 10 / 4 = 2.5 times, at an efficiency of 62 %.",
        )
    },
    hides=("cost",),
)
