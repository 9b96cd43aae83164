"""Exercise 09, gradient accumulation: every counted token weighs the same, whatever micro-batch it came in.

The kernel has a linear classifier in torch; the references compute its loss and gradients by hand.
Oracle: the derivative of cross-entropy by the logits is softmax minus one-hot.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor, nested
from llmkit.grade.compare import agree, fp32, number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

IGNORE = -100

# ----------------------------------------------------------------------------------------------- references


def rows(tensor: Tensor) -> list:
    return nested(list(tensor.values), tensor.shape)


def gradient(weight: list, bias: list, batches: list) -> tuple[float, list, list, int]:
    """Sum of losses, its gradients by weight and bias, and the number of counted tokens."""
    loss, tokens = 0.0, 0
    by_weight, by_bias = [[0.0] * len(weight[0]) for _ in weight], [0.0] * len(bias)
    for x, labels in batches:
        for row, label in zip(rows(x), labels.values, strict=True):
            if label == IGNORE:
                continue
            logits = [
                math.fsum(w * v for w, v in zip(ws, row, strict=True)) + b
                for ws, b in zip(weight, bias, strict=True)
            ]
            top = max(logits)
            total = math.fsum(math.exp(z - top) for z in logits)
            loss, tokens = loss + top + math.log(total) - logits[label], tokens + 1
            for k, z in enumerate(logits):
                error = math.exp(z - top) / total - (k == label)
                by_bias[k] += error
                by_weight[k] = [g + error * v for g, v in zip(by_weight[k], row, strict=True)]
    return loss, by_weight, by_bias, tokens


def mean_gradient(weight: list, bias: list, frozen: str, batches: list) -> tuple[float, list[float]]:
    """Loss per token and its gradient, flat; zeros for what is frozen. Both 0 where no token counts."""
    loss, by_weight, by_bias, tokens = gradient(weight, bias, batches)
    flat = [g for row in by_weight for g in row]
    flat = [0.0] * len(flat) if frozen == "weight" else flat
    flat += [0.0] * len(by_bias) if frozen == "bias" else by_bias
    return loss / max(tokens, 1), [g / max(tokens, 1) for g in flat]


def accumulate(weight: Tensor, bias: Tensor, frozen: str, stale: float, batches: list) -> Answer:
    loss, grads = mean_gradient(rows(weight), rows(bias), frozen, batches)
    largest = max((x.shape[0] for x, _ in batches), default=0)
    return Answer(value={"loss": loss, "grads": grads, "spare": 0.0, "rows": largest, "held": 1})


def train_step(
    weight: Tensor, bias: Tensor, frozen: str, stale: float, steps: list, lr: float, max_norm: float
) -> Answer:
    place = [*weight.values, *bias.values]
    momentum, trace, wide = [0.0] * len(place), [], weight.shape[1]
    for batches in steps:
        table = [place[i * wide : (i + 1) * wide] for i in range(weight.shape[0])]
        loss, grads = mean_gradient(table, place[len(weight.values) :], frozen, batches)
        norm = math.sqrt(math.fsum(g * g for g in grads))
        grads = [g * min(1.0, max_norm / norm) if norm else g for g in grads]
        counted = any(label != IGNORE for _, labels in batches for label in labels.values)
        if counted:
            momentum = [0.9 * m + g for m, g in zip(momentum, grads, strict=True)]
            place = [p - lr * m for p, m in zip(place, momentum, strict=True)]
        trace.append({"loss": loss, "seen": [grads] if counted else [], "weights": place})
    return Answer(value=trace)


# -------------------------------------------------------------------------------------------------- drivers


def drive_accumulate(function, weight, bias, frozen, stale, batches):
    """A linear classifier with old gradients in it; afterwards loss, gradients, and how it was run."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(weight, frozen != "weight")
            self.bias = torch.nn.Parameter(bias, frozen != "bias")
            self.spare = torch.nn.Parameter(torch.ones(2))  # takes no part in the forward pass
            self.open, self.rows, self.held = set(), 0, 1

        def forward(self, x):
            place = next((i for i, (one, _) in enumerate(batches) if one is x or torch.equal(one, x)), -1)
            self.rows = max(self.rows, len(x))
            self.held = max(self.held, len(self.open) + 1)
            logits = x @ self.weight.T + self.bias
            if place < 0 or bool((batches[place][1] != -100).any()):
                self.open.add(place)
                logits.register_hook(lambda grad: self.open.discard(place))
            return logits

    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, stale) if stale and parameter.requires_grad else None
    loss = function(model, batches)
    if loss is None and not model.rows:
        return None
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    flat = torch.cat([grad.flatten() for grad in grads[:2]]).tolist()
    found = {"loss": loss, "grads": flat, "spare": float(grads[2].abs().max())}
    return found | {"rows": model.rows, "held": model.held}


