"""Wrong and right answers of exercise 30: guesses at the modes, patches, tests that prove too little.

function, key = WRONG["test_shard"]["one rank"]
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from .versions import FAULTS, FIXES

# ----------------------------------------------------------------------------------------------- wrong: modes


def _modes(**changed):
    found = {name: mode for name, mode in (FAULTS | changed).items() if mode}
    return lambda: dict(found)


def _typo():
    raise NameError("name 'FAILURE' is not defined")


WRONG_MODES = {
    "the loss is blamed for not shifting": (_modes(loss_sum="labels are not shifted"), "3 right"),
    "example is blamed": (_modes(loss_sum="", example="labels are shifted twice"), "3 right"),
    "the epoch is blamed": (_modes(shard="every epoch has the same order"), "3 right"),
    "the moments are blamed": (_modes(restore="a resumed run loses the optimizer's moments"), "3 right"),
    "save is blamed": (_modes(restore="", save="a resumed run draws other random numbers"), "3 right"),
    "two decoys": (
        _modes(accumulate="gradients of the last step are kept", shard="rows at the end are read by no rank"),
        "2 right",
    ),
    "modes exchanged": (_modes(shard=FAULTS["accumulate"], accumulate=FAULTS["shard"]), "2 right"),
    "one found": (
        lambda: {
            "split": "documents of validation are trained on",
            "example": "padding is trained on",
            "lr_at": "schedule advances once per micro-batch",
            "shard": FAULTS["shard"],
        },
        "1 right",
    ),
    "every name right, every mode wrong": (
        lambda: dict(zip(FAULTS, [*list(FAULTS.values())[1:], FAULTS["shard"]], strict=True)),
        "0 right",
    ),
    "three entries": (_modes(restore=""), "form"),
    "five entries": (_modes(evaluate="validation runs with dropout"), "form"),
    "own words": (_modes(shard="the ranks overlap"), "form"),
    "a list": (lambda: list(FAULTS), "form"),
    "numbers": (lambda: dict.fromkeys(FAULTS, 5), "form"),
    "raises": (_typo, ""),
}

# ----------------------------------------------------------------------------------------------- wrong: fixes

SHUFFLE, GUESSES, LOSS, STEP = (old for old, _ in FIXES.values())


def _patch(**changed):
    """The right patch with the new lines of one function replaced; None leaves the fault in."""
    news = {name: changed.get(name, new) for name, (_, new) in FIXES.items()}
    return lambda: {old: news[name] for name, (old, _) in FIXES.items() if news[name] is not None}


def _also(**edits):
    return lambda: _patch()() | edits


PICK = "return order[rank::world]"
EXAMPLE = "return row[:-1], [IGNORE if token == PAD else token for token in row[1:]]"

WRONG_FIXES = {
    "leaves the shuffle": (_patch(shard=None), "shards"),
    "one order for all epochs": (_patch(shard='random.Random(f"{seed}").shuffle(order)'), "shards"),
    "forgets to shuffle": (_patch(shard="random.Random(seed)"), "shards"),
    "an unseeded shuffle": (_patch(shard="random.SystemRandom().shuffle(order)"), "shards"),
    "leaves the double shift": (_patch(loss_sum=None), "labels"),
    "shifts the other way": (_patch(loss_sum="guesses, targets = logits[:, 1:], labels[:, :-1]"), "labels"),
    "drops the last position": (
        _patch(loss_sum="guesses, targets = logits[:, :-1], labels[:, :-1]"),
        "labels",
    ),
    "leaves the mean of means": (_patch(accumulate=None), "gradients"),
    "divides by the micro-batches": (
        _patch(accumulate="loss = loss_sum(model, inputs, labels) / len(counts)"),
        "gradients",
    ),
    "divides by its own count": (
        _patch(accumulate="loss = loss_sum(model, inputs, labels) / count"),
        "gradients",
    ),
    "does not divide": (_patch(accumulate="loss = loss_sum(model, inputs, labels)"), "gradients"),
    "leaves the random numbers": (_patch(restore=None), "resume"),
    "seeds instead": (_patch(restore=f"{STEP}\ntorch.manual_seed(run.step)"), "resume"),
    "loses the step": (_patch(restore='torch.set_rng_state(parts["rng"])'), "resume"),
    "mends the labels, breaks example": (
        lambda: {
            **{old: new for old, new in _patch(loss_sum=None)().items() if old != LOSS},
            EXAMPLE: "return row, [IGNORE if token == PAD else token for token in row]",
        },
        "gradients",
    ),
    "mends the labels in example": (
        lambda: {
            **_patch(loss_sum=None)(),
            EXAMPLE: "return [*row[:-1], PAD], [IGNORE, *(token or IGNORE for token in row[1:])]",
        },
        "rest",
    ),
    "breaks the rows instead": (
        lambda: {
            "stream = [token for document in documents for token in document]": (
                "stream = [token for document in documents for token in [*document, 10]]"
            ),
            GUESSES: FIXES["loss_sum"][1],
            LOSS: FIXES["accumulate"][1],
            STEP: FIXES["restore"][1] + '; order = ""',
        },
        "shards",
    ),
    "five lines": (_also(**{PICK: "return list(order[rank::world])"}), "size"),
    "a line becomes three": (
        _patch(restore=FIXES["restore"][1] + "\nreturn run"),
        "size",
    ),
    "half a line": (lambda: {"labels[:, 1:]": "labels"}, "line"),
    "a line from memory": (lambda: {SHUFFLE.replace("rank", "r"): FIXES["shard"][1]}, "line"),
    "a line that stands there twice": (lambda: {'"""': "'''"}, "line"),
    "a list of new lines": (lambda: [new for _, new in FIXES.values()], "form"),
    "numbers of lines": (lambda: {44: FIXES["shard"][1]}, "form"),
    "a bracket too few": (_patch(shard='random.Random(f"{seed} {epoch}").shuffle(order'), ""),
}


