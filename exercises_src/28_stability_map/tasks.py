"""Exercise 28, the stability map: which runs were lost, how sure a rate of losses is, where the edge lies.

Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import agree, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# -------------------------------------------------------------------------------------- 1. is the run lost?


def lost(losses: list[float], last: int, margin: float) -> Answer:
    if not all(map(math.isfinite, losses)):
        return Answer(value=True)
    tail = losses[-last:]
    return Answer(value=math.fsum(tail) / len(tail) > min(losses) + margin)


def judge_lost(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if type(found) is not bool:
        return "form"
    if found is want.value:
        return ""
    losses = inputs["losses"]
    if not all(map(math.isfinite, losses)):
        return "finite"
    if want.value:
        return "lost"
    return "spike" if max(losses[-inputs["last"] :]) > min(losses) + inputs["margin"] else "fine"


def hidden_lost(rng: random.Random) -> list[Case]:
    def falling(n: int, low: float) -> list[float]:
        return [low + (6 - low) * 0.9**step + rng.uniform(0, 0.05) for step in range(n)]

    low, n = rng.uniform(3, 4), rng.randint(60, 80)
    good, back = falling(n, low), falling(n, low)
    up = back[: n - 12] + [low + rng.uniform(1.2, 3) for _ in range(12)]
    spike = [*good[:-3], low + rng.uniform(1.5, 2.5), *good[-2:]]
    early = [*good[:20], 9.0, *good[21:]]
    just = back[: n - 12] + [low + rng.uniform(1.2, 1.35) for _ in range(12)]
    end = [*good[:-1], low + rng.uniform(1.5, 2.5)]
    cases = [Case(losses=run, last=10, margin=1.0) for run in (good, up, just, spike, end, early)]
    for bad in (math.nan, math.inf, -math.inf):
        at = rng.randrange(2, n - 12)
        cases.append(Case(losses=[*good[:at], bad, *good[at + 1 :]], last=10, margin=1.0))
    flat = [rng.uniform(6.0, 6.2) for _ in range(n)]  # never learns, never blows up
    return [*cases, Case(losses=flat, last=10, margin=1.0), Case(losses=good[:4], last=10, margin=5.0)]


LOST = Task(
    name="is_lost",
    lines=4,
    reference=lost,
    judge=judge_lost,
    properties={
        "form": Property("the answer is True or False", "is a number a verdict?"),
        "finite": Property(
            "one loss that is not finite, anywhere, and the run is lost",
            "what does `nan > 1` say? And minus infinity?",
        ),
        "lost": Property(
            "lost: the mean of the last losses is more than the margin above the lowest of the run",
            "what is the run compared with, its start or its best?",
        ),
        "spike": Property(
            "a spike from which the run came back does not make it lost",
            "do you compare one loss or the mean of the last ones?",
        ),
        "fine": Property("a run that ends near its best is not lost", "is a loss of 6 bad by itself?"),
    },
    public=(
        Case(losses=[6.0, 5.0, 4.0], last=2, margin=1.0),
        Case(losses=[6.0, 4.0, 6.0, 6.0], last=2, margin=1.0),
        Case(losses=[6.0, math.nan, 4.0], last=1, margin=1.0),
        Case(losses=[6.0, -math.inf, 4.0], last=1, margin=1.0),
        Case(losses=[6.0, math.inf, 4.0, 4.0], last=2, margin=1.0),
        Case(losses=[6.0, 4.0, 5.5, 4.0], last=3, margin=1.0),
        Case(losses=[6.0, 4.0, 4.0, 5.5], last=3, margin=1.0),
        Case(losses=[6.0, 9.0, 4.0, 4.0], last=2, margin=1.0),
        Case(losses=[6.0, 4.0, 7.0, 5.5], last=2, margin=1.0),
        Case(losses=[6.0, 6.0], last=5, margin=1.0),
    ),
    hidden=hidden_lost,
    hints=(
        "Look for losses that are not finite first: comparisons with NaN are always False.",
        "`losses[-last:]` are the last ones, all when there are fewer; their mean against `min(losses)`.",
        "`not all(map(math.isfinite, losses)) or fmean(losses[-last:]) > min(losses) + margin`",
    ),
)

# --------------------------------------------------------------------------------------------- 2. how sure?


def interval(lost: int, runs: int) -> tuple[float, float]:
    z = 1.96
    middle, half = lost + z * z / 2, z * math.sqrt(lost * (1 - lost / runs) + z * z / 4)
    return max(0.0, (middle - half) / (runs + z * z)), min(1.0, (middle + half) / (runs + z * z))


def wilson(lost: int, runs: int) -> Answer:
    return Answer(value=list(interval(lost, runs)))


def pair(value: Any) -> list[float] | None:
    if isinstance(value, Tensor):
        value = list(value.values)
    if not isinstance(value, list) or len(value) != 2:
        return None
    found = [number(item) for item in value]
    return found if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found) else None


def judge_wilson(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = pair(got.value)
    if found is None or not found[0] <= found[1]:
        return "form"
    if agree(found, want.value, 1e-5, 1e-7):
        return ""
    if not 0 <= found[0] <= found[1] <= 1:
        return "bounds"
    if inputs["lost"] in (0, inputs["runs"]):
        return "certain" if found[0] == found[1] else "edge"
    return "middle"


def hidden_wilson(rng: random.Random) -> list[Case]:
    runs = [rng.randint(3, 12), rng.randint(15, 60), rng.randint(200, 900)]
    cases = [Case(lost=0, runs=runs[0]), Case(lost=runs[0], runs=runs[0]), Case(lost=0, runs=runs[2])]
    return [*cases, *(Case(lost=rng.randint(1, n - 1), runs=n) for n in (*runs, 30))]


WILSON = Task(
    name="wilson",
    lines=5,
    reference=wilson,
    judge=judge_wilson,
    properties={
        "form": Property("the answer is two numbers, the lower one first", "an interval has how many ends?"),
        "bounds": Property(
            "a rate lies between 0 and 1, and so do the ends", "can -3 % of the runs be lost?"
        ),
        "certain": Property(
            "0 of 5 lost does not prove that none is ever lost", "would you bet on the sixth run?"
        ),
        "edge": Property(
            "at 0 of n the upper end is z² / (n + z²)", "does your interval shrink when nothing was lost?"
        ),
        "middle": Property(
            "Wilson's interval is not centred on the share but pulled towards one half",
            "which three places has z in the formula?",
        ),
    },
    public=(
        Case(lost=0, runs=1),
        Case(lost=1, runs=1),
        Case(lost=0, runs=16),
        Case(lost=8, runs=16),
        Case(lost=28, runs=300),
    ),
    hidden=hidden_wilson,
    hints=(
        "Write z = 1.96, then the middle, then the half width, all over runs + z².",
        "middle = lost + z²/2; half = z sqrt(lost (1 - lost/runs) + z²/4).",
        "`((middle - half) / (runs + z * z), (middle + half) / (runs + z * z))`, cut off at 0 and 1",
    ),
)

# ------------------------------------------------------------------------------------ 3. where is the edge?


def edges(rates: list[float], lost: list[list[int]], runs: int, limit: float) -> Answer:
    found = []
    for row in lost:
        edge = None
        for rate, count in sorted(zip(rates, row, strict=True)):
            if interval(count, runs)[1] > limit:
                break
            edge = rate
        found.append(edge)
    return Answer(value=found)


def judge_edges(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    value = list(got.value.values) if isinstance(got.value, Tensor) else got.value
    if not isinstance(value, list) or len(value) != len(want.value):
        return "form"
    value = [number(item) for item in value]
    if not all(item is None or (isinstance(item, float) and item in inputs["rates"]) for item in value):
        return "form"
    for found, right, row in zip(value, want.value, inputs["lost"], strict=True):
        if found == right:
            continue
        counts = dict(zip(inputs["rates"], row, strict=True))
        if found is None or right is None:
            return "none"
        if interval(counts[found], inputs["runs"])[1] > inputs["limit"]:
            return "upper"
        return "gap" if found > right else "largest"
    return ""


def hidden_edges(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(5):
        rates = [10 ** rng.uniform(-4, -1) for _ in range(rng.randint(4, 7))]
        runs = rng.choice([50, 100, 300])
        limit = interval(max(1, runs // 20), runs)[1] + 1e-9
        rows = []
        for _ in range(3):
            edge = rng.randint(0, len(rates))
            counts = {
                rate: rng.randint(0, runs // 20) if place < edge else rng.randint(runs // 20 + 1, runs)
                for place, rate in enumerate(sorted(rates))
            }
            rows.append([counts[rate] for rate in rates])
        most = sorted(rates)  # the largest rate is lucky, one below it is not
        lucky = dict.fromkeys(most, 0) | {most[-2]: runs // 2}
        near = dict.fromkeys(most, runs // 20 + 1) | {most[0]: 0}  # share below the limit, its end above
        rows += [[lucky[rate] for rate in rates], [near[rate] for rate in rates], [runs] * len(rates)]
        cases.append(Case(rates=rates, lost=rows, runs=runs, limit=limit))
    return cases


EDGES = Task(
    name="stable_edges",
    lines=9,
    reference=edges,
    judge=judge_edges,
    properties={
        "form": Property(
            "the answer has one learning rate, or None, for each warmup", "what is a row of `lost`?"
        ),
        "none": Property(
            "None stands where not even the smallest learning rate is stable, and only there",
            "which rate do you look at first, and what do you return if it is not stable?",
        ),
        "upper": Property(
            "stable means that the upper end of the interval is at most the limit, not the share",
            "how large may the true rate be, after so few runs?",
        ),
        "gap": Property(
            "every smaller learning rate is stable too: a lucky one beyond the edge does not count",
            "would you train at 0.03 when 0.01 blew up?",
        ),
        "largest": Property("the edge is the largest rate of the stable stretch", "are the rates sorted?"),
    },
    public=(
        Case(rates=[0.01], lost=[[0]], runs=100, limit=0.05),
        Case(rates=[0.01, 0.1], lost=[[0, 50], [0, 0]], runs=100, limit=0.05),
        Case(rates=[0.001, 0.01, 0.1], lost=[[0, 50, 0]], runs=100, limit=0.05),
        Case(rates=[0.001, 0.01], lost=[[60, 90], [50, 0]], runs=100, limit=0.05),
        Case(rates=[0.01, 0.02], lost=[[0, 4]], runs=100, limit=0.05),
        Case(rates=[0.1, 0.001, 0.01], lost=[[0, 0, 50], [80, 0, 0]], runs=100, limit=0.05),
    ),
    hidden=hidden_edges,
    hints=(
        "Go through a row from the smallest learning rate up and stop at the first that is not stable.",
        "`sorted(zip(rates, row))` pairs them in order; `wilson(count, runs)[1]` is the upper end.",
        "Start with `edge = None`; `break` when the upper end is above the limit, else `edge = rate`.",
    ),
)

EXERCISE = Exercise(
    name="28_stability_map",
    version=1,
    title="The stability map",
    minutes=35,
    round="deep dive",
    difficulty=2,
    rows=("S19", "S9"),
    tasks=(LOST, WILSON, EDGES),
    predictions={
        "runs to rule out 1 %": Prediction(
            answer=381,
            because=(
                "0 of n has the upper end z² / (n + z²) with z = 1.96: below 1 % from n = 381 on. Ten runs "
                "without an explosion rule out rates above 28 %, no more."
            ),
        )
    },
    hides=("lab",),
)
