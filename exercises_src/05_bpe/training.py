"""Tasks 1 and 2 of BPE: join a pair, and learn merges (Sennrich et al. 2016, arXiv 1508.07909)."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

Pair = tuple[str, str]


def tokens_of(value: Any) -> list[str] | None:
    """A list of strings, or None."""
    return value if isinstance(value, list) and all(type(v) is str for v in value) else None


# --------------------------------------------------------------------------------------------------- 1. join


def joined(tokens: list[str], pair: Pair) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        met = tuple(tokens[at : at + 2]) == pair
        out.append("".join(pair) if met else tokens[at])
        at += 1 + met
    return out


def drive_join(function, tokens, pair):
    return function(list(tokens), tuple(pair))


def join(tokens: list[str], pair: list[str]) -> Answer:
    return Answer(value=joined(tokens, tuple(pair)))


def judge_join(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = tokens_of(got.value)
    if found is None:
        return "form"
    if "".join(found) != "".join(inputs["tokens"]):
        return "text"
    if found == want.value:
        return ""
    if tuple(inputs["pair"]) in pairwise(found):
        return "all"
    return "left" if sorted(found) == sorted(want.value) else "only"


def hidden_join(rng: random.Random) -> list[Case]:
    cases = [Case(tokens=["k"] * (2 * rng.randint(2, 5) + 1), pair=["k", "k"])]
    for _ in range(6):
        a, b, c = rng.sample("pqrstu", 3)
        words = [a, b, c, a + b, b + c, a + b + c]
        tokens = [rng.choice(words) for _ in range(rng.randint(6, 14))]
        pair = rng.choice([(a, b + c), (a + b, c), (a, a), (b, b)])
        tokens += [*pair, a + b, c, a, b + c, c, *pair, pair[0], pair[0], pair[0]]
        cases.append(Case(tokens=tokens, pair=list(pair)))
    rng.shuffle(cases)
    return cases


JOIN = Task(
    name="join",
    lines=9,
    reference=join,
    judge=judge_join,
    drive=drive_join,
    properties={
        "form": Property("the function returns a list of tokens, strings", "what does a word become?"),
        "text": Property(
            "put together, the tokens are the same text as before",
            "where does your loop go on after it has joined two?",
        ),
        "all": Property("every occurrence of the pair is joined", "what stands behind the first one?"),
        "only": Property(
            "nothing is joined but the pair's two tokens",
            "are `a` + `bc` and `ab` + `c` the same two tokens?",
        ),
        "left": Property("occurrences that overlap are joined from the left", "what becomes of `a a a`?"),
    },
    public=(
        Case(tokens=[], pair=["a", "b"]),
        Case(tokens=["a", "b"], pair=["a", "b"]),
        Case(tokens=["a", "b"], pair=["b", "a"]),
        Case(tokens=["a", "b", "c", "a", "b"], pair=["a", "b"]),
        Case(tokens=["ab", "c", "b", "c"], pair=["b", "c"]),
        Case(tokens=["ab", "c", "a", "bc"], pair=["a", "bc"]),
        Case(tokens=["a", "a", "a"], pair=["a", "a"]),
    ),
    hidden=hidden_join,
    hints=(
        "Walk through the tokens with an index; compare each token and its neighbour with the pair.",
        "Where they match, append the two as one string and go on two places further, else one.",
        "`if at + 1 < len(tokens) and (tokens[at], tokens[at + 1]) == pair:` append `pair[0] + pair[1]`.",
    ),
)

# -------------------------------------------------------------------------------------------------- 2. train


def pair_counts(words: dict[str, list[str]], pieces: dict[str, int]) -> Counter[Pair]:
    counts: Counter[Pair] = Counter()
    for piece, tokens in words.items():
        for pair in pairwise(tokens):
            counts[pair] += pieces[piece]
    return counts


def learn(pieces: dict[str, int], merges: int) -> list[Pair]:
    words, learned = {piece: list(piece) for piece in pieces}, []
    while len(learned) < merges:
        counts = pair_counts(words, pieces)
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        learned.append(best)
        words = {piece: joined(tokens, best) for piece, tokens in words.items()}
    return learned


def train(pieces: dict[str, int], merges: int) -> Answer:
    return Answer(value=[list(pair) for pair in learn(pieces, merges)])


def judge_train(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = [tokens_of(pair) for pair in got.value] if isinstance(got.value, list) else [None]
    if any(pair is None or len(pair) != 2 for pair in found):
        return "form"
    same = 0
    while same < min(len(found), len(want.value)) and found[same] == want.value[same]:
        same += 1
    if same == len(found) == len(want.value):
        return ""
    if same == len(found):
        return "stop"
    pair = tuple(found[same])
    if list(pair) in found[:same]:
        return "repeat"
    pieces = inputs["pieces"]
    words = {piece: list(piece) for piece in pieces}
    for done in found[:same]:
        words = {piece: joined(tokens, tuple(done)) for piece, tokens in words.items()}
    counts = pair_counts(words, pieces)
    if pair not in counts:
        return "inside"
    if same == len(want.value):
        return "stop"
    return "tie" if counts[pair] == max(counts.values()) else "most"


def some_pieces(rng: random.Random, count: int, most: int) -> dict[str, int]:
    """Words of a few syllables, so that longer tokens are worth making; small counts, so that some tie."""
    letters = rng.sample("abcdefghijklmnop", 7)
    syllables = ["".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(5)]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(count)]
    return {word: rng.randint(1, most) for word in words}


def hidden_train(rng: random.Random) -> list[Case]:
    a, b, c, d = sorted(rng.sample("abcdefgh", 4))
    cases = [
        Case(pieces={d + c: 3, b + a: 3, a + b: 3, c + d: 3}, merges=4),
        Case(pieces={a * rng.randint(9, 14): 1, b * 5: 1}, merges=6),
        Case(pieces={a + b: 9, c + d: 2, c + d + a: 2, c + d + b: 2}, merges=1),
    ]
    cases.append(Case(pieces={a + b: rng.randint(2, 5), c: 3}, merges=4))
    cases.append(Case(pieces={c + d: 4, c + d + a: 3, a + b: 3}, merges=3))
    cases += [Case(pieces=some_pieces(rng, 12, 9), merges=rng.randint(8, 14)) for _ in range(3)]
    cases += [Case(pieces=some_pieces(rng, 5, 2), merges=60) for _ in range(2)]
    return cases


TRAIN = Task(
    name="train",
    lines=13,
    reference=train,
    judge=judge_train,
    properties={
        "form": Property("the merges are a list of pairs of tokens", "what will `encode` go through?"),
        "stop": Property(
            "learning stops after `merges` merges, or when no pair occurs twice, and not before",
            "is a pair that occurs once worth a place in the vocabulary?",
        ),
        "repeat": Property(
            "no pair is merged twice", "is the pair still there, once its occurrences are joined?"
        ),
        "inside": Property(
            "a merge joins two tokens that are neighbours in a piece, as the merges before have left it",
            "of which tokens do the pieces consist by now?",
        ),
        "most": Property(
            "the pair that occurs most often comes first; a piece that stands 5 times counts 5 times",
            "how often does each pair occur in the text, not in the list of pieces?",
        ),
        "tie": Property(
            "of pairs that occur equally often the smallest, as Python compares tuples, comes first",
            "which pair does your `max` return when two are equal?",
        ),
    },
    public=(
        Case(pieces={"ab": 2}, merges=1),
        Case(pieces={"ab": 1}, merges=1),
        Case(pieces={"ab": 2}, merges=9),
        Case(pieces={"abc": 2}, merges=2),
        Case(pieces={"ba": 2, "ab": 2}, merges=2),
        Case(pieces={"ca": 2, "aa": 1, "ab": 2, "b": 9}, merges=1),
        Case(pieces={"bc": 5, "ab": 1, "abd": 1, "abe": 1}, merges=2),
        Case(pieces={"abxab": 2}, merges=2),
        Case(pieces={"aaaa": 1, "bb": 2}, merges=3),
        Case(pieces={"low": 5, "lower": 2, "newest": 6, "widest": 3}, merges=10),
    ),
    hidden=hidden_train,
    hints=(
        "Keep every piece as a list of tokens. Count pairs, choose one, join it everywhere, count again.",
        (
            "A `Counter` over `pairwise(tokens)`, adding the piece's count each time. "
            "`min(counts, key=lambda pair: (-counts[pair], pair))` is the most frequent, ties by order."
        ),
        (
            "Break when there is no pair, or the best one occurs once; else append it and replace every "
            "word by `join(word, best)`."
        ),
    ),
)
