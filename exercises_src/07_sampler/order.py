"""Task 1 of the sampler: the order of an epoch. Many are right, so it is judged by what must hold of it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import number
from llmkit.grade.exercise import Answer, Case, Property, Task


def ints(value: Any) -> list[int] | None:
    """A flat list, tuple or integer tensor as plain integers; None for anything else."""
    if isinstance(value, Tensor):
        value = list(value.values) if len(value.shape) == 1 else None
    if not isinstance(value, list):
        return None
    plain = [number(v) for v in value]
    return plain if all(type(v) is int for v in plain) else None


# --------------------------------------------------------------------------------------------------- 1. order


def drive_order(function, n, keys):
    """Each key asked twice, the second time in reverse, with every global generator in another state."""
    import random
    import sys

    def states():
        found = [random.getstate()]
        if "numpy" in sys.modules:
            _, key, *rest = sys.modules["numpy"].random.get_state()
            found.append([key.tobytes(), *rest])
        if "torch" in sys.modules:
            found.append(bytes(sys.modules["torch"].get_rng_state().numpy()))
        return found

    first, second, untouched = [], [], True
    for out, asked in ((first, keys), (second, keys[::-1])):
        for seed, epoch in asked:
            random.seed(len(first) + 1000 * len(second))
            before = states()
            out.append(function(n, seed, epoch))
            untouched = untouched and states() == before
    if all(one is None for one in first):
        return None
    return {"orders": first, "again": second[::-1], "global generators untouched": untouched}


def order(n: int, keys: list[list[int]]) -> Answer:
    return Answer(
        value="any order that holds every row once and looks shuffled, another for each key, the same again"
    )


def judge_order(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    n, keys = inputs["n"], [tuple(key) for key in inputs["keys"]]
    if not isinstance(got.value, dict):
        return "form"
    orders, again = [[ints(one) for one in got.value[part]] for part in ("orders", "again")]
    if any(one is None for one in orders + again):
        return "form"
    if any(sorted(one) != list(range(n)) for one in orders):
        return "once"
    if orders != again:
        return "pure"
    if got.value["global generators untouched"] is not True:
        return "global"
    if n >= 24 and not all(shuffled(one) for one in orders):
        return "shuffled"
    if n >= 24 and len({tuple(one) for one in orders}) < len(set(keys)):
        return "key"
    return ""


def shuffled(rows: list[int]) -> bool:
    """No difference of neighbours fills half of the order, and rows are far from their own place.

    A uniform order moves a row by n/3 on average, and gives each difference about once.
    """
    n = len(rows)
    steps = Counter((b - a) % n for a, b in pairwise(rows))
    away = sum(abs(place - row) for place, row in enumerate(rows)) / n
    return steps[1] + steps[n - 1] <= n / 2 and max(steps.values()) <= n / 2 and away > n / 8


def hidden_order(rng: random.Random) -> list[Case]:
    cases = [Case(n=rng.randint(2, 6), keys=[[rng.randrange(50), rng.randrange(9)]])]
    for _ in range(5):
        s, e, k = rng.randint(3, 2**20), rng.randint(2, 900), rng.randint(1, 9)
        keys = [[s, e], [s + 1, e - 1], [e, s % 1000], [s % 1000, e], [0, e], [e, 0], [s + k, e]]
        keys += [[s, e + 1000 * k], [s + k, 0], [2**32 - 1 - s, e]]
        cases.append(Case(n=rng.randint(40, 90), keys=keys))
    return cases


ORDER = Task(
    name="order",
    lines=3,
    reference=order,
    judge=judge_order,
    drive=drive_order,
    properties={
        "form": Property("an order is a list of n integers", "what does a sampler hand to the data set?"),
        "once": Property(
            "every row 0 .. n-1 stands in the order exactly once", "does an epoch drop or repeat a row?"
        ),
        "pure": Property(
            "the same (n, seed, epoch) gives the same order, whatever ran before",
            "which generator do you draw from, and who else draws from it?",
        ),
        "global": Property(
            "no global random generator is seeded or advanced",
            "what becomes of the dropout masks when the sampler calls `seed`?",
        ),
        "shuffled": Property(
            "the order is a shuffle of the whole epoch: rows move far and lose their neighbours",
            "could a row from the end of the data come first?",
        ),
        "key": Property(
            "two different (seed, epoch) pairs give two different orders",
            "which other pairs lead to the key that you made of seed and epoch?",
        ),
    },
    public=(
        Case(n=1, keys=[[0, 0]]),
        Case(n=5, keys=[[3, 1]]),
        Case(n=24, keys=[[0, 0], [0, 1]]),
        Case(n=24, keys=[[0, 1], [1, 0], [2, 7], [7, 2], [0, 1000], [5, 0], [0, 5]]),
        Case(n=24, keys=[[2**32 - 1, 999_999], [1, 999_999], [0, 4000], [4, 0]]),
    ),
    hidden=hidden_order,
    hints=(
        "Make a generator of your own from seed and epoch together, and shuffle `range(n)` with it.",
        "`random.Random(text)` takes any text as its key. Which text keeps the two numbers apart?",
        "`random.Random(f'{seed} {epoch}').shuffle(rows)` shuffles the list `rows` in place.",
    ),
)