# ------------------------------------------------------------------------------------- wrong: test_shard


def shards(cases=((8, 2), (11, 3)), read=None, want=lambda n: list(range(n))):
    """A test of the partition; `read` says how the shards of all ranks are put together."""
    read = read or (lambda p, n, world: [r for k in range(world) for r in p.shard(n, k, world, 0, 1)])

    def test_shard(p):
        for n, world in cases:
            assert sorted(read(p, n, world)) == want(n)

    return test_shard


def no_overlap(p):
    a, b, c = (set(p.shard(11, rank, 3, 0, 0)) for rank in range(3))
    assert not a & b | a & c | b & c


def union(p):
    assert {row for rank in range(3) for row in p.shard(12, rank, 3, 0, 0)} == set(range(12))


def counts_alone(p):
    assert sum(len(p.shard(11, rank, 3, 0, 0)) for rank in range(3)) == 11


def strided(p):
    whole = p.shard(8, 0, 1, 0, 0)
    assert [p.shard(8, rank, 2, 0, 0) for rank in range(2)] == [whole[0::2], whole[1::2]]


def golden(p):
    shuffled = p.shard(11, 0, 1, 3, 0)
    assert p.shard(11, 1, 2, 3, 0) == shuffled[1::2] and len(p.shard(11, 2, 3, 3, 0)) == 3


def swallows(p):
    try:
        shards()(p)
    except AssertionError:
        return


WRONG_TEST_SHARD = {
    "asserts nothing": (lambda p: p.shard(8, 0, 2, 0, 0), "This fault alone"),
    "one rank": (shards(cases=[(8, 1), (11, 1)]), "This fault alone"),
    "counts alone": (counts_alone, "This fault alone"),
    "swallows its own assertion": (swallows, "This fault alone"),
    "each shard is without doubles": (
        shards(read=lambda p, n, w: p.shard(n, 1, w, 0, 0), want=lambda n: sorted(set(range(n)))),
        "Mended",
    ),
    "divisible rows alone": (shards(cases=[(8, 2), (12, 3)]), "Sibling"),
    "disjoint is enough": (no_overlap, "Sibling"),
    "union is enough": (union, "Sibling"),
    "wants the file's order": (
        lambda p: p.shard(8, 0, 2, 0, 0) + p.shard(8, 1, 2, 0, 0) == list(range(8)) or 1 / 0,
        "Mended",
    ),
    "wants the stride": (strided, "Mended"),
    "wants this shuffle": (golden, "Mended"),
    "tests its own shard": (
        lambda p: shards()(type("own", (), {"shard": staticmethod(lambda n, k, w, s, e: range(n)[k::w])})),
        "This fault alone",
    ),
    "calls what is not there": (lambda p: p.shards(8, 2), "Mended"),
    "ranks from one": (
        shards(read=lambda p, n, w: [r for k in range(1, w + 1) for r in p.shard(n, k, w, 0, 0)]),
        "Mended",
    ),
}


