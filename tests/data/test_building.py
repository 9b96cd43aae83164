"""Protects: a build is equal wherever it is made, and splits without leaks.

python -m pytest tests/data/test_building.py
"""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.data import Document, TokenDataset, build, verify
from llmkit.data.building import split_codes, unigram_entropy
from llmkit.data.synthetic import synthetic
from llmkit.errors import DataError


def make(documents, folder, **options) -> TokenDataset:
    return build(documents, folder, **{"vocab_size": 300, "name": "small", "sources": {}, **options})


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_two_builds_are_equal_to_the_byte(documents, small, tmp_path):
    again = make(documents, tmp_path / "again", sources={"seed": 3}, val_share=0.1, shard_tokens=1000)
    assert contents(again.path) == contents(small.path)


def test_the_shard_size_changes_the_files_and_not_the_stream(documents, small, tmp_path):
    other = make(documents, tmp_path / "other", val_share=0.1)
    assert [s.name for s in other.manifest.shards] == ["train-00000.bin", "val-00000.bin"]
    for split in ("train", "val"):
        assert other.tokens(split)[:].tolist() == small.tokens(split)[:].tolist()


def test_ids_beyond_16_bits_take_32(tmp_path, monkeypatch, documents, small):
    # a vocabulary of 65,537 needs 40 MB of text; a limit of 2**8 for uint16 takes the same branch
    monkeypatch.setattr("llmkit.data.building.LARGEST_UINT16", 256)
    wide = make(documents, tmp_path / "wide", val_share=0.1, shard_tokens=1000)
    assert {s.dtype for s in wide.manifest.shards} == {"uint32"}
    assert {s.dtype for s in small.manifest.shards} == {"uint16"}
    assert wide.tokens("train")[:].tolist() == small.tokens("train")[:].tolist()
    assert verify(wide.path) == []


def test_a_data_set_that_nobody_tested_is_no_reference(small):
    assert small.manifest.reference is False


def test_the_generated_corpus_is_the_reference(dataset):
    assert dataset.manifest.reference is True
    assert dataset.digest == "eafc2db39e9bfd2df089b4485576e75075a004cf3b0d8f2760de51e97f0050c6"


# ---------------------------------------------------------------------------------------------------- splits


def test_the_validation_share_is_met_and_at_least_one():
    texts = [d.text for d in synthetic(documents=200)]
    for share, expected in [(0.0, 0), (0.001, 1), (0.02, 4), (0.5, 100)]:
        assert split_codes(texts, share).sum() == expected
    assert split_codes(texts[:1], 0.5).tolist() == [0]
    assert sorted(split_codes(texts[:2], 0.02).tolist()) == [0, 1]


def test_equal_texts_never_sit_on_both_sides():
    texts = [d.text for d in synthetic(documents=30)]
    codes = split_codes(texts * 3, 0.2)
    assert (codes.reshape(3, 30) == codes[:30]).all()


def test_a_text_keeps_its_side_when_the_others_are_reordered():
    texts = [d.text for d in synthetic(documents=100)]
    assert split_codes(texts[::-1], 0.1).tolist() == split_codes(texts, 0.1)[::-1].tolist()


def test_equal_documents_only_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        make([Document(i, str(i), "same") for i in range(3)], tmp_path / "a")
    assert str(error.value) == "all 3 documents are equal\n  expected: at least two different texts"


def test_one_document_is_enough_to_train_on(tmp_path):
    one = make([Document(0, "a", "a text")], tmp_path / "one")
    assert (one.n_tokens("train") > 0, one.n_tokens("val")) == (True, 0)
    assert one.document(0).text == "a text" and verify(one.path) == []


def test_unigram_entropy_of_known_counts():
    assert unigram_entropy(np.array([], dtype=np.uint16)) == 0
    assert unigram_entropy(np.array([5, 5, 5], dtype=np.uint16)) == 0
    assert unigram_entropy(np.array([0, 1, 2, 3], dtype=np.uint16)) == round(np.log(4), 6)
