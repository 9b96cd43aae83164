"""The pipeline with each fault, mended, in other styles, with sibling faults; and the four tests that tell.

Every version is the cell of `text.py` with whole lines replaced, so none can drift from what is handed out.
"""

from __future__ import annotations

from pathlib import Path

from .broken import handed_over, swapped, test_task, titled

SICK = handed_over(Path(__file__).parent, "def loss_sum(")
FAULTS = {
    "shard": "ranks read overlapping rows",
    "loss_sum": "labels are shifted twice",
    "accumulate": "mean of micro-batch means",
    "restore": "a resumed run draws other random numbers",
}
FAILURES = [
    "padding is trained on",
    "labels are shifted twice",
    "labels are not shifted",
    "documents of validation are trained on",
    "every epoch has the same order",
    "ranks read overlapping rows",
    "rows at the end are read by no rank",
    "mean of micro-batch means",
    "gradients of the last step are kept",
    "schedule advances once per micro-batch",
    "a resumed run loses the optimizer's moments",
    "a resumed run draws other random numbers",
    "validation runs with dropout",
]
NAMES = ["split", "rows_of", "example", "batch", "shard", "loss_sum", "accumulate", "lr_at"]
NAMES += ["train_step", "save", "restore", "evaluate"]
FIXES = {
    "shard": (
        'random.Random(f"{seed} {epoch} {rank}").shuffle(order)',
        'random.Random(f"{seed} {epoch}").shuffle(order)',
    ),
    "loss_sum": ("guesses, targets = logits[:, :-1], labels[:, 1:]", "guesses, targets = logits, labels"),
    "accumulate": (
        "loss = loss_sum(model, inputs, labels) / (count * len(counts))",
        "loss = loss_sum(model, inputs, labels) / sum(counts)",
    ),
    "restore": ('run.step = parts["step"]', 'run.step = parts["step"]\ntorch.set_rng_state(parts["rng"])'),
}
MENDED = swapped(SICK, dict(FIXES.values()))


# --------------------------------------------------------------------------------------------------- versions


def alone(name: str) -> str:
    """The pipeline with one fault of the four."""
    others = {old: new for key, (old, new) in FIXES.items() if key != name}
    return titled("This fault alone", FAULTS[name], swapped(SICK, others))


def sibling(about: str, edits: dict[str, str]) -> str:
    return titled("Sibling", about, swapped(MENDED, edits))


def style(about: str, edits: dict[str, str]) -> str:
    return titled("Mended", about, swapped(MENDED, edits))


WHOLE = titled("Mended", "", MENDED)
SHUFFLE, LOSS = FIXES["shard"][1], FIXES["accumulate"][1]
PICK, TARGETS = "return order[rank::world]", FIXES["loss_sum"][1]
LABELS = "return row[:-1], [IGNORE if token == PAD else token for token in row[1:]]"
MODEL, RNG = 'run.model.load_state_dict(parts["model"])', 'torch.set_rng_state(parts["rng"])'
COUNTS = "counts = [int((labels != IGNORE).sum()) for _, labels in micro_batches]"

TEST_SHARD = test_task(
    "test_shard",
    4,
    "each row is read by exactly one rank",
    [
        alone("shard"),
        WHOLE,
        sibling(
            "the rest of the division is read by no rank",
            {PICK: "return order[rank * (n // world) : (rank + 1) * (n // world)]"},
        ),
        sibling("every rank reads the first share", {PICK: "return order[: -(-n // world)]"}),
        style("blocks", {PICK: "return order[rank * n // world : (rank + 1) * n // world]"}),
    ],
    [
        style(
            "another shuffle",
            {SHUFFLE: "order.sort(key=lambda row: random.Random(f'{row}{seed}/{epoch}').random())"},
        ),
        sibling("one row is read twice", {PICK: "return order[rank::world] + order[:1] * (rank == 1)"}),
    ],
    (
        "Gather what all ranks read in one epoch, and compare it with all the rows.",
        "Sorted, the rows of all ranks are 0 .. n - 1; take an n that world does not divide.",
        "`assert sorted(r for k in range(3) for r in p.shard(11, k, 3, 0, 0)) == list(range(11))`",
    ),
)

