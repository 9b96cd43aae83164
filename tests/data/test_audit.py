"""Protects the audit: the first step that differs, the run, the shard and the reason; no record, no "same".

pytest tests/data/test_audit.py
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from llmkit.data import Document, Loader, Skip, TokenDataset, audit, build, row_sums, served_digest
from llmkit.errors import ConfigError, RecordError
from llmkit.folder import RunFolder
from llmkit.records import Event, StepRecord, to_json

STEPS = 30


@pytest.fixture
def ran(small, tmp_path):
    """ran(name, ...) is the folder of a run: what a trainer writes about the data it was served."""

    def run(name, dataset=small, *, steps=STEPS, batch=8, context=16, seed=1, skip=None, world=1, spoil=None):
        options = {"batch": batch, "context": context, "seed": seed, "skip": skip}
        ranks = [Loader(dataset, rank=r, world=world, **options) for r in range(world)]
        order = {"split": "train", "seed": seed, "batch": batch, "context": context}
        digests = {"digest": dataset.digest, "tokenizer_digest": dataset.tokenizer_digest}
        data = {"path": str(dataset.path), **digests, "order": order, "skip": ranks[0].skip.to_json()}
        folder = RunFolder.create(tmp_path / name, {"data": data})
        for step in range(steps):
            batches = [one.batch(step) for one in ranks]
            if spoil is not None:
                batches = [spoil(batch) for batch in batches]
            parts = [row_sums(one, rank) for rank, one in enumerate(batches)]
            rows = tuple(tuple(dict.fromkeys(row)) for row in batches[0].documents.tolist())
            folder.append("steps", StepRecord(
                step=step, loss=1.0, grad_norm=1.0, lr=1e-3, samples=tuple(batches[0].samples.tolist()),
                documents=rows, served=served_digest(*(sum(part) for part in zip(*parts, strict=True))),
            ))  # fmt: skip
        folder.close()
        return tmp_path / name

    return run


def windows_over(dataset, step, shard):
    """Whether a step's windows touch a shard, by brute force over the tokens."""
    positions = Loader(dataset, batch=8, context=16, seed=1).samples(step)[:, None] * 16 + np.arange(17)
    return shard in positions // dataset.manifest.shard_tokens


def test_twelve_equal_runs_are_the_same_whatever_their_ranks(ran):
    found = audit(*(ran(f"{i}", world=2 if i % 3 == 0 else 1) for i in range(12)))
    assert (found.verdict, found.steps) == ("same", STEPS)
    assert [run.verdict for run in found.runs] == ["same"] * 12
    assert found.text.startswith("same: 12 of 12 runs are as `")


def test_the_odd_one_of_twelve_is_named_wherever_it_stands(ran):
    runs = [ran(f"{i}", seed=2 if i == 0 else 1) for i in range(12)]
    found = audit(*runs)
    assert found.verdict == "different" and found.baseline == str(runs[1])
    odd, *others = found.runs
    assert (odd.verdict, odd.step, odd.why) == (
        "different",
        0,
        ("seed",),
    ) and "other seed, 2 and not 1" in odd.says
    assert {run.verdict for run in others} == {"same"}


@pytest.mark.parametrize("setting", [{"batch": 4}, {"context": 8}])
def test_another_batch_or_context_is_the_reason(ran, setting):
    _, other = audit(ran("a"), ran("b", **setting)).runs
    assert (other.verdict, other.step, other.why) == ("different", 0, tuple(setting))


def test_another_skip_list_differs_from_the_first_step_that_it_moves(ran):
    _, other = audit(ran("a"), ran("b", skip=Skip(batches=frozenset({7})))).runs
    assert (other.step, other.why) == (7, ("skip list",)) and "batches 7 skipped by one" in other.says


def test_a_rescue_that_skipped_data_is_the_reason(ran, small, tmp_path):
    one, two = ran("a"), ran("b", skip=Skip(batches=frozenset({9})))
    facts = json.loads((two / "run.json").read_text())
    facts["data"]["skip"] = {"batches": [], "documents": []}
    (two / "run.json").write_text(json.dumps(facts))
    folder = RunFolder.open(two)
    folder.append("events", Event(kind="rescue", step=12, data={"skipped_batches": [9]}))
    folder.close()
    _, other = audit(one, two).runs
    assert (other.step, other.why) == (9, ("skip list",))


def test_a_skipped_document_differs_from_the_first_step_that_shows_it(ran, small):
    document = 11
    shown = [
        step
        for step in range(STEPS)
        if document in Loader(small, batch=8, context=16, seed=1).batch(step).documents
    ]
    _, other = audit(ran("a"), ran("b", skip=Skip(documents=frozenset({document})))).runs
    assert (other.step, other.why) == (shown[0], ("skip list",)) and document in other.documents


def other_set(documents, folder, change):
    changed = [Document(d.id, d.source, change(d.text) if d.id == 30 else d.text) for d in documents]
    options = {
        "vocab_size": 300,
        "name": "small",
        "sources": {"seed": 3},
        "val_share": 0.1,
        "shard_tokens": 1000,
    }
    return build(changed, folder, **options)


