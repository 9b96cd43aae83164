# %% [markdown]
# # Exercise 30: the broken pipeline
#
# **Six functions, about 45 minutes, 43 lines in all.** Below is the pipeline of a colleague who has left:
# rows, labels, shards, accumulation, schedule, checkpoint. It runs, the loss falls, nothing is ever NaN. Four
# of its functions do not do what their docstrings say. Faults of this kind cost weeks, because each is found
# by someone who only knows that the model is worse than it should be.
#
# Rounds that ask for somebody else's bug want three things: the name of the failure, a fix that a reviewer
# can read in a minute, and a test that would have caught it.
#
# After this you can read training code for what it does, mend it by one line at a time, and write a test that
# fails for the fault and not for the style.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(fixes, 1)` says a little,
# `hint(fixes, 3)` nearly everything. The grade comes from `llmkit grade exercises/30_broken_pipeline.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import io
import math
import random
import sys
import zlib
from itertools import pairwise
from types import ModuleType

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("30_broken_pipeline")

# %% [markdown]
# ## The pipeline, as handed over
#
# **Every docstring is true; where the code disagrees, the code is wrong.** Leave the cell as it is.

# %%
VOCAB, PAD, IGNORE = 11, 0, -100


def split(documents):
    """(train, validation): by a hash of the text, so that equal documents stand on one side."""
    sides = ([], [])
    for document in documents:
        sides[zlib.crc32(bytes(document)) % 5 == 0].append(document)
    return sides


def rows_of(documents, context):
    """All documents end to end, cut into rows of context + 1 ids; a row begins with the last id of the one
    before. The last row is filled up with PAD."""
    stream = [token for document in documents for token in document]
    rows = [stream[start : start + context + 1] for start in range(0, len(stream) - 1, context)]
    return [row + [PAD] * (context + 1 - len(row)) for row in rows]


def example(row):
    """(inputs, labels) of one row: two lists, one shorter than the row. The label of a position is the token
    that follows it; IGNORE where that is PAD."""
    return row[:-1], [IGNORE if token == PAD else token for token in row[1:]]


def batch(rows, numbers):
    """(inputs, labels) of the rows of these numbers, as two tensors."""
    pairs = [example(rows[number]) for number in numbers]
    return torch.tensor([inputs for inputs, _ in pairs]), torch.tensor([labels for _, labels in pairs])


def shard(n, rank, world, seed, epoch):
    """The rows that one rank reads in an epoch, in order. One shuffle of all n rows per seed and epoch is
    shared out: every row goes to exactly one of the ranks."""
    order = list(range(n))
    random.Random(f"{seed} {epoch} {rank}").shuffle(order)
    return order[rank::world]


def loss_sum(model, inputs, labels):
    """Sum of the losses of one micro-batch, as made by `batch`: at each position that of its own label."""
    logits = model(inputs)
    guesses, targets = logits[:, :-1], labels[:, 1:]
    return cross_entropy(guesses.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def accumulate(model, micro_batches):
    """Leave the gradients of the step's mean loss, the mean being over all labels of the step that are not
    IGNORE, and return that loss. Micro-batches may hold unequal numbers of labels."""
    model.zero_grad()
    counts = [int((labels != IGNORE).sum()) for _, labels in micro_batches]
    mean = 0.0
    for (inputs, labels), count in zip(micro_batches, counts, strict=True):
        loss = loss_sum(model, inputs, labels) / (count * len(counts))
        loss.backward()
        mean += loss.item()
    return mean


def lr_at(step, peak=0.02, warmup=4, steps=40):
    """Learning rate: up to the peak in the first `warmup` steps, then a cosine down to a tenth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / (steps - warmup)))


class Run:
    """A model with dropout, its optimizer, and the number of the next step."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Embedding(VOCAB, 8), nn.Dropout(0.2), nn.Linear(8, VOCAB))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.step = 0


def train_step(run, micro_batches):
    """One optimizer step, clipped to norm 1; returns its loss."""
    run.optimizer.param_groups[0]["lr"] = lr_at(run.step)
    loss = accumulate(run.model, micro_batches)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    return loss


def save(run):
    """A checkpoint, as bytes: everything that `restore` needs."""
    parts = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "step": run.step}
    file = io.BytesIO()
    torch.save(parts | {"rng": torch.get_rng_state()}, file)
    return file.getvalue()


