"""Tasks 3 and 4 of drift: deal the labels anew, and the p-value of the largest gap over all shards.

The maximum over shards is part of the statistic, so that looking at many shards needs no further correction
(Westfall and Young, "Resampling-based multiple testing", 1993).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

from llmkit.grade.compare import close, number
from llmkit.grade.exercise import Answer, Case, Property, Task

from .shares import ABSOLUTE, RELATIVE, gaps_of, some_documents

# --------------------------------------------------------------------------------------------------- 3. deal


def drive_deal(function, shards, times, seed):
    """Asked twice with one seed and once with another, the global generators disturbed between."""
    import json
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

    answers, untouched = [], True
    for turn, given in enumerate((seed, seed + 1, seed)):
        random.seed(turn)
        before = states()
        answers.append(function(list(shards), times, given))
        untouched = untouched and states() == before
    if answers[0] is None:
        return None
    try:
        plain = [[[getattr(v, "item", lambda v=v: v)() for v in row] for row in found] for found in answers]
        plain = json.loads(json.dumps(plain))
    except (TypeError, ValueError):
        return answers
    kinds = [row for i, row in enumerate(plain[0]) if row not in plain[0][:i]]
    return {
        "each dealing and how often": [[row, plain[0].count(row)] for row in kinds],
        "same seed, same dealings": plain[0] == plain[2],
        "other seed, same dealings": plain[0] == plain[1],
        "global generators untouched": untouched,
    }


def deal(shards: list[int], times: int, seed: int) -> Answer:
    counts = dict(sorted(Counter(shards).items()))
    return Answer(value=f"{times} random orders of the labels, each with these counts: {counts}")


def tally_of(value: Any, length: int) -> list[tuple[tuple[int, ...], int]] | None:
    """(dealing, how often) as the driver counted them, or None."""
    if not isinstance(value, dict):
        return None
    found = [(tuple(row), count) for row, count in value["each dealing and how often"]]
    whole = all(len(row) == length and all(type(v) is int for v in row) for row, _ in found)
    return found if whole else None


def judge_deal(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    shards, times = inputs["shards"], inputs["times"]
    tally = tally_of(got.value, len(shards))
    if tally is None or sum(count for _, count in tally) != times:
        return "form"
    if any(sorted(row) != sorted(shards) for row, _ in tally):
        return "counts"
    if got.value["same seed, same dealings"] is not True:
        return "pure"
    if got.value["global generators untouched"] is not True:
        return "global"
    orders = arrangements(shards)
    if not uniform([count for _, count in tally], orders):
        return "uniform"
    return "seed" if orders**times > 10**9 and got.value["other seed, same dealings"] is not False else ""


def uniform(counts: list[int], orders: int) -> bool:
    """Each order within 6 standard deviations of its due; where orders are many, few dealings are alike."""
    due = sum(counts) / orders
    if due >= 50:
        return all(abs(n - due) <= 6 * math.sqrt(due) for n in [*counts, *[0] * (orders - len(counts))])
    return due > 0.01 or len(counts) > sum(counts) / 2


def arrangements(shards: list[int]) -> int:
    total = math.factorial(len(shards))
    for count in Counter(shards).values():
        total //= math.factorial(count)
    return total


def hidden_deal(rng: random.Random) -> list[Case]:
    cases = []
    for shards, times in (([0, 0, 1, 1], 320), ([4, 7, 7], 160)):
        rng.shuffle(shards)
        cases.append(Case(shards=shards, times=times, seed=rng.randrange(2**31)))
    for count in (30, 45):
        shards = [rng.randrange(5) for _ in range(count)]
        cases.append(Case(shards=shards, times=rng.randint(4, 9), seed=rng.randrange(2**31)))
    return cases


DEAL = Task(
    name="deal",
    lines=6,
    reference=deal,
    judge=judge_deal,
    drive=drive_deal,
    properties={
        "form": Property(
            "`times` dealings come back, each a list with one label per document", "what is dealt to whom?"
        ),
        "counts": Property(
            "every dealing gives each shard as many documents as it has",
            "are the labels drawn anew, or dealt out?",
        ),
        "pure": Property(
            "the dealings depend on the arguments alone", "could somebody else repeat your p-value?"
        ),
        "global": Property(
            "no global random generator is seeded or advanced", "who else draws from this generator?"
        ),
        "seed": Property("another seed gives other dealings", "what is your generator made from?"),
        "uniform": Property(
            "every order of the labels is equally likely, in each dealing anew",
            "are all your dealings different lists, and could each become any order?",
        ),
    },
    public=(
        Case(shards=[0, 1], times=1, seed=0),
        Case(shards=[0, 0, 0, 1], times=5, seed=1),
        Case(shards=[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], times=8, seed=3),
        Case(shards=[0, 1, 2], times=320, seed=2),
    ),
    hidden=hidden_deal,
    hints=(
        "Make one generator from the seed, and shuffle a copy of the labels `times` times.",
        "`random.Random(seed)` is a generator of your own; its `shuffle` works in place and returns None.",
        "`dealing = list(shards)`, `generator.shuffle(dealing)`, append; all of it inside the loop.",
    ),
)

# --------------------------------------------------------------------------------------------- 4. drift_test


def outcome_of(hits, tokens, shards, dealings, plus=1, at_least=True, size=abs, one=False, times=1) -> list:
    """[largest gap, shard, p]; the options are there to name wrong answers."""
    seen = gaps_of(hits, tokens, shards)
    shard = max(seen, key=lambda s: (abs(seen[s]), -s))
    count = 0
    for dealt in dealings:
        gaps = gaps_of(hits, tokens, dealt)
        largest = size(gaps[shard]) if one else max(map(size, gaps.values()))
        count += largest >= size(seen[shard]) if at_least else largest > size(seen[shard])
    return [seen[shard], shard, min(1.0, times * (plus + count) / max(1, plus + len(dealings)))]


def drift_test(hits, tokens, shards, dealings) -> Answer:
    return Answer(value=outcome_of(hits, tokens, shards, dealings))


def judge_test(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = [number(v) for v in got.value] if isinstance(got.value, list) else []
    if len(found) != 3 or any(type(v) not in (int, float) for v in found):
        return "form"
    gap, shard, p = want.value
    if found[1] != shard:
        return "shard"
    if not close(found[0], gap, RELATIVE) and abs(found[0] - gap) > ABSOLUTE:
        return "gap"
    if close(found[2], p, RELATIVE):
        return ""
    wrong = {
        "plus": {"plus": 0},
        "least": {"at_least": False},
        "inside": {"one": True},
        "side": {"size": float},
    }
    for key, change in wrong.items():
        if close(found[2], outcome_of(**inputs, **change)[2], RELATIVE):
            return key
    return "count"


def drift_case(rng: random.Random, count: int, shards: int, times: int, lift: int) -> Case:
    """One shard has `lift` hits more a document, or the others have; drawn until the largest gap shows it."""
    while True:
        documents = some_documents(rng, count, shards)
        one = rng.choice(documents["shards"])
        for i, shard in enumerate(documents["shards"]):
            documents["hits"][i] += abs(lift) * ((shard == one) == (lift > 0))
        if not lift or outcome_of(**documents, dealings=[])[0] * lift > 0:
            break
    dealings = [rng.sample(documents["shards"], count) for _ in range(times)]
    return Case(**documents, dealings=[*dealings, list(documents["shards"])])


def hidden_test(rng: random.Random) -> list[Case]:
    cases = [drift_case(rng, 9, 3, 30, lift) for lift in (0, 6, -6)]
    cases += [drift_case(rng, 12, 4, 30, lift) for lift in (5, -9)]
    return [*cases, drift_case(rng, 7, 2, 25, 8), drift_case(rng, 7, 2, 25, -8)]


TEST = Task(
    name="drift_test",
    lines=8,
    reference=drift_test,
    judge=judge_test,
    properties={
        "form": Property("three numbers come back: gap, shard, p", "what goes into the report?"),
        "shard": Property(
            "the shard named is the one whose gap is largest in size, the smallest number if two tie",
            "can the shard that has too few be the one that drifted?",
        ),
        "gap": Property("the gap is that shard's, with its sign", "more or fewer?"),
        "plus": Property(
            "p is (1 + dealings at least as extreme) / (1 + dealings): the order seen is one of them",
            "can a p-value be 0?",
        ),
        "least": Property(
            "a dealing whose largest gap equals the one observed counts",
            "what if a dealing happens to be the order seen?",
        ),
        "inside": Property(
            "in every dealing the largest gap over all shards is taken",
            "you looked for the worst of many shards: has chance been allowed to do the same?",
        ),
        "side": Property("gaps are compared by size, whatever their sign", "are too few hits no drift?"),
        "count": Property(
            "each dealing is compared with the gap observed, its labels put in place of the shards",
            "what is dealt: the labels of whole documents, and nothing else?",
        ),
    },
    public=(
        Case(hits=[3, 0], tokens=[10, 10], shards=[0, 1], dealings=[]),
        Case(hits=[3, 2, 0], tokens=[10, 10, 10], shards=[0, 0, 1], dealings=[[0, 0, 1], [1, 0, 0]]),
        Case(
            hits=[2, 0, 3, 4, 3, 4],
            tokens=[20, 20, 40, 20, 20, 40],
            shards=[0, 0, 1, 1, 2, 2],
            dealings=[
                [0, 0, 1, 1, 2, 2],
                [1, 2, 0, 0, 1, 2],
                [0, 2, 1, 2, 0, 1],
                [2, 1, 2, 1, 0, 0],
                [0, 0, 2, 1, 2, 1],
                [2, 1, 1, 0, 2, 0],
            ],
        ),
        Case(
            hits=[0, 1, 5, 6, 5, 6],
            tokens=[10, 10, 10, 10, 10, 10],
            shards=[3, 3, 5, 5, 7, 7],
            dealings=[[5, 5, 3, 3, 7, 7], [7, 5, 3, 3, 5, 7], [3, 5, 3, 5, 7, 7], [3, 3, 7, 5, 5, 7]],
        ),
    ),
    hidden=hidden_test,
    hints=(
        "Your `gaps` does the work: once for the shards as they are, once for each dealing.",
        "The statistic is `max(abs(gap) for gap in gaps(...).values())`, the same for observed and dealt.",
        "Count the dealings whose statistic is `>=` the observed one, and add 1 above and below.",
    ),
)