TEST_LABELS = test_task(
    "test_labels",
    6,
    "the loss of a position is that of the next token",
    [
        alone("loss_sum"),
        WHOLE,
        sibling(
            "labels are not shifted at all",
            {LABELS: "return row[:-1], [IGNORE if token == PAD else token for token in row[:-1]]"},
        ),
        sibling(
            "labels are shifted to the left and back",
            {TARGETS: "guesses, targets = logits[:, 1:], labels[:, :-1]"},
        ),
        style("gathered", {TARGETS: "guesses, targets = logits.contiguous(), labels.contiguous()"}),
    ],
    [
        style("from a list", {LABELS: "return list(row[:-1]), [token or IGNORE for token in row[1:]]"}),
        sibling(
            "the last position is dropped", {TARGETS: "guesses, targets = logits[:, :-1], labels[:, :-1]"}
        ),
    ],
    (
        "Choose a model whose logits you know, such as a table with one row of logits per token.",
        "From the table you can compute the sum over (token, next token) by hand and compare.",
        "By hand: minus the sum of `table.log_softmax(-1)[a, b]` over the pairs of neighbours in the row.",
    ),
)

TEST_ACCUMULATE = test_task(
    "test_accumulate",
    10,
    "every label of the step weighs the same, in the gradient and in the loss",
    [
        alone("accumulate"),
        WHOLE,
        sibling(
            "padding counts in the divisor",
            {COUNTS: "counts = [labels.numel() for _, labels in micro_batches]"},
        ),
        sibling(
            "the returned loss is right, the gradients are not",
            {"loss.backward()": "(loss * sum(counts) / (count * len(counts))).backward()"},
        ),
        sibling(
            "the gradients are right, the returned loss is not",
            {"mean += loss.item()": "mean += loss.item() * sum(counts) / (count * len(counts))"},
        ),
        style(
            "summed first",
            {LOSS: "total = loss_sum(model, inputs, labels)\nloss = total * (1 / sum(counts))"},
        ),
    ],
    [
        style(
            "counted by picking",
            {COUNTS: "counts = [len(labels[labels != IGNORE]) for _, labels in micro_batches]"},
        ),
        sibling(
            "every row weighs the same",
            {LOSS: f"{LOSS.split(' / ')[0]} / count * len(labels) / sum(len(x) for x, _ in micro_batches)"},
        ),
    ],
    (
        "Cut rows with unequal numbers of labels into micro-batches; take the mean over all labels yourself.",
        (
            "One `cross_entropy(..., ignore_index=p.IGNORE)` over all rows gives loss and gradients to "
            "compare with. Two cuts that agree can be wrong alike."
        ),
        (
            "Keep `model.weight.grad.clone()` of your own backward; then `p.accumulate(model, "
            "[p.batch(rows, [0]), p.batch(rows, [1, 2])])`; compare both."
        ),
    ),
)

TEST_RESTORE = test_task(
    "test_restore",
    9,
    "the steps after `restore` are those after `save`",
    [
        alone("restore"),
        WHOLE,
        sibling("the moments are lost", {'run.optimizer.load_state_dict(parts["optimizer"])': "pass"}),
        sibling("the step number is lost", {'run.step = parts["step"]': "pass"}),
        style(
            "other order",
            {
                'run.step = parts["step"]': "pass",
                RNG: f'{RNG}\nrun.step = int(parts["step"])',
            },
        ),
    ],
    [
        style(
            "strict",
            {MODEL: 'run.model.load_state_dict(dict(parts["model"]))'},
        ),
        sibling("the weights are lost", {MODEL: "pass"}),
    ],
    (
        "Train a run, save it, train on: that is what a resumed run must repeat.",
        "Restore into a fresh `p.Run` with another seed, after the saved run has gone on.",
        "Compare the losses of at least two more steps of both, exactly: `==`, not nearly.",
    ),
)
