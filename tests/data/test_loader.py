"""Protects: a batch is a pure function of (seed, step, skip, rank, world), traced to its documents.

python -m pytest tests/data/test_loader.py
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest

from llmkit.data import Batch, Loader, Skip
from llmkit.data.tokenizer import END_ID
from llmkit.errors import ConfigError, DataError, IntegrityError

T = 16
FIELDS = ("x", "y", "weight", "documents", "samples")


def same(one: Batch, two: Batch) -> bool:
    return all(getattr(one, f).tobytes() == getattr(two, f).tobytes() for f in FIELDS)


def test_shapes_and_types_are_those_of_the_contract(loader):
    batch = loader.batch(3)
    assert {f: (getattr(batch, f).shape, getattr(batch, f).dtype.name) for f in FIELDS} == {
        "x": ((8, T), "int64"),
        "y": ((8, T), "int64"),
        "weight": ((8, T), "float32"),
        "documents": ((8, T), "int32"),
        "samples": ((8,), "int64"),
    }
    assert batch.step == 3 and batch.weight.min() == 1


def test_a_batch_is_what_the_stream_holds_at_its_samples(small, loader):
    """The oracle: the whole stream in memory, each token's document beside it."""
    stream = small.tokens("train")[:].tolist()
    document = [small.document_at("train", p)[0] for p in range(len(stream))]
    for step in range(20):
        batch = loader.batch(step)
        for row, k in enumerate(batch.samples):
            assert batch.x[row].tolist() == stream[k * T : k * T + T]
            assert batch.y[row].tolist() == stream[k * T + 1 : k * T + T + 1]
            assert batch.documents[row].tolist() == document[k * T + 1 : k * T + T + 1]


def test_any_order_of_steps_gives_the_same_bytes(small, loader):
    steps = list(range(60)) * 2
    random.Random(0).shuffle(steps)
    shuffled = {s: loader.batch(s) for s in steps}
    for step in range(60):
        fresh = Loader(small, batch=8, context=T, seed=1)
        assert same(fresh.batch(step), shuffled[step])
        assert same(pickle.loads(pickle.dumps(loader)).batch(step), shuffled[step])


def test_a_batch_does_not_change_when_the_one_before_was_written_to(loader):
    before = loader.batch(4)
    for field in FIELDS:
        getattr(before, field)[...] = 0
    assert not same(loader.batch(4), before)
    assert loader.batch(4).x.any()


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_any_number_of_ranks_serves_the_same_global_batch(small, loader, world):
    skip = Skip(batches=frozenset({2, 3}), documents=frozenset({5, 11}))
    whole = loader.with_skip(skip)
    parts = [Loader(small, batch=8, context=T, seed=1, rank=r, world=world, skip=skip) for r in range(world)]
    for step in range(0, 200, 7):
        batches = [part.batch(step) for part in parts]
        joined = Batch(*(np.concatenate([getattr(b, f) for b in batches]) for f in FIELDS), step=step)
        assert same(joined, whole.batch(step))


