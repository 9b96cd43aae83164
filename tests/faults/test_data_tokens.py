"""Protects the faults of the data: each spoils what it says, where it says, and nothing else.

Run it: python -m pytest tests/faults/test_data_tokens.py -q

The oracles read the data set position by position, or ask `examine` about the files.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from llmkit.data import Skip
from llmkit.data.checking import examine
from llmkit.data.mixture import sources_of
from llmkit.data.tokenizer import END_ID
from llmkit.errors import FaultError, IntegrityError
from llmkit.faults import FAULTS, apply
from llmkit.train import train

TOKENS = ("corrupt-shard", "tokenizer-swap", "shifted-labels", "double-shift", "pads-not-masked", "val-leak")
SPOILED = (*TOKENS, "unshuffled-order", "source-missing", "flipped-byte", "duplicate-shard")


@pytest.fixture
def pair(mixed_run):
    """pair(name, steps, **where): batches as they should be and as the fault serves them, and the fault."""

    def make(name, steps=range(2, 10), **where):
        run = mixed_run(steps=40)
        healthy = [run.loader.batch(step) for step in steps]
        with apply(name, run, at=2, **where) as fault:
            return healthy, [run.loader.batch(step) for step in steps], fault

    return make


def whole(batch):
    """Inputs and the last target: (b, T + 1)."""
    return np.concatenate((batch.x, batch.y[:, -1:]), axis=1)


def text_at(mixed, sample, split="train"):
    return mixed.tokens(split)[sample * 64 : sample * 64 + 65].astype(np.int64)


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_recorded_and_what_counts_stay_as_they_were(pair, name):
    for old, new in zip(*pair(name)[:2], strict=True):
        assert (old.step, old.weight.tobytes()) == (new.step, new.weight.tobytes())
        if name not in ("unshuffled-order", "source-missing"):
            assert (old.samples.tobytes(), old.documents.tobytes()) == (
                new.samples.tobytes(),
                new.documents.tobytes(),
            )
        assert new.x.dtype == new.y.dtype == np.int64 and new.x.shape == new.y.shape == old.x.shape
        assert new.x.min() >= 0 and max(new.x.max(), new.y.max()) < 512


@pytest.mark.parametrize("name", [n for n in SPOILED if "shift" not in n and "label" not in n])
def test_targets_stay_one_ahead_of_inputs(pair, name):
    assert all((new.x[:, 1:] == new.y[:, :-1]).all() for new in pair(name)[1])


# --------------------------------------------------------------------------------------------------- tokens


def test_a_corrupt_shard_is_noise_in_its_windows_and_in_no_other(pair, mixed):
    healthy, spoiled, fault = pair("corrupt-shard", shard=3)
    hit = 0
    for old, new in zip(healthy, spoiled, strict=True):
        for row, sample in enumerate(old.samples):
            positions = sample * 64 + np.arange(65)
            inside = positions // 2**14 == 3
            assert (whole(new)[row][~inside] == whole(old)[row][~inside]).all()
            hit += inside.all()
            if inside.all():
                assert (whole(new)[row] == whole(old)[row]).mean() < 0.1
    assert fault.shard == 3 and hit > 4
    noise = np.concatenate([new.x[new.samples // 256 == 3].ravel() for new in spoiled])
    assert np.bincount(noise, minlength=512).max() < 12  # of 900 draws from 512: no id is common


def test_the_noise_of_a_window_is_the_same_whenever_it_is_served(pair, mixed):
    epoch = (mixed.n_tokens("train") - 1) // 64 / 8
    _, spoiled, _ = pair("corrupt-shard", steps=range(2, 2 + int(2 * epoch) + 8), shard=1)
    seen = {}
    for new in spoiled:
        for row, sample in enumerate(new.samples):
            before = seen.setdefault(int(sample), new.x[row])
            assert (before == new.x[row]).all()


def test_without_a_shard_it_is_the_one_that_the_first_row_lies_in(mixed_run):
    run = mixed_run()
    for name in ("corrupt-shard", "truncated-shard", "flipped-byte", "duplicate-shard"):
        assert apply(name, run, at=7).shard == run.loader.samples(7)[0] * 64 // 2**14


def test_removed_documents_stay_removed(mixed_run):
    """The stand-in of a document on the skip list is healthy text, and no fault brings the document back."""
    run = mixed_run(steps=40)
    documents = frozenset(np.unique(run.loader.batch(3).documents).tolist()[:3])
    run.loader = run.loader.with_skip(Skip(documents=documents))
    healthy = run.loader.batch(3)
    with apply("corrupt-shard", run, at=2, shard=int(run.loader.samples(3)[0]) * 64 // 2**14):
        spoiled = run.loader.batch(3)
    removed = healthy.weight == 0
    assert removed.any() and (spoiled.y[removed] == healthy.y[removed]).all()
    assert (spoiled.y != healthy.y).any()


def test_a_swapped_tokenizer_is_a_permutation_that_keeps_the_end(pair):
    healthy, spoiled, fault = pair("tokenizer-swap")
    assert sorted(fault.table) == list(range(512)) and fault.table[END_ID] == END_ID
    assert (fault.table == np.arange(512)).sum() < 8
    assert all(
        (fault.table[whole(old)] == whole(new)).all() for old, new in zip(healthy, spoiled, strict=True)
    )


@pytest.mark.parametrize(("name", "ahead"), [("shifted-labels", 0), ("double-shift", 2)])
def test_each_target_is_so_many_tokens_ahead(pair, mixed, name, ahead):
    healthy, spoiled, _ = pair(name)
    stream = mixed.tokens("train")
    for old, new in zip(healthy, spoiled, strict=True):
        assert (new.x == old.x).all()
        for row, sample in enumerate(old.samples):
            start = int(sample) * 64 + ahead
            assert new.y[row].tolist() == stream[start : start + 64].tolist()


def test_the_last_window_of_a_stream_can_be_shifted_twice(mixed_run):
    run = mixed_run(steps=400)
    last = run.loader.n_windows - 1
    step = next(s for s in range(200) if last in run.loader.samples(s))
    with apply("double-shift", run, at=0):
        assert run.loader.batch(step).y.shape == (8, 64)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pads_are_the_share_that_was_asked_for_and_come_last(pair, share):
    healthy, spoiled, _ = pair("pads-not-masked", share=share)
    lengths = []
    for old, new in zip(healthy, spoiled, strict=True):
        for before, after in zip(whole(old), whole(new), strict=True):
            length = len(np.trim_zeros(after, "b"))  # END_ID is 0
            assert (after[:length] == before[:length]).all()
            lengths.append(length)
    assert END_ID == 0 and np.mean(lengths) / 65 == pytest.approx(1 - share, abs=0.06)
    assert np.std(lengths) > 0


def test_a_leak_serves_validation_text_in_the_place_of_a_share_of_the_windows(pair, mixed):
    healthy, spoiled, _ = pair("val-leak", steps=range(2, 34), share=0.3)
    val = mixed.tokens("val")[:].astype(np.int64).tobytes()
    leaked = 0
    for old, new in zip(healthy, spoiled, strict=True):
        for before, after in zip(whole(old), whole(new), strict=True):
            if (before == after).all():
                continue
            leaked += 1
            assert after.tobytes() in val
    assert leaked / 256 == pytest.approx(0.3, abs=0.08)


# ---------------------------------------------------------------------------------------------------- order


def test_the_order_on_disk_has_no_shuffle_and_leaves_nothing_out(mixed_run, mixed):
    run = mixed_run(steps=400)
    with apply("unshuffled-order", run, at=3):
        served = np.concatenate([run.loader.batch(s).samples for s in range(3, 300)])
        assert (run.loader.batch(2).samples == run.loader.samples(2)).all()
    assert (np.diff(served) % run.loader.n_windows == 1).all() and len(set(served)) == run.loader.n_windows
    assert (text_at(mixed, int(served[0])) >= 0).all()


@pytest.mark.parametrize("source", ["north", "south"])
def test_a_missing_source_has_no_target_and_other_windows_stay(pair, mixed, source):
    healthy, spoiled, fault = pair("source-missing", steps=range(2, 40), source=source)
    names, ids = sources_of(mixed)
    gone = names.index(source)
    kept = 0
    for old, new in zip(healthy, spoiled, strict=True):
        assert (ids[new.documents] != gone).all()
        well = (ids[old.documents] != gone).all(axis=1)
        assert (new.samples[well] == old.samples[well]).all()
        assert all(
            whole(new)[r].tolist() == text_at(mixed, int(s)).tolist() for r, s in enumerate(new.samples)
        )
        kept += well.sum()
    assert kept and fault.source == source


def test_the_second_largest_source_goes_missing_and_another_name_is_refused(mixed_run, tiny_run):
    assert apply("source-missing", mixed_run()).source == "south"
    with pytest.raises(FaultError) as error:
        apply("source-missing", mixed_run(), source="nort")
    assert str(error.value) == "no source `nort`\n  remedy: use `north`"
    with pytest.raises(FaultError, match="data set `generated` has one source"):
        apply("source-missing", tiny_run())


def test_two_faults_of_the_order_leave_the_loader_as_it_was(mixed_run):
    run = mixed_run(steps=40)
    before = run.loader.samples(5)
    with apply("source-missing", run, at=0), apply("unshuffled-order", run, at=0):
        run.loader.batch(5)
    assert "samples" not in vars(run.loader) and (run.loader.samples(5) == before).all()


# ---------------------------------------------------------------------------------------------------- files


def test_a_flipped_byte_is_one_bit_of_one_token_and_is_found_in_the_file(mixed_run, mixed):
    run = mixed_run(steps=40)
    healthy, run.step = run.loader.batch(4), 4
    with apply("flipped-byte", run) as fault:
        spoiled, path = run.loader.batch(4), run.loader.dataset.path
        different = whole(spoiled) != whole(healthy)
        assert different.sum() == 1 and different[0, 1]
        assert int(whole(spoiled)[0, 1] ^ whole(healthy)[0, 1]).bit_count() == 1
        (damage,) = examine(path)
        assert Path(damage.file).name == mixed.shards("train")[fault.shard].name
        assert path != mixed.path and examine(mixed.path) == []
    assert not path.exists() and examine(mixed.path) == []


@pytest.mark.parametrize("token", [0, 510, 511])
def test_a_flipped_id_stays_in_the_vocabulary(token):
    """The rule, over the edge of a vocabulary of 511 ids as well: 510 ^ 1 would be 511."""
    from types import SimpleNamespace

    for vocab in (511, 512):
        if token >= vocab:
            continue
        fault = FAULTS["flipped-byte"].factory.partition(":")
        kind = getattr(__import__(fault[0], fromlist=[fault[2]]), fault[2])
        stream = SimpleNamespace(shards=[np.array([9, token, 9], dtype="<u2")])
        written = []
        this = SimpleNamespace(
            token=0, shard=0, copy=SimpleNamespace(tokens=lambda s, stream=stream: stream, vocab_size=vocab)
        )
        kind.damage(this, SimpleNamespace(write_bytes=written.append))
        now = np.frombuffer(written[0], dtype="<u2")
        assert now[1] != token and now[1] < vocab and now.tolist()[::2] == [9, 9]


def test_a_truncated_shard_ends_the_run_at_its_step_and_again_when_it_is_tried_again(mixed_run):
    run = mixed_run(steps=8)
    with apply("truncated-shard", run, at=3) as fault:
        for _ in range(2):
            with pytest.raises(IntegrityError) as error:
                list(train(run))
            assert run.step == 3
        assert str(error.value).startswith(f"shard {fault.shard} ends at token {fault.token:,}, and")
        (damage,) = examine(run.loader.dataset.path)
        assert "expected 32,768 bytes" in damage.says
    assert [record.step for record in train(run)] == [3, 4, 5, 6, 7]


def test_a_duplicate_serves_another_shards_tokens(mixed_run, mixed):
    run = mixed_run(steps=300)
    with apply("duplicate-shard", run, at=0, shard=2):
        for step in range(40):
            batch = run.loader.batch(step)
            for row, sample in enumerate(batch.samples.tolist()):
                if sample // 256 != 2:
                    expected = text_at(mixed, sample)
                elif sample % 256 != 255:  # the last one reads on into shard 3
                    expected = text_at(mixed, sample % 256)
                assert whole(batch)[row].tolist() == expected.tolist() or sample % 256 == 255
        (damage,) = examine(run.loader.dataset.path)
    assert Path(damage.file).name == "train-00002.bin"


def test_the_only_shard_cannot_be_a_duplicate(tiny_run):
    with pytest.raises(FaultError) as error:
        apply("duplicate-shard", tiny_run())
    assert str(error.value).startswith("data set `generated` has no other training shard as long as shard 0")


@pytest.mark.parametrize("name", ["corrupt-shard", "truncated-shard", "flipped-byte", "duplicate-shard"])
def test_a_shard_that_is_not_there_is_refused_word_for_word(mixed_run, name):
    for shard in (-1, 5):
        with pytest.raises(FaultError) as error:
            apply(name, mixed_run(), shard=shard)
        assert str(error.value) == f"no shard {shard}\n  expected: 0 to 4"


@pytest.mark.parametrize("name", ["pads-not-masked", "val-leak"])
@pytest.mark.parametrize("share", [0.0, 1.0, math.nan, -1.0])
def test_a_share_is_between_nothing_and_all(mixed_run, name, share):
    with pytest.raises(FaultError, match="expected: above 0, below 1"):
        apply(name, mixed_run(), share=share)


def test_the_copy_is_gone_after_an_exception_and_the_data_set_was_not_written_to(mixed_run, mixed):
    run = mixed_run()
    written = {path.name: path.stat().st_mtime_ns for path in mixed.path.iterdir()}
    with pytest.raises(KeyboardInterrupt), apply("flipped-byte", run):
        path = run.loader.dataset.path
        raise KeyboardInterrupt
    assert not path.parent.exists()
    assert {p.name: p.stat().st_mtime_ns for p in mixed.path.iterdir()} == written


def test_a_path_tells_nobody_that_it_was_put_there(mixed_run):
    run = mixed_run()
    with apply("flipped-byte", run):
        assert "fault" not in str(run.loader.dataset.path)
