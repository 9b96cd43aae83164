"""Exercise 05, byte-pair encoding: join, train, encode. Tokens are strings, so that merges can be read."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

from .training import JOIN, TRAIN, joined, learn, some_pieces, tokens_of

# ------------------------------------------------------------------------------------------------- 3. encode


def encoded(piece: str, merges: list[tuple[str, str]]) -> list[str]:
    tokens = list(piece)
    for pair in merges:
        tokens = joined(tokens, pair)
    return tokens


def drive_encode(function, piece, merges):
    return function(piece, [tuple(pair) for pair in merges])


def encode(piece: str, merges: list[list[str]]) -> Answer:
    return Answer(value=encoded(piece, [tuple(pair) for pair in merges]))


def judge_encode(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = tokens_of(got.value)
    if found is None:
        return "form"
    if "".join(found) != inputs["piece"] or "" in found:
        return "text"
    if found == want.value:
        return ""
    if found == list(inputs["piece"]):
        return "merge"
    known = {tuple(pair) for pair in inputs["merges"]}
    return "until" if known & set(pairwise(found)) else "order"


def hidden_encode(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(4):
        pieces = some_pieces(rng, 14, 9)
        merges = learn(pieces, rng.randint(10, 24))
        letters = sorted(set("".join(pieces)))
        for _ in range(5):
            piece = "".join(rng.choice([*pieces, *letters, *letters]) for _ in range(rng.randint(3, 6)))
            cases.append(Case(piece=piece + rng.choice(["", "é", "日"]), merges=[list(m) for m in merges]))
    a, b = rng.sample("pqrst", 2)
    cases.append(Case(piece=a * (2 * rng.randint(1, 4) + 1) + b, merges=[[a, a], [a, b]]))
    cases.append(Case(piece="", merges=[["a", "b"]]))
    cases.append(Case(piece=rng.choice("xyz"), merges=[]))
    return cases


LOW = [list(pair) for pair in learn({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 10)]
CROSSED = [["b", "c"], ["a", "b"]]  # from {"bc": 3, "ab": 2}: in "abc" the first forbids the second

ENCODE = Task(
    name="encode",
    lines=4,
    reference=encode,
    judge=judge_encode,
    drive=drive_encode,
    properties={
        "form": Property("the function returns a list of tokens, strings", "what will be looked up next?"),
        "text": Property(
            "put together, the tokens are the piece, unknown characters included",
            "does the text come back, whatever it is?",
        ),
        "merge": Property("merges are applied", "of what do your tokens consist?"),
        "until": Property(
            "no two neighbours are left that a merge would join",
            "have all merges been applied, at every place?",
        ),
        "order": Property(
            "merges are applied in the order in which they were learned, each from left to right",
            "in `abc`, which is joined first: `a b` or `b c`?",
        ),
    },
    public=(
        Case(piece="", merges=[["a", "b"]]),
        Case(piece="x", merges=[["a", "b"]]),
        Case(piece="ab", merges=[["a", "b"]]),
        Case(piece="xabab", merges=[["a", "b"]]),
        Case(piece="abc", merges=CROSSED),
        Case(piece="abc", merges=[["a", "b"], ["ab", "c"]]),
        Case(piece="aaa", merges=[["a", "a"]]),
        Case(piece="lowest", merges=LOW),
        Case(piece="slowenés", merges=LOW),
    ),
    hidden=hidden_encode,
    hints=(
        "Start with the single characters and do to them what training did to its pieces.",
        "You have `join`. Which merge must come first, and how often must you go through the list?",
        "`for pair in merges: tokens = join(tokens, pair)`, beginning with `tokens = list(piece)`.",
    ),
)

EXERCISE = Exercise(
    name="05_bpe",
    version=1,
    title="Byte-pair encoding",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S4",),
    tasks=(JOIN, TRAIN, ENCODE),
    predictions={
        "merges of a repetition": Prediction(
            answer=6.0,
            because=(
                "The first merge makes 64 tokens `ab`. Each later one joins neighbours two by two: 32, 16, "
                "8, 4, 2 tokens. Then the one pair that is left occurs once, and training stops. "
                "Repetition is cheap: a token's length can double with every merge."
            ),
        )
    },
    hides=("data",),
    shortcuts=("BpeTrainer", "ByteLevelBPETokenizer", "train_from_iterator"),
)
