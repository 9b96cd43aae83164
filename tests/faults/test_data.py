"""Protects the data faults: one document is spoiled wherever it shows, and no other; a stall costs time only.

Run it: python -m pytest tests/faults/test_data.py -q
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from llmkit.data import Skip
from llmkit.data.tokenizer import END_ID
from llmkit.errors import FaultError
from llmkit.faults import apply
from llmkit.train import train


def same(a, b):
    return all(
        np.array_equal(getattr(a, f), getattr(b, f)) for f in ("x", "y", "weight", "documents", "samples")
    )


def lying_at(dataset, remainder):
    """A document of some length whose first token is at `remainder` of a window of 64."""
    ids, lengths = dataset.lengths("train")
    return int(ids[(dataset.starts("train") % 64 == remainder) & (lengths > 200)][0])


# at 1 the window's first target is the document's first token, and its first input another document's last
@pytest.mark.parametrize("remainder", [0, 1, 2, 63])
def test_the_tokens_of_one_document_are_spoiled_from_its_step_on_and_no_others(tiny_run, dataset, remainder):
    """The oracle asks the data set about every position, one by one."""
    run, document = tiny_run(steps=700), lying_at(dataset, remainder)
    _, start, length = dataset.span(document)
    windows = range((start - 1) // 64, (start + length - 1) // 64 + 1)
    shown = [
        s for s in range(run.loader.n_windows // 8) if set(windows) & set(run.loader.samples(s).tolist())
    ]
    at, steps = shown[1], [*shown, shown[1] + 1]
    healthy = [run.loader.batch(step) for step in steps]
    with apply("poisoned-document", run, at=at, document=document) as fault:
        spoiled = [run.loader.batch(step) for step in steps]
    hits = 0
    for old, new in zip(healthy, spoiled, strict=True):
        assert (old.step, old.documents.tobytes()) == (new.step, new.documents.tobytes())
        assert (old.weight.tobytes(), old.samples.tobytes()) == (new.weight.tobytes(), new.samples.tobytes())
        for row, sample in enumerate(old.samples.tolist()):
            for col in range(65):
                ours = dataset.document_at("train", sample * 64 + col)[0] == document
                for tokens, before, c in ((new.x, old.x, col), (new.y, old.y, col - 1)):
                    if 0 <= c < 64:
                        bad = ours and before[row, c] != END_ID and old.step >= at
                        assert tokens[row, c] == (fault.token if bad else before[row, c])
                        hits += bad
    assert 0 < hits < 2 * length - 2  # the windows of the first step shown were still clean


def test_the_document_is_the_one_that_fills_most_of_a_window_when_it_starts(tiny_run):
    run = tiny_run()
    fault = apply("poisoned-document", run, at=4)
    shares = [np.bincount(row).max() for row in run.loader.batch(4).documents]
    fullest = run.loader.batch(4).documents[int(np.argmax(shares))]
    assert fault.document == np.bincount(fullest).argmax()
    assert fault.token == 511


def test_a_loader_that_skips_the_document_serves_none_of_the_poison(tiny_run):
    run = tiny_run()
    with apply("poisoned-document", run, at=2) as fault:
        cured = run.loader.with_skip(Skip(documents={fault.document}))
        batch = cured.batch(2)
    healthy = run.loader.with_skip(Skip(documents={fault.document})).batch(2)
    assert same(batch, healthy)
    assert (batch.weight[batch.documents == fault.document] == 0).all()


def test_loss_and_gradient_jump_on_the_same_step_in_one_sequence_and_are_back_on_the_next(tiny_run):
    healthy = list(islice(train(tiny_run(steps=200)), 63))
    run = tiny_run(steps=200)
    with apply("poisoned-document", run, at=60) as fault:
        broken = list(islice(train(run), 63))
    assert repr(broken[:60]) == repr(healthy[:60])
    assert broken[60].loss > healthy[60].loss + 0.25
    assert broken[60].grad_norm > 2 * healthy[60].grad_norm
    (hit,) = [row for row, ids in enumerate(broken[60].documents) if fault.document in ids]
    rises = np.subtract(broken[60].sequence_losses, healthy[60].sequence_losses)
    assert rises[hit] > 2 and np.delete(rises, hit).max() == 0
    assert broken[61].loss == pytest.approx(healthy[61].loss, abs=0.1)


def test_a_stall_delays_its_steps_on_the_runs_clock_and_changes_no_byte(victim):
    run, healthy = victim("stalled-loader"), victim("stalled-loader")
    with apply("stalled-loader", run, at=2, until=4, seconds=1.5):
        laps = []
        for record in train(run):
            laps.append(run.stopwatch.laps["data"])
            assert repr(record) == repr(next(train(healthy)))
    assert run.clock.slept == [1.5, 1.5]
    assert laps == [0, 0, 1.5, 1.5, 0, 0, 0, 0]


def test_what_does_not_exist_is_refused_word_for_word(tiny_run):
    run = tiny_run()
    known = run.loader.dataset.n_documents
    for where, says in (
        ({"document": known}, f"no document {known}\n  expected: an id from 0 to {known - 1}"),
        ({"document": -1}, f"no document -1\n  expected: an id from 0 to {known - 1}"),
        ({"token": 512}, "no token 512\n  expected: 0 to 511, the model's vocabulary"),
    ):
        with pytest.raises(FaultError) as error:
            apply("poisoned-document", run, **where)
        assert str(error.value) == says
    with pytest.raises(FaultError) as error:
        apply("stalled-loader", run, seconds=0.0)
    assert str(error.value) == "seconds is 0\n  expected: seconds > 0"
