"""Exercise 22, a mixture of experts: its two sizes, its router, room and balance.

Source of the balance loss: Fedus, Zoph and Shazeer, "Switch Transformers", 2021, equations 4 to 6.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree, number, plain
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ------------------------------------------------------------------------------------------------- 1. sizes


def sizes(config: dict[str, int]) -> Answer:
    c, d = config, config["width"]
    sparse, expert = c["layers"] - c["dense_layers"], 3 * d * c["expert_hidden"]
    rest = c["vocab"] * d + 4 * d * d * c["layers"] + 3 * d * c["dense_hidden"] * c["dense_layers"]
    rest += sparse * d * c["experts"]
    used = {"total": c["experts"] + c["shared"], "active": c["top_k"] + c["shared"]}
    return Answer(value={name: rest + sparse * each * expert for name, each in used.items()})


def judge_sizes(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, c = got.value, inputs["config"]
    if (
        not isinstance(found, dict)
        or set(found) != {"total", "active"}
        or not all(map(plain, found.values()))
    ):
        return "form"
    if agree(found, want.value, 1e-9):
        return ""
    if c["dense_layers"]:
        return "dense"
    if c["shared"]:
        return "shared"
    if not agree(found["total"], want.value["total"], 1e-9):
        return "all"
    return "used"


def config(*values: int) -> dict[str, int]:
    names = "layers width vocab experts top_k shared expert_hidden dense_layers dense_hidden"
    return dict(zip(names.split(), values, strict=True))


def hidden_sizes(rng: random.Random) -> list[Case]:
    def case(shared: int, dense: int) -> Case:
        experts = rng.randint(4, 64)
        made = (rng.randint(3, 40), rng.randint(8, 64) * 16, rng.randint(500, 9000), experts)
        made += (rng.randint(2, 3), shared, rng.randint(20, 900), dense, rng.randint(100, 3000))
        return Case(config=config(*made))

    return [
        case(0, 0),
        case(0, 0),
        case(rng.randint(1, 3), 0),
        case(0, rng.randint(1, 2)),
        case(2, 1),
        case(1, 3),
    ]


SIZES = Task(
    name="moe_sizes",
    lines=9,
    reference=sizes,
    judge=judge_sizes,
    properties={
        "form": Property(
            'the answer is {"total": number, "active": number}', "which of the two fills memory?"
        ),
        "all": Property(
            "total: embedding, attention, router and all experts of every layer",
            "is the router there, and is an expert counted with its three matrices?",
        ),
        "used": Property(
            "active: the same with top_k experts in place of all; the router is used whole",
            "which weights does one token meet?",
        ),
        "shared": Property(
            "shared experts are there once each and used by every token", "who skips a shared one?"
        ),
        "dense": Property(
            "the first dense_layers layers have an MLP of dense_hidden and neither router nor experts",
            "how many layers have experts?",
        ),
    },
    public=(
        Case(config=config(1, 2, 5, 1, 1, 0, 3, 0, 0)),
        Case(config=config(1, 2, 5, 4, 1, 0, 3, 0, 0)),
        Case(config=config(3, 4, 7, 8, 2, 0, 5, 0, 0)),
        Case(config=config(2, 4, 7, 8, 2, 2, 5, 0, 0)),
        Case(config=config(2, 2, 5, 4, 2, 1, 3, 1, 8)),
    ),
    hidden=hidden_sizes,
    hints=(
        "Count what every token uses first; the two answers differ in the experts alone.",
        "`sparse = layers - dense_layers`; an expert has 3 x width x expert_hidden weights.",
        "total has experts + shared of them in each sparse layer, active top_k + shared.",
    ),
)

# ------------------------------------------------------------------------------------------------- 2. route


def routed(logits: list[list[float]], top_k: int) -> Answer:
    found = []
    for row in logits:
        weights = [math.exp(logit - max(row)) for logit in row]
        chosen = sorted(range(len(row)), key=lambda e: (-weights[e], e))[:top_k]
        found.append([[e, weights[e] / math.fsum(weights[c] for c in chosen)] for e in chosen])
    return Answer(value=found)


def pairs(value: Any, tokens: int, top_k: int) -> list | None:
    """[[(expert, weight)]] as plain numbers; None for another form."""
    if not isinstance(value, list) or len(value) != tokens:
        return None
    for token in value:
        if not isinstance(token, list) or len(token) != top_k:
            return None
        if not all(isinstance(pair, list) and len(pair) == 2 and all(map(plain, pair)) for pair in token):
            return None
    return [[[number(part) for part in pair] for pair in token] for token in value]


def judge_route(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = pairs(got.value, len(inputs["logits"]), inputs["top_k"])
    if found is None:
        return "form"
    for token, right, row in zip(found, want.value, inputs["logits"], strict=True):
        if not all(math.isfinite(weight) for _, weight in token):
            return "large"
        if [expert for expert, _ in token] != [expert for expert, _ in right]:
            same = sorted(expert for expert, _ in token) == sorted(expert for expert, _ in right)
            return "order" if same or len(set(row)) < len(row) else "largest"
        if not agree([weight for _, weight in token], [weight for _, weight in right], 1e-5, 1e-7):
            one = abs(sum(weight for _, weight in token) - 1) < 1e-6
            return "softmax" if one else "sum"
    return ""


def hidden_route(rng: random.Random) -> list[Case]:
    cases = []
    for experts, top_k in ((4, 1), (8, 2), (6, 3), (5, 5)):
        rows = [[rng.gauss(0, 2) for _ in range(experts)] for _ in range(5)]
        cases.append(Case(logits=rows, top_k=top_k))
    ties = [[0.0] * 6, [1.0, 0.5, 1.0, 0.5, 1.0, 0.0]]
    huge = [[1000.0, 998.0, 0.0], [-2000.0, -2001.0, -2003.0], [rng.uniform(800, 900), 799.0, 798.0]]
    return [*cases, Case(logits=ties, top_k=2), Case(logits=huge, top_k=2)]


ROUTE = Task(
    name="route",
    lines=8,
    reference=routed,
    judge=judge_route,
    properties={
        "form": Property(
            "each token has top_k pairs [expert, weight]", "what does the next stage need to know?"
        ),
        "largest": Property(
            "the experts with the largest logits are chosen", "in which direction do you sort?"
        ),
        "order": Property(
            "largest weight first, of equal ones the lower expert first",
            "is your sort stable, and over what?",
        ),
        "sum": Property("the kept weights of a token add up to 1", "by what do you divide after the choice?"),
        "softmax": Property("weights are those of the softmax, renormalised", "what is exp for?"),
        "large": Property(
            "logits of 1,000 overflow nothing", "what can you subtract from all logits of a row?"
        ),
    },
    public=(
        Case(logits=[[0.0, 0.0]], top_k=1),
        Case(logits=[[0.0, 0.0, 0.0]], top_k=2),
        Case(logits=[[0.0, math.log(3), -50.0]], top_k=2),
        Case(logits=[[2.0, -1.0, 0.5, 1.0], [0.0, 3.0, 1.0, -2.0]], top_k=2),
        Case(logits=[[1000.0, 999.0, 0.0]], top_k=2),
    ),
    hidden=hidden_route,
    hints=(
        "exp of (logit - largest), then sort the experts by it, then divide the kept ones by their own sum.",
        "The softmax's own denominator cancels when you renormalise: you need not compute it.",
        "`sorted(range(E), key=lambda e: -weights[e])[:top_k]` keeps equal ones in their order.",
    ),
)

# -------------------------------------------------------------------------------------- 3. room and balance


def room(chosen: list[list[int]], probabilities: list[list[float]], capacity: int) -> Answer:
    experts = len(probabilities[0])
    asked = [expert for token in chosen for expert in token]
    counts = [asked.count(expert) for expert in range(experts)]
    mean = [math.fsum(row[e] for row in probabilities) / len(probabilities) for e in range(experts)]
    load = [min(capacity, count) for count in counts]
    return Answer(
        value={
            "load": load,
            "dropped": 1 - sum(load) / len(asked),
            "balance": experts * math.fsum(c / len(asked) * p for c, p in zip(counts, mean, strict=True)),
        }
    )


def judge_room(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict) or set(found) != set(right):
        return "form"
    if not isinstance(found["load"], list) or not all(
        map(plain, [*found["load"], found["dropped"], found["balance"]])
    ):
        return "form"
    if not agree(found["load"], right["load"]):
        return "load"
    if not agree(found["dropped"], right["dropped"], 1e-6, 1e-9):
        return "dropped"
    if agree(found["balance"], right["balance"], 1e-6, 1e-9):
        return ""
    return "even" if abs(right["balance"] - 1) < 1e-9 else "balance"


def hidden_room(rng: random.Random) -> list[Case]:
    cases = []
    for experts, top_k, capacity in ((4, 1, 3), (6, 2, 2), (8, 2, 50), (5, 3, 4)):
        logits = [[rng.gauss(0.4 * e, 1) for e in range(experts)] for _ in range(rng.randint(9, 14))]
        chosen = [[e for e, _ in token] for token in routed(logits, top_k).value]
        soft = [[weight for _, weight in sorted(token)] for token in routed(logits, experts).value]
        cases.append(Case(chosen=chosen, probabilities=soft, capacity=capacity))
    return [*cases, Case(chosen=[[2], [2], [2]], probabilities=[[0.1, 0.1, 0.8]] * 3, capacity=1)]


ROOM = Task(
    name="room_and_balance",
    lines=11,
    reference=room,
    judge=judge_room,
    properties={
        "form": Property(
            'the answer is {"load": list, "dropped": share, "balance": number}', "what is missing?"
        ),
        "load": Property(
            "an expert serves at most `capacity` tokens, and every expert has a number in `load`",
            "what of the experts nobody asked for?",
        ),
        "dropped": Property("dropped is a share of all choices", "how many choices were made in all?"),
        "even": Property(
            "an even load with even probabilities has balance 1", "is the factor E there, once?"
        ),
        "balance": Property(
            "f counts all choices, P is the mean probability over the tokens",
            "do you count before or after dropping, and which probabilities do you average?",
        ),
    },
    public=(
        Case(chosen=[[0], [1]], probabilities=[[0.5, 0.5], [0.5, 0.5]], capacity=1),
        Case(chosen=[[0], [0]], probabilities=[[0.75, 0.25], [0.75, 0.25]], capacity=2),
        Case(chosen=[[0], [0]], probabilities=[[0.75, 0.25], [0.75, 0.25]], capacity=1),
        Case(chosen=[[0, 1], [0, 2], [0, 1]], probabilities=[[0.5, 0.375, 0.125]] * 3, capacity=2),
    ),
    hidden=hidden_room,
    hints=(
        "One list of all choices in order serves all three answers.",
        "Walk through it with a counter for each expert; at capacity, the choice is dropped.",
        "f = count / number of choices, P = column mean of the probabilities; balance = E x sum of f x P.",
    ),
)

EXERCISE = Exercise(
    name="22_moe",
    version=1,
    title="Experts and their router",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S12",),
    tasks=(SIZES, ROUTE, ROOM),
    predictions={
        "memory over compute": Prediction(
            answer=32,
            because="64 experts in memory, 2 used by a token: 64 / 2 = 32, less for the rest.",
        )
    },
    hides=("train", "cost"),
)
