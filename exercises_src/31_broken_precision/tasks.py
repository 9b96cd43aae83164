"""Exercise 31, broken precision: four faults of a mixed-precision step, named, mended by a patch, and tested.

References are plain Python in float64: a softmax by hand, algorithm 1 of Kingma and Ba (ICLR 2015) by hand.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Case, Exercise, Prediction, Property

from .versions import (
    FAILURES,
    FAULTS,
    NAMES,
    SICK,
    TEST_ADAM,
    TEST_LOSSES,
    TEST_RESTORE,
    TEST_STEP,
    broken,
)

VOCAB = 11

# ---------------------------------------------------------------------------------------------------- probes


def look_at_losses(p, logits, labels):
    return p.losses(p.torch.tensor([logits]).half(), p.torch.tensor([labels])).tolist()


def look_at_adam(p, params, grads, lr):
    made = [p.nn.Parameter(p.torch.tensor(values)) for values in params]
    adam = p.Adam(made)
    for step in grads:
        for param, grad in zip(made, step, strict=True):
            param.grad = None if grad is None else p.torch.tensor(grad)
        adam.step(lr)
    return [[param.tolist() for param in made], [v.tolist() for v in adam.v], adam.t]


def look_at_step(p, token_rows, table, scale):
    """One step of a model that is a table of float16 logits, with an Adam that notes what it is given."""
    given = []

    class Table(p.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = p.nn.Parameter(p.torch.tensor(table).expand(p.VOCAB, -1).clone())

        def forward(self, ids):
            return self.weight.half()[ids]

    class Notes:
        def step(self, lr):
            given.append(run.model.weight.grad.tolist())

    run = p.Run(0)
    run.model, run.adam, run.scaler.scale = Table(), Notes(), scale
    rows = p.torch.tensor(token_rows)
    loss, norm = p.train_step(run, [(rows[:, :-1], rows[:, 1:])])
    norm = norm if abs(norm) < float("inf") else "not finite"
    return [loss, norm, given, run.scaler.scale, run.scaler.good]


def look_at_resume(p, seed, before, after):
    batch = (p.torch.tensor([[1, 2, 3, 4]]), p.torch.tensor([[2, 3, 4, 5]]))
    run, resumed = p.Run(seed), p.Run(seed + 1)
    for _ in range(before):
        p.train_step(run, [batch])
    saved = p.save(run)
    want = [(*p.train_step(run, [batch]), run.scaler.scale) for _ in range(after)]
    p.restore(resumed, saved)
    got = [(*p.train_step(resumed, [batch]), resumed.scaler.scale) for _ in range(after)]
    same = all(map(p.torch.equal, run.model.parameters(), resumed.model.parameters()))
    return want == got and same and run.adam.t == resumed.adam.t


def look_at_the_rest(p, grads, most, overflows):
    params = [p.nn.Parameter(p.torch.zeros(len(grad))) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = p.torch.tensor(grad)
    norm = p.clip(params, most)
    scaler, scales = p.Scaler(), []
    for overflow in overflows:
        scaler.update(overflow)
        scales.append(scaler.scale)
    return [norm, [param.grad.tolist() for param in params], scales]


PROBES = {
    "losses": broken.probe_text(look_at_losses, "losses"),
    "adam": broken.probe_text(look_at_adam, "adam"),
    "step": broken.probe_text(look_at_step, "step"),
    "resume": broken.probe_text(look_at_resume, "resume"),
    "rest": broken.probe_text(look_at_the_rest, "rest"),
}


def ask(about: str, **args: Any) -> Case:
    return Case(code=broken.titled("As handed over", "", SICK), probe=PROBES[about], args=args)


# ------------------------------------------------------------------------------------------------- references


def losses(logits: list[list[float]], labels: list[int]) -> list[float]:
    """The logits of all cases are float16 numbers, so nothing is rounded on the way in."""
    found = []
    for row, label in zip(logits, labels, strict=True):
        top = max(row)
        found.append(top + math.log(math.fsum(math.exp(v - top) for v in row)) - row[label])
    return found


def adam(params: list[list[float]], grads: list[list], lr: float) -> list:
    b1, b2, eps = 0.9, 0.99, 1e-8
    w, m = [list(values) for values in params], [[0.0] * len(values) for values in params]
    v = [[0.0] * len(values) for values in params]
    for t, step in enumerate(grads, 1):
        for i, grad in enumerate(step):
            for k, g in enumerate(grad or []):
                m[i][k] = b1 * m[i][k] + (1 - b1) * g
                v[i][k] = b2 * v[i][k] + (1 - b2) * g * g
                w[i][k] -= lr * (m[i][k] / (1 - b1**t)) / (math.sqrt(v[i][k] / (1 - b2**t)) + eps)
    return [w, v, len(grads)]


def step(token_rows: list[list[int]], table: list[list[float]], scale: float) -> list:
    pairs = [(row[i], row[i + 1]) for row in token_rows for i in range(len(row) - 1)]
    rows = [table[a % len(table)] for a, _ in pairs]
    loss = math.fsum(losses(rows, [b for _, b in pairs])) / len(pairs)
    if scale >= 2.0**40:  # beyond 65504 in float16
        return [loss, "not finite", [], scale / 2, 0]
    grad = [[0.0] * VOCAB for _ in range(VOCAB)]
    for (token, label), row in zip(pairs, rows, strict=True):
        total = math.fsum(map(math.exp, row))
        for k, logit in enumerate(row):
            grad[token][k] += (math.exp(logit) / total - (k == label)) / len(pairs)
    norm = math.sqrt(math.fsum(g * g for row in grad for g in row))
    return [loss, norm, [[[g * min(1.0, 1.0 / norm) for g in row] for row in grad]], scale, 1]


def rest(grads: list[list[float]], most: float, overflows: list[bool]) -> list:
    norm = math.sqrt(math.fsum(g * g for grad in grads for g in grad))
    scale, good, scales = 1024.0, 0, []
    for overflow in overflows:
        good = 0 if overflow else (good + 1) % 4
        scale *= 0.5 if overflow else 1.0 if good else 2.0
        scales.append(scale)
    return [norm, [[g * min(1.0, most / norm) for g in grad] for grad in grads], scales]


def expected(about: str, args: dict[str, Any]) -> Any:
    references = {"losses": losses, "adam": adam, "step": step, "rest": rest}
    return True if about == "resume" else references[about](**args)


def agrees(about: str, args: dict[str, Any], found: Any, want: Any) -> bool:
    if about == "losses":
        return agree(found, want, relative=2e-5, absolute=1e-5)
    return agree(found, want, relative=1e-3, absolute=1e-12 if about == "adam" else 1e-6)


# ------------------------------------------------------------------------------------------------------ cases


def hidden_fixes(rng: random.Random) -> list[Case]:
    logits = [[rng.randint(-40, 40) / 2 for _ in range(5)] for _ in range(6)]
    logits += [[-300.0 + rng.randint(0, 9), 300.0, 1.0, 0.5, 2.0]]
    sure = [[16.0 + rng.randint(0, 2), 10.0, 9.5, 0.0]]  # a loss of 0.001 to 0.005
    sizes = (1.0, 1e-4, 1e-8)
    grads = [
        [[size * rng.choice([-1, 1]) * rng.uniform(0.5, 2) for size in sizes], None, [rng.gauss(0, 1)]]
        for _ in range(rng.randint(2, 4))
    ]
    table = [[round(rng.gauss(0, 64)) / 64 for _ in range(VOCAB)] for _ in range(VOCAB)]
    steep = [[4.0 * k for k in range(VOCAB)]]
    rows = [[rng.randrange(VOCAB) for _ in range(6)] for _ in range(2)]
    return [
        ask("losses", logits=logits, labels=[0, 1, 2, 3, 4, rng.randrange(5), 0]),
        ask("losses", logits=sure, labels=[0]),
        ask("adam", params=[[1.0, 2.0, 3.0], [4.0], [0.5]], grads=grads, lr=rng.choice([0.1, 0.01])),
        ask("step", token_rows=rows, table=table, scale=2.0 ** rng.randint(4, 14)),
        ask("step", token_rows=[[3] * 5], table=steep, scale=2.0 ** rng.randint(4, 14)),
        ask("step", token_rows=rows, table=table, scale=2.0**40),
        ask("resume", seed=rng.randrange(1000), before=rng.choice([2, 3, 5]), after=4),
        ask("rest", grads=[[rng.gauss(0, 2) for _ in range(3)], [1.5]], most=rng.choice([0.5, 1.0]),
            overflows=[False] * 4 + [rng.random() < 0.2 for _ in range(12)]),
    ]  # fmt: skip


FLAT = [[0.0] * VOCAB]  # one row of logits for all tokens
STEEP = [[4.0 * k for k in range(VOCAB)]]
PUBLIC = (
    ask("losses", logits=[[18.0, 11.0]], labels=[0]),
    ask("losses", logits=[[300.0, -300.0, 0.5]], labels=[1]),
    ask("adam", params=[[1.0]], grads=[[[0.5]]], lr=0.1),
    ask("adam", params=[[1.0, 1.0], [2.0]], grads=[[[0.5, 1e-8], None], [[-2.0, 1e-8], None]], lr=0.1),
    ask("step", token_rows=[[1, 2]], table=FLAT, scale=1024.0),
    ask("step", token_rows=[[1, 2]], table=STEEP, scale=4.0),
    ask("step", token_rows=[[1, 2]], table=FLAT, scale=2.0**40),
    ask("resume", seed=0, before=2, after=4),
    ask("rest", grads=[[3.0], [4.0]], most=1.0, overflows=[False] * 4 + [True]),
)
SAYS = {
    "losses": Property(
        "losses are right to 1e-5, near 0 and far from it",
        "which float16 numbers are there near 16, and near 300?",
    ),
    "adam": Property(
        "Adam's steps are those of algorithm 1, eps included",
        "by which factor is v too small after the first step?",
    ),
    "step": Property(
        "Adam gets the step's own gradients, clipped; norm and scale are reported as promised",
        "against which gradients is a `max_norm` of 1 meant?",
    ),
    "resume": Property(
        "the steps after `restore` are those after `save`, loss scales included",
        "at which step does the scale of each double next?",
    ),
    "rest": Property("what was right stays right", "which of your lines was needed?"),
}

EXERCISE = Exercise(
    name="31_broken_precision",
    version=1,
    title="Broken precision",
    minutes=45,
    round="deep dive",
    difficulty=3,
    rows=("S5", "S9", "S21"),
    tasks=(
        broken.modes_task(
            6,
            FAILURES,
            FAULTS,
            NAMES,
            (
                "Take one function at a time; for each word of its docstring find the line that keeps it.",
                "One fault is in the loss, one in the order of a step, one in Adam, one in the resume.",
                "Suspects: dtype in `losses`, c2 in `Adam`, order in `train_step`, what `restore` drops.",
            ),
        ),
        broken.fixes_task(
            8,
            SAYS,
            expected,
            agrees,
            PUBLIC,
            hidden_fixes,
            (
                "One line per fault: the line that makes the docstring untrue. Copy it whole into a key.",
                "Logits become float32 before anything else; c2 belongs to b2; unscale goes first; the "
                "scaler's whole state is in the checkpoint.",
                "`logits.float()`; `1 - b2**self.t`; `overflow, norm = unscale(...), clip(...)`; "
                '`vars(run.scaler).update(parts["scaler"])`',
            ),
        ),
        TEST_LOSSES,
        TEST_ADAM,
        TEST_STEP,
        TEST_RESTORE,
    ),
    predictions={
        "times too small": Prediction(
            answer=512.0,
            because=(
                "The scaled norm is 512, clipping brings it to 1, unscaling to 1/1024; it should have been "
                "0.5. The factor changes with every gradient, so it is no other learning rate: a spike and "
                "a quiet step come out alike."
            ),
        )
    },
)