# ------------------------------------------------------------------------------------- wrong: test_labels

ROW = [3, 1, 4, 1, 5, 9, 2]
TABLE = torch.randn(11, 11, generator=torch.Generator().manual_seed(1))


def losses(p, table, rows):
    return p.loss_sum(lambda ids: table[ids], *p.batch(rows, range(len(rows)))).item()


def by_hand(table, row):
    return -sum(table.log_softmax(-1)[a, b].item() for a, b in pairwise(row))


def labels_test(row=ROW, table=TABLE, want=by_hand, near=1e-3):
    def test_labels(p):
        assert abs(losses(p, table, [row]) - want(table, row)) < near

    return test_labels


def example_alone(p):
    assert p.example(ROW)[1] == ROW[1:]


def loss_alone(p):
    inputs, labels = torch.tensor([ROW[:-1]]), torch.tensor([ROW[1:]])
    assert abs(p.loss_sum(lambda ids: TABLE[ids], inputs, labels).item() - by_hand(TABLE, ROW)) < 1e-3


def against_shifted_twice(table, row):
    return -sum(table.log_softmax(-1)[a, b].item() for a, b in zip(row, row[2:], strict=False))


WRONG_TEST_LABELS = {
    "asserts nothing": (lambda p: losses(p, TABLE, [ROW]), "This fault alone"),
    "example alone": (example_alone, "This fault alone"),
    "loss alone": (loss_alone, "Sibling"),
    "one token again and again": (labels_test(row=[4, 4, 4, 4], near=30), "This fault alone"),
    "a loss is positive": (lambda p: labels_test(want=lambda t, r: 0, near=1e9)(p), "This fault alone"),
    "a flat table": (labels_test(table=torch.zeros(11, 11)), "Sibling"),
    "the mean": (labels_test(want=lambda t, r: by_hand(t, r) / (len(r) - 1)), "Mended"),
    "the token after the next": (labels_test(want=against_shifted_twice), "This fault alone"),
    "the token itself": (
        labels_test(want=lambda t, r: -sum(t.log_softmax(-1)[a, a].item() for a in r[:-1])),
        "Mended",
    ),
    "shapes": (
        lambda p: [x.shape for x in p.batch([ROW], [0])] == [(1, 6), (1, 6)] or 1 / 0,
        "This fault alone",
    ),
    "forgets the batch": (lambda p: p.loss_sum(lambda ids: TABLE[ids], *p.example(ROW)), "Mended"),
    "random each time": (lambda p: labels_test(table=torch.randn(11, 11))(p) if torch.rand(()) < 0 else None,
                         "This fault alone"),
    "exact to the last bit": (labels_test(near=0.0), "Mended"),
}  # fmt: skip


# --------------------------------------------------------------------------------- wrong: test_accumulate

ROWS = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [2, 4, 6, 0, 0, 0]]
FULL = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3], [2, 4, 6, 8, 10, 1]]


def gradients(p, rows, cut):
    model = nn.Embedding.from_pretrained(TABLE, freeze=False)
    mean = p.accumulate(model, [p.batch(rows, numbers) for numbers in cut])
    return mean, model.weight.grad


def wanted(p, rows, reduction="mean"):
    model = nn.Embedding.from_pretrained(TABLE, freeze=False)
    inputs, labels = p.batch(rows, range(len(rows)))
    loss = cross_entropy(
        model(inputs).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction=reduction
    )
    loss.backward()
    return loss.item(), model.weight.grad


