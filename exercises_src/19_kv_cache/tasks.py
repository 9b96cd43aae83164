"""Exercise 19, the KV cache: its bytes, the longest context in an envelope, how many sequences at once.

Source of the pages: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", 2023.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import close, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task


def whole(value: Any) -> int | None:
    """A whole number, also from a float or a tensor that holds one; None for anything else."""
    found = number(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return found if type(found) is int else None


# ------------------------------------------------------------------------------------------------- 1. bytes


def cache(context: int, windows: list[int | None], kv_heads: int, head_dim: int, number_bytes: int) -> Answer:
    kept = sum(context if window is None else min(window, context) for window in windows)
    return Answer(value=2 * kept * kv_heads * head_dim * number_bytes)


def judge_cache(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = whole(got.value)
    if found is None:
        return "form"
    if found == want.value:
        return ""
    if all(window is None for window in inputs["windows"]):
        return "both" if 2 * found == want.value else "layers"
    return "short" if any(w and w > inputs["context"] for w in inputs["windows"]) else "window"


def hidden_cache(rng: random.Random) -> list[Case]:
    def case(context: int, windows: list[int | None]) -> Case:
        heads, size = rng.choice([1, 3, 8, 40]), rng.choice([64, 80, 128])
        return Case(
            context=context,
            windows=windows,
            kv_heads=heads,
            head_dim=size,
            number_bytes=rng.choice([1, 2, 4]),
        )

    context = rng.randint(2000, 9000)
    mixed = [rng.choice([None, rng.randint(100, 1500)]) for _ in range(9)] + [None, 64]
    return [
        case(context, [None] * rng.randint(2, 60)),
        case(context, mixed),
        case(context, [512] * 7),
        case(rng.randint(10, 60), [None, rng.randint(100, 999), 64]),
        case(512, [512, None, 513, 511]),
    ]


CACHE = Task(
    name="kv_bytes",
    lines=4,
    reference=cache,
    judge=judge_cache,
    properties={
        "form": Property("the answer is a whole number of bytes", "is there half a byte?"),
        "both": Property("keys and values are kept", "what is multiplied with the attention weights?"),
        "layers": Property(
            "tokens x layers x KV heads x head size x bytes of a number, twice",
            "which of the five is missing, or there once too often?",
        ),
        "window": Property("a layer with a window keeps the last `window` tokens", "which layers forget?"),
        "short": Property(
            "of a sequence shorter than the window all is kept", "what is kept that does not exist?"
        ),
    },
    public=(
        Case(context=1, windows=[None], kv_heads=1, head_dim=1, number_bytes=1),
        Case(context=100, windows=[None, None], kv_heads=4, head_dim=8, number_bytes=2),
        Case(context=100, windows=[None, 10], kv_heads=4, head_dim=8, number_bytes=2),
        Case(context=5, windows=[None, 10], kv_heads=1, head_dim=8, number_bytes=2),
    ),
    hidden=hidden_cache,
    hints=(
        "Count the tokens that are kept, summed over the layers, before you count bytes.",
        "`context if window is None else min(context, window)` for each layer.",
        "`2 * tokens * kv_heads * head_dim * number_bytes`, 2 for key and value",
    ),
)

# ----------------------------------------------------------------------------------------------- 2. context


def longest(memory: int, weights: int, reserve: int, batch: int, per_token: int, trained: int) -> Answer:
    return Answer(value=max(0, min(trained, (memory - weights - reserve) // (batch * per_token))))


def judge_longest(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = whole(got.value)
    if found is None:
        return "form"
    if found == want.value:
        return ""
    if want.value == 0:
        return "none"
    if want.value == inputs["trained"]:
        return "trained"
    used = inputs["weights"] + inputs["reserve"] + inputs["batch"] * inputs["per_token"] * found
    return "fits" if used > inputs["memory"] else "longest"


def hidden_longest(rng: random.Random) -> list[Case]:
    def case(tokens: int, spare: int, trained: int, batch: int) -> Case:
        per_token, weights, reserve = (
            rng.randint(2, 400) * 1024,
            rng.randint(5, 30) * 10**9,
            rng.randint(1, 3) * 10**9,
        )
        memory = weights + reserve + batch * per_token * tokens + spare
        return Case(
            memory=memory, weights=weights, reserve=reserve, batch=batch, per_token=per_token, trained=trained
        )

    tokens = rng.randint(3000, 9000)
    return [
        case(tokens, rng.randrange(1, 2000), 131_072, 1),
        case(tokens, 0, 131_072, rng.randint(2, 9)),
        case(tokens, rng.randrange(1, 2000), 131_072, rng.randint(2, 9)),
        case(tokens, 5, 2048, 1),
        case(0, 2000, 4096, 1),
        case(-40, 0, 4096, 2),
    ]


LONGEST = Task(
    name="longest_context",
    lines=3,
    reference=longest,
    judge=judge_longest,
    properties={
        "form": Property("the answer is a whole number of tokens", "can half a token be read?"),
        "none": Property("0 when not even one token fits", "what does a negative rest divide to?"),
        "trained": Property("never longer than the model was trained for", "what does it do beyond that?"),
        "fits": Property(
            "weights, reserve and the caches of all sequences fit together",
            "how many caches lie on the card, and what else?",
        ),
        "longest": Property("one token more would not fit", "is the last byte used?"),
    },
    public=(
        Case(memory=100, weights=60, reserve=0, batch=1, per_token=10, trained=8),
        Case(memory=100, weights=60, reserve=5, batch=1, per_token=10, trained=8),
        Case(memory=100, weights=60, reserve=0, batch=2, per_token=10, trained=8),
        Case(memory=100, weights=50, reserve=10, batch=2, per_token=10, trained=8),
        Case(memory=100, weights=10, reserve=0, batch=1, per_token=10, trained=8),
        Case(memory=100, weights=99, reserve=5, batch=1, per_token=10, trained=8),
        Case(memory=100, weights=92, reserve=0, batch=1, per_token=10, trained=8),
    ),
    hidden=hidden_longest,
    hints=(
        "What is left for caches, over what one token of all sequences takes.",
        "`//` rounds down, also below zero: -1 // 10 is -1. Cut it off at 0 and at `trained`.",
        "`max(0, min(trained, (memory - weights - reserve) // (batch * per_token)))`",
    ),
)

# ------------------------------------------------------------------------------------------------ 3. served


def line(lengths: list[int], per_token: int, page: int, free: int) -> Answer:
    count = used = taken = 0
    for length in lengths:
        more = (length + page - 1) // page * page
        if (taken + more) * per_token > free:
            break
        count, used, taken = count + 1, used + length, taken + more
    return Answer(value=[count, 1 - used / taken if taken else 0.0])


def judge_line(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    value = list(got.value.values) if isinstance(got.value, Tensor) else got.value
    if not isinstance(value, list) or len(value) != 2 or whole(value[0]) is None:
        return "form"
    wasted = number(value[1])
    if isinstance(wasted, bool) or not isinstance(wasted, (int, float)):
        return "form"
    if whole(value[0]) != want.value[0]:
        return "pages" if len(inputs["lengths"]) == 1 else "line"
    if close(wasted, want.value[1], 1e-6) or abs(wasted - want.value[1]) < 1e-9:
        return ""
    return "nobody" if not want.value[0] else "wasted"


def hidden_line(rng: random.Random) -> list[Case]:
    def case(page: int, share: float, exact: bool = False) -> Case:
        lengths = [
            rng.randint(1, 40) * page - (0 if exact else rng.randrange(1, max(2, page))) for _ in range(12)
        ]
        lengths = [max(1, length) for length in lengths]
        per_token = rng.randint(2, 400) * 1024
        taken = [-(-length // page) * page for length in lengths]
        place = max(1, int(share * 12))
        free = sum(taken[:place]) * per_token + rng.randrange(per_token)
        lengths[min(11, place + 1)] = 1  # a short one behind the one that does not fit
        return Case(lengths=lengths, per_token=per_token, page=page, free=free)

    return [
        case(16, 0.5), case(16, 0.8), case(1, 0.4), case(32, 1.0), case(8, 0.6, exact=True),
        Case(lengths=[50, 1], per_token=10, page=16, free=400),
        Case(lengths=[], per_token=10, page=16, free=400),
        Case(lengths=[17, 15, 15], per_token=10, page=16, free=480),
    ]  # fmt: skip


LINE = Task(
    name="served",
    lines=11,
    reference=line,
    judge=judge_line,
    properties={
        "form": Property("the answer is [number served, share wasted]", "which two things are asked?"),
        "pages": Property("a started page is taken whole", "how many pages of 8 do 9 tokens take?"),
        "line": Property(
            "they are let in in their order, each if it fits; the first that does not stops the line",
            "may a short one overtake, and does an exact fit fit?",
        ),
        "wasted": Property(
            "wasted: the share of the bytes taken by those served that holds no token",
            "of what is it a share, and does the one that waits count?",
        ),
        "nobody": Property("nobody served wastes 0.0", "what do you divide by then?"),
    },
    public=(
        Case(lengths=[8], per_token=10, page=1, free=100),
        Case(lengths=[6], per_token=10, page=8, free=70),
        Case(lengths=[6, 8], per_token=10, page=8, free=160),
        Case(lengths=[6, 9, 1], per_token=10, page=8, free=160),
        Case(lengths=[8, 8, 8], per_token=10, page=8, free=200),
        Case(lengths=[9, 7], per_token=1, page=8, free=25),
    ),
    hidden=hidden_line,
    hints=(
        "Keep three sums: how many, their tokens, the tokens of their pages. Look before you let one in.",
        "`-(-length // page)` rounds up. The next one fits if (taken + its pages) x per_token <= free.",
        "`break` at the first that does not fit; wasted is `1 - used / taken`, and 0.0 when taken is 0.",
    ),
)

EXERCISE = Exercise(
    name="19_kv_cache",
    version=1,
    title="The KV cache",
    minutes=25,
    round="system design",
    difficulty=1,
    rows=("S13", "S12"),
    tasks=(CACHE, LONGEST, LINE),
    predictions={
        "KiB a token": Prediction(
            answer=320,
            because=(
                "2 x 80 layers x 8 heads x 128 x 2 bytes = 327,680 bytes. With all 64 query heads: "
                "2.5 MiB, eight times as much."
            ),
        )
    },
    hides=("cost", "memory"),
)
