"""Exercise 07, the sampler: which rows a rank reads at a step, as a pure function."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

from .order import ORDER, ints

# -------------------------------------------------------------------------------------------- 2. batch_number


def batch_at(step: int, skip: list[int]) -> int:
    listed = set(skip)
    served = (number for number in range(step + len(listed) + 1) if number not in listed)
    return next(islice(served, step, None))


def drive_batches(function, steps, skip):
    found = [function(step, list(skip)) for step in steps]
    return None if all(one is None for one in found) else found


def batch_number(steps: list[int], skip: list[int]) -> Answer:
    return Answer(value=[batch_at(step, skip) for step in steps])


def judge_batches(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = ints(got.value)
    if found is None:
        return "form"
    if not inputs["skip"]:
        return "" if found == want.value else "none"
    if any(number in inputs["skip"] for number in found):
        return "never"
    if len(set(found)) < len(set(inputs["steps"])):
        return "twice"
    return "" if found == want.value else "all"


def hidden_batches(rng: random.Random) -> list[Case]:
    cases = [Case(steps=rng.sample(range(500), 5), skip=[])]
    for count in (1, 3, 6, 12, 25):
        skip = [rng.randrange(40) for _ in range(count)]
        burst = rng.randrange(30)
        skip += [*range(burst + 3, burst, -1), skip[0]]
        rng.shuffle(skip)
        steps = list(range(36))
        rng.shuffle(steps)
        cases.append(Case(steps=steps, skip=skip))
    cases.append(Case(steps=rng.sample(range(5000), 6), skip=rng.sample(range(5000), 80)))
    return cases


BATCH = Task(
    name="batch_number",
    lines=5,
    reference=batch_number,
    judge=judge_batches,
    drive=drive_batches,
    properties={
        "form": Property("a batch number is an integer", "which batch does this step serve?"),
        "none": Property("without a skip list step s serves batch s", "what is skipped by an empty list?"),
        "never": Property(
            "a batch on the skip list is never served",
            "having stepped over one batch, may you land on another that is on the list?",
        ),
        "twice": Property("no batch is served twice", "which batch does the step after a skipped one serve?"),
        "all": Property(
            "all other batches are served, in order, and none is left out",
            "how many batches on the list come before the one you serve: each counted once?",
        ),
    },
    public=(
        Case(steps=[0, 1, 7], skip=[]),
        Case(steps=[0], skip=[1]),
        Case(steps=[0, 1, 2, 3], skip=[1]),
        Case(steps=[0, 1, 2], skip=[0, 1]),
        Case(steps=[3, 2, 1, 0], skip=[3, 2]),
        Case(steps=[0, 1, 2, 3], skip=[2, 2]),
        Case(steps=[0, 1, 2, 3, 4, 5], skip=[6, 4, 1, 5, 90]),
    ),
    hidden=hidden_batches,
    hints=(
        "Start at batch `step`. Each skipped batch at or before it pushes it one further.",
        "Being pushed further can bring another skipped batch within reach: go through them in rising order.",
        "`for skipped in sorted(set(skip))`: if it is at most `number`, add one to `number`.",
    ),
)

# ----------------------------------------------------------------------------------------------- 3. rank_rows


def drive_rows(function, orders, world, batch, calls):
    """All calls in the order given: steps come out of turn and twice, as after a rollback."""
    n = len(orders[0])
    found = [
        function(number, rank, world, batch, n, lambda epoch: list(orders[epoch % len(orders)]))
        for number, rank in calls
    ]
    return None if all(one is None for one in found) else found


def rank_rows(orders: list[list[int]], world: int, batch: int, calls: list[list[int]]) -> Answer:
    stream = [row for _ in range(batch + 1) for order in orders for row in order]
    wanted = [stream[number * batch : (number + 1) * batch][rank::world] for number, rank in calls]
    return Answer(value=wanted)


def judge_rows(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = [ints(one) for one in got.value] if isinstance(got.value, list) else []
    if len(found) != len(want.value) or any(one is None for one in found):
        return "form"
    if found == want.value:
        return ""
    calls = [tuple(call) for call in inputs["calls"]]
    answers = dict(zip(calls, found, strict=True))
    if any(answers[call] != one for call, one in zip(calls, found, strict=True)):
        return "pure"
    right = dict(zip(calls, want.value, strict=True))
    bad = min(call[0] for call in calls if answers[call] != right[call])
    mine, batch = ([row for call in right if call[0] == bad for row in of[call]] for of in (answers, right))
    if sorted(mine) == sorted(batch):
        return "share"
    n, size = len(inputs["orders"][0]), inputs["batch"]
    if bad * size // n != ((bad + 1) * size - 1) // n:
        return "border"
    return "overlap" if set(mine) <= set(batch) else "stream"


def rows_case(rng: random.Random, n: int, world: int, batch: int, numbers: list[int], again=True) -> Case:
    epochs = (max(numbers) + 1) * batch // n + 2
    orders = [rng.sample(range(n), n) for _ in range(epochs)]
    calls = [[number, rank] for number in numbers for rank in range(world)]
    calls += rng.sample(calls, len(calls)) if again else []
    return Case(orders=orders, world=world, batch=batch, calls=calls)


def hidden_rows(rng: random.Random) -> list[Case]:
    cases = [rows_case(rng, 60, 3, 6, [2, 0, 1])]
    for world in (1, 2, 3, 4, 5):
        n, batch = rng.randint(7, 23), rng.randint(5, 9)
        cases.append(rows_case(rng, n, world, batch, rng.sample(range(9), 5)))
    cases.append(rows_case(rng, 3, 2, rng.randint(7, 8), [1, 0, 2]))
    return cases


FIXED = random.Random(7)
ROWS = Task(
    name="rank_rows",
    lines=2,
    reference=rank_rows,
    judge=judge_rows,
    drive=drive_rows,
    properties={
        "form": Property("the function returns a list of rows, integers", "what does one rank load?"),
        "pure": Property(
            "the same arguments give the same rows, in whatever order steps are asked for",
            "what does your function remember from the call before?",
        ),
        "stream": Property(
            "batch b holds positions b * batch to (b + 1) * batch - 1 of the epochs laid end to end",
            "where does batch 1 begin, whatever the number of ranks?",
        ),
        "overlap": Property(
            "the ranks together read the whole batch, each position once",
            "which positions do ranks 0 and 1 read, and is any missing?",
        ),
        "share": Property(
            "rank r reads positions r, r + world, r + 2 * world ... of the batch, in that order",
            "who reads the second row of the batch?",
        ),
        "border": Property(
            "a batch that crosses the end of an epoch takes the rest from the next epoch's order",
            "what is in the first batch after an epoch whose rows `batch` does not divide?",
        ),
    },
    public=(
        Case(orders=[[3, 1, 0, 2], [2, 0, 3, 1]], world=1, batch=2, calls=[[0, 0], [1, 0]]),
        Case(orders=[[3, 1, 0, 2]], world=2, batch=4, calls=[[0, 0], [0, 1]]),
        Case(orders=[[5, 2, 7, 1, 0, 3, 6, 4]], world=2, batch=4, calls=[[0, 0], [0, 1], [1, 0], [1, 1]]),
        Case(orders=[[3, 5, 0, 2, 1, 4]], world=2, batch=3, calls=[[0, 0], [0, 1]]),
        Case(orders=[[2, 0, 1], [1, 2, 0], [0, 2, 1]], world=1, batch=2, calls=[[0, 0], [1, 0], [2, 0]]),
        Case(orders=[[3, 1, 0, 2], [2, 0, 3, 1]], world=1, batch=2, calls=[[1, 0], [0, 0], [1, 0], [1, 0]]),
        rows_case(FIXED, 5, 2, 3, [0, 1, 2, 3], again=False),
        rows_case(FIXED, 2, 2, 5, [1, 0], again=False),
    ),
    hidden=hidden_rows,
    hints=(
        "Number the positions of the endless stream. Which of them belong to this batch, which to this rank?",
        "Position p lies in epoch `p // n`, at place `p % n` of that epoch's order.",
        "The positions are `range(number * batch + rank, (number + 1) * batch, world)`.",
    ),
)

EXERCISE = Exercise(
    name="07_sampler",
    version=1,
    title="The sampler",
    minutes=25,
    round="coding",
    difficulty=2,
    rows=("S2", "S7"),
    tasks=(ORDER, BATCH, ROWS),
    predictions={
        "orders seen twice": Prediction(
            answer=9.0,
            because=(
                "Seed 0 uses the keys 0 .. 9, seed 1 the keys 1 .. 10: nine of them are the same, so nine of "
                "the second run's ten epochs come in an order that the first run had one epoch later. Two "
                "seeds that should differ in luck share nearly all of it."
            ),
        )
    },
    hides=("data",),
    shortcuts=("DistributedSampler", "permute", "keys_of"),
)
