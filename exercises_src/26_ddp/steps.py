"""Task 3: one rank's step, run in lockstep with the others. The driver is the collective library."""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Answer, Case, Property, Task

NAN, INF = math.nan, math.inf


def drive_ranks(function, ranks, sizes, scale):
    """Run all ranks; sum what they bring to each all-reduce; say who waits for whom."""
    running = [function(grads, sizes, tokens, scale) for grads, tokens in ranks]
    if all(step is None for step in running):
        return None
    if not all(hasattr(step, "send") for step in running):
        return {"wrong": f"rank_step returns {type(running[0]).__name__}, not a generator"}
    totals, results = [None] * len(running), {}
    for number in range(1, 101):
        brought = []
        for rank, step in enumerate(running):
            try:
                brought.append(step.send(totals[rank]))
            except StopIteration as end:
                results[rank] = end.value
        if len(results) == len(running):
            return {"results": [results[rank] for rank in range(len(running))]}
        if results:
            return {"hang": f"rank {min(results)} has returned, another waits in all-reduce {number}"}
        if not all(isinstance(numbers, (list, tuple)) for numbers in brought):
            return {"wrong": "an all-reduce takes a list of numbers"}
        lengths = [len(numbers) for numbers in brought]
        if len(set(lengths)) > 1:
            return {"hang": f"all-reduce {number}: the ranks bring lists of {lengths} numbers"}
        sums = [sum(column) for column in zip(*brought, strict=True)]
        totals = [list(sums) for _ in running]
    return {"hang": "a hundred all-reduces and no end"}


def by_hand(ranks: list, sizes: list[int], scale: float) -> Answer:
    full = [(grads, n) for grads, n in ranks if n]
    if any(not math.isfinite(x) for grads, _ in full for grad in grads for x in grad or []):
        return Answer(value={"results": [None] * len(ranks)})
    total, found = sum(n for _, n in full), []
    for i, size in enumerate(sizes):
        parts = [(grads[i], n) for grads, n in full if grads[i] is not None]
        sums = [math.fsum(grad[k] * n for grad, n in parts) for k in range(size)]
        found.append([x / total / scale for x in sums] if parts else None)
    return Answer(value={"results": [found] * len(ranks)})


def judge(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if isinstance(found, dict) and "hang" in found:
        return "hang"
    if not isinstance(found, dict) or not isinstance(found.get("results"), list):
        return "form"
    results, right = found["results"], want.value["results"][0]
    if right is None:
        return "" if results == [None] * len(results) else "overflow"
    empty = any(n == 0 for _, n in inputs["ranks"])
    if None in results:
        return "empty" if empty else "finite"
    if not all(fits(result, inputs["sizes"]) for result in results):
        return "form"
    if any(g is not None and w is None for result in results for g, w in zip(result, right, strict=True)):
        return "nobody"
    if all(agree(result, right, 1e-6, 1e-9) for result in results):
        return ""
    if not all(agree(result, results[0], 1e-6, 1e-9) for result in results):
        return "same"
    scaled = [w and [x * inputs["scale"] for x in w] for w in right]
    return "unscale" if agree(results[0], scaled, 1e-6, 1e-9) else "empty" if empty else "average"


def fits(result: Any, sizes: list[int]) -> bool:
    """A list of lists of numbers of these sizes, or None in their place."""
    if not isinstance(result, list) or len(result) != len(sizes):
        return False
    pairs = zip(result, sizes, strict=True)
    return all(g is None or (isinstance(g, list) and len(g) == n and numbers(g)) for g, n in pairs)


def numbers(values: list) -> bool:
    return all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values)


def hidden(rng: random.Random) -> list[Case]:
    kinds = ["plain", "unused", "empty", "inf", "nan", "empty and inf", "unused"]
    return [Case(**world(rng, kind)) for kind in kinds]


def world(rng: random.Random, kind: str) -> dict[str, Any]:
    """Inputs of three to five ranks with unequal tokens."""
    count, sizes = rng.randint(3, 5), rng.choice([[1, 3, 2], [2, 2, 1], [4, 1, 3]])
    scale = 2.0 ** rng.randint(3, 12)
    tokens = rng.sample(range(1, 20), count)
    grads = [[[rng.gauss(1, 1) * scale for _ in range(n)] for n in sizes] for _ in range(count)]
    if kind == "unused":
        for row in grads:
            row[1] = None  # used by none
        grads[0][2] = None  # used by some
    if "empty" in kind:
        tokens[-1], grads[-1] = 0, [[NAN] * n for n in sizes]
    if "inf" in kind or kind == "nan":
        i = rng.randrange(3)
        grads[rng.randrange(count - 1)][i][rng.randrange(sizes[i])] = NAN if kind == "nan" else -INF
    return {"ranks": [list(pair) for pair in zip(grads, tokens, strict=True)], "sizes": sizes, "scale": scale}


STEP = Task(
    name="rank_step",
    lines=13,
    reference=by_hand,
    judge=judge,
    drive=drive_ranks,
    properties={
        "form": Property(
            "a generator that yields lists of numbers and returns a list of lists, or None for a parameter",
            "what does a rank bring to an all-reduce, and what does it return?",
        ),
        "hang": Property(
            "all ranks make the same all-reduces, with lists of the same length",
            "which rank leaves early, or brings less, and on account of what?",
        ),
        "overflow": Property(
            "an infinity or a NaN on any rank makes all ranks skip",
            "how does a rank without overflow learn of that of another?",
        ),
        "finite": Property("without an overflow no rank skips", "what do you take for an overflow?"),
        "empty": Property(
            "a rank without tokens contributes nothing, and is no overflow", "what is 0 times NaN?"
        ),
        "same": Property(
            "every rank returns the same gradients", "what becomes of weights that get different gradients?"
        ),
        "nobody": Property(
            "a parameter that no rank uses gets None", "how does a rank know that no other uses it either?"
        ),
        "unscale": Property("what is returned is unscaled", "who divides by the loss scale?"),
        "average": Property(
            "the average counts each rank by its tokens, used or not",
            "by what do you divide, and does every rank know it?",
        ),
    },
    public=(
        Case(ranks=[[[[16.0]], 1], [[[8.0]], 3]], sizes=[1], scale=4.0),
        Case(ranks=[[[[8.0]], 1], [[[INF]], 3]], sizes=[1], scale=2.0),
        Case(ranks=[[[[8.0]], 1], [[[NAN]], 3]], sizes=[1], scale=2.0),
        Case(ranks=[[[[8.0]], 2], [[[NAN]], 0]], sizes=[1], scale=2.0),
        Case(ranks=[[[[8.0], None], 2], [[None, None], 2]], sizes=[1, 1], scale=2.0),
        Case(ranks=[[[[8.0, 4.0], [2.0]], 2], [[None, [4.0]], 4]], sizes=[2, 1], scale=2.0),
    ),
    hidden=hidden,
    hints=(
        "What must a rank learn from the others? All tokens, whether anyone overflowed, who uses what, sums.",
        "Bring it all in one list: tokens, a flag, a flag per parameter, and every gradient times the rank's "
        "tokens, zeros in place of None and of a rank without tokens.",
        "`totals = yield [tokens, overflow, *used, *flat]`; skip if `totals[1]`; else divide by "
        "`totals[0] * scale` and cut by `sizes`.",
    ),
)