def accumulate_test(rows=ROWS, cut=((0,), (1, 2)), mean=True, grad=True, want=wanted, near=1e-5):
    def test_accumulate(p):
        (got, got_grad), (right, right_grad) = gradients(p, rows, cut), want(p, rows)
        assert not mean or abs(got - right) < near
        assert not grad or torch.allclose(got_grad, right_grad, atol=near)

    return test_accumulate


def has_gradients(p):
    assert gradients(p, ROWS, [[0], [1, 2]])[1] is not None


def loss_falls(p):
    model = nn.Embedding.from_pretrained(TABLE, freeze=False)
    micro_batches = [p.batch(ROWS, [0]), p.batch(ROWS, [1, 2])]
    first = p.accumulate(model, micro_batches)
    with torch.no_grad():
        model.weight -= 0.1 * model.weight.grad
    assert p.accumulate(model, micro_batches) < first


def direction(p):
    grad, right = gradients(p, ROWS, [[0], [1, 2]])[1], wanted(p, ROWS)[1]
    assert torch.cosine_similarity(grad.flatten(), right.flatten(), 0) > 0.9


WRONG_TEST_ACCUMULATE = {
    "has gradients": (has_gradients, "This fault alone"),
    "the loss falls": (loss_falls, "This fault alone"),
    "nearly the same direction": (direction, "This fault alone"),
    "equal micro-batches": (accumulate_test(rows=FULL, cut=((0,), (1,), (2,))), "This fault alone"),
    "one micro-batch": (accumulate_test(cut=((0, 1, 2),)), "This fault alone"),
    "the returned loss alone": (accumulate_test(grad=False), "Sibling"),
    "the gradient alone": (accumulate_test(mean=False), "Sibling"),
    "no padding, unequal rows": (accumulate_test(rows=FULL), "Sibling"),
    "two cuts agree": (
        accumulate_test(want=lambda p, rows: gradients(p, rows, [[0, 1, 2]])),
        "Sibling",
    ),
    "the sum": (accumulate_test(want=lambda p, rows: wanted(p, rows, "sum")), "Mended"),
    "a wide tolerance": (accumulate_test(near=1.0), "This fault alone"),
    "returns what it should assert": (
        lambda p: gradients(p, ROWS, [[0], [1, 2]])[0] == wanted(p, ROWS)[0],
        "This fault alone",
    ),
    "the mean of the means": (
        accumulate_test(
            want=lambda p, rows: (sum(wanted(p, [row])[0] for row in rows) / 3, wanted(p, rows)[1]),
        ),
        "Mended",
    ),
}


# ----------------------------------------------------------------------------------- wrong: test_restore


def restore_test(before=1, after=2, other=True, seed_again=False, look=lambda a, b: a == b, on=True):
    """A test of the resumed run; `on`: the saved run goes on before it, which moves the random numbers."""

    def test_restore(p):
        micro_batches = [p.batch([[1, 2, 3, 4, 5, 6]], [0])]
        run = p.Run(0)
        for _ in range(before):
            p.train_step(run, micro_batches)
        saved = p.save(run)
        if seed_again:
            torch.manual_seed(5)
        want = [p.train_step(run, micro_batches) for _ in range(after)] if on else []
        resumed = p.Run(1) if other else run
        p.restore(resumed, saved)
        if seed_again:
            torch.manual_seed(5)
        got = [p.train_step(resumed, micro_batches) for _ in range(after)] if on else []
        assert look([*want, run], [*got, resumed])

    return test_restore


def losses_equal(a, b):
    return a[:-1] == b[:-1]


def weights_equal(a, b):
    return all(map(torch.equal, a[-1].model.parameters(), b[-1].model.parameters()))


def all_equal(a, b):
    return losses_equal(a, b) and weights_equal(a, b) and a[-1].step == b[-1].step


