"""Protects the counts that convict a batch before the forward pass.

pytest tests/observe/test_tokens.py
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.data import Batch, Loader, Skip
from llmkit.data.mixture import sources_of
from llmkit.data.tokenizer import END_ID
from llmkit.observe import Tokens, token_share
from llmkit.observe.tokens import Reference, grams, target_shares
from llmkit.train import train


def test_it_equals_a_plain_count():
    x = np.random.default_rng(0).integers(0, 7, size=(5, 33))
    x[3, :20] = 6
    shares = [max(Counter(row).values()) / 33 for row in x.tolist()]
    assert token_share(x) == {"token_share_max": round(max(shares), 4), "token_share_row": 3}


def test_a_constant_row_is_all_of_it():
    rows = np.array([[1, 2, 3, 4], [9, 9, 9, 9]])
    assert token_share(rows) == {"token_share_max": 1.0, "token_share_row": 1}


# ------------------------------------------------------------------------------ how targets and inputs lie


def batch_of(x, y, weight=None, documents=None):
    x, y = np.array(x, dtype=np.int64), np.array(y, dtype=np.int64)
    return Batch(
        x=x, y=y, weight=np.ones(x.shape, np.float32) if weight is None else np.array(weight, np.float32),
        documents=np.zeros(x.shape, np.int32) if documents is None else np.array(documents, np.int32),
        samples=np.arange(len(x)), step=0,
    )  # fmt: skip


def by_hand(batch):
    """The same shares, target by target."""
    b, t = batch.x.shape
    counted = [(r, c) for r in range(b) for c in range(t) if batch.weight[r, c] > 0]

    def share(test, positions):
        hits = [test(r, c) for r, c in positions]
        return sum(hits) / len(hits) if hits else 1.0

    x, y = batch.x, batch.y
    return {
        "targets_next": share(lambda r, c: y[r, c] == x[r, c + 1], [p for p in counted if p[1] < t - 1]),
        "targets_same": share(lambda r, c: y[r, c] == x[r, c], counted),
        "targets_two_ahead": share(lambda r, c: y[r, c] == x[r, c + 2], [p for p in counted if p[1] < t - 2]),
        "pad_targets": share(lambda r, c: y[r, c] == y[r, c - 1] == END_ID, [p for p in counted if p[1]]),
    }


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(3, 9))
def test_shares_equal_a_count_by_hand(seed, b, t):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 3, (2, b, t))
    batch = batch_of(x, y, weight=rng.integers(0, 2, (b, t)))
    expected, found = by_hand(batch), target_shares(batch)
    if found["targets_next"] == 1:
        assert set(found) == {"targets_next", "pad_targets"} and expected["targets_next"] == 1
    assert all(abs(found[name] - expected[name]) < 2e-6 for name in found)
    assert all(value == 1 or found[name] < 1 for name, value in expected.items() if name in found)


def test_a_healthy_loader_is_aligned_and_has_no_pads(mixed):
    loader = Loader(mixed, batch=8, context=64, seed=0)
    gone = loader.with_skip(Skip(documents=frozenset(np.unique(loader.batch(0).documents).tolist()[:2])))
    for served in (loader, gone):
        for step in range(40):
            assert target_shares(served.batch(step)) == {"targets_next": 1.0, "pad_targets": 0.0}


# ----------------------------------------------------------------------------------- beside the data set


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8]))
def test_grams_are_equal_where_the_tokens_are(seed, size):
    rows = np.random.default_rng(seed).integers(0, 2, (3, 20))
    hashes = grams(rows, size)
    assert hashes.shape == (3, 21 - size)
    tokens = {}
    for row, line in zip(rows, hashes, strict=True):
        for start, value in enumerate(line):
            gram = tuple(row[start : start + size].tolist())
            assert tokens.setdefault(int(value), gram) == gram  # no collision, and
            assert tokens[int(value)] == gram
    assert len(set(tokens.values())) == len(tokens)  # equal grams have equal hashes


def test_validation_windows_are_seen_and_others_are_not(mixed):
    reference, val = Reference(mixed, 64), mixed.tokens("val")
    rng = np.random.default_rng(0)
    loader = Loader(mixed, batch=8, context=64, seed=0)
    for step in range(20):
        batch = loader.batch(step)
        leaked = rng.choice(8, size=step % 4, replace=False)
        for row in leaked:
            start = int(rng.integers(0, len(val) - 64))
            batch.x[row] = val[start : start + 64]
        assert reference.facts(batch)["val_rows"] == len(leaked)
        batch.x[leaked, 32] ^= 1  # one token within breaks 32 of its 33 stretches
        assert reference.facts(batch)["val_rows"] == 0


def test_surprise_entropy_and_sources_equal_a_count_by_hand(mixed):
    reference, stream = Reference(mixed, 64), mixed.tokens("train")[:]
    counts = np.bincount(stream, minlength=512) + 1
    names, ids = sources_of(mixed)
    batch = Loader(mixed, batch=8, context=64, seed=0).batch(3)
    batch.x[5] = np.random.default_rng(1).integers(0, 512, 64)
    facts = reference.facts(batch)
    surprise = [np.mean([-math.log(counts[t] / counts.sum()) for t in row]) for row in batch.x.tolist()]
    assert facts["token_nats"] == pytest.approx(np.mean(surprise), abs=1e-4)
    assert facts["foreign_rows"] == sum(s > math.log(512) for s in surprise) == 1
    shares = [n / 64 for n in Counter(batch.x[5].tolist()).values()]
    assert facts["foreign_entropy"] == pytest.approx(-sum(s * math.log(s) for s in shares), abs=1e-4)
    served = Counter(names[ids[d]] for d in batch.documents.ravel())
    assert {n: facts[f"source.{n}"] for n in names} == pytest.approx(
        {n: served[n] / 512 for n in names}, abs=1e-4
    )


def test_a_large_stream_is_sampled_evenly(mixed, monkeypatch):
    from llmkit.observe import tokens

    whole = Reference(mixed, 64).nats
    monkeypatch.setattr(tokens, "SAMPLE", 2**14)
    part = Reference(mixed, 64).nats
    weights = np.exp(-whole)
    assert abs((weights * part).sum() - (weights * whole).sum()) < 0.1
    assert not np.array_equal(whole, part)


def test_the_reference_follows_the_data_set_of_the_run(mixed, tiny_run):
    observer, run = Tokens(), tiny_run(steps=2)
    run.observers.append(observer)
    (first, second) = train(run)
    assert "source.north" not in first.stats and second.stats["targets_next"] == 1
    run.dataset, run.batch.numpy = mixed, Loader(mixed, batch=8, context=64, seed=0).batch(0)
    observer.on_step(run, first)
    assert first.stats["source.north"] + first.stats["source.south"] == pytest.approx(1)
