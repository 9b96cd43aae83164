"""Exercise 30, the broken pipeline: name four planted faults, mend them by a patch, catch each by a test.

References are plain Python and know nothing of the code handed over: a softmax by hand, a partition by
counting.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Case, Exercise, Prediction, Property

from .broken import fixes_task, modes_task, probe_text, titled
from .versions import FAILURES, FAULTS, NAMES, SICK, TEST_ACCUMULATE, TEST_LABELS, TEST_RESTORE, TEST_SHARD

VOCAB, PAD, IGNORE = 11, 0, -100

# ---------------------------------------------------------------------------------------------------- probes


def look_at_labels(p, rows, table):
    weights = p.torch.tensor(table).expand(p.VOCAB, -1)
    return p.loss_sum(lambda ids: weights[ids], *p.batch(rows, range(len(rows)))).item()


def look_at_gradients(p, micro_batches, table):
    model = p.nn.Embedding.from_pretrained(p.torch.tensor(table).expand(p.VOCAB, -1).clone(), freeze=False)
    mean = p.accumulate(model, [p.batch(rows, range(len(rows))) for rows in micro_batches])
    return [mean, model.weight.grad.tolist()]


def look_at_shards(p, n, world, seed):
    return [[p.shard(n, rank, world, seed, epoch) for rank in range(world)] for epoch in (0, 1)]


def look_at_resume(p, seed, before, after):
    micro_batches = [p.batch([[1, 2, 3, 4, 5, 6]], [0])]
    run, resumed = p.Run(seed), p.Run(seed + 1)
    for _ in range(before):
        p.train_step(run, micro_batches)
    saved = p.save(run)
    want = [p.train_step(run, micro_batches) for _ in range(after)]
    p.restore(resumed, saved)
    got = [p.train_step(resumed, micro_batches) for _ in range(after)]
    same = all(map(p.torch.equal, run.model.parameters(), resumed.model.parameters()))
    return want == got and same and run.step == resumed.step


def look_at_the_rest(p, documents, context, steps):
    return [p.rows_of(documents, context), [p.lr_at(step) for step in steps], p.example(documents[0])]


PROBES = {
    "labels": probe_text(look_at_labels, "labels"),
    "gradients": probe_text(look_at_gradients, "gradients"),
    "shards": probe_text(look_at_shards, "shards"),
    "resume": probe_text(look_at_resume, "resume"),
    "rest": probe_text(look_at_the_rest, "rest"),
}


def ask(about: str, **args: Any) -> Case:
    return Case(code=titled("As handed over", "", SICK), probe=PROBES[about], args=args)


def softmax_loss(micro_batches: list, table: list[list[float]]) -> tuple[float, int, list[list[float]]]:
    """(sum of losses, number of labels, gradient of the sum) of a table of logits: softmax minus one-hot."""
    total, count, grad = 0.0, 0, [[0.0] * VOCAB for _ in range(VOCAB)]
    for row in (row for rows in micro_batches for row in rows):
        for token, label in pairwise(row):
            if label != PAD:
                logits = table[token % len(table)]
                powers = [math.exp(v) for v in logits]
                total, count = total + math.log(sum(powers)) - logits[label], count + 1
                for k, power in enumerate(powers):
                    grad[token][k] += power / sum(powers) - (k == label)
    return total, count, grad


def expected(about: str, args: dict[str, Any]) -> Any:
    if about == "labels":
        return softmax_loss([args["rows"]], args["table"])[0]
    if about == "gradients":
        total, count, grad = softmax_loss(args["micro_batches"], args["table"])
        return [total / count, [[v / count for v in row] for row in grad]]
    if about == "rest":
        return rest(**args)
    return True if about == "resume" else "every row of an epoch in one shard, another order in the next"


def rest(documents: list[list[int]], context: int, steps: list[int]) -> list:
    stream = [token for document in documents for token in document]
    rows = [stream[i : i + context + 1] for i in range(0, len(stream) - 1, context)]
    rows[-1] += [PAD] * (context + 1 - len(rows[-1]))
    first = documents[0]
    labels = [token or IGNORE for token in first[1:]]
    rates = [
        0.005 * (step + 1) if step < 4 else 0.011 + 0.009 * math.cos(math.pi * (step - 4) / 36)
        for step in steps
    ]
    return [rows, rates, [first[:-1], labels]]


def agrees(about: str, args: dict[str, Any], found: Any, want: Any) -> bool:
    if about != "shards":
        return agree(found, want, relative=1e-4, absolute=1e-5)
    rows = list(range(args["n"]))
    whole = all(sorted(row for shard in epoch for row in shard) == rows for epoch in found)
    even = all(max(map(len, epoch)) - min(map(len, epoch)) <= 1 for epoch in found)
    return whole and even and (found[0] != found[1] or args["n"] < 6)


def table_of(rng: random.Random) -> list[list[float]]:
    return [[round(rng.gauss(0, 1), 3) for _ in range(VOCAB)] for _ in range(VOCAB)]


def row_of(rng: random.Random, width: int, pads: int) -> list[int]:
    return [rng.randint(1, VOCAB - 1) for _ in range(width - pads)] + [PAD] * pads


def hidden_fixes(rng: random.Random) -> list[Case]:
    width = rng.randint(6, 9)
    uneven = [[row_of(rng, width, pads) for pads in group] for group in ([0, 0], [width - 2], [3, 1, 0])]
    documents = [row_of(rng, rng.randint(3, 9), 0) for _ in range(5)]
    return [
        ask("labels", rows=uneven[2], table=table_of(rng)),
        ask("gradients", micro_batches=uneven, table=table_of(rng)),
        ask("gradients", micro_batches=[[row_of(rng, 7, 2)]], table=table_of(rng)),
        ask("shards", n=rng.randint(30, 60), world=rng.choice([2, 3, 4]), seed=rng.randrange(1000)),
        ask("shards", n=rng.choice([13, 17, 19]), world=rng.choice([4, 5]), seed=rng.randrange(1000)),
        ask("resume", seed=rng.randrange(1000), before=rng.randint(1, 2), after=2),
        ask("rest", documents=documents, context=rng.randint(3, 6), steps=[0, 3, 4, rng.randint(5, 40)]),
    ]


FLAT = [[0.0] * VOCAB]  # one row of logits for all tokens
RISING = [[0.5 * k for k in range(VOCAB)]]
PUBLIC = (
    ask("labels", rows=[[3, 5, 7]], table=FLAT),
    ask("labels", rows=[[3, 10, 1]], table=RISING),
    ask("shards", n=6, world=2, seed=0),
    ask("gradients", micro_batches=[[[1, 2, 3]], [[4, 10, 0]]], table=RISING),
    ask("resume", seed=0, before=1, after=2),
    ask("rest", documents=[[3, 0, 2], [4, 1]], context=3, steps=[0, 3, 4, 22, 40]),
)
SAYS = {
    "labels": Property(
        "at each position the loss is that of the token that follows it",
        "which token is the label of position 0 when the loss is taken?",
    ),
    "shards": Property(
        "in each epoch every row is read by exactly one rank",
        "do two ranks cut the same shuffle?",
    ),
    "gradients": Property(
        "gradients and returned loss are those of the mean over all labels of the step",
        "what does one label of a short micro-batch weigh, and one of a long one?",
    ),
    "resume": Property(
        "the steps after `restore` are, bit for bit, those after `save`",
        "what does a step read beside weights, moments and step number?",
    ),
    "rest": Property("what was right stays right", "which of your lines was needed?"),
}

EXERCISE = Exercise(
    name="30_broken_pipeline",
    version=1,
    title="The broken pipeline",
    minutes=45,
    round="deep dive",
    difficulty=3,
    rows=("S7", "S21"),
    tasks=(
        modes_task(
            6,
            FAILURES,
            FAULTS,
            NAMES,
            (
                "Take one function at a time; for each word of its docstring find the line that keeps it.",
                "One fault is in the data, one in the loss, one in the gradient, one in the checkpoint.",
                (
                    "Suspects: `shard` for two ranks, `loss_sum` after `example`, the divisor in "
                    "`accumulate`, what `restore` leaves out."
                ),
            ),
        ),
        fixes_task(
            8,
            SAYS,
            expected,
            agrees,
            PUBLIC,
            hidden_fixes,
            (
                "One line per fault: the line that makes the docstring untrue. Copy it whole into a key.",
                (
                    "The shuffle is keyed by too much, the labels are shifted already, the divisor is the "
                    "micro-batch's own, and `saved` holds a part that nobody reads."
                ),
                (
                    "`guesses, targets = logits, labels`; divide by `sum(counts)`; `torch.set_rng_state` "
                    "needs a second line."
                ),
            ),
        ),
        TEST_SHARD,
        TEST_LABELS,
        TEST_ACCUMULATE,
        TEST_RESTORE,
    ),
    predictions={
        "rows read by nobody": Prediction(
            answer=250.0,
            because=(
                "Each rank misses a row with probability 1/2, and they miss independently: 1/4 of 1,000. "
                "Another 250 are read twice. With 8 ranks (7/8)^8 = 34 % are read by nobody."
            ),
        )
    },
)
