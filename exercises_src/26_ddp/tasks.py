"""Exercise 26, gradients of many ranks: average by tokens, order of buckets, a step that all take alike."""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

from .averages import AVERAGE
from .steps import STEP

PARAMETERS, BYTES, WORLD = 2.7e9, 2, 32

# ------------------------------------------------------------------------------------------------- 2. buckets


def fill(sizes: list[int], first: int, cap: int) -> Answer:
    """`compute_bucket_assignment_by_size` of torch/csrc/distributed/c10d/reducer.cpp, for one dtype."""
    found, bucket = [], []
    for number in range(len(sizes) - 1, -1, -1):
        bucket.append(number)
        if sum(sizes[i] for i in bucket) >= (cap if found else first):
            found.append(bucket)
            bucket = []
    return Answer(value=[*found, bucket] if bucket else found)


def judge_buckets(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, list) or not all(isinstance(bucket, list) and bucket for bucket in found):
        return "form"
    flat = [number for bucket in found for number in bucket]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in flat):
        return "form"
    count = len(inputs["sizes"])
    if sorted(flat) != list(range(count)):
        return "each"
    if flat != list(reversed(range(count))):
        return "order"
    if found[:1] != want.value[:1]:
        return "first"
    return "" if found == want.value else "cap"


def hidden_buckets(rng: random.Random) -> list[Case]:
    cases = [Case(sizes=[], first=4, cap=8)]
    for _ in range(5):
        sizes = [rng.randint(1, 12) for _ in range(rng.randint(12, 25))]
        sizes[rng.randrange(5)] = 90  # one gradient above any limit
        exact = sum(sizes[-3:])  # reached exactly
        cases.append(Case(sizes=sizes, first=exact, cap=sum(sizes[-8:-3])))
    return cases


BUCKETS = Task(
    name="buckets",
    lines=8,
    reference=fill,
    judge=judge_buckets,
    properties={
        "form": Property("a list of buckets, none of them empty", "what is sent for an empty bucket?"),
        "each": Property("every parameter is in one bucket, once", "what becomes of the rest at the end?"),
        "order": Property(
            "from the last parameter to the first, buckets and what is in them",
            "which gradient is ready first?",
        ),
        "first": Property(
            "the first bucket is closed when it has reached `first`",
            "is the gradient that fills it still in it?",
        ),
        "cap": Property(
            "every later bucket is closed when it has reached `cap`",
            "which limit holds now, and from which size does the new bucket count?",
        ),
    },
    public=(
        Case(sizes=[5], first=8, cap=16),
        Case(sizes=[8, 8, 8], first=8, cap=16),
        Case(sizes=[8, 8, 8], first=1, cap=10),
        Case(sizes=[4, 4, 4, 4], first=8, cap=100),
        Case(sizes=[3, 9, 1, 40, 2, 2, 5, 1], first=4, cap=8),
    ),
    hidden=hidden_buckets,
    hints=(
        "Walk from the last parameter to the first and keep one open bucket and its size.",
        "Put the gradient in first; then ask whether the bucket has reached its limit, and close it.",
        "The limit is `first` until one bucket is closed, then `cap`; the size restarts at 0.",
    ),
)

EXERCISE = Exercise(
    name="26_ddp",
    version=1,
    title="Gradients of many ranks",
    minutes=40,
    round="coding",
    difficulty=3,
    rows=("S7",),
    tasks=(AVERAGE, BUCKETS, STEP),
    predictions={
        "GB per step": Prediction(
            answer=round(2 * (WORLD - 1) / WORLD * PARAMETERS * BYTES / 1e9, 2),
            because=(
                "2.7e9 x 2 bytes = 5.4 GB, each chunk once round the ring to be summed and once to be "
                "spread: 2 x 31/32 x 5.4 = 10.46 GB. On 4 ranks it is 8.1 GB, on any number below 10.8."
            ),
        )
    },
    hides=("train",),
    shortcuts=("DistributedDataParallel", "_compute_bucket_assignment_by_size"),
)
