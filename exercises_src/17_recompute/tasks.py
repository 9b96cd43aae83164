"""Exercise 17, what to recompute: the cheapest set of blocks that fits, and a block that runs twice alike."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

from llmkit.grade.collect import Tensor
from llmkit.grade.compare import agree, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ------------------------------------------------------------------------------------------ 1. which blocks


def peak(kept: list[int], inputs: list[int], blocks: Any) -> int:
    again = max((kept[i] for i in blocks), default=0)
    return again + sum(inputs[i] if i in blocks else kept[i] for i in range(len(kept)))


def chosen(kept: list[int], inputs: list[int], seconds: list[float], budget: int) -> Answer:
    fits = [
        (math.fsum(seconds[i] for i in blocks), len(blocks), list(blocks))
        for count in range(len(kept) + 1)
        for blocks in combinations(range(len(kept)), count)
        if peak(kept, inputs, blocks) <= budget
    ]
    return Answer(value=min(fits)[2] if fits else None)


def judge_choose(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if isinstance(found, Tensor):
        found = list(found.values)
    if found is None or right is None:
        return "" if found is None and right is None else "none"
    if not isinstance(found, list):
        return "form"
    found, n = [number(item) for item in found], len(inputs["kept"])
    if not all(type(i) is int and 0 <= i < n for i in found) or len(set(found)) < len(found):
        return "form"
    if peak(inputs["kept"], inputs["inputs"], found) > inputs["budget"]:
        return "fits"
    extra = sum(inputs["seconds"][i] for i in found) - sum(inputs["seconds"][i] for i in right)
    if extra > 1e-9:
        return "nothing" if not right else "cheapest"
    return "" if found == right else "ties"


def hidden_choose(rng: random.Random) -> list[Case]:
    cases = []
    for n in (3, 5, 7, 8):
        kept = [rng.randint(20, 90) for _ in range(n)]
        small = [rng.randint(2, 15) for _ in range(n)]
        seconds = [rng.randint(1, 40) / 8 for _ in range(n)]
        all_of_it, least = (
            sum(kept),
            min(peak(kept, small, b) for k in range(n + 1) for b in combinations(range(n), k)),
        )
        for share in (0.2, 0.6):
            budget = int(least + share * (all_of_it - least))
            cases.append(Case(kept=kept, inputs=small, seconds=seconds, budget=budget))
        cases.append(Case(kept=kept, inputs=small, seconds=seconds, budget=least))
        cases.append(Case(kept=kept, inputs=small, seconds=seconds, budget=least - 1))
        cases.append(Case(kept=kept, inputs=small, seconds=seconds, budget=all_of_it))
    even = {"kept": [10] * 6, "inputs": [1] * 6}
    cases.append(Case(**even, seconds=[1.0, 2.0, 1.0, 1.0, 2.0, 1.0], budget=45))
    return [*cases, Case(**even, seconds=[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], budget=70)]


CHOOSE = Task(
    name="choose",
    lines=10,
    reference=chosen,
    judge=judge_choose,
    properties={
        "form": Property(
            "the answer is a list of different block numbers, or None", "what would the trainer read?"
        ),
        "none": Property("None stands where no set fits, and only there", "which set has the smallest peak?"),
        "fits": Property(
            "the peak fits: what is kept, the inputs, and one block that is run again",
            "what exists while a block runs again?",
        ),
        "nothing": Property("nothing is recomputed when everything fits", "what is the fastest set of all?"),
        "cheapest": Property(
            "no other set that fits takes less time", "is the largest block the cheapest one?"
        ),
        "ties": Property(
            "of equally fast sets the one with fewer blocks, then the first; sorted",
            "which of two equal blocks do you take?",
        ),
    },
    public=(
        Case(kept=[10, 10], inputs=[1, 1], seconds=[1.0, 1.0], budget=20),
        Case(kept=[10, 10], inputs=[1, 1], seconds=[1.0, 1.0], budget=12),
        Case(kept=[10, 10], inputs=[1, 1], seconds=[1.0, 1.0], budget=11),
        Case(kept=[4, 6, 10], inputs=[1, 1, 1], seconds=[1.0, 1.0, 9.0], budget=18),
        Case(kept=[10, 6, 6], inputs=[1, 1, 1], seconds=[3.0, 1.0, 1.0], budget=18),
        Case(kept=[2, 10, 10, 10], inputs=[1, 1, 1, 1], seconds=[0.5, 1.0, 1.0, 9.0], budget=25),
        Case(kept=[8, 8, 8], inputs=[2, 2, 2], seconds=[1.0, 0.5, 1.0], budget=20),
        Case(kept=[8, 8, 8], inputs=[1, 1, 1], seconds=[1.0, 1.0, 1.0], budget=18),
        Case(kept=[9, 9, 9], inputs=[1, 1, 1], seconds=[0.5, 1.0, 0.5], budget=20),
    ),
    hidden=hidden_choose,
    hints=(
        "With ten blocks there are 1,024 sets: look at all of them, from few blocks to many.",
        "Write the peak of one set first. Keep the best so far and replace it only by a faster one.",
        "`for count in range(n + 1): for blocks in combinations(range(n), count):` has the ties' order.",
    ),
)

# -------------------------------------------------------------------------------------- 2. the block, again


def drive_again(function, weight, x, grad, frozen, wants, before):
    """A block of one matrix, tanh and a mask of its own draw; what it saw, and what was left."""
    import torch

    matrix = torch.nn.Parameter(weight.clone(), requires_grad=not frozen)
    if before and not frozen:
        matrix.grad = torch.ones_like(matrix)
    masks, graphs = [], []

    def block(start):
        mask = (torch.rand(start.shape[0], matrix.shape[1]) < 0.7).float()
        masks.append(mask)
        graphs.append(torch.is_grad_enabled())
        return torch.tanh(start @ matrix) * mask

    torch.manual_seed(7)
    start = x.clone().requires_grad_(wants)
    out = function(block, start)
    if not isinstance(out, torch.Tensor):
        return out and {"out": None}
    torch.rand(2)  # drawn between the passes, as the layers after this one do
    state = torch.get_rng_state()
    runs, graph = len(masks), any(graphs)
    saved = out.grad_fn is not None
    if saved:
        out.backward(grad)
    return {
        "out": out, "runs": [runs, len(masks)], "graph": graph, "masks": masks, "saved": saved,
        "x": start.grad, "w": matrix.grad, "moved": not torch.equal(state, torch.get_rng_state()),
    }  # fmt: skip


def recomputed_block(weight, x, grad, frozen, wants, before) -> Answer:
    return Answer(
        value="output and gradients of the block itself; two runs, one mask; no trace in the generator"
    )


def rows(tensor: Tensor) -> list[list[float]]:
    n = tensor.shape[1]
    return [list(tensor.values[i * n : (i + 1) * n]) for i in range(tensor.shape[0])]


def times(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    columns = list(zip(*b, strict=True))
    return [[math.fsum(p * q for p, q in zip(row, column, strict=True)) for column in columns] for row in a]


def turned(a: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*a, strict=True)]


def judge_again(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or not isinstance(found["out"], Tensor):
        return "form"
    masks, (runs, all_runs) = found["masks"], found["runs"]
    if runs != 1 or all_runs > 2:
        return "twice"
    x, w, mask, grad = rows(inputs["x"]), rows(inputs["weight"]), rows(masks[0]), rows(inputs["grad"])
    inner = [[math.tanh(v) for v in row] for row in times(x, w)]
    out = [[v * m for v, m in zip(a, b, strict=True)] for a, b in zip(inner, mask, strict=True)]
    if found["out"].shape != (len(out), len(out[0])) or not agree(rows(found["out"]), out, 1e-4, 1e-6):
        return "value"
    if found["graph"]:
        return "graph"
    if all_runs < 2:
        return "graph" if found["saved"] else "gradient"
    if masks[0] != masks[1]:
        return "mask"
    slope = [
        [g * m * (1 - v * v) for g, m, v in zip(a, b, c, strict=True)]
        for a, b, c in zip(grad, mask, inner, strict=True)
    ]
    wanted = {"x": times(slope, turned(w)) if inputs["wants"] else None}
    wanted["w"] = None if inputs["frozen"] else times(turned(x), slope)
    if inputs["before"] and wanted["w"]:
        wanted["w"] = [[v + 1 for v in row] for row in wanted["w"]]
    for name, right in wanted.items():
        mine = found[name]
        if (mine is None) != (right is None):
            return "gradient"
        if right is not None and not agree(rows(mine), right, 1e-4, 1e-5):
            return "adds" if inputs["before"] and name == "w" else "gradient"
    return "generator" if found["moved"] else ""


def tensor(rng: random.Random, *shape: int) -> Tensor:
    values = [round(rng.uniform(-1, 1), 3) for _ in range(math.prod(shape))]
    return Tensor(tuple(float(v) for v in values), shape)


def case(rng: random.Random, n: int, m: int, b: int, **flags: bool) -> Case:
    given = {"frozen": False, "wants": True, "before": False} | flags
    return Case(weight=tensor(rng, n, m), x=tensor(rng, b, n), grad=tensor(rng, b, m), **given)


def hidden_again(rng: random.Random) -> list[Case]:
    return [
        case(rng, 3, 5, 2), case(rng, 4, 4, 7), case(rng, 5, 2, 6, frozen=True),
        case(rng, 2, 6, 5, wants=False), case(rng, 4, 3, 6, before=True), case(rng, 1, 9, 1),
    ]  # fmt: skip


FIXED = random.Random(0)
AGAIN = Task(
    name="recomputed",
    lines=20,
    reference=recomputed_block,
    judge=judge_again,
    drive=drive_again,
    properties={
        "form": Property("the answer is the block's output, a tensor", "what do the next layers get?"),
        "twice": Property("the block runs once in each of the two passes", "who calls it when?"),
        "value": Property("the output is that of the block", "is anything scaled, cut or detached too much?"),
        "graph": Property(
            "the first run builds no graph, the second one does and happens in the backward pass",
            "what is kept of the first run?",
        ),
        "mask": Property(
            "the second run draws the mask of the first", "where did the generator stand before it?"
        ),
        "gradient": Property(
            "gradients of x and of the parameters are those of the block, None where none is wanted",
            "with which gradient does the second run's backward pass start?",
        ),
        "adds": Property("gradients that are there already are added to", "what does accumulation need?"),
        "generator": Property(
            "after the second run the generator stands where it stood before it",
            "which numbers would the next layer's dropout see?",
        ),
    },
    public=(
        case(FIXED, 1, 1, 1), case(FIXED, 2, 6, 3), case(FIXED, 2, 4, 3, frozen=True),
        case(FIXED, 2, 4, 3, wants=False), case(FIXED, 2, 4, 3, before=True),
    ),
    hidden=hidden_again,
    hints=(
        "Forward: save x and the generator's state, run the block. Backward: state back, run it again.",
        "`with torch.enable_grad(): out = block(start)`, then `torch.autograd.backward(out, grad)`.",
        "`start = x.detach().requires_grad_(ctx.needs_input_grad[0])`; return `start.grad` first.",
    ),
)  # fmt: skip

EXERCISE = Exercise(
    name="17_recompute",
    version=1,
    title="What to recompute",
    minutes=40,
    round="coding",
    difficulty=3,
    rows=("S17", "S13"),
    tasks=(CHOOSE, AGAIN),
    predictions={
        "peak units": Prediction(
            answer=54,
            because="ten inputs of 2 stay, and one block at a time is whole again: 20 + 34 = 54, not 340.",
        )
    },
    hides=("train", "memory", "cost"),
    shortcuts=("checkpoint", "checkpoint_sequential"),
)
