"""Protects the tokenizer checks: silent on the right tokenizer, and each damage is caught by the check made for it.

pytest tests/data/test_fidelity.py
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import Document, Loader, TokenDataset, build
from llmkit.data.alignment import check_batches, check_borders, check_tokenised
from llmkit.data.corpus import MANIFEST
from llmkit.data.fidelity import CHECKS, Notes, check_tokenizer, distance, spelt, written
from llmkit.data.manifest import read_manifest
from llmkit.data.shards import write_file
from llmkit.data.synthetic import CURIOSITIES, synthetic
from llmkit.data.tokenizer import END, Tokenizer, train_tokenizer
from llmkit.errors import DataError
from llmkit.folder import write_whole

CODE = (
    "def f(x):\n    if x == 12:\n        return  x + 1\n    return   x"  # runs of blanks: cuts matter there
)
TEXTS = [d.text for d in synthetic(60, seed=3)] + [f"{text} The End.\n{CODE}" for text in CURIOSITIES]
DOCUMENTS = [Document(i, f"{'odd' if i >= 60 else 'even'}/{i}", text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def right() -> Tokenizer:
    return train_tokenizer(TEXTS, 500)


def swap_ids(content):
    vocab = content["model"]["vocab"]
    one, two = sorted(vocab, key=vocab.get)[300:302]
    vocab[one], vocab[two] = vocab[two], vocab[one]


def remove_merge(content):
    del content["model"]["merges"][3]  # its token stays in the vocabulary


def swap_merges(content):
    merges = content["model"]["merges"]
    merges[-2], merges[-1] = merges[-1], merges[-2]


def nfkc(content):
    content["normalizer"] = {"type": "NFKC"}


def lower(content):
    content["normalizer"] = {"type": "Lowercase"}


def drop_special(content):
    content["added_tokens"] = []


def unprotected_special(content):
    content["added_tokens"][0]["special"] = False


def another_special(content):
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 500, "content": "<|pad|>"})


def lose_a_byte(content):
    del content["model"]["vocab"]["ÿ"]  # 0xff: in no valid text


def cut_nowhere(content):
    content["pre_tokenizer"]["use_regex"] = False


def cut_digits(content):
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}


def changed(tokenizer: Tokenizer, change) -> Tokenizer:
    content = json.loads(tokenizer.text)
    change(content)
    return Tokenizer(json.dumps(content))


# What each damage sets off, in the order of CHECKS; the first line of each is the check made for it.
MUTANTS = {
    swap_ids: ["ids"],
    swap_merges: ["merges"],
    remove_merge: ["unreachable", "merges", "cut"],
    nfkc: ["round trip", "cut"],
    lower: ["unreachable", "round trip", "cut"],
    drop_special: ["unreachable", "special"],
    unprotected_special: ["special"],
    lose_a_byte: ["unknown", "ids"],
    cut_nowhere: ["cut"],
    cut_digits: ["unreachable", "cut"],
}


def test_on_the_right_tokenizer_every_check_is_silent(right):
    report = check_tokenizer(right, DOCUMENTS, train_tokenizer(reversed(TEXTS), 500))
    assert (report.healthy, report.id_distance, report.spelling_distance) == (True, 0, 0)
    assert set(report.checked) == set(CHECKS) - {"canonical", "stored", "borders", "labels"}
    assert report.checked["unknown"] == 256 and report.checked["cut"] == len(TEXTS)


@pytest.mark.parametrize("change", MUTANTS, ids=lambda c: c.__name__)
def test_a_planted_damage_is_caught_by_its_check(right, change):
    report = check_tokenizer(changed(right, change), DOCUMENTS, right)
    assert [flaw.check for flaw in report.flaws] == MUTANTS[change]
    assert all(0 < flaw.count <= flaw.of for flaw in report.flaws)


@pytest.mark.parametrize("change", [swap_ids, swap_merges, cut_nowhere])
def test_without_a_baseline_a_consistent_change_cannot_be_seen(right, change):
    assert check_tokenizer(changed(right, change), DOCUMENTS).healthy


def test_a_special_token_too_many_is_seen_from_the_other_side(right):
    more = changed(right, another_special)
    assert [flaw.check for flaw in check_tokenizer(right, DOCUMENTS, more).flaws] == ["special"]


def flaw(report, check):
    (only,) = [flaw for flaw in report.flaws if flaw.check == check]
    return only


def test_a_flaw_says_what_where_and_how_many(right):
    swapped = flaw(check_tokenizer(changed(right, swap_ids), DOCUMENTS, right), "ids")
    name = right.decode([300])
    assert (swapped.where, swapped.says) == ("token 300", f"{name!r} has id 301")
    assert (swapped.count, swapped.of) == (2, 499)

    merge = flaw(check_tokenizer(changed(right, remove_merge), DOCUMENTS, right), "merges")
    assert merge.where == "rank 3" and merge.count == 500 - 257 - 3

    cased = flaw(check_tokenizer(changed(right, lower), DOCUMENTS, right), "round trip")
    assert cased.where == "document 0 (even/0)" and cased.says.startswith("loses letter case: ")
    assert cased.count == len(TEXTS)

    form = flaw(check_tokenizer(changed(right, nfkc), DOCUMENTS, right), "round trip")
    assert form.says.startswith("loses the Unicode form: ")
    assert form.count == sum(Tokenizer(right.text).decode(changed(right, nfkc).encode(t)) != t for t in TEXTS)


def test_distances_tell_other_numbers_from_other_pieces(right):
    swapped, whole = (check_tokenizer(changed(right, c), DOCUMENTS, right) for c in (swap_ids, cut_digits))
    assert swapped.id_distance > 0 and swapped.spelling_distance == 0
    assert whole.spelling_distance > 0


def test_fertility_is_counted_by_source_and_sums_up(right):
    rows = check_tokenizer(right, DOCUMENTS, changed(right, cut_digits)).fertility
    whole = rows.pop("all")
    assert set(rows) == {"even", "odd"}
    for field in ("documents", "bytes", "words", "tokens", "baseline_tokens"):
        assert whole[field] == sum(row[field] for row in rows.values())
    assert whole["bytes"] == sum(len(t.encode()) for t in TEXTS)
    assert whole["tokens"] == sum(map(len, right.encode_batch(TEXTS)))
    assert whole["words"] < whole["tokens"] < whole["baseline_tokens"] < whole["bytes"]


def test_unused_tokens_and_the_longest(right):
    report = check_tokenizer(right, DOCUMENTS[:1])
    used = set(right.encode(TEXTS[0]))
    assert len(report.unused) == 499 - len(used)
    sizes = [len(eval(name).encode()) for name in report.longest]
    assert len(sizes) == 10 and sizes[0] == max(len(right.decode([i]).encode()) for i in range(1, 500))


def test_a_tokenizer_that_is_not_byte_level_is_refused(right):
    def plain(content):
        content["model"]["vocab"]["▁the"] = 500

    with pytest.raises(DataError, match="token `▁the` does not stand for bytes"):
        check_tokenizer(changed(right, plain), DOCUMENTS)


def test_how_tokens_are_written():
    assert (spelt("Ġthe"), written("Ġthe"), written("Ċ"), spelt("▁x")) == (
        b" the",
        "' the'",
        "'\\n'",
        "▁x".encode(),
    )


@given(
    st.dictionaries(st.integers(0, 5), st.integers(1, 9)),
    st.dictionaries(st.integers(0, 5), st.integers(1, 9)),
)
@settings(max_examples=100, deadline=None)
def test_the_distance_is_a_total_variation(one, two):
    found = distance(one, two)
    assert 0 <= found <= 1 + 1e-12 and found == pytest.approx(distance(two, one))
    assert distance(one, one) == 0 and distance(one, {k: 3 * v for k, v in one.items()}) == pytest.approx(0)
    if one and two and not one.keys() & two.keys():
        assert found == pytest.approx(1)


# --------------------------------------------------------------------------------------- shards and batches


def test_a_data_set_is_examined_from_tokenizer_to_batches(small):
    report = check_tokenised(small, train_tokenizer((d.text for d in synthetic(40, seed=3)), 300))
    assert report.healthy and set(report.checked) == set(CHECKS)
    assert report.checked["stored"] == report.checked["borders"] == 40
    assert report.explain().count("fine") == len(CHECKS)


def checks(dataset) -> list[str]:
    return [flaw.check for flaw in check_tokenised(dataset).flaws]


def test_a_build_that_lost_letter_case_is_caught_by_the_hash_of_the_text_alone(right, tmp_path):
    """Its shards, its tokenizer and its manifest agree with each other; only the text does not."""
    built = build(DOCUMENTS, tmp_path / "low", name="low", sources={}, tokenizer=changed(right, lower))
    report = check_tokenised(built)
    assert [f.check for f in report.flaws if f.check != "unreachable"] == ["stored"]
    assert flaw(report, "stored").where == "document 0 (even/0)"


def test_shards_of_another_tokenizer_are_caught_by_encoding_them_again(right, tmp_path):
    """The text is right and every id stands for what it says, but a merge was not made."""
    built = build(
        DOCUMENTS, tmp_path / "less", name="less", sources={}, tokenizer=changed(right, remove_merge)
    )
    assert built.document(5).text == TEXTS[5]
    manifest = read_manifest(built.path)
    entry = write_file(built.path, "tokenizer.json", right.text.encode())
    manifest = manifest.model_copy(update={"tokenizer": entry, "tokenizer_digest": right.digest})
    manifest = manifest.model_copy(update={"digest": manifest.recompute()})
    write_whole(built.path / MANIFEST, manifest.model_dump_json())
    assert checks(TokenDataset(built.path)) == ["canonical"]


def test_an_end_that_a_text_spelled_is_an_end_inside_a_document(right, tmp_path):
    documents = [*DOCUMENTS, Document(len(DOCUMENTS), "forged", f"one{END}two")]
    forged = changed(right, unprotected_special)
    built = build(documents, tmp_path / "end", name="end", sources={}, tokenizer=forged, val_share=0)
    found = flaw(check_tokenised(built), "borders")
    _, start, _ = built.span(len(DOCUMENTS))
    position = start + len(right.encode("one"))
    assert (found.where, found.says) == (
        f"split train, position {position:,}",
        "is an end token inside a document",
    )
    assert (found.count, found.of) == (1, len(documents))


def test_a_lost_end_is_named_by_its_position(small):
    dataset = TokenDataset(small.path)
    stream = dataset.tokens("train")
    end = int(dataset.starts("train")[4]) - 1
    shard, offset = divmod(end, stream.shard_tokens)
    stream.shards[shard] = stream.shards[shard].copy()
    stream.shards[shard][offset] = 7
    notes = Notes()
    check_borders(notes, dataset)
    (only,) = notes.flaws()
    assert (only.where, only.says, only.count) == (f"split train, position {end:,}", "has no end token", 1)


class Through:
    """A loader whose batches go through a function."""

    def __init__(self, loader, change):
        self.loader, self.change = loader, change

    def batch(self, step):
        return self.change(self.loader.batch(step))


def not_shifted(batch):
    return replace(batch, y=batch.x)


def shifted_twice(batch):
    return replace(batch, y=np.roll(batch.y, -1, axis=1))


def shifted_back(batch):
    return replace(batch, y=np.roll(batch.x, 1, axis=1))


def one_wrong_target(batch):
    y = batch.y.copy()
    y[3, 5] += 1
    return replace(batch, y=y)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (not_shifted, "; targets are the inputs +0 places on, not +1"),
        (shifted_twice, "; targets are the inputs +2 places on, not +1"),
        (shifted_back, "; targets are the inputs -1 places on, not +1"),
    ],
)
def test_shifted_labels_are_caught_and_the_shift_is_named(loader, change, says):
    notes = Notes()
    check_batches(notes, Through(loader, change), range(2))
    (only,) = notes.flaws()
    assert only.check == "labels" and only.says.endswith(says)
    assert only.where.startswith("step 0, row 0, column ") and only.of == 2 * 8 * 15


def test_one_wrong_target_is_found_in_its_place(loader):
    notes = Notes()
    check_batches(notes, Through(loader, one_wrong_target), [4])
    (only,) = notes.flaws()
    assert (only.where, only.count) == ("step 4, row 3, column 5", 1) and "places on" not in only.says


def test_a_removed_document_is_no_flaw(small):
    from llmkit.data import Skip

    notes = Notes()
    loader = Loader(small, batch=8, context=16, seed=1, skip=Skip(documents=frozenset({3, 4, 5})))
    check_batches(notes, loader, range(10))
    assert notes.flaws() == () and notes.looked["labels"] == 10 * 8 * 15
