"""Exercise 29, versions and what they must not forget: what changed in the data, and which inputs got worse.

Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
6, 1979.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import close, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

KINDS = ("added", "removed", "changed", "moved")

# ------------------------------------------------------------------------------------------ 1. what changed


def diff(old: dict[str, list[str]], new: dict[str, list[str]]) -> Answer:
    both = sorted(set(old) & set(new))
    return Answer(
        value={
            "added": sorted(set(new) - set(old)),
            "removed": sorted(set(old) - set(new)),
            "changed": [name for name in both if old[name][0] != new[name][0]],
            "moved": [name for name in both if old[name][1] != new[name][1]],
        }
    )


def judge_diff(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != set(KINDS):
        return "form"
    if not all(isinstance(v, list) and all(isinstance(name, str) for name in v) for v in found.values()):
        return "form"
    for kind in KINDS:
        if sorted(found[kind]) != want.value[kind]:
            return kind
    return "" if found == want.value else "sorted"


def hidden_diff(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(4):
        names = [f"{rng.choice('nswe')}/{number:03d}" for number in rng.sample(range(1000), 24)]
        old = {name: [f"text {rng.randrange(9)}", rng.choice(["train", "val"])] for name in names[:20]}
        kept = [name for name in names[:20] if rng.random() < 0.85 or name == names[0]]
        new = {name: list(old[name]) for name in kept}
        for name in rng.sample(kept, 3):
            new[name][0] += " changed"
        for name in rng.sample(kept, 3):
            new[name][1] = "val" if new[name][1] == "train" else "train"
        new[kept[0]] = [old[kept[0]][0] + "!", "val" if old[kept[0]][1] == "train" else "train"]
        new |= {name: ["fresh", "train"] for name in names[20:]}
        new[f"z/{rng.randrange(99)}"] = list(old[names[1]])  # a renamed copy is an added document
        order = list(new)
        rng.shuffle(order)
        cases.append(Case(old=old, new={name: new[name] for name in order}))
    return [*cases, Case(old=old, new=dict(old)), Case(old=old, new={})]


DIFF = Task(
    name="data_diff",
    lines=7,
    reference=diff,
    judge=judge_diff,
    properties={
        "form": Property(
            "the answer has the four lists of document names", "which four questions are asked?"
        ),
        "added": Property(
            "added: in the new version, not in the old", "by what do you tell documents apart?"
        ),
        "removed": Property(
            "removed: in the old version, not in the new", "which of the two do you walk through?"
        ),
        "changed": Property(
            "changed: in both versions, with another text, whether it moved or not",
            "does a document of another split have another text?",
        ),
        "moved": Property(
            "moved: in both versions, in another split, whether its text changed or not",
            "would you want to know that a changed document has moved to validation?",
        ),
        "sorted": Property("each list is sorted", "what would two people see who compare their diffs?"),
    },
    public=(
        Case(old={}, new={"b": ["two", "train"], "a": ["one", "train"]}),
        Case(old={"a": ["one", "train"]}, new={}),
        Case(old={"a": ["one", "train"]}, new={"a": ["one!", "train"]}),
        Case(old={"a": ["one", "train"]}, new={"a": ["one", "val"]}),
        Case(old={"a": ["one", "train"]}, new={"a": ["one!", "val"]}),
        Case(
            old={"c": ["x", "val"], "a": ["one", "train"], "b": ["two", "train"]},
            new={"b": ["two!", "train"], "d": ["one", "train"], "c": ["x", "train"]},
        ),
    ),
    hidden=hidden_diff,
    hints=(
        "`set(old)` are the names; two of the lists need nothing else.",
        "For the other two walk through the names in both, and compare [0], the text, or [1], the split.",
        "`both = sorted(set(old) & set(new))`, then `[n for n in both if old[n][0] != new[n][0]]`.",
    ),
)

# ------------------------------------------------------------------------------- 2. how sure, for one input


def chance(before: list[float], after: list[float]) -> Answer:
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    n = len(gaps)
    mean = math.fsum(gaps) / n
    variance = math.fsum((gap - mean) ** 2 for gap in gaps) / (n - 1)
    if variance == 0:
        return Answer(value=0.0 if mean > 0 else 1.0)
    return Answer(value=0.5 * math.erfc(mean / math.sqrt(2 * variance / n)))


def judge_chance(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 1:
        return "form"
    if close(found, want.value, 1e-6) or abs(found - want.value) < 1e-12:
        return ""
    gaps = [b - a for a, b in zip(inputs["before"], inputs["after"], strict=True)]
    if max(gaps) - min(gaps) == 0:
        return "same"
    if abs(found - (1 - want.value)) < 1e-6 or abs(found - 2 * min(want.value, 1 - want.value)) < 1e-6:
        return "worse"
    return "paired"


def hidden_chance(rng: random.Random) -> list[Case]:
    cases = []
    for shift in (0.05, -0.05, 0.3, 0.0, 0.02):
        hard = [rng.uniform(0, 8) for _ in range(rng.randint(12, 40))]
        cases.append(Case(before=hard, after=[x + rng.gauss(shift, 0.2) for x in hard]))
    cases.append(Case(before=[2.0, 3.0, 5.0], after=[2.5, 3.5, 5.5]))
    return [
        *cases,
        Case(before=[2.0, 3.0, 5.0], after=[1.5, 2.5, 4.5]),
        Case(before=[1.0, 7.0], after=[1.0, 7.0]),
    ]


CHANCE = Task(
    name="chance_of_no_change",
    lines=6,
    reference=chance,
    judge=judge_chance,
    properties={
        "form": Property("a p-value is a number from 0 to 1", "is the score itself a probability?"),
        "same": Property(
            "gaps that are all equal: 0 when they are positive, 1 otherwise", "what do you divide by then?"
        ),
        "worse": Property(
            "small when the loss has risen: one-sided, after against before",
            "would a fall of the loss raise an alarm too?",
        ),
        "paired": Property(
            "z is the mean gap over its standard error, token by token: sd (n - 1) / sqrt(n)",
            "is a hard token hard in both runs?",
        ),
    },
    public=(
        Case(before=[2.0, 4.0], after=[3.0, 5.0]),
        Case(before=[2.0, 4.0], after=[2.0, 4.0]),
        Case(before=[1.0, 2.0], after=[1.5, 3.5]),
        Case(before=[1.0, 5.0, 3.0, 2.0], after=[1.5, 5.25, 2.75, 2.5]),
        Case(before=[1.5, 5.25, 2.75, 2.5], after=[1.0, 5.0, 3.0, 2.0]),
    ),
    hidden=hidden_chance,
    hints=(
        "First the gaps, after minus before, token by token; then their mean and their sd with n - 1.",
        "z = mean / (sd / sqrt(n)); the chance of a normal number above z is erfc(z / sqrt 2) / 2.",
        "`0.5 * math.erfc(z / math.sqrt(2))`; sd 0 goes first: `0.0 if mean > 0 else 1.0`",
    ),
)

# ------------------------------------------------------------------------------------ 3. how sure, for many


def holm(p: dict[str, float], alpha: float) -> Answer:
    found = []
    for place, name in enumerate(sorted(p, key=lambda name: (p[name], name))):
        if p[name] > alpha / (len(p) - place):
            break
        found.append(name)
    return Answer(value=sorted(found))


def judge_holm(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, p, alpha = got.value, inputs["p"], inputs["alpha"]
    if not isinstance(found, list) or not all(isinstance(name, str) and name in p for name in found):
        return "form"
    if found == want.value:
        return ""
    if sorted(found) == want.value:
        return "sorted"
    sure = [name for name in p if p[name] <= alpha / len(p)]
    if not set(sure) <= set(found):
        return "first"
    if set(found) - set(want.value):
        return "many"
    return "step"


def hidden_holm(rng: random.Random) -> list[Case]:
    cases = []
    for n in (3, 8, 12, 20):
        names = [f"{rng.choice('qrst')}{number}" for number in rng.sample(range(100), n)]
        alpha = rng.choice([0.01, 0.05])
        steps = rng.randint(1, n - 2)
        values = [alpha / (n - place) * rng.uniform(0.6, 0.99) for place in range(steps)]
        values[0] = alpha / n * 0.5
        values.append(alpha / (n - steps) * rng.uniform(1.1, 1.4))
        values += [min(0.9, alpha * rng.uniform(1.5, 15)) for _ in range(n - steps - 1)]
        values[-1] = alpha * 0.98 if n > 3 else values[-1]  # sure if it stood alone
        rng.shuffle(names)
        cases.append(Case(p=dict(zip(names, values, strict=True)), alpha=alpha))
    names = ["b", "a", "c", "d"]
    middle = Case(p=dict(zip(names, [0.012, 0.0001, 0.03, 0.015], strict=True)), alpha=0.05)
    stop = Case(p=dict(zip(names, [0.0001, 0.03, 0.0249, 0.03], strict=True)), alpha=0.05)
    edge = Case(p={f"e{rng.randrange(9)}": 0.01}, alpha=0.01)
    return [*cases, middle, stop, edge, Case(p={"x": 0.9, "y": 0.06}, alpha=0.05)]


HOLM = Task(
    name="got_worse",
    lines=6,
    reference=holm,
    judge=judge_holm,
    properties={
        "form": Property("the answer is a list of names of inputs", "whom do you have to look at?"),
        "first": Property(
            "the smallest p-value is held against alpha / n, and found when it is at most that",
            "is the limit itself still sure?",
        ),
        "many": Property(
            "the k-th smallest is held against alpha / (n - k + 1), and the first that fails ends it",
            "of 60 inputs that did not change, how many have p below 0.05?",
        ),
        "step": Property(
            "each one found makes the next limit wider: n, then n - 1, then n - 2 ...",
            "when one input is known to be worse, how many are still in doubt?",
        ),
        "sorted": Property("the names are sorted", "in which order will they stand in the report?"),
    },
    public=(
        Case(p={"a": 0.05}, alpha=0.05),
        Case(p={"a": 0.03, "b": 0.6}, alpha=0.05),
        Case(p={"a": 0.01, "b": 0.04}, alpha=0.05),
        Case(p={"b": 0.01, "a": 0.02}, alpha=0.05),
        Case(p={"a": 0.001, "b": 0.03, "c": 0.04}, alpha=0.05),
    ),
    hidden=hidden_holm,
    hints=(
        "Sort the inputs by their p-value and go from the smallest up.",
        "The k-th of n (k from 0) has the limit alpha / (n - k). At the first one above its limit, stop.",
        "`for k, name in enumerate(sorted(p, key=p.get)): if p[name] > alpha / (len(p) - k): break`",
    ),
)

EXERCISE = Exercise(
    name="29_regression_set",
    version=1,
    title="Versions, and what they must not forget",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S20", "S2"),
    tasks=(DIFF, CHANCE, HOLM),
    predictions={
        "false alarms": Prediction(
            answer=3,
            because=(
                "60 inputs at 5 % each: three on average, and at least one in 95 of 100 comparisons "
                "(1 - 0.95^60). Holm's limit keeps that at 5 of 100."
            ),
        )
    },
    hides=("data", "lab"),
)