def drive_step(function, weight, bias, frozen, stale, steps, lr, max_norm):
    """Several steps of SGD with momentum 0.9; after each the loss, what the optimizer saw, the weights."""
    import torch

    model = torch.nn.Linear(weight.shape[1], weight.shape[0])
    model.load_state_dict({"weight": weight, "bias": bias})
    seen = []

    def flat(grad):
        held = [
            torch.zeros_like(p) if grad and p.grad is None else p.grad if grad else p
            for p in model.parameters()
        ]
        return torch.cat([one.detach().flatten() for one in held]).tolist()

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != frozen)
        parameter.grad = torch.full_like(parameter, stale) if stale and name != frozen else None
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    optimizer.register_step_pre_hook(lambda *_: seen.append(flat(True)))
    trace = []
    for batches in steps:
        loss = function(model, optimizer, batches, max_norm)
        if loss is None and not seen:
            return None
        trace.append({"loss": loss, "seen": list(seen), "weights": flat(False)})
        seen.clear()
    return trace


# --------------------------------------------------------------------------------------------------- judges

RELATIVE, ABSOLUTE = 1e-4, 2e-6  # float32 sums of a few dozen terms


def same(got: Any, want: Any) -> bool:
    return agree(got, want, RELATIVE, ABSOLUTE)


def along(got: list[float], want: list[float]) -> float:
    """The factor between two parallel vectors; 0 if they are not parallel."""
    dot = math.fsum(g * w for g, w in zip(got, want, strict=True))
    sizes = math.fsum(g * g for g in got) * math.fsum(w * w for w in want)
    if sizes <= 0 or dot / math.sqrt(sizes) < 1 - 1e-7:
        return 0.0
    return dot / math.fsum(w * w for w in want)


def is_number(value: Any) -> bool:
    return isinstance(number(value), (int, float)) and not isinstance(number(value), bool)


def judge_accumulate(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict) or not is_number(found["loss"]):
        return "form"
    if not all(math.isfinite(v) for v in [number(found["loss"]), *found["grads"]]):
        return "empty"
    if found["rows"] > right["rows"] or found["held"] > 1:
        return "apart"
    if found["spare"] or not same(found["grads"], right["grads"]):
        return _which(inputs, found, right)
    return "" if same(found["loss"], right["loss"]) else "loss"


def _which(inputs: dict[str, Any], found: dict, right: dict) -> str:
    """The property behind gradients that are wrong."""
    if found["spare"] or not any(right["grads"]):
        return "stale"
    labels = [label for _, one in inputs["batches"] for label in one.values]
    factor, counted = along(found["grads"], right["grads"]), sum(label != IGNORE for label in labels)
    if factor and len(labels) > counted and math.isclose(factor, counted / len(labels), rel_tol=1e-3):
        return "ignored"
    for batch in inputs["batches"]:
        _, one = mean_gradient(rows(inputs["weight"]), rows(inputs["bias"]), inputs["frozen"], [batch])
        if not factor and along(found["grads"], one):
            return "all"
    return "tokens"