def test_another_data_set_is_named_with_the_shards_whose_hashes_differ(ran, small, documents, tmp_path):
    other = other_set(documents, tmp_path / "set", lambda text: text[:-1] + ("." if text[-1] != "." else "!"))
    assert other.tokenizer_digest == small.tokenizer_digest
    hashes = [{s.name: s.sha256 for s in d.manifest.shards} for d in (small, other)]
    differ = sorted(n for n in hashes[0].keys() | hashes[1].keys() if hashes[0].get(n) != hashes[1].get(n))
    _, found = audit(ran("a"), ran("b", other)).runs
    assert found.verdict == "different" and found.why == ("data set",) and list(found.shards) == differ
    assert found.shards[0] in found.says


def test_equal_bytes_of_two_data_sets_are_not_called_the_same(ran, small, documents, tmp_path):
    renamed = [Document(d.id, d.source + "?", d.text) for d in documents]
    options = {"vocab_size": 300, "name": "small", "sources": {}, "val_share": 0.1, "shard_tokens": 1000}
    other = build(renamed, tmp_path / "set", **options)
    _, found = audit(ran("a"), ran("b", other)).runs
    assert (found.verdict, found.step, found.why) == ("different", None, ("data set",))
    assert "with equal shards" in found.says


def test_a_data_set_that_is_gone_is_still_another_one(ran, documents, tmp_path):
    other = other_set(documents, tmp_path / "set", lambda text: text + " more")
    run = ran("b", other)
    shutil.rmtree(other.path)
    _, found = audit(ran("a"), run).runs
    assert found.verdict == "different" and "no shard can be named" in found.says


def test_every_tampered_shard_under_the_same_manifest_is_named(ran, small, tmp_path):
    honest = ran("honest")
    for number, shard in enumerate(small.shards("train")):
        copy = shutil.copytree(small.path, tmp_path / f"set-{number}")
        content = np.fromfile(copy / shard.name, "<u2")
        content[: len(content) // 2] = np.roll(content[: len(content) // 2], 1)
        content.tofile(copy / shard.name)
        tampered = TokenDataset(copy, check=False)
        run = ran(f"run-{number}", tampered)
        loaders = [Loader(d, batch=8, context=16, seed=1) for d in (small, tampered)]
        batches = ([np.stack((b.x, b.y)) for b in (one.batch(s) for one in loaders)] for s in range(STEPS))
        first = next(s for s, (a, b) in enumerate(batches) if not np.array_equal(a, b))
        _, found = audit(honest, run).runs
        assert (found.verdict, found.why, found.shards) == ("different", ("bytes",), (shard.name,))
        assert found.step == first and windows_over(small, first, number)
        assert f"`{run}` was served what is in `{copy}` now" in found.says
        assert f"`{honest}` was served what is in `{small.path}` now" in found.says
        assert f"bytes 0 to {shard.bytes - 1:,} differ" in found.says


def test_bytes_that_changed_on_the_way_are_told_from_a_damaged_set(ran, small):
    def spoil(batch):
        return dataclasses.replace(batch, x=batch.x ^ 1) if batch.step == 13 else batch

    _, found = audit(ran("a"), ran("b", spoil=spoil)).runs
    assert (found.step, found.why) == (13, ("bytes",))
    assert "was not served what is in" in found.says and "corrupt" not in found.says
    assert all(windows_over(small, 13, int(name[6:11])) for name in found.shards)


def test_other_windows_under_the_same_order_are_seen(ran, small):
    straight = Loader(small, batch=8, context=16, seed=5)
    _, found = audit(ran("a"), ran("b", spoil=lambda batch: straight.batch(batch.step))).runs
    assert (found.step, found.why) == (0, ("windows",))


def test_a_shorter_run_is_the_same_as_far_as_it_goes(ran):
    found = audit(ran("a"), ran("b", steps=12), ran("c"))
    assert (found.verdict, found.steps) == ("same", 12)


def rewrite(run, change):
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    lines = [line for line in map(change, lines) if line is not None]
    (run / "steps.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))


GAPS = {
    "no digests": lambda line: line | {"served": ""},
    "one digest less": lambda line: line | {"served": "" if line["step"] == 29 else line["served"]},
    "a step less": lambda line: None if line["step"] == 17 else line,
    "no first step": lambda line: None if line["step"] == 0 else line,
    "no steps": lambda line: None,
}


@pytest.mark.parametrize("gap", GAPS)
def test_without_records_nothing_is_proven(ran, gap):
    run = ran("b")
    rewrite(run, GAPS[gap])
    found = audit(ran("a"), run, ran("c"))
    assert found.verdict == "not provable"
    assert [r.verdict for r in found.runs] == ["same", "not provable", "same"]


def test_runs_that_all_lack_records_are_not_provable(ran):
    runs = [ran(name) for name in "ab"]
    for run in runs:
        rewrite(run, GAPS["no digests"])
    assert [r.verdict for r in audit(*runs).runs] == ["not provable"] * 2


def test_a_difference_before_the_gap_is_a_difference(ran):
    run = ran("b", seed=2)
    rewrite(run, GAPS["a step less"])
    assert audit(ran("a"), run).runs[1].verdict == "different"


def test_a_folder_without_facts_is_not_provable(ran):
    run = ran("b")
    (run / "run.json").unlink()
    _, found = audit(ran("a"), run).runs
    assert (found.verdict, found.says) == ("not provable", "run.json has no data digest")


def test_refusals(ran, tmp_path):
    with pytest.raises(ConfigError, match="1 run to compare"):
        audit(ran("a"))
    with pytest.raises(RecordError, match="is not a run folder"):
        audit(tmp_path / "a", tmp_path / "nothing")
