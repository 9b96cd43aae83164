"""Tasks 1 and 2 of packing: documents to one stream, the stream to windows of inputs and targets."""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import number
from llmkit.grade.exercise import Answer, Case, Property, Task

IGNORE = -100  # the target that torch's cross_entropy leaves out (its default `ignore_index`)


def ints(value: Any) -> list[int] | None:
    """A flat list or integer tensor as plain integers; None for anything else."""
    if isinstance(value, Tensor):
        value = list(value.values) if len(value.shape) == 1 else None
    if not isinstance(value, list):
        return None
    plain = [number(v) for v in value]
    return plain if all(type(v) is int for v in plain) else None


def pair_of(value: Any) -> list[list[int] | None]:
    """Two flat lists of integers, each None where there is none."""
    if isinstance(value, Tensor) and len(value.shape) == 2 and value.shape[0] == 2:
        half = len(value.values) // 2
        value = [list(value.values[:half]), list(value.values[half:])]
    return [ints(one) for one in value] if isinstance(value, list) and len(value) == 2 else [None, None]


# --------------------------------------------------------------------------------------------------- 1. pack


def pack(documents: list[list[int]], end: int) -> Answer:
    tokens = [token for tokens in documents if tokens for token in [*tokens, end]]
    owners = [i for i, tokens in enumerate(documents) if tokens for _ in range(len(tokens) + 1)]
    return Answer(value=[tokens, owners])


def judge_pack(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    tokens, owners = pair_of(got.value)
    if tokens is None or owners is None:
        return "form"
    if [tokens, owners] == want.value:
        return ""
    end = inputs["end"]
    if tokens != want.value[0]:
        if not all(inputs["documents"]):
            return "empty"
        texts = [token for document in inputs["documents"] for token in document]
        return "end" if [t for t in tokens if t != end] == [t for t in texts if t != end] else "text"
    return "owners"


def some_documents(rng: random.Random, count: int, empty: bool) -> list[list[int]]:
    found = [[rng.randint(1, 90) for _ in range(rng.randint(1, 7))] for _ in range(count)]
    if empty:
        for _ in range(2):
            found.insert(rng.randint(0, len(found)), [])
    return found


def hidden_pack(rng: random.Random) -> list[Case]:
    cases = [Case(documents=some_documents(rng, n, n > 3), end=rng.choice([0, 91])) for n in (2, 3, 4, 6, 8)]
    repeated = [rng.randint(1, 9) for _ in range(3)]
    cases.append(Case(documents=[repeated, [5, 5], repeated], end=0))
    cases.append(Case(documents=[[], *some_documents(rng, 2, False), []], end=0))
    return cases


PACK = Task(
    name="pack",
    lines=6,
    reference=pack,
    judge=judge_pack,
    properties={
        "form": Property(
            "the function returns two lists of integers: tokens and owners", "what does a window need?"
        ),
        "empty": Property("an empty document leaves nothing behind", "what would its end token follow?"),
        "end": Property(
            "every document is followed by one end token, the last one too",
            "how does the model learn to stop, and where does it see that a document is over?",
        ),
        "text": Property(
            "the stream holds the documents' tokens, all of them, in order", "which document comes first?"
        ),
        "owners": Property(
            "owners holds each token's document number; an end token belongs to the document before it",
            "whose end is it? And is the number that of `documents`, empty ones counted?",
        ),
    },
    public=(
        Case(documents=[], end=0),
        Case(documents=[[7]], end=0),
        Case(documents=[[7, 8], [9]], end=0),
        Case(documents=[[5], [], [6]], end=99),
        Case(documents=[[3, 1], [4, 1, 5], [3, 1]], end=0),
    ),
    hidden=hidden_pack,
    hints=(
        "Go through `enumerate(documents)` and grow two lists side by side.",
        "A document of n tokens adds n + 1 to both lists; one without tokens adds nothing.",
        "`tokens += [*document, end]` and `owners += [number] * (len(document) + 1)`, if it has any.",
    ),
)

# ------------------------------------------------------------------------------------------------- 2. sample


def window(tokens: list[int], i: int, context: int, pad: int) -> list[list[int]]:
    piece = tokens[i * context : (i + 1) * context + 1]
    missing = context - (len(piece) - 1)
    return [piece[:-1] + [pad] * missing, piece[1:] + [IGNORE] * missing]


def drive_sample(function, tokens, context, pad):
    """Every window that has a target, one call each."""
    found = [function(list(tokens), i, context, pad) for i in range((len(tokens) - 2) // context + 1)]
    return None if all(one is None for one in found) else found


def sample(tokens: list[int], context: int, pad: int) -> Answer:
    windows = (len(tokens) - 2) // context + 1
    return Answer(value=[window(tokens, i, context, pad) for i in range(windows)])


def judge_sample(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = [pair_of(one) for one in got.value] if isinstance(got.value, list) else []
    context = inputs["context"]
    if len(found) != len(want.value) or any(one is None or len(one) != context for p in found for one in p):
        return "form"
    for (given, targets), (right, after) in zip(found, want.value, strict=True):
        real = sum(target != IGNORE for target in after)
        if given[:real] != right[:real]:
            return "start"
        if targets[:real] != after[:real]:
            return "real" if IGNORE in targets[:real] else "shift"
        if given != right or targets != after:
            return "pad"
    return ""


def hidden_sample(rng: random.Random) -> list[Case]:
    cases = []
    for over in (0, 1, 2, 3):
        context, pad = rng.randint(4, 7), rng.choice([0, 0, 50])
        size = context * rng.randint(1, 4) + 1 + over
        tokens = [rng.choice([0, *range(1, 50)]) for _ in range(size)]
        cases.append(Case(tokens=tokens, context=context, pad=pad))
    for context in (1, 3, 12):
        tokens = [rng.randint(0, 5) for _ in range(rng.randint(6, 11))]
        cases.append(Case(tokens=[*tokens, 0, 3], context=context, pad=0))
    cases.append(Case(tokens=rng.sample(range(60), 29), context=9, pad=99))
    return cases


SAMPLE = Task(
    name="sample",
    lines=4,
    reference=sample,
    judge=judge_sample,
    drive=drive_sample,
    properties={
        "form": Property(
            "a window is two lists of `context` integers: inputs and targets", "how long is every window?"
        ),
        "start": Property(
            "the inputs of window i begin at token i * context",
            "where does window 1 begin, if every token but the first is to be a target once?",
        ),
        "shift": Property(
            "the target at each place is the token after the input there",
            "what is the model to say when it has seen this input?",
        ),
        "real": Property(
            "a real token is a target, also if it has the padding's id",
            "if the end token serves as padding, who teaches the model to stop?",
        ),
        "pad": Property(
            "where no next token exists the input is `pad` and the target -100",
            "what does the last window hold after the stream's last target?",
        ),
    },
    public=(
        Case(tokens=[5, 6], context=1, pad=0),
        Case(tokens=[5, 6, 7, 8, 9], context=4, pad=0),
        Case(tokens=[5, 6, 7, 8, 9], context=2, pad=0),
        Case(tokens=[5, 6, 7], context=4, pad=0),
        Case(tokens=[5, 0, 7, 0, 9, 0], context=3, pad=0),
        Case(tokens=[5, 6, 7, 8, 9, 3], context=3, pad=99),
    ),
    hidden=hidden_sample,
    hints=(
        "A window of `context` targets needs `context + 1` tokens. Two windows share one token.",
        "Take the piece, drop its last token for the inputs, its first for the targets, then fill up both.",
        "`piece = tokens[i * context : (i + 1) * context + 1]`; `missing = context + 1 - len(piece)`.",
    ),
)