def judge_step(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if not isinstance(got.value, list) or not all(is_number(one["loss"]) for one in got.value):
        return "form"
    for found, right in zip(got.value, want.value, strict=True):
        if len(found["seen"]) != len(right["seen"]):
            return "once" if right["seen"] else "skip"
        if not same(found["seen"], right["seen"]):
            return "clip" if along(found["seen"][0], right["seen"][0]) else "gradient"
        if not same(found["weights"], right["weights"]):
            return "step"
        if not same(found["loss"], right["loss"]):
            return "loss"
    return ""


# ------------------------------------------------------------------------------------------------- the cases


def model_of(rng: random.Random, classes: int, wide: int) -> tuple[Tensor, Tensor]:
    weight = tuple(fp32(rng.gauss(0, 1)) for _ in range(classes * wide))
    return Tensor(weight, (classes, wide)), Tensor(
        tuple(fp32(rng.gauss(0, 1)) for _ in range(classes)), (classes,)
    )


def batches_of(rng: random.Random, wide: int, classes: int, pattern: str) -> list:
    """One micro-batch a word: a digit is a token with that label (modulo the classes), `-` an ignored one."""
    found = []
    for word in pattern.split():
        word = word.strip("0") if word == "0" else word  # a lone 0: no rows at all
        x = Tensor(tuple(fp32(rng.gauss(0, 1)) for _ in range(len(word) * wide)), (len(word), wide))
        labels = tuple(IGNORE if c == "-" else int(c) % classes for c in word)
        found.append([x, Tensor(labels, (len(word),), "int64")])
    return found


def random_pattern(rng: random.Random, micro: int, empty: int) -> str:
    words = ["".join(rng.choice("1234567-") for _ in range(rng.randint(2, 8))) + "1" for _ in range(micro)]
    words += ["1-", *["--" * rng.randint(1, 2) for _ in range(empty)]]
    rng.shuffle(words)
    return " ".join(words)


def one_step(rng: random.Random, pattern: str, frozen: str = "", stale: float = 0.0) -> Case:
    classes, wide = rng.choice([(2, 3), (3, 2), (4, 3), (3, 1)])
    weight, bias = model_of(rng, classes, wide)
    return Case(
        weight=weight, bias=bias, frozen=frozen, stale=stale, batches=batches_of(rng, wide, classes, pattern)
    )


def several(
    rng: random.Random, *patterns: str, frozen: str = "", stale: float = 0.0, norm: float = 0.1
) -> Case:
    classes, wide = rng.choice([(2, 3), (3, 2), (4, 3)])
    weight, bias = model_of(rng, classes, wide)
    steps = [batches_of(rng, wide, classes, pattern) for pattern in patterns]
    return Case(weight=weight, bias=bias, frozen=frozen, stale=stale, steps=steps, lr=0.5, max_norm=norm)


def hidden_accumulate(rng: random.Random) -> list[Case]:
    cases = [
        one_step(rng, random_pattern(rng, rng.randint(2, 4), empty), frozen, stale)
        for empty, frozen, stale in ((0, "", 0.0), (1, "bias", 0.5), (2, "", -0.75), (1, "weight", 0.25))
    ]
    cases += [one_step(rng, "-- 0 ---", "", rng.uniform(1, 2)), one_step(rng, "0 1 2345-1", "bias", 1.5)]
    return [*cases, one_step(rng, "1" * rng.randint(20, 30) + " 2 --", "", 0.0)]


def hidden_step(rng: random.Random) -> list[Case]:
    def pattern() -> str:
        return random_pattern(rng, rng.randint(2, 3), rng.randint(0, 1))

    return [
        several(rng, pattern(), pattern(), norm=100.0),
        several(rng, pattern(), pattern(), pattern(), stale=0.7, norm=0.05),
        several(rng, pattern(), "-- ---", pattern(), frozen="bias", norm=0.02),
        several(rng, "--", pattern(), frozen="weight", stale=-0.3, norm=0.2),
        several(rng, pattern(), "0 --", pattern(), norm=0.3),
    ]


FIXED = random.Random(9)

ACCUMULATE = Task(
    name="accumulate",
    lines=10,
    reference=accumulate,
    judge=judge_accumulate,
    drive=drive_accumulate,
    properties={
        "form": Property("the function returns the loss, a number", "what would you log for this step?"),
        "empty": Property(
            "a micro-batch without counted tokens adds nothing, and a step without any returns 0.0",
            "what is the mean over no tokens?",
        ),
        "apart": Property(
            "one micro-batch at a time: the backward pass of one comes before the forward pass of the next",
            "how many graphs are in memory at once?",
        ),
        "stale": Property(
            "gradients of earlier steps are gone", "what does backward() do to a `.grad` that is there?"
        ),
        "ignored": Property("labels of -100 are not counted", "how many tokens does the sum of losses have?"),
        "all": Property("the gradients of all micro-batches are added", "when may gradients be zeroed?"),
        "tokens": Property(
            "every counted token weighs 1 / (counted tokens of the step)",
            "what does one token weigh in a micro-batch of 1, and what in one of 7?",
        ),
        "loss": Property(
            "the loss is the mean over all counted tokens", "is it one number for the whole step?"
        ),
    },
    public=(
        one_step(FIXED, "1"),
        one_step(FIXED, "1", stale=0.5),
        one_step(FIXED, "1-"),
        one_step(FIXED, "1 2"),
        one_step(FIXED, "1 2111"),
        one_step(FIXED, "1-- 211"),
        one_step(FIXED, "12 --"),
        one_step(FIXED, "--"),
        one_step(FIXED, "1 0 21", "bias", 0.5),
        one_step(FIXED, "-- -", "", 0.5),
    ),
    hidden=hidden_accumulate,
    hints=(
        (
            "Count the tokens of the whole step first. Then each micro-batch adds its sum of losses, "
            "divided by that count."
        ),
        (
            '`cross_entropy(logits, labels, reduction="sum")` leaves out labels of -100 by itself. The '
            "gradients add up in `.grad`."
        ),
        (
            "Zero once, before the loop. In it: `part = ... / tokens`, `part.backward()`, `loss += "
            "part.item()`; skip a micro-batch without counted labels."
        ),
    ),
)

STEP = Task(
    name="train_step",
    lines=5,
    reference=train_step,
    judge=judge_step,
    drive=drive_step,
    properties={
        "form": Property("the function returns the loss, a number", "what would you log for this step?"),
        "skip": Property(
            "without a counted token there is no optimizer step",
            "what does momentum do with gradients of zero?",
        ),
        "once": Property("one optimizer step per call", "how many updates does one global batch make?"),
        "clip": Property(
            "a gradient longer than `max_norm` has that norm at the step, a shorter one is left alone",
            "which norm has the gradient when the optimizer reads it?",
        ),
        "gradient": Property(
            "the optimizer sees the gradient of this step's counted tokens, clipped once and as one vector",
            "which gradients stood in `.grad` when you clipped?",
        ),
        "step": Property("the weights change by the optimizer's step alone", "who else touches them?"),
        "loss": Property(
            "the loss is the mean over all counted tokens, before the step",
            "which weights does the loss belong to?",
        ),
    },
    public=(
        several(FIXED, "1", norm=100.0),
        several(FIXED, "1 21"),
        several(FIXED, "1 21", stale=0.5),
        several(FIXED, "1 21", "12 1", norm=100.0),
        several(FIXED, "--", stale=0.5),
        several(FIXED, "12 1", "--", "1 2", frozen="bias"),
    ),
    hidden=hidden_step,
    hints=(
        "Accumulate, clip, step: clipping and the step stand after the loop over micro-batches.",
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)` measures all gradients together.",
        "`if any(bool((labels != -100).any()) for _, labels in batches):` then clip and `optimizer.step()`.",
    ),
)

EXERCISE = Exercise(
    name="09_accumulation",
    version=1,
    title="Gradient accumulation",
    minutes=30,
    round="coding",
    difficulty=2,
    rows=("S7",),
    tasks=(ACCUMULATE, STEP),
    predictions={
        "too heavy": Prediction(
            answer=4.0,
            because=(
                "the mean of two means gives the lone token 1/2; its right weight is 1/8. The seven others "
                "weigh 1/14 each instead of 1/8."
            ),
        )
    },
    hides=("train",),
)
