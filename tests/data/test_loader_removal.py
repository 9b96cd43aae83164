"""Protects: a removed document is gone from inputs and targets, and nothing else moved.

python -m pytest tests/data/test_loader_removal.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmkit.data import Batch, Loader, Skip
from llmkit.data.tokenizer import END_ID
from llmkit.errors import ConfigError


def check_removal(plain: Loader, removed: frozenset[int], batch: Batch) -> None:
    """What DESIGN.md asks of a removed document, against the batch with nothing removed."""
    before = plain.batch(batch.step)
    gone = np.isin(before.documents, list(removed))
    assert (batch.weight == np.where(gone, 0, 1)).all(), "weight is 0 on its targets and 1 elsewhere"
    assert (batch.samples == before.samples).all() and (batch.documents == before.documents).all()
    assert (batch.y[~gone] == before.y[~gone]).all(), "no other target moved"
    positions = before.samples[:, None] * plain.context + np.arange(plain.context)
    inputs = plain.dataset.documents_at(plain.split, positions)
    hidden = np.isin(inputs, list(removed))
    assert (batch.x[~hidden] == before.x[~hidden]).all(), "no other input moved"
    for i, j in zip(*np.nonzero(hidden), strict=True):
        standin = reference_standin(plain, int(inputs[i, j]), removed)
        offset = int(positions[i, j]) - plain.dataset.span(int(inputs[i, j]))[1]
        assert batch.x[i, j] == standin[offset], "its inputs are the stand-in's"
        assert j == 0 or batch.y[i, j - 1] == batch.x[i, j], "targets stay the next inputs"


def reference_standin(loader: Loader, document: int, removed: frozenset[int]) -> list[int]:
    split, _, length = loader.dataset.span(document)
    spans = {d: loader.dataset.span(d) for d in range(loader.dataset.n_documents) if d not in removed}
    healthy = [(size, d) for d, (s, _, size) in spans.items() if s == split]
    long = [entry for entry in healthy if entry[0] >= length]
    size, chosen = min(long) if long else max(healthy, key=lambda entry: (entry[0], -entry[1]))
    start = spans[chosen][1]
    tokens = loader.dataset.tokens(split)[start : start + size].tolist()
    return [*(tokens * (length // size + 1))[: length - 1], END_ID]


def ids_in(loader: Loader, step: int) -> list[int]:
    return sorted({int(d) for d in loader.batch(step).documents.ravel()})


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_removed_document_is_gone_and_nothing_else_moved(loader, count):
    for step in range(12):
        removed = frozenset(ids_in(loader, step)[:count])
        other = loader.with_skip(Skip(documents=removed))
        assert (other.batch(step).weight == 0).any()
        for near in range(max(0, step - 2), step + 3):
            check_removal(loader, removed, other.batch(near))


def test_the_longest_document_is_replaced_by_the_longest_other_one_repeated(small, loader):
    ids, lengths = small.lengths("train")
    removed = frozenset({int(ids[np.argmax(lengths)])})
    other = loader.with_skip(Skip(documents=removed))
    for step in range(loader.n_windows // 8):
        check_removal(loader, removed, other.batch(step))


def mutant_keeps_weight(plain, batch):
    return replace(batch, weight=np.ones_like(batch.weight))


def mutant_weighs_by_input(plain, batch):
    weight = np.concatenate([np.ones_like(batch.weight[:, :1]), batch.weight[:, :-1]], axis=1)
    return replace(batch, weight=weight)


def mutant_keeps_inputs(plain, batch):
    return replace(batch, x=plain.batch(batch.step).x)


def mutant_blanks_inputs(plain, batch):
    return replace(batch, x=np.where(batch.x == plain.batch(batch.step).x, batch.x, END_ID))


def mutant_shifts_the_rest(plain, batch):
    x = batch.x.copy()
    for row in range(len(x)):
        kept = x[row][np.concatenate([[1], batch.weight[row, :-1]]) == 1]
        x[row] = np.resize(kept, x.shape[1])
    return replace(batch, x=x)


@pytest.mark.parametrize(
    "mutant",
    [
        mutant_keeps_weight,
        mutant_weighs_by_input,
        mutant_keeps_inputs,
        mutant_blanks_inputs,
        mutant_shifts_the_rest,
    ],
)
def test_a_wrong_removal_would_be_noticed(loader, mutant):
    noticed = 0
    for step in range(12):
        removed = frozenset(ids_in(loader, step)[:1])
        batch = loader.with_skip(Skip(documents=removed)).batch(step)
        try:
            check_removal(loader, removed, mutant(loader, batch))
        except AssertionError:
            noticed += 1
    assert noticed >= 9  # a document that shows a lone token at a row's edge can hide a mutant


def test_removing_every_document_is_refused(small, loader):
    everything = frozenset(int(d) for d in small.lengths("train")[0])
    with pytest.raises(ConfigError) as error:
        loader.skip = Skip(documents=everything)
    assert str(error.value) == "skip removes every document of split `train`\n  remedy: remove fewer"
    assert loader.skip == Skip()  # the refused one did not stay


def test_a_document_that_does_not_exist_cannot_be_removed(loader):
    with pytest.raises(ConfigError, match="no document 40\n  expected: 0 to 39"):
        loader.with_skip(Skip(documents=frozenset({40})))
