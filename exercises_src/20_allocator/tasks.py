"""Exercise 20, the CUDA caching allocator: rounding, best fit, splitting, merging, and how it runs out."""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

from .blocks import MIB, PIECE, REQUEST, SERVE, sizes, whole

# --------------------------------------------------------------------------------------------- 3. give back


def give_back(segments: list[list[list]], address: int) -> Answer:
    after = []
    for segment in segments:
        merged: list[list] = []
        for at, size, used in segment:
            used = used and at != address
            if merged and not used and not merged[-1][2]:
                merged[-1][1] += size
            else:
                merged.append([at, size, used])
        after.append(merged)
    return Answer(value=after)


def is_layout(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(segment, list)
        and all(
            isinstance(b, list) and len(b) == 3 and all(map(whole, b[:2])) and type(b[2]) is bool
            for b in segment
        )
        for segment in found
    )


def judge_give_back(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, address = got.value, inputs["address"]
    if not is_layout(found):
        return "form"
    if agree(found, want.value):
        return ""
    if len(found) != len(want.value):
        return "border"
    place, number = next(
        (s, b)
        for s, segment in enumerate(inputs["segments"])
        for b, block in enumerate(segment)
        if block[0] == address
    )
    if not all(agree(f, w) for s, (f, w) in enumerate(zip(found, want.value, strict=True)) if s != place):
        return "border"
    segment = inputs["segments"][place]
    before = number > 0 and not segment[number - 1][2]
    after = number + 1 < len(segment) and not segment[number + 1][2]
    return "both" if before and after else "before" if before else "after" if after else "alone"


def layout(rng: random.Random, patterns: list[str], unit: int = PIECE) -> list[list[list]]:
    """Segments whose blocks are used (u) or free (f), of random sizes; they touch where chance wills it."""
    segments, at = [], rng.randint(1, 9) * 2 * MIB
    for pattern in patterns:
        segment = []
        for letter in pattern:
            size = unit * rng.randint(1, 60)
            segment.append([at, size, letter == "u"])
            at += size
        segments.append(segment)
        at += rng.choice([0, 0, 2 * MIB])
    return segments


def hidden_give_back(rng: random.Random) -> list[Case]:
    plans = [
        (["uuu", "ufu"], 0, 1),
        (["ufu", "fuu"], 1, 1),
        (["uuf", "u"], 0, 1),
        (["ufuf", "uu"], 0, 2),
        (["uf", "u", "fu"], 1, 0),
        (["fufufu", "fu"], 0, 3),
        (["uuf", "fuu", "fufu"], 2, 1),
        (["u", "uf"], 0, 0),
    ]
    cases = []
    for patterns, place, number in plans:
        segments = layout(rng, patterns)
        cases.append(Case(segments=segments, address=segments[place][number][0]))
    return cases


GIVE_BACK = Task(
    name="give_back",
    lines=11,
    reference=give_back,
    judge=judge_give_back,
    properties={
        "form": Property(
            "the answer is all segments, each a list of [address, bytes, used]",
            "what does the next call need to see?",
        ),
        "border": Property(
            "nothing merges across the border of two segments, and other segments stay as they are",
            "could cudaFree give back half of a merged block?",
        ),
        "alone": Property(
            "the block at the address becomes free, all others keep their state",
            "which of its three entries changes?",
        ),
        "after": Property("it merges with a free block behind it", "whose address has the merged block?"),
        "before": Property(
            "it merges with a free block in front of it", "whose address has the merged block?"
        ),
        "both": Property(
            "between two free blocks all three become one", "how many blocks are left of these three?"
        ),
    },
    public=(
        Case(segments=[[[0, 512, True]]], address=0),
        Case(segments=[[[0, 512, True], [512, 1024, True]]], address=512),
        Case(segments=[[[0, 512, True], [512, 1024, False]]], address=0),
        Case(segments=[[[0, 512, False], [512, 1024, True]]], address=512),
        Case(segments=[[[0, 512, False], [512, 1024, True], [1536, 512, False]]], address=512),
        Case(segments=[[[0, 512, False]], [[512, 1024, True]], [[1536, 512, False]]], address=512),
        Case(
            segments=[[[0, 512, False], [512, 512, True], [1024, 512, False]], [[4096, 512, True]]],
            address=4096,
        ),
    ),
    hidden=hidden_give_back,
    hints=(
        "Two steps: mark the block as free, then join neighbours that are both free, segment by segment.",
        "Build each segment anew: append a block, or add its bytes to the last one kept if both are free.",
        (
            "Inside the loop over blocks: `used = used and at != address`; then "
            "`if merged and not used and not merged[-1][2]: merged[-1][1] += size`, else append."
        ),
    ),
)

# ------------------------------------------------------------------------------------------ 4. how it ends


def outcome(segments: list[list[list]], block: int, limit: int) -> Answer:
    blocks = [b for segment in segments for b in segment]
    allocated = sum(size for _, size, used in blocks if used)
    reserved = sum(size for _, size, _ in blocks)
    largest = max((size for _, size, used in blocks if not used), default=0)
    idle = sum(s[0][1] for s in segments if len(s) == 1 and not s[0][2])
    asked = sizes(block)[1]
    if largest >= block:
        ends = "cached"
    elif reserved + asked <= limit:
        ends = "new segment"
    elif reserved - idle + asked <= limit:
        ends = "retry"
    else:
        ends = "fragmented" if allocated + block <= limit else "full"
    return Answer(value={"allocated": allocated, "reserved": reserved, "largest": largest, "ends": ends})


def judge_outcome(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != set(want.value) or not isinstance(found["ends"], str):
        return "form"
    for name in ("allocated", "reserved", "largest"):
        if not agree(found[name], want.value[name]):
            return name
    return "" if found["ends"] == want.value["ends"] else want.value["ends"]


def hidden_outcome(rng: random.Random) -> list[Case]:
    def case(patterns: list[str], over: int, room: str, less: int = 0, spare: bool = False) -> Case:
        """A block `over` the largest free one; the limit lets `room` be added, `less` some bytes."""
        segments = layout(rng, patterns, 150 * PIECE)
        reserved, largest = (outcome(segments, MIB, 0).value[name] for name in ("reserved", "largest"))
        idle = sum(s[0][1] for s in segments if len(s) == 1 and not s[0][2])
        block = largest + over
        more = {"nothing": 0, "block": block, "segment": sizes(block)[1]}[room]
        return Case(segments=segments, block=block, limit=reserved - idle * spare + more - less)

    some, none = ["ufuf", "fu", "f", "uuf"], ["uu", "uuu"]
    return [
        case(some, -PIECE, "nothing"),
        case(some, 0, "nothing"),
        case(some, PIECE, "segment"),
        case(some, PIECE, "segment", less=1),
        case(some, 2 * MIB, "segment", spare=True),
        case(some, PIECE, "segment", less=1, spare=True),
        case([*some, "f", "uf"], 11 * MIB + PIECE, "segment", spare=True),
        case(none, rng.randint(3, 9) * MIB, "block"),
        case(none, rng.randint(3, 9) * MIB, "block", less=1),
        case(none, 11 * MIB + PIECE, "segment", less=1),
    ]


OUTCOME = Task(
    name="outcome",
    lines=16,
    reference=outcome,
    judge=judge_outcome,
    properties={
        "form": Property(
            'the answer is {"allocated", "reserved", "largest", "ends"}, with text at the end',
            "which numbers does PyTorch's message print?",
        ),
        "allocated": Property("allocated counts the bytes of used blocks", "which blocks hold a tensor?"),
        "reserved": Property(
            "reserved counts all bytes of all segments", "what does nvidia-smi see of the cache?"
        ),
        "largest": Property(
            "largest is the largest single free block, 0 if there is none", "is it a sum or a maximum?"
        ),
        "cached": Property(
            'it ends "cached" when one free block holds the request, whatever the limit',
            "does a block out of the cache raise reserved?",
        ),
        "new segment": Property(
            'else it ends "new segment" when the segment that the driver is asked for fits the limit',
            "how much is asked of the driver for a block of 3 MiB?",
        ),
        "retry": Property(
            'else "retry": segments that are free from end to end go back first, and then it fits',
            "which segments can cudaFree take?",
        ),
        "fragmented": Property(
            'out of memory is "fragmented" when the block would fit beside what is allocated',
            "allocated + block against the limit: is there room, only in pieces?",
        ),
        "full": Property(
            'out of memory is "full" when allocated + block is above the limit',
            "would one whole block of all free memory do?",
        ),
    },
    public=(
        Case(segments=[[[0, 2 * MIB, False]]], block=2 * MIB, limit=2 * MIB),
        Case(segments=[], block=3 * MIB, limit=20 * MIB),
        Case(segments=[[[0, MIB, True], [MIB, MIB, True]]], block=MIB, limit=2 * MIB),
        Case(segments=[[[0, 12 * MIB, True]], [[20 * MIB, 20 * MIB, False]]], block=24 * MIB, limit=40 * MIB),
        Case(
            segments=[[[0, 8 * MIB, False], [8 * MIB, 2 * MIB, True], [10 * MIB, 10 * MIB, False]]],
            block=12 * MIB,
            limit=30 * MIB,
        ),
        Case(segments=[[[0, 20 * MIB, True]]], block=3 * MIB, limit=30 * MIB),
        Case(segments=[[[0, 20 * MIB, True]]], block=3 * MIB, limit=22 * MIB),
        Case(
            segments=[[[0, 6 * MIB, False], [6 * MIB, 14 * MIB, True]], [[30 * MIB, 12 * MIB, False]]],
            block=14 * MIB,
            limit=33 * MIB,
        ),
        Case(segments=[[[0, 20 * MIB, True]], [[30 * MIB, 20 * MIB, False]]], block=21 * MIB, limit=42 * MIB),
    ),
    hidden=hidden_outcome,
    hints=(
        "Flatten the segments once for the three numbers. Then go through the five ends in their order.",
        (
            "The driver is asked for `request(block)[1]` bytes. A segment can go back when it is one block "
            "and that is free."
        ),
        (
            "In order: `largest >= block`; `reserved + asked <= limit`; `reserved - idle + asked <= limit`; "
            "`allocated + block <= limit`; none of them."
        ),
    ),
)

EXERCISE = Exercise(
    name="20_allocator",
    version=1,
    title="The caching allocator",
    minutes=45,
    round="coding",
    difficulty=3,
    rows=("S10",),
    tasks=(REQUEST, SERVE, GIVE_BACK, OUTCOME),
    predictions={
        "MiB reserved": Prediction(
            answer=20.0,
            because=(
                "1 MiB and one byte is a block of 1 MiB + 512 bytes, one piece too many for the small pool. "
                "The large pool asks the driver for 20 MiB, and 19 of them wait for later tensors."
            ),
        )
    },
    hides=("memory",),
)
