"""Tasks 1 and 2 of the caching allocator: what a request becomes, and which free block serves it.

Oracle: `llmkit.memory.allocator.CachingAllocator`, whose constants are those of
c10/core/AllocatorConfig.h of PyTorch 2.13.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Answer, Case, Property, Task

MIB = 1024**2
PIECE = 512  # kMinBlockSize


def whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


# ----------------------------------------------------------------------------------------------- 1. request


def sizes(nbytes: int) -> tuple[int, int]:
    block = -(-nbytes // PIECE) * PIECE
    if block <= MIB:
        return block, 2 * MIB
    return block, 20 * MIB if block < 10 * MIB else -(-block // (2 * MIB)) * 2 * MIB


def judge_request(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, list) or len(found) != 2 or not all(map(whole, found)):
        return "form"
    block, segment = want.value
    if found[0] != block:
        return "round"
    if found[1] != segment:
        return "small" if block <= MIB else "large" if block < 10 * MIB else "measure"
    return ""


def hidden_request(rng: random.Random) -> list[Case]:
    numbers = [
        rng.randint(1, 511),
        512 * rng.randint(2, 2000),
        MIB - rng.randint(1, 400),
        MIB + rng.randint(1, 400),
        rng.randint(2 * MIB, 9 * MIB),
        10 * MIB - rng.randint(1, 500),  # its block is 10 MiB
        2 * MIB * rng.randint(6, 400),
        2 * MIB * rng.randint(6, 400) + rng.randint(1, 500),
        rng.randint(10 * MIB, 4000 * MIB),
    ]
    return [Case(nbytes=n) for n in numbers]


REQUEST = Task(
    name="request",
    lines=6,
    reference=lambda nbytes: Answer(value=sizes(nbytes)),
    judge=judge_request,
    properties={
        "form": Property("the answer is two whole numbers of bytes", "can a block have half a byte?"),
        "round": Property(
            "a block is the request, rounded up to a multiple of 512 bytes",
            "what becomes of a request that is a multiple already?",
        ),
        "small": Property(
            "a block of at most 1 MiB comes out of a segment of 2 MiB", "to which pool does 1 MiB belong?"
        ),
        "large": Property(
            "a block between 1 MiB and 10 MiB comes out of a segment of 20 MiB",
            "what does the first tensor of 3 MiB cost?",
        ),
        "measure": Property(
            "from 10 MiB on, the segment is the block rounded up to a multiple of 2 MiB",
            "is it the request or its block that is compared with 10 MiB?",
        ),
    },
    public=(
        Case(nbytes=1),
        Case(nbytes=512),
        Case(nbytes=513),
        Case(nbytes=MIB),
        Case(nbytes=MIB + 1),
        Case(nbytes=3 * MIB),
        Case(nbytes=10 * MIB - 1),
        Case(nbytes=10 * MIB),
        Case(nbytes=11 * MIB),
        Case(nbytes=24 * MIB),
    ),
    hidden=hidden_request,
    hints=(
        "Round first. Then only the block matters: it falls into one of three ranges.",
        "Rounding up without floats: `-(-nbytes // 512) * 512`.",
        "`2 * MIB if block <= MIB else 20 * MIB if block < 10 * MIB else` the block rounded to 2 MiB",
    ),
)

# ------------------------------------------------------------------------------------------------- 2. serve


def serve(free: list[list[int]], block: int) -> Answer:
    fits = [(size, at) for at, size in free if size >= block]
    if not fits:
        return Answer(value=None)
    size, at = min(fits)
    left = [pair for pair in map(list, free) if pair[0] != at]
    rest = size - block
    if rest > (0 if block <= MIB else MIB):
        left, size = sorted([*left, [at + block, rest]]), block
    return Answer(value=[at, size, left])


def judge_serve(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if (found is None) != (want.value is None):
        return "none"
    if found is None:
        return ""
    pairs = found[2] if isinstance(found, list) and len(found) == 3 else None
    if not isinstance(pairs, list) or not all(map(whole, found[:2])):
        return "form"
    if not all(isinstance(p, list) and len(p) == 2 and all(map(whole, p)) for p in pairs):
        return "form"
    held = dict(map(tuple, inputs["free"]))
    if found[0] != want.value[0]:
        return "tie" if held.get(found[0]) == held[want.value[0]] else "best"
    if found[1] != want.value[1]:
        return "split" if want.value[1] == inputs["block"] else "whole"
    return "" if agree(pairs, want.value[2]) else "free"


def holes(rng: random.Random, block: int, rests: list[int]) -> list[list[int]]:
    """Free blocks that are `rests` larger than the block, in a random order of addresses."""
    free, at = [], rng.randint(1, 50) * 2 * MIB
    for rest in rng.sample(rests, len(rests)):
        free.append([at, block + rest])
        at += block + rest + rng.randint(1, 40) * PIECE
    return free


def hidden_serve(rng: random.Random) -> list[Case]:
    small, large = rng.randint(4, 900) * PIECE, MIB + rng.randint(1, 9000) * PIECE
    piece = rng.randint(1, 1500) * PIECE
    plans = [
        (small, [-PIECE, PIECE, 40 * PIECE, piece + 50 * PIECE]),
        (small, [piece, piece, piece + PIECE]),
        (small, [0, 3 * PIECE, -2 * PIECE]),
        (small, [-PIECE, -2 * PIECE]),
        (large, [MIB, MIB + piece, 7 * MIB, -PIECE]),
        (large, [MIB + PIECE, 5 * MIB, 5 * MIB]),
        (large, [rng.randint(1, 2000) * PIECE, 9 * MIB]),
        (large, [3 * MIB + piece, 3 * MIB + piece, 8 * MIB]),
    ]
    return [Case(free=holes(rng, block, rests), block=block) for block, rests in plans]


SERVE = Task(
    name="serve",
    lines=9,
    reference=serve,
    judge=judge_serve,
    properties={
        "none": Property(
            "None is returned exactly when no free block is large enough", "may two blocks serve one request?"
        ),
        "form": Property(
            "the answer is (address, bytes, free), free a list of [address, bytes]",
            "which three things does the caller need to know?",
        ),
        "best": Property(
            "the smallest free block that fits is taken", "which choice keeps the large blocks whole?"
        ),
        "tie": Property("of two equally good blocks the lower address is taken", "how are ties decided?"),
        "split": Property(
            "the rest is split off: any rest in the small pool, more than 1 MiB in the large one",
            "to which pool does the request belong, and how much would be left over?",
        ),
        "whole": Property(
            "in the large pool a rest of 1 MiB or less stays with the block",
            "can a request of the large pool ever use a rest that small?",
        ),
        "free": Property(
            "`free` afterwards is without the block, with its rest, and in the order of addresses",
            "where does the rest begin?",
        ),
    },
    public=(
        Case(free=[], block=512),
        Case(free=[[0, 512]], block=512),
        Case(free=[[0, 1024]], block=512),
        Case(free=[[0, 4096], [8192, 1024], [10240, 512]], block=1024),
        Case(free=[[0, 2048], [8192, 1536], [10240, 1536]], block=1024),
        Case(free=[[0, 20 * MIB]], block=5 * MIB),
        Case(free=[[0, 3 * MIB]], block=2 * MIB),
        Case(free=[[0, 2 * MIB], [4 * MIB, 4 * MIB]], block=2 * MIB + 512),
        Case(free=[[0, 2 * MIB], [4 * MIB, 2 * MIB]], block=3 * MIB),
    ),
    hidden=hidden_serve,
    hints=(
        "Choose first, split after. The best fit is a minimum over (bytes, address).",
        "`fits = [(size, at) for at, size in free if size >= block]`; its `min` decides ties by itself.",
        (
            "rest = size - block; split when `rest > (0 if block <= MIB else MIB)`: the rest goes back into "
            "`free` as `[at + block, rest]`, and the block is `block` bytes. Sort at the end."
        ),
    ),
)
