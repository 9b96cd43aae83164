"""Task 1: the average of the ranks' gradients, each counted by its tokens. Reference in plain Python."""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import agree, fp32, vector
from llmkit.grade.exercise import Answer, Case, Property, Task

Grads = list[list[Tensor | None]]


def average(grads: Grads, tokens: list[int]) -> Answer:
    found: list[Tensor | None] = []
    for column in zip(*grads, strict=True):
        parts = [(g, n) for g, n in zip(column, tokens, strict=True) if g is not None and n]
        if not parts:
            found.append(None)
            continue
        values = zip(*(g.values for g, _ in parts), strict=True)
        sums = [math.fsum(v * n for v, (_, n) in zip(row, parts, strict=True)) for row in values]
        found.append(Tensor(tuple(fp32(v / sum(tokens)) for v in sums), parts[0][0].shape))
    return Answer(value=found)


def judge(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, columns = got.value, list(zip(*inputs["grads"], strict=True))
    if not isinstance(found, list) or len(found) != len(columns):
        return "form"
    for g, w, column in zip(found, want.value, columns, strict=True):
        if w is None:
            if g is not None:
                return "nobody"
        elif (not isinstance(g, Tensor) and g is not None) or (g is not None and g.shape != w.shape):
            return "form"
        elif not agree(g, w, 1e-5, 1e-5):
            return "unused" if None in column else "empty" if 0 in inputs["tokens"] else "tokens"
    return ""


def hidden(rng: random.Random) -> list[Case]:
    cases = []
    for world in (2, 3, 4, 4, 5):
        tokens = [rng.randint(1, 9) for _ in range(world)]
        tokens[0] = tokens[1] + rng.randint(2, 30)  # never all equal
        shapes = [(), (1,), (3,), (2, 2)]
        rng.shuffle(shapes)
        grads: Grads = [[tensor(rng, shape) for shape in shapes] for _ in range(world)]
        if world > 2:
            tokens[-1] = 0
            grads[-1] = [Tensor((math.nan,) * math.prod(shape), shape) for shape in shapes]
            grads[rng.randrange(2)][rng.randrange(3)] = None  # used by some ranks
        if world > 3:
            for row in grads:
                row[3] = None  # used by none
        order = rng.sample(range(world), world)
        cases.append(Case(grads=[grads[i] for i in order], tokens=[tokens[i] for i in order]))
    return cases


def tensor(rng: random.Random, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tuple(fp32(rng.gauss(1, 1)) for _ in range(math.prod(shape))), shape)


AVERAGE = Task(
    name="average",
    lines=5,
    reference=average,
    judge=judge,
    properties={
        "form": Property(
            "one gradient per parameter, of its shape, or None",
            "what does the optimizer look for in `.grad`?",
        ),
        "tokens": Property(
            "a rank counts by its tokens: sums are added, then divided by all tokens",
            "what does one token of a short rank weigh, and one of a long rank?",
        ),
        "unused": Property(
            "None on some ranks is a gradient of 0 there, and their tokens count",
            "does the mean loss over all tokens forget the tokens that do not depend on the parameter?",
        ),
        "nobody": Property("None on every rank stays None", "would weight decay touch a gradient of 0?"),
        "empty": Property("a rank without tokens contributes nothing", "what is 0 times NaN?"),
    },
    public=(
        Case(grads=[[vector(4.0)], [vector(0.0)]], tokens=[1, 3]),
        Case(grads=[[vector(4.0)], [None]], tokens=[1, 1]),
        Case(grads=[[vector(4.0)], [vector(math.nan)]], tokens=[2, 0]),
        Case(grads=[[vector(4.0), None], [vector(8.0), None]], tokens=[1, 1]),
        Case(grads=[[vector(3.0, 6.0), Tensor((1.0,), ())], [vector(0.0, 3.0), None]], tokens=[2, 4]),
    ),
    hidden=hidden,
    hints=(
        "Walk through the parameters; of each take the gradients of all ranks.",
        "Leave out None and ranks without tokens; multiply the rest by its tokens; divide by all tokens.",
        "`zip(*grads)` gives one column per parameter; `sum(parts) / sum(tokens) if parts else None`.",
    ),
)
