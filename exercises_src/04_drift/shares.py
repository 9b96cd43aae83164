"""Tasks 1 and 2 of drift: how far each shard's share is from the others', and how exact a share is.

The standard error is that of a ratio of two sums over sampled documents (Cochran, "Sampling Techniques",
1977, chapter 6): documents are drawn, and the tokens in one of them come together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from llmkit.grade.compare import agree, close, number
from llmkit.grade.exercise import Answer, Case, Property, Task

RELATIVE, ABSOLUTE = 1e-6, 1e-12

# --------------------------------------------------------------------------------------------------- 1. gaps


def ratio(hits: list[int], tokens: list[int], where: list[bool]) -> float:
    kept = [(h, t) for h, t, keep in zip(hits, tokens, where, strict=True) if keep]
    return sum(h for h, _ in kept) / sum(t for _, t in kept)


def mean_of_ratios(hits: list[int], tokens: list[int], where: list[bool]) -> float:
    kept = [h / t for h, t, keep in zip(hits, tokens, where, strict=True) if keep]
    return sum(kept) / len(kept)


def mean_hits(hits: list[int], tokens: list[int], where: list[bool]) -> float:
    return ratio(hits, [1] * len(hits), where)


def gaps_of(
    hits: list[int], tokens: list[int], shards: list[int], share=ratio, rest=True
) -> dict[int, float]:
    """Share in each shard less that in all others; `share` and `rest` are there to name wrong answers."""
    return {
        s: share(hits, tokens, [one == s for one in shards])
        - share(hits, tokens, [not rest or one != s for one in shards])
        for s in sorted(set(shards))
    }


def gaps(hits: list[int], tokens: list[int], shards: list[int]) -> Answer:
    return Answer(value=gaps_of(hits, tokens, shards))


def judge_gaps(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != set(want.value):
        return "form"
    if any(type(number(v)) not in (int, float) for v in found.values()):
        return "form"
    wrong = {
        "": want.value,
        "sign": {s: -gap for s, gap in want.value.items()},
        "ratio": gaps_of(**inputs, share=mean_of_ratios),
        "tokens": gaps_of(**inputs, share=mean_hits),
        "others": gaps_of(**inputs, rest=False),
    }
    absolute = {s: abs(gap) for s, gap in want.value.items()}
    for key, value in [*wrong.items(), ("sign", absolute)]:
        if agree(found, value, RELATIVE, ABSOLUTE):
            return key
    return "value"


def some_documents(rng: random.Random, count: int, shards: int) -> dict[str, list[int]]:
    """Hits come in bursts, lengths differ tenfold, shards are unequal and each has two documents or more."""
    tokens = [rng.randint(20, 200) for _ in range(count)]
    hits = [rng.choice([0, 0, 1, rng.randint(2, n // 4)]) for n in tokens]
    labels = [*range(shards), *range(shards), *(rng.choice([0, 0, *range(shards)]) for _ in range(count))]
    labels = labels[:count]
    rng.shuffle(labels)
    names = rng.sample(range(20), shards)
    return {"hits": hits, "tokens": tokens, "shards": [names[label] for label in labels]}


def hidden_gaps(rng: random.Random) -> list[Case]:
    return [Case(**some_documents(rng, rng.randint(8, 16), shards)) for shards in (2, 2, 3, 3, 4, 4)]


GAPS = Task(
    name="gaps",
    lines=7,
    reference=gaps,
    judge=judge_gaps,
    properties={
        "form": Property(
            "the gaps are a dict from each shard's number to a number", "which shard will be named?"
        ),
        "sign": Property(
            "a gap is the shard's share less that of the others: positive where the shard has more",
            "does your gap tell more from fewer?",
        ),
        "ratio": Property(
            "a share is all hits over all tokens, not the mean of the documents' shares",
            "what does a document of ten tokens weigh, and one of ten thousand?",
        ),
        "tokens": Property("a share is per token", "what does a shard of long documents look like to you?"),
        "others": Property(
            "a shard is set against the other shards, itself left out",
            "how large can a gap become, if the shard is half of what it is compared with?",
        ),
        "value": Property(
            "each gap is (hits / tokens in the shard) - (hits / tokens in all other shards)",
            "which documents enter which of the four sums?",
        ),
    },
    public=(
        Case(hits=[1, 0], tokens=[10, 10], shards=[0, 1]),
        Case(hits=[1, 0, 3], tokens=[10, 20, 20], shards=[0, 0, 1]),
        Case(hits=[4, 0, 3, 1], tokens=[10, 90, 20, 40], shards=[5, 5, 2, 2]),
        Case(hits=[1, 0, 3, 2, 0], tokens=[10, 20, 20, 10, 40], shards=[0, 1, 2, 0, 1]),
    ),
    hidden=hidden_gaps,
    hints=(
        "Four sums per shard: hits and tokens inside, hits and tokens outside.",
        "Outside is the total less inside, so one pass for the totals and one per shard are enough.",
        "For each shard s: `(h, t)` summed where `shard == s`; the gap is `h / t - (H - h) / (T - t)`.",
    ),
)

# ----------------------------------------------------------------------------------------- 2. standard_error


def error_of(hits: list[int], tokens: list[int]) -> float:
    p, n = sum(hits) / sum(tokens), len(hits)
    residuals = [h - p * t for h, t in zip(hits, tokens, strict=True)]
    return math.sqrt(n / (n - 1) * sum(r * r for r in residuals)) / sum(tokens)


def deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


WRONG_ERRORS: dict[str, Callable[[list[int], list[int]], float]] = {
    "documents": lambda h, t: math.sqrt(sum(h) / sum(t) * (1 - sum(h) / sum(t)) / sum(t)),
    "residual": lambda h, t: deviation(h) * math.sqrt(len(h)) / sum(t),
    "ratio": lambda h, t: deviation([a / b for a, b in zip(h, t, strict=True)]) / math.sqrt(len(h)),
    "freedom": lambda h, t: error_of(h, t) * math.sqrt((len(h) - 1) / len(h)),
}


def standard_error(hits: list[int], tokens: list[int]) -> Answer:
    return Answer(value=error_of(hits, tokens))


def judge_error(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = number(got.value)
    if type(found) not in (int, float):
        return "form"
    if close(found, want.value, RELATIVE) or abs(found - want.value) <= ABSOLUTE:
        return ""
    for key, wrong in WRONG_ERRORS.items():
        if close(found, wrong(**inputs_of(inputs)), RELATIVE):
            return key
    return "value"


def inputs_of(inputs: dict[str, Any]) -> dict[str, list[int]]:
    return {"h": inputs["hits"], "t": inputs["tokens"]}


def hidden_error(rng: random.Random) -> list[Case]:
    cases = []
    for count in (3, 6, 9, 14, 20):
        documents = some_documents(rng, count, 1)
        documents["hits"][0] += 3
        cases.append(Case(hits=documents["hits"], tokens=documents["tokens"]))
    return [*cases, Case(hits=[3] * 4, tokens=[rng.randint(20, 50)] * 4)]


ERROR = Task(
    name="standard_error",
    lines=4,
    reference=standard_error,
    judge=judge_error,
    properties={
        "form": Property("the standard error is one number", "what stands behind the plus-minus sign?"),
        "documents": Property(
            "documents are the sampling units, not tokens",
            "are the tokens of one document drawn independently of one another?",
        ),
        "residual": Property(
            "a document's deviation is its hits less what its length makes one expect",
            "is a long document with many hits unusual?",
        ),
        "ratio": Property(
            "the share is a ratio of sums, so long documents weigh more", "how much does each document weigh?"
        ),
        "freedom": Property(
            "the sum of squares is multiplied by n / (n - 1)",
            "how many independent deviations are left, once the share is estimated?",
        ),
        "value": Property(
            "it is sqrt(n / (n - 1) * sum of squared deviations) / all tokens", "which factor is missing?"
        ),
    },
    public=(
        Case(hits=[1, 3], tokens=[10, 10]),
        Case(hits=[0, 0, 8], tokens=[20, 20, 20]),
        Case(hits=[2, 4, 1], tokens=[20, 40, 10]),
        Case(hits=[5, 0, 1, 0], tokens=[10, 30, 20, 60]),
    ),
    hidden=hidden_error,
    hints=(
        "First the share p of all documents together. Then one deviation per document.",
        "The deviation of a document is `h - p * t`: 0 for one that has its due.",
        "`math.sqrt(n / (n - 1) * sum(d * d for d in deviations)) / sum(tokens)`.",
    ),
)