WRONG_TEST_RESTORE = {
    "asserts nothing": (restore_test(look=lambda a, b: True), "This fault alone"),
    "weights alone, no step after": (restore_test(on=False, look=weights_equal), "This fault alone"),
    "the step alone": (restore_test(look=lambda a, b: a[-1].step == b[-1].step), "This fault alone"),
    "seeds both": (restore_test(seed_again=True, look=all_equal), "This fault alone"),
    "nearly the same": (
        restore_test(look=lambda a, b: abs(a[-2] - b[-2]) < 5.0),
        "This fault alone",
    ),
    "one step": (restore_test(after=1, look=losses_equal), "Sibling"),
    "into the same run, step number kept": (
        restore_test(other=False, after=1, look=losses_equal),
        "Sibling",
    ),
    "saves before the first step": (restore_test(before=0, look=losses_equal), "Sibling"),
    "compares the runs themselves": (restore_test(look=lambda a, b: a == b), "Mended"),
    "bytes are equal": (
        lambda p: p.save(p.Run(0)) == b"" or 1 / 0,
        "Mended",
    ),
    "wants another continuation": (
        restore_test(look=lambda a, b: not losses_equal(a, b)),
        "This fault alone",
    ),
    "the loss falls": (restore_test(look=lambda a, b: b[-2] < 99), "This fault alone"),
    "forgets the seed": (lambda p: p.Run(), "Mended"),
}


WRONG = {
    "modes": WRONG_MODES,
    "fixes": WRONG_FIXES,
    "test_shard": WRONG_TEST_SHARD,
    "test_labels": WRONG_TEST_LABELS,
    "test_accumulate": WRONG_TEST_ACCUMULATE,
    "test_restore": WRONG_TEST_RESTORE,
}

# ------------------------------------------------------------------------------------- right, in other styles


def labels_of_one_hot(p):
    """Logits that are sure of the next token make the loss vanish; any other label costs 50."""
    row = [1, 2, 3, 4, 5, 6]
    table = torch.zeros(11, 11)
    for a, b in pairwise(row):
        table[a, b] = 50.0
    found = losses(p, table, [row])
    if found > 1e-3:
        raise ValueError(found)
    assert losses(p, table.roll(1, 1), [row]) > 200


def labels_by_gradient(p):
    table = torch.zeros(11, 11, requires_grad=True)
    p.loss_sum(lambda ids: table[ids], *p.batch([[1, 2, 3, 4]], [0])).backward()
    assert sorted((table.grad < 0).nonzero().tolist()) == [[1, 2], [2, 3], [3, 4]]


def accumulate_in_float64(p):
    torch.manual_seed(0)
    model = nn.Embedding(11, 11).double()
    mean = p.accumulate(model, [p.batch(ROWS, [1]), p.batch(ROWS, [2, 0])])
    weights = model.weight.detach().clone().requires_grad_()
    pairs = [(a, b) for row in ROWS for a, b in pairwise(row) if b]
    loss = -sum(log_softmax(weights, -1)[a, b] for a, b in pairs) / len(pairs)
    loss.backward()
    torch.testing.assert_close(model.weight.grad, weights.grad)
    torch.testing.assert_close(mean, loss.item())


def shards_by_counter(p):
    for n in (1, 5, 7):
        seen = [0] * n
        for rank in range(4):
            for row in p.shard(n, rank, 4, 9, 2):
                seen[row] += 1
        if set(seen) != {1}:
            raise RuntimeError(seen)


RIGHT = {
    "modes": [_modes(), lambda: dict(sorted(FAULTS.items())), lambda: {**FAULTS}],
    "fixes": [
        _patch(),
        _patch(
            shard='order = random.Random(seed * 1000003 + epoch).sample(order, n)',
            loss_sum="guesses = logits\ntargets = labels",
        ),
        _patch(
            accumulate="loss = loss_sum(model, inputs, labels)\nloss = loss * (1 / sum(counts))",
            restore='torch.set_rng_state(parts["rng"])\n  run.step = parts["step"]  ',
        ),
        lambda: {f"  {old} ": new for old, new in _patch()().items()},
    ],
    "test_shard": [shards(), shards_by_counter, shards(cases=[(13, 4)])],
    "test_labels": [labels_test(), labels_of_one_hot, labels_by_gradient],
    "test_accumulate": [accumulate_test(), accumulate_test(cut=((0,), (1,), (2,))), accumulate_in_float64],
    "test_restore": [
        restore_test(look=all_equal),
        restore_test(look=losses_equal, before=2, after=3),
        restore_test(look=weights_equal),
    ],
}  # fmt: skip
