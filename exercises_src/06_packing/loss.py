"""Tasks 3 and 4 of packing: who sees whom inside a window, and the loss over the targets that count.

The oracle of the loss is `torch.nn.functional.cross_entropy` with `ignore_index=-100`, gradients included.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.collect import Tensor, nested
from llmkit.grade.compare import agree, close, fp32, number
from llmkit.grade.exercise import Answer, Case, Property, Task

from .windows import IGNORE

PADDING = -1  # the owner of a padded place

# ------------------------------------------------------------------------------------------ 3. document_mask


def document_mask(owners: list[int]) -> Answer:
    places = range(len(owners))
    mask = [[k == q or (k < q and owners[k] == owners[q] != PADDING) for k in places] for q in places]
    return Answer(value=mask)


def judge_mask(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    owners, mask = inputs["owners"], got.value
    if isinstance(mask, Tensor):
        mask = nested(list(mask.values), mask.shape)
    n = len(owners)
    rows = (
        isinstance(mask, list) and len(mask) == n and all(isinstance(r, list) and len(r) == n for r in mask)
    )
    if not rows or not all(type(number(v)) is bool for row in mask for v in row):
        return "form"
    sees = {(q, k) for q in range(n) for k in range(n) if number(mask[q][k])}
    right = {(q, k) for q in range(n) for k in range(n) if want.value[q][k]}
    if any((q, q) not in sees for q in range(n)):
        return "self"
    if any(k > q for q, k in sees):
        return "causal"
    if any(owners[k] == PADDING for _, k in sees - right):
        return "padding"
    if sees - right:
        return "border"
    return "" if sees == right else "own"


def hidden_mask(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(6):
        first, owners = rng.randint(0, 90), []
        for number_ in range(first, first + rng.randint(2, 4)):
            owners += [number_] * rng.randint(1, 4)
        cases.append(Case(owners=owners + [PADDING] * rng.randint(0, 4)))
    cases.append(Case(owners=[rng.randint(0, 9)] * rng.randint(3, 6)))
    cases.append(Case(owners=[PADDING] * rng.randint(2, 4)))
    return cases


MASK = Task(
    name="document_mask",
    lines=4,
    reference=document_mask,
    judge=judge_mask,
    properties={
        "form": Property(
            "the mask is a square of True and False, a row per query", "who asks, and who is looked at?"
        ),
        "self": Property(
            "every place sees itself, padding too",
            "what is the softmax of a row in which nothing may be seen?",
        ),
        "causal": Property("no place sees a later one", "which places hold what is to be predicted?"),
        "padding": Property("nobody else sees padding", "do two padded places belong together?"),
        "border": Property(
            "no place sees another document", "does the end of one text say anything about the next?"
        ),
        "own": Property(
            "a place sees all of its document that came before it in the window",
            "how far back does your mask let it look?",
        ),
    },
    public=(
        Case(owners=[0]),
        Case(owners=[4, 4]),
        Case(owners=[4, 5]),
        Case(owners=[2, 2, 2, 2]),
        Case(owners=[4, -1]),
        Case(owners=[4, -1, -1]),
        Case(owners=[1, 1, 2, 2, 2, -1]),
    ),
    hidden=hidden_mask,
    hints=(
        "Two conditions make the mask, one about places, one about owners; one exception stands beside them.",
        "`owners[:, None] == owners[None, :]` compares all with all; `torch.tril` keeps what is not later.",
        "Of the padded places only the diagonal is left: `(same & real) | torch.eye(n, dtype=torch.bool)`.",
    ),
)

# -------------------------------------------------------------------------------------------- 4. masked_loss


def drive_loss(function, logits, targets):
    """The loss and its gradient with respect to the logits."""
    import torch

    logits = logits.clone().requires_grad_()
    loss = function(logits, targets)
    if loss is None:
        return None
    if isinstance(loss, torch.Tensor) and loss.requires_grad and loss.numel() == 1:
        loss.backward()
    return {"loss": loss, "gradient": logits.grad}


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[float, list[float]]:
    rows, width = nested(list(logits.values), logits.shape), logits.shape[1]
    counted = sum(target != IGNORE for target in targets.values)
    total, gradient = 0.0, []
    for row, target in zip(rows, targets.values, strict=True):
        if target == IGNORE:
            gradient += [0.0] * width
            continue
        top = max(row)
        weights = [math.exp(v - top) for v in row]
        total += math.log(sum(weights)) + top - row[target]
        gradient += [(w / sum(weights) - (v == target)) / counted for v, w in enumerate(weights)]
    return total / max(1, counted), gradient


def masked_loss(logits: Tensor, targets: Tensor) -> Answer:
    loss, gradient = loss_and_gradient(logits, targets)
    return Answer(value={"loss": loss, "gradient": Tensor(tuple(map(fp32, gradient)), logits.shape)})


def judge_loss(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    loss = number(got.value.get("loss")) if isinstance(got.value, dict) else None
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        return "form"
    targets, right = inputs["targets"].values, want.value["loss"]
    counted = sum(target != IGNORE for target in targets)
    if not counted:
        same = loss == 0 and agree(got.value["gradient"], want.value["gradient"])
        return "" if same else "none"
    if not math.isfinite(loss):
        return "stable"
    if not close(loss, right, 2e-5) and abs(loss - right) > 2e-6:
        if any(close(loss, right * counted / share, 2e-5) for share in (1, len(targets))):
            return "mean"
        return "mask" if counted < len(targets) else "value"
    return "" if agree(got.value["gradient"], want.value["gradient"], 1e-4, 2e-6) else "gradient"


def loss_case(rows: list[list[float]], targets: list[int]) -> Case:
    logits = Tensor(tuple(fp32(v) for row in rows for v in row), (len(rows), len(rows[0])))
    return Case(logits=logits, targets=Tensor(tuple(targets), (len(targets),), "int64"))


def hidden_loss(rng: random.Random) -> list[Case]:
    cases = []
    for spread, masked in ((1.0, 0), (2.0, 1), (1.0, 2), (3.0, 3), (300.0, 2), (1.0, 99)):
        size, width = rng.randint(4, 7), rng.choice([3, 5, 8])
        targets = [rng.randrange(width) for _ in range(size)]
        for place in rng.sample(range(size), min(masked, size)):
            targets[place] = IGNORE
        cases.append(loss_case([[rng.gauss(0, spread) for _ in range(width)] for _ in range(size)], targets))
    cases.append(loss_case([[rng.uniform(900, 1000), rng.uniform(0, 9), 3.0]] * 2, [1, 0]))
    return cases


LOSS = Task(
    name="masked_loss",
    lines=5,
    reference=masked_loss,
    judge=judge_loss,
    drive=drive_loss,
    properties={
        "form": Property("the loss is one number", "what will `backward` be called on?"),
        "none": Property(
            "with no target at all the loss is 0 and so is every gradient", "what is the mean of nothing?"
        ),
        "stable": Property(
            "large logits give a finite loss", "what is exp(1000) in float32, and do you need it?"
        ),
        "value": Property(
            "the loss at a place is -log of the probability that softmax gives its target",
            "is each row turned into probabilities once?",
        ),
        "mean": Property(
            "the loss is the mean over the targets that count",
            "if half of a window is padding, should its loss halve?",
        ),
        "mask": Property("a place with target -100 counts for nothing", "which rows enter your sum?"),
        "gradient": Property(
            "the gradient is that of this loss, 0 where the target is -100",
            "does every part of your formula let gradients through?",
        ),
    },
    public=(
        loss_case([[0.0, 1.0]], [1]),
        loss_case([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]], [1, 0]),
        loss_case([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], [1, -100]),
        loss_case([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]], [-100, 0, -100]),
        loss_case([[1000.0, 0.0], [0.0, -1000.0]], [1, 0]),
        loss_case([[0.0, 2.0], [3.0, 0.0]], [-100, -100]),
    ),
    hidden=hidden_loss,
    hints=(
        "Keep the rows whose target counts; then it is an ordinary cross-entropy with a careful division.",
        "`torch.log_softmax` is stable. Which entry of each row do you need, and by how many do you divide?",
        "Sum over the kept rows, divided by `max(1, number kept)`: nothing kept gives 0 and a gradient of 0.",
    ),
)