def restore(run, saved):
    """Put a run into the state of the checkpoint, whatever ran before or since: its next steps are, bit for
    bit, those that the saved run made after `save`."""
    parts = torch.load(io.BytesIO(saved))
    run.model.load_state_dict(parts["model"])
    run.optimizer.load_state_dict(parts["optimizer"])
    run.step = parts["step"]


def evaluate(model, batches):
    """Mean loss over all labels of the batches, without dropout; the model trains on afterwards."""
    model.eval()
    with torch.no_grad():
        total = sum(loss_sum(model, inputs, labels).item() for inputs, labels in batches)
    model.train()
    return total / sum(int((labels != IGNORE).sum()) for _, labels in batches)


# %% [markdown]
# Call single functions to see what they do: `example([5, 7, 0])`, `shard(6, 0, 2, seed=0, epoch=0)`. The loss
# tells nothing; it is as calm as a healthy one:

# %%
texts = [[1 + (number * k) % 9 for k in range(1, 14)] + [10] for number in range(1, 9)]
rows = rows_of(split(texts)[0], context=8)
run = Run(seed=0)
for epoch in range(2):
    order = shard(len(rows), 0, 1, 0, epoch)
    losses = [train_step(run, [batch(rows, order[i : i + 2])]) for i in range(0, len(order), 2)]
print(f"epoch mean {sum(losses) / len(losses):.1f} nats; uniform guessing gives {math.log(VOCAB):.1f}")

# %% [markdown]
# ## 1. Name them
#
# Return a dict of four entries: name of the faulty function -> its failure mode, word for word from this
# list. A refusal says how many entries are right, not which.

# %%
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


def modes() -> dict[str, str]:
    # BEGIN SOLUTION: about 6 lines
    return {
        "shard": FAILURES[5],
        "loss_sum": FAILURES[1],
        "accumulate": FAILURES[7],
        "restore": FAILURES[11],
    }
    # END SOLUTION


check(modes)

# %% [markdown]
# ## 2. Mend them
#
# Return your patch as a dict: line as it stands above -> what stands in its place.
#
# - A key is one whole line that occurs once in the pipeline. Spaces at its ends do not matter.
# - A value is one line, or two joined by `"\n"`. They get the indentation of the line they replace.
# - At most four lines are replaced: one per fault. Whatever was right stays as it was.
#
# The examiner applies the patch to the pipeline and runs it: losses, gradients, shards, a resumed run. For
# example `{"model.zero_grad()": "model.zero_grad(set_to_none=True)"}` is a patch, though it mends nothing.


# %%
def fixes() -> dict[str, str]:
    # BEGIN SOLUTION: about 8 lines
    return {
        'random.Random(f"{seed} {epoch} {rank}").shuffle(order)':
            'random.Random(f"{seed} {epoch}").shuffle(order)',
        "guesses, targets = logits[:, :-1], labels[:, 1:]": "guesses, targets = logits, labels",
        "loss = loss_sum(model, inputs, labels) / (count * len(counts))":
            "loss = loss_sum(model, inputs, labels) / sum(counts)",
        'run.step = parts["step"]': 'run.step = parts["step"]\ntorch.set_rng_state(parts["rng"])',
    }  # fmt: skip
    # END SOLUTION


check(fixes)

# %% [markdown]
# ## Predict
#
# 1,000 rows, two ranks. The shuffles of the two ranks have nothing to do with one another, and each rank
# reads its half of its own. **How many rows are read by nobody in an epoch, on average?** Put your number in
# place of `None`, then run the cell.

# %%
guess = None  # for example 0
# BEGIN SOLUTION
guess = 250
# END SOLUTION
predict("rows read by nobody", guess)

