"""Tasks 2 and 3 of the loss scaler: the rule of the dynamic scale, and a floor under it.

Oracle: the state of `torch.amp.GradScaler` after every step (torch 2.13,
`aten/src/ATen/native/cuda/AmpKernels.cu`).
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.compare import close, number
from llmkit.grade.exercise import Answer, Case, Property, Task

FP32_MAX = 3.4028234663852886e38


# -------------------------------------------------------------------------------------------------- 2. update


def update_once(
    scale: float, good_steps: int, overflow: bool, growth=2.0, backoff=0.5, interval=2000
) -> tuple[float, int]:
    if overflow:
        return scale * backoff, 0
    if good_steps + 1 < interval:
        return scale, good_steps + 1
    return (scale * growth if scale * growth <= FP32_MAX else scale), 0


def drive_update(function, pattern, scale, growth, backoff, interval):
    state, trace = (scale, 0), []
    for overflow in pattern:
        state = function(*state[:2], overflow, growth, backoff, interval)
        if not isinstance(state, (tuple, list)) or len(state) < 2:
            return state
        trace.append(list(state))
    return trace


def update(pattern: list[bool], scale: float, growth: float, backoff: float, interval: int) -> Answer:
    return Answer(value=drive_update(update_once, pattern, scale, growth, backoff, interval))


def judge_update(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not _is_trace(got.value, want.value):
        return "form"
    interval, count, scale = inputs["interval"], 0, inputs["scale"]
    if number(got.value[0][1]) == want.value[0][0] != want.value[0][1]:
        return "form"  # the pair turned round
    for overflow, mine, right in zip(inputs["pattern"], got.value, want.value, strict=True):
        due, fits = count + 1 == interval, scale * inputs["growth"] <= FP32_MAX
        if not close(number(mine[0]), right[0]):
            return "backoff" if overflow else "bound" if due and not fits else "growth" if due else "hold"
        if number(mine[1]) != right[1]:
            return "restart" if overflow else "regrow" if due else "count"
        scale, count = right[:2]
    return ""


def _is_trace(got: Any, want: list) -> bool:
    """One row of plain numbers per step, as many as wanted; booleans only where one is wanted."""
    if not isinstance(got, list) or len(got) != len(want):
        return False
    for mine, right in zip(got, want, strict=True):
        if not isinstance(mine, list) or len(mine) != len(right):
            return False
        for m, r in zip(map(number, mine), right, strict=True):
            if isinstance(m, bool) != isinstance(r, bool) or not isinstance(m, (int, float)):
                return False
    return True


def random_pattern(rng: random.Random, length: int, share: float) -> list[bool]:
    return [rng.random() < share for _ in range(length)]


def hidden_update(rng: random.Random) -> list[Case]:
    cases = []
    for share in (0.0, 0.1, 0.2, 0.3, 0.5, 0.9):
        growth, backoff = rng.choice([2.0, 4.0, 1.5]), rng.choice([0.5, 0.25, 0.75])
        rule = {"growth": growth, "backoff": backoff, "interval": rng.choice([1, 2, 3, 5])}
        pattern = random_pattern(rng, rng.randint(12, 24), share)
        cases.append(Case(pattern=pattern, scale=2.0 ** rng.randint(0, 24), **rule))
    good = [False] * rng.randint(5, 9)
    cases.append(Case(pattern=[*good, True, *good], scale=2.0**126, growth=2.0, backoff=0.5, interval=2))
    cases.append(Case(pattern=good, scale=2.0**127, growth=2.0, backoff=0.5, interval=rng.randint(2, 4)))
    rng.shuffle(cases)
    return cases


UPDATE_PROPERTIES = {
    "form": Property(
        "each call returns the pair (scale, good_steps)", "what does the next step need to know?"
    ),
    "backoff": Property(
        "an overflow multiplies the scale by `backoff`",
        "which way must the scale go when a gradient overflowed?",
    ),
    "restart": Property(
        "an overflow restarts the count of good steps", "must the good steps before a growth come in a row?"
    ),
    "hold": Property(
        "a good step that is not the `interval`-th leaves the scale alone",
        "how many good steps in a row does a growth take?",
    ),
    "count": Property(
        "a good step adds one to the count", "after how many good steps is the next growth due?"
    ),
    "growth": Property(
        "the `interval`-th good step in a row multiplies the scale by `growth`",
        "does the step that is just ending count?",
    ),
    "regrow": Property("a growth restarts the count of good steps", "when is the growth after this one due?"),
    "bound": Property(
        "a growth beyond FP32_MAX is not made, and the count restarts all the same",
        "what is 2**127 * 2 in float32?",
    ),
}


def pattern_case(pattern: str, scale: float, interval: int) -> Case:
    """A case from a word: `.` a good step, `X` an overflow."""
    return Case(pattern=[c == "X" for c in pattern], scale=scale, growth=2.0, backoff=0.5, interval=interval)


UPDATE = Task(
    name="update",
    lines=6,
    reference=update,
    judge=judge_update,
    drive=drive_update,
    properties=UPDATE_PROPERTIES,
    public=(
        pattern_case("X", 8.0, 4),
        pattern_case(".", 8.0, 4),
        pattern_case(".", 8.0, 1),
        pattern_case("..", 8.0, 2),
        pattern_case(".X.", 8.0, 2),
        pattern_case("....", 8.0, 2),
        pattern_case("..X..", 8.0, 3),
        pattern_case("..", 2.0**127, 2),
        pattern_case("X..X", 1024.0, 2),
        Case(pattern=[True, False], scale=64.0, growth=4.0, backoff=0.25, interval=1),
    ),
    hidden=hidden_update,
    hints=(
        (
            "Three cases: overflow; a good step that completes the interval; any other good step. Decide "
            "them in that order."
        ),
        (
            "Count the step that is just ending: the growth is due when `good_steps + 1 == interval`. Both "
            "the growth and the back-off return a count of 0."
        ),
        (
            "`grown = scale * growth`; return `(grown if grown <= FP32_MAX else scale, 0)` when the growth "
            "is due."
        ),
    ),
)


# -------------------------------------------------------------------------------------- 3. update_with_floor


def floor_once(
    scale: float, good_steps: int, overflow: bool, floor=1.0, growth=2.0, backoff=0.5, interval=2000
):
    scale, good_steps = update_once(scale, good_steps, overflow, growth, backoff, interval)
    if overflow and scale <= floor:
        return floor, good_steps, True
    return scale, good_steps, False


def drive_floor(function, pattern, scale, floor, growth, backoff, interval):
    state, trace = (scale, 0), []
    for overflow in pattern:
        state = function(*state[:2], overflow, floor, growth, backoff, interval)
        if not isinstance(state, (tuple, list)) or len(state) < 2:
            return state
        trace.append(list(state))
    return trace


def update_with_floor(pattern, scale, floor, growth, backoff, interval) -> Answer:
    return Answer(value=drive_floor(floor_once, pattern, scale, floor, growth, backoff, interval))


def judge_floor(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not _is_trace(got.value, want.value):
        return "form"
    for overflow, mine, right in zip(inputs["pattern"], got.value, want.value, strict=True):
        if not close(number(mine[0]), right[0]):
            return "floor" if overflow and right[2] else "rule"
        if number(mine[1]) != right[1]:
            return "rule"
        if number(mine[2]) != right[2]:
            return "report" if right[2] else "quiet"
    return ""


def hidden_floor(rng: random.Random) -> list[Case]:
    cases = []
    for share in (0.2, 0.5, 0.5, 0.8, 0.9, 1.0):
        floor = rng.choice([1.0, 0.5, 3.0, 128.0, 100.0])
        scale = floor * rng.choice([1.0, 2.0, 3.0, 8.0])
        pattern = random_pattern(rng, rng.randint(8, 20), share)
        backoff, growth, interval = (
            rng.choice([0.5, 0.25, 0.75]),
            rng.choice([2.0, 4.0]),
            rng.choice([1, 2, 3]),
        )
        cases.append(
            Case(pattern=pattern, scale=scale, floor=floor, growth=growth, backoff=backoff, interval=interval)
        )
    for times in (2.0, 4.0, 3.0):  # reached exactly, in one step and in two, and passed
        pattern = [True, True, *random_pattern(rng, rng.randint(4, 9), 0.4)]
        floor = rng.choice([1.0, 2.0, 64.0])
        cases.append(
            Case(pattern=pattern, scale=times * floor, floor=floor, growth=2.0, backoff=0.5, interval=2)
        )
    rng.shuffle(cases)
    return cases


def floor_case(pattern: str, scale: float, floor: float, interval: int = 2, backoff: float = 0.5) -> Case:
    overflows = [c == "X" for c in pattern]
    return Case(pattern=overflows, scale=scale, floor=floor, growth=2.0, backoff=backoff, interval=interval)


FLOOR = Task(
    name="update_with_floor",
    lines=3,
    reference=update_with_floor,
    judge=judge_floor,
    drive=drive_floor,
    properties={
        "form": Property(
            "each call returns (scale, good_steps, at_floor), the last one True or False",
            "how does the training loop learn that the scale cannot fall further?",
        ),
        "floor": Property(
            "a back-off stops at `floor`", "what is the smallest scale that an overflow may leave?"
        ),
        "rule": Property(
            "above the floor, scale and count follow `update`", "what did `update` say about this step?"
        ),
        "report": Property(
            "an overflow that leaves the scale at the floor is reported, each time",
            "at which overflow should somebody be told: the one that reaches the floor, or the one after it?",
        ),
        "quiet": Property("nothing else is reported", "is a good step at the floor bad news?"),
    },
    public=(
        floor_case("X", 4.0, 1.0),
        floor_case("X", 2.0, 1.0),
        floor_case("X", 1.0, 1.0),
        floor_case("X", 3.0, 2.0),
        floor_case("X.", 2.0, 1.0),
        floor_case("XX", 2.0, 1.0),
        floor_case("X..X", 2.0, 1.0),
        floor_case("XX...", 16.0, 8.0, backoff=0.25),
    ),
    hidden=hidden_floor,
    hints=(
        "Call your `update` first, then look at what it returned.",
        (
            "Only an overflow can bring the scale to the floor. `max(scale, floor)` keeps it there; "
            "comparing tells you whether to report."
        ),
        (
            "`at_floor = overflow and scale <= floor`, with the scale that `update` returned; then `return "
            "max(scale, floor), good_steps, at_floor`."
        ),
    ),
)
