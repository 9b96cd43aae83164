"""Exercise 18, activation memory: a layer, and the stages of a pipeline.

Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, sections 4
and 5.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import close, number, plain
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

POLICIES = ("none", "selective", "full")


# --------------------------------------------------------------------------------------------- 1. one layer


def layer(s: int, b: int, h: int, a: int, t: int, sequence: bool, recompute: str) -> Answer:
    if recompute == "full":
        return Answer(value=2 * s * b * h / (t if sequence else 1))
    scores = 5 * a * s / h / t if recompute == "none" else 0.0
    return Answer(value=s * b * h * (10 / (t if sequence else 1) + 24 / t + scores))


def judge_layer(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if not plain(found):
        return "form"
    if close(found, want.value, 1e-6):
        return ""
    if inputs["recompute"] == "full":
        return "full"
    if inputs["recompute"] == "selective":
        return "selective"
    if inputs["sequence"]:
        return "sequence"
    return "layer" if inputs["t"] == 1 else "tensor"


def hidden_layer(rng: random.Random) -> list[Case]:
    cases = []
    for sequence in (False, True):
        for recompute in POLICIES:
            head, a = rng.choice([64, 80, 128]), rng.randint(2, 12) * 8
            cases.append(
                Case(
                    s=rng.choice([512, 1536, 4096]), b=rng.randint(2, 9), h=head * a, a=a,
                    t=rng.choice([2, 4, 8]), sequence=sequence, recompute=recompute,
                )
            )  # fmt: skip
    return [*cases, Case(s=777, b=3, h=1024, a=16, t=1, sequence=False, recompute="none")]


LAYER = Task(
    name="layer_bytes",
    lines=8,
    reference=layer,
    judge=judge_layer,
    properties={
        "form": Property("the answer is a number of bytes", "which unit has s b h?"),
        "layer": Property(
            "on one GPU: s b h (34 + 5 a s / h)", "is each of the two terms there, times s b h?"
        ),
        "tensor": Property(
            "tensor parallelism divides the 24 and the scores, not the 10", "what is left whole?"
        ),
        "sequence": Property(
            "sequence parallelism divides the 10 by t too", "who keeps the layer norm's input?"
        ),
        "selective": Property("selective: the scores alone are not kept", "which term is recomputed?"),
        "full": Property(
            "full: 2 s b h, the layer's input, divided by t under sequence parallelism alone",
            "what is needed to run the layer again?",
        ),
    },
    public=(
        Case(s=1, b=1, h=10, a=2, t=1, sequence=False, recompute="none"),
        Case(s=4, b=3, h=10, a=2, t=1, sequence=False, recompute="none"),
        Case(s=1, b=1, h=10, a=2, t=2, sequence=False, recompute="none"),
        Case(s=1, b=1, h=10, a=2, t=2, sequence=True, recompute="none"),
        Case(s=1, b=1, h=10, a=2, t=2, sequence=True, recompute="selective"),
        Case(s=1, b=1, h=10, a=2, t=2, sequence=False, recompute="full"),
        Case(s=1, b=1, h=10, a=2, t=2, sequence=True, recompute="full"),
    ),
    hidden=hidden_layer,
    hints=(
        "Write what is kept in units of s b h first; multiply at the end.",
        "10 / (t if sequence else 1) + 24 / t, and 5 a s / (h t) when nothing is recomputed.",
        'full is a case of its own: 2 / (t if sequence else 1); "selective" leaves the scores out.',
    ),
)

# --------------------------------------------------------------------------------------------- 2. one stage


def stage(layers: int, stages: int, micro: int, each: float, logits: float) -> Answer:
    found = [min(stages - i, micro) * layers / stages * each for i in range(stages)]
    return Answer(value=[*found[:-1], found[-1] + logits])


def judge_stage(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    value = list(got.value.values) if isinstance(got.value, Tensor) else got.value
    if not isinstance(value, list) or len(value) != inputs["stages"]:
        return "form"
    value = [number(item) for item in value]
    if not all(map(plain, value)):
        return "form"
    wrong = [
        i
        for i, (found, right) in enumerate(zip(value, want.value, strict=True))
        if not close(found, right, 1e-6)
    ]
    if not wrong:
        return ""
    if inputs["stages"] == 1:
        return "one"
    if wrong == [inputs["stages"] - 1]:
        return "logits"
    return "few" if inputs["micro"] < inputs["stages"] else "waiting"


def hidden_stage(rng: random.Random) -> list[Case]:
    def case(stages: int, micro: int) -> Case:
        layers = stages * rng.randint(2, 12)
        return Case(
            layers=layers, stages=stages, micro=micro, each=rng.uniform(1, 900), logits=rng.uniform(50, 999)
        )

    return [
        case(1, 5),
        case(rng.randint(3, 8), 64),
        case(rng.randint(6, 9), rng.randint(2, 4)),
        case(8, 8),
        case(4, 1),
    ]


STAGE = Task(
    name="stage_bytes",
    lines=6,
    reference=stage,
    judge=judge_stage,
    properties={
        "form": Property("the answer has a number for each stage", "how many stages are there?"),
        "one": Property(
            "one stage holds all layers, of one micro-batch at a time",
            "when does it run its first backward pass?",
        ),
        "waiting": Property(
            "stage i has stages - i micro-batches under way, of layers / stages layers each",
            "which stage waits longest for a backward pass?",
        ),
        "few": Property(
            "never more micro-batches are under way than there are", "what if there are only two?"
        ),
        "logits": Property(
            "the last stage keeps the logits of the one it has under way", "who has the head?"
        ),
    },
    public=(
        Case(layers=4, stages=1, micro=8, each=10.0, logits=0.0),
        Case(layers=6, stages=3, micro=8, each=10.0, logits=7.0),
        Case(layers=8, stages=4, micro=2, each=10.0, logits=7.0),
        Case(layers=9, stages=3, micro=9, each=2.0, logits=5.0),
    ),
    hidden=hidden_stage,
    hints=(
        "The micro-batches under way first, then the layers of a stage, then the logits of the last.",
        "`min(stages - stage, micro)` for stage 0, 1 ...; the last stage has one under way.",
        "`min(stages - stage, micro) * layers / stages * each`, and `+ logits` for the last",
    ),
)

EXERCISE = Exercise(
    name="18_activation_memory",
    version=1,
    title="Activation memory",
    minutes=25,
    round="system design",
    difficulty=2,
    rows=("S17", "S13"),
    tasks=(LAYER, STAGE),
    predictions={
        "percent scores": Prediction(
            answer=70.2,
            because="5 x 96 x 2,048 / 12,288 = 80 beside 34: 80 / 114 = 70 %. At 8,192 tokens it is 90 %.",
        )
    },
    hides=("cost", "memory"),
)
