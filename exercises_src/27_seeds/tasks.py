"""Exercise 27, luck: which seed makes the spread, what the best of k promises, how many runs a claim needs.

Sources: variance components of a crossed design without replication, Searle, Casella and McCulloch, "Variance
Components", 1992; the size of two samples, Cohen, "Statistical Power Analysis", 1988.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: list[float]) -> float:
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def numbers(value: Any, names: set[str]) -> dict[str, float] | None:
    """A dict of plain finite numbers under these names; None for anything else."""
    if not isinstance(value, dict) or set(value) != names:
        return None
    found = {name: number(item) for name, item in value.items()}
    plain = [v for v in found.values() if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return found if len(plain) == len(names) and all(map(math.isfinite, plain)) else None


# ------------------------------------------------------------------------------------- 1. which seed it was


def components(losses: list[list[float]]) -> Answer:
    rows, columns = (
        [mean(row) for row in losses],
        [mean(list(column)) for column in zip(*losses, strict=True)],
    )
    middle, n, m = mean(rows), len(rows), len(columns)
    rest = math.fsum(
        (losses[i][j] - rows[i] - columns[j] + middle) ** 2 for i in range(n) for j in range(m)
    ) / ((n - 1) * (m - 1))
    parts = {"init": variance(rows) - rest / m, "order": variance(columns) - rest / n}
    return Answer(value={name: max(0.0, part) for name, part in parts.items()} | {"rest": rest})


def judge_components(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = numbers(got.value, {"init", "order", "rest"})
    if found is None:
        return "form"
    right = want.value
    if agree(found, right, 1e-6, 1e-9):
        return ""
    swapped = {"init": found["order"], "order": found["init"], "rest": found["rest"]}
    if agree(swapped, right, 1e-6, 1e-9):
        return "axes"
    if min(found.values()) < -1e-9:
        return "negative"
    if right["rest"] < 1e-12:
        return "spread"
    return "rest" if not agree(found["rest"], right["rest"], 1e-6, 1e-9) else "corrected"


def table(rng: random.Random, n: int, m: int, init: float, order: float, rest: float) -> list[list[float]]:
    rows, columns = [rng.gauss(0, init) for _ in range(n)], [rng.gauss(0, order) for _ in range(m)]
    return [[3 + rows[i] + columns[j] + rng.gauss(0, rest) for j in range(m)] for i in range(n)]


def hidden_components(rng: random.Random) -> list[Case]:
    cases = [Case(losses=table(rng, 4, 3, 0.2, 0.05, 0.0)), Case(losses=table(rng, 3, 6, 0.1, 0.1, 0.02))]
    cases += [
        Case(losses=table(rng, rng.randint(4, 7), rng.randint(2, 5), 0.15, 0.1, 0.05)) for _ in range(3)
    ]
    while True:  # a component that comes out below 0 belongs to every draw
        losses = table(rng, 4, 5, 0.2, 0.0, 0.2)
        if components(losses).value["order"] == 0:
            return [*cases, Case(losses=losses)]


COMPONENTS = Task(
    name="components",
    lines=8,
    reference=components,
    judge=judge_components,
    properties={
        "form": Property(
            'the answer is {"init": variance, "order": variance, "rest": variance}',
            "is what you return a standard deviation, or missing a part?",
        ),
        "axes": Property("losses[i][j] has init seed i and order seed j", "which of them is fixed in a row?"),
        "negative": Property("a component that comes out below 0 is 0", "can a variance be negative?"),
        "spread": Property(
            "without a rest, a component is the variance (n - 1) of the means of its rows or columns",
            "do you divide by n or by n - 1, and is it the means that you compare?",
        ),
        "rest": Property(
            "the rest is what rows and columns do not explain, squared and summed, over (n - 1)(m - 1)",
            "how many of the n x m leftovers are free, once all rows and columns sum to 0?",
        ),
        "corrected": Property(
            "the mean of m runs keeps 1/m of the rest, which is taken off",
            "would row means differ if the init seed did nothing?",
        ),
    },
    public=(
        Case(losses=[[3.0, 3.0], [3.5, 3.5]]),
        Case(losses=[[2.0, 2.25, 2.5], [3.0, 3.25, 3.5]]),
        Case(losses=[[1.0, 2.0], [2.0, 3.5], [4.0, 4.5]]),
        Case(losses=[[3.0, 3.5], [3.5, 3.0], [4.0, 4.5]]),
    ),
    hidden=hidden_components,
    hints=(
        "Means of rows, means of columns, the mean of all; the leftover of a run is x - row - column + mean.",
        "rest = sum of squared leftovers / ((n - 1) (m - 1)); a row mean of m runs carries rest / m of it.",
        "init = max(0, variance(row means) - rest / m), order = max(0, variance(column means) - rest / n)",
    ),
)

# -------------------------------------------------------------------------------- 2. what the best promises


def luck(chosen_by: list[float], fresh: list[float], k: int) -> Answer:
    order = sorted(range(len(chosen_by)), key=lambda run: (chosen_by[run], run))
    n, found = len(order), {}
    for name, losses in (("promised", chosen_by), ("kept", fresh)):
        best = math.fsum(losses[run] * math.comb(n - 1 - place, k - 1) for place, run in enumerate(order))
        found[name] = mean(losses) - best / math.comb(n, k)
    return Answer(value=found)


def judge_luck(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = numbers(got.value, {"promised", "kept"}), want.value
    if found is None:
        return "form"
    if agree(found, right, 1e-6, 1e-9):
        return ""
    if agree({name: -value for name, value in found.items()}, right, 1e-6, 1e-9):
        return "sign"
    if inputs["k"] == 1:
        return "one"
    return "kept" if agree(found["promised"], right["promised"], 1e-6, 1e-9) else "best"


def hidden_luck(rng: random.Random) -> list[Case]:
    cases = []
    for k in (1, 2, rng.randint(3, 4), 5):
        n = rng.randint(6, 9)
        quality = [rng.gauss(3, 0.05) for _ in range(n)]
        draws = [[value + rng.gauss(0, 0.1) for value in quality] for _ in range(2)]
        cases.append(Case(chosen_by=draws[0], fresh=draws[1], k=k))
    against = [6 - loss for loss in draws[0]]  # what was chosen is worse than the others
    cases.append(Case(chosen_by=draws[0], fresh=against, k=3))
    return [*cases, Case(chosen_by=draws[0], fresh=draws[1], k=n)]


LUCK = Task(
    name="luck",
    lines=7,
    reference=luck,
    judge=judge_luck,
    properties={
        "form": Property('the answer is {"promised": nats, "kept": nats}', "what does the table show?"),
        "sign": Property("a gain, a lower loss, is a positive number", "is the mean or the best larger?"),
        "one": Property("the best of one run promises and keeps nothing", "what is chosen when k is 1?"),
        "best": Property(
            "promised: the mean minus the expected loss of the best of k different runs",
            "how many of all choices of k runs have this run as their best?",
        ),
        "kept": Property(
            "kept: the same choices, looked up in the fresh losses", "who chose, and on which losses?"
        ),
    },
    public=(
        Case(chosen_by=[3.0, 3.5], fresh=[3.25, 3.0], k=1),
        Case(chosen_by=[2.0, 4.0, 3.0, 2.5], fresh=[3.0, 2.5, 3.5, 2.75], k=3),
        Case(chosen_by=[3.0, 3.5], fresh=[3.25, 3.0], k=2),
        Case(chosen_by=[3.5, 3.0, 3.25], fresh=[3.0, 3.25, 3.0], k=2),
    ),
    hidden=hidden_luck,
    hints=(
        "There are few runs: go through all choices of k of them with `itertools.combinations`.",
        "In each choice the best run is the one with the least `chosen_by`; note its loss in both lists.",
        "mean of all losses minus the mean, over all choices, of the best run's loss; once per list",
    ),
)

# ----------------------------------------------------------------------------------------- 3. how many runs


def needed(sd: float, gap: float) -> Answer:
    return Answer(value=max(2, math.ceil(2 * ((1.96 + 0.84) * sd / gap) ** 2)))


def judge_needed(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int:
        return "form"
    if found == want.value:
        return ""
    if want.value == 2:
        return "least"
    return "whole" if found == want.value - 1 else "size"


def hidden_needed(rng: random.Random) -> list[Case]:
    cases = [Case(sd=rng.uniform(0.01, 0.03), gap=rng.uniform(0.3, 0.9))]
    for runs in (*rng.sample(range(5, 60), 4), rng.randint(300, 900)):
        sd = rng.uniform(0.05, 0.3)
        cases.append(Case(sd=sd, gap=2.8 * sd * math.sqrt(2 / (runs + rng.uniform(0.1, 0.4)))))
    return cases


NEEDED = Task(
    name="runs_needed",
    lines=2,
    reference=needed,
    judge=judge_needed,
    properties={
        "form": Property("the answer is a whole number of runs", "can half a run be trained?"),
        "least": Property("one run has no spread: at least 2 are needed", "what is the sd of one run?"),
        "whole": Property("runs are rounded up", "is the power still 80 % with a run less?"),
        "size": Property(
            "runs of each of the two settings: 2 x ((1.96 + 0.84) x sd / gap)^2",
            "half the gap: how many times as many runs?",
        ),
    },
    public=(
        Case(sd=0.01, gap=1.0),
        Case(sd=0.1, gap=0.09),
        Case(sd=0.168, gap=0.06),
        Case(sd=0.168, gap=0.03),
    ),
    hidden=hidden_needed,
    hints=(
        "The formula is in the text; what is left is rounding and the least that makes sense.",
        "`math.ceil` rounds up; two runs are the least from which a spread can be estimated.",
        "`max(2, math.ceil(2 * ((1.96 + 0.84) * sd / gap) ** 2))`",
    ),
)

EXERCISE = Exercise(
    name="27_seeds",
    version=1,
    title="Luck",
    minutes=35,
    round="deep dive",
    difficulty=2,
    rows=("S11",),
    tasks=(COMPONENTS, LUCK, NEEDED),
    predictions={
        "nats kept": Prediction(
            answer=0.003,
            because=(
                "a dropout seed is noise: it has no good value that another run would meet again. Measured "
                "on 6 initial weights x 5 orders x 5 dropout seeds (docs/measured.md)."
            ),
        )
    },
    hides=("lab",),
)