# %% [markdown]
# ## 3. Four tests
#
# Each takes a pipeline `p`, a module with the functions above: call `p.shard(...)`, never your own. It
# returns nothing when all is well and raises (`assert` does) when its docstring is broken. `check` runs it on
#
# - the pipeline with this one fault, the other three mended: it must fail;
# - the pipeline mended, also in another style: it must pass;
# - siblings, which break the same docstring in another way: it must fail.
#
# The grader has further styles and siblings.
#
# It is run under several states of torch's and Python's random numbers and must say the same each time. In
# what `check` prints, `None` means that the test passed.

# %%
handed_over: ModuleType = sys.modules["__main__"]  # test_shard(handed_over) should raise

# %% [markdown]
# **`test_shard`**: every row goes to exactly one rank, also where the ranks do not divide the rows. Which
# shuffle it is, and which of its rows go to which rank, is free.


# %%
def test_shard(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 4 lines
    for n, world in [(8, 2), (11, 3)]:
        for epoch in range(3):
            read = [row for rank in range(world) for row in p.shard(n, rank, world, 0, epoch)]
            assert sorted(read) == list(range(n))
    # END SOLUTION


check(test_shard)

# %% [markdown]
# **`test_labels`**: the loss of a position is that of the token that follows it. The path has two parts,
# `p.batch` (with `p.example`) and `p.loss_sum`; a sibling may break either, so test them together.


# %%
def test_labels(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 6 lines
    table = torch.randn(p.VOCAB, p.VOCAB, generator=torch.Generator().manual_seed(1))
    row = [3, 1, 4, 1, 5, 9, 2]
    inputs, labels = p.batch([row], [0])
    found = p.loss_sum(lambda ids: table[ids], inputs, labels).item()
    want = -sum(table.log_softmax(-1)[a, b].item() for a, b in pairwise(row))
    assert abs(found - want) < 1e-3
    # END SOLUTION


check(test_labels)

# %% [markdown]
# **`test_accumulate`**: what `p.accumulate` returns and the gradients that it leaves are those of the mean
# over all labels of the step, however they are cut into micro-batches. Use any model you like; rows may end
# in PAD.


# %%
def test_accumulate(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 10 lines
    rows = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [2, 4, 6, 0, 0, 0]]
    torch.manual_seed(3)
    model = nn.Embedding(p.VOCAB, p.VOCAB)
    inputs, labels = p.batch(rows, [0, 1, 2])
    mean = cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=p.IGNORE)
    mean.backward()
    want = model.weight.grad.clone()
    returned = p.accumulate(model, [p.batch(rows, [0]), p.batch(rows, [1, 2])])
    assert abs(returned - mean.item()) < 1e-4
    assert torch.allclose(model.weight.grad, want, atol=1e-5)
    # END SOLUTION


check(test_accumulate)

# %% [markdown]
# **`test_restore`**: a run restored from a checkpoint goes on as the saved run went on: `p.Run`,
# `p.train_step`, `p.save`, `p.restore`.


# %%
def test_restore(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 9 lines
    micro_batches = [p.batch([[1, 2, 3, 4, 5, 6]], [0])]
    run, resumed = p.Run(0), p.Run(1)
    for _ in range(3):
        p.train_step(run, micro_batches)
    saved = p.save(run)
    expected = [p.train_step(run, micro_batches) for _ in range(4)]
    p.restore(resumed, saved)
    assert [p.train_step(resumed, micro_batches) for _ in range(4)] == expected
    assert torch.equal(run.model[0].weight, resumed.model[0].weight)
    # END SOLUTION


check(test_restore)

# %% [markdown]
# ## Say it in an interview
#
# *The model is a little worse than the last one, nothing crashed. How do you look for the bug?* I do not
# stare at the loss: these faults leave it calm. I write down what each part promises and test the promise
# against an independent count. Do the shards partition the rows? Is the loss of a known table what I compute
# by hand? Is the accumulated gradient that of the whole batch? Does a resumed run repeat the one that was not
# killed? Each takes ten lines at most, and each names its culprit.
#
# Follow-ups: Why does a model with doubly shifted labels still reach a low loss? Which of these four would
# a fixed seed have hidden? What would you log, so that the next one is found in an hour?