def test_each_epoch_trains_each_target_once_in_another_order(small, loader):
    n = loader.n_windows
    assert n == (small.n_tokens("train") - 1) // T
    served = [int(s) for step in range(3 * n // 8 + 1) for s in loader.batch(step).samples]
    epochs = [served[e * n : (e + 1) * n] for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_seeds_differ_and_splits_do_not_mix(small, loader):
    assert not same(loader.batch(0), Loader(small, batch=8, context=T, seed=2).batch(0))
    val = Loader(small, batch=8, context=T, seed=1, split="val")
    ids = {int(d) for step in range(20) for d in val.batch(step).documents.ravel()}
    assert all(small.span(d)[0] == "val" for d in ids)


def test_the_first_batch_is_the_same_on_every_machine(dataset):
    loader = Loader(dataset, batch=8, context=64, seed=0)
    content = b"".join(loader.batch(s).x.astype("<i8").tobytes() for s in (0, 1, 10**6))
    assert hashlib.sha256(content).hexdigest()[:16] == "c0e81f676cc9ca22"


# ------------------------------------------------------------------------------------------ skipping batches


def test_steps_are_served_the_cursor_positions_that_are_not_skipped():
    for skipped in itertools.chain.from_iterable(itertools.combinations(range(6), k) for k in range(7)):
        left = [c for c in range(20) if c not in skipped]
        assert [Skip(batches=frozenset(skipped)).cursor(s) for s in range(10)] == left[:10]


def test_a_skipped_batch_is_never_served_and_the_next_one_takes_its_place(loader):
    skipping = loader.with_skip(Skip(batches=frozenset({4, 5})))
    for step in range(4):
        assert same(skipping.batch(step), loader.batch(step))
    for step in range(4, 30):
        assert same(replace(skipping.batch(step), step=step + 2), loader.batch(step + 2))


def test_with_skip_leaves_the_loader_alone_and_skip_can_be_assigned(loader):
    before, skip = loader.batch(4), Skip(batches=frozenset({4}), documents=frozenset({7}))
    other = loader.with_skip(skip)
    assert loader.skip == Skip() and same(loader.batch(4), before)
    loader.skip = skip
    assert all(same(loader.batch(s), other.batch(s)) for s in range(30))


# ---------------------------------------------------------------------------------- tracing, state, refusals


def test_every_target_of_a_batch_is_traced_to_its_document(small, loader):
    loader.skip = Skip(batches=frozenset({1}))
    for step in range(5):
        batch = loader.batch(step)
        for row, col in itertools.product(range(8), range(T)):
            trace = loader.trace(step, row, col)
            assert trace.document == batch.documents[row, col]
            assert trace.source == small.document(trace.document).source
            tokens = [*small.encode(small.document(trace.document).text), END_ID]
            assert tokens[trace.offset] == batch.y[row, col] == small.tokens("train")[trace.position]


def test_ranks_trace_their_own_rows(small, loader):
    second = Loader(small, batch=8, context=T, seed=1, rank=1, world=2)
    assert second.trace(5, 0, 3) == loader.trace(5, 4, 3)


def test_a_position_outside_the_batch_is_refused(loader):
    with pytest.raises(ConfigError, match="no row 8, column 0 in a batch of 8 x 16"):
        loader.trace(0, 8, 0)


def test_skip_goes_through_json():
    skip = Skip(batches=frozenset({9, 3}), documents=frozenset({np.int64(4)}))
    assert skip.to_json() == {"batches": [3, 9], "documents": [4]}
    assert Skip.from_json(skip.to_json()) == skip
    assert Skip(batches=[1, 1]) == Skip(batches=frozenset({1}))
    with pytest.raises(ConfigError, match=r"skip.documents holds -2\n  expected: integers from 0 up"):
        Skip(documents=frozenset({-2}))


def test_state_decides_the_order_and_is_the_same_on_every_rank(small, loader):
    loader.skip = Skip(batches=frozenset({1}), documents=frozenset({2}))
    assert loader.state() == {
        "dataset": small.digest,
        "split": "train",
        "seed": 1,
        "batch": 8,
        "context": T,
        "skip": {"batches": [1], "documents": [2]},
    }
    loader.check_state(Loader(small, batch=8, context=T, seed=1, rank=1, world=4).state())


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "0" * 64), ("split", "val"), ("seed", 2), ("batch", 4), ("context", 8)]
)
def test_a_checkpoint_of_another_order_is_refused(loader, key, value):
    mine = loader.state()
    with pytest.raises(IntegrityError) as error:
        loader.check_state({**mine, key: value})
    assert str(error.value) == (
        f"the checkpoint was made with {key} `{value}`\n"
        f"  expected: {key} `{mine[key]}`, as this run has it\n"
        "  remedy: resume with the data and settings of the checkpoint, or start a new run"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch is 0 and context is 16\n  expected: at least 1 each"),
        ({"context": 0}, "batch is 8 and context is 0\n  expected: at least 1 each"),
        ({"rank": 2, "world": 2}, "rank 2 of 2\n  expected: a rank from 0 to world - 1"),
        (
            {"world": 3},
            "a batch of 8 sequences does not divide over 3 ranks\n  remedy: choose a multiple of 3",
        ),
        ({"split": "test"}, "unknown split `test`\n  expected: `train` or `val`"),
    ],
)
def test_impossible_arguments_are_refused(small, arguments, message):
    with pytest.raises(ConfigError) as error:
        Loader(small, **{"batch": 8, "context": T, "seed": 0, **arguments})
    assert str(error.value) == message


def test_a_negative_step_is_refused(loader):
    with pytest.raises(ConfigError, match="step is -1\n  expected: 0 or more"):
        loader.batch(-1)


def test_a_split_shorter_than_one_window_is_refused(small):
    n = small.n_tokens("val")
    assert Loader(small, batch=1, context=n - 1, seed=0, split="val").n_windows == 1
    with pytest.raises(DataError) as error:
        Loader(small, batch=1, context=n, seed=0, split="val")
    assert str(error.value) == (
        f"split `val` of data set `small` has {n:,} tokens\n"
        f"  expected: at least {n + 1:,}, for one window of {n:,} targets\n"
        "  remedy: shorten the context or add data"
    )
