"""Protects: a build is equal wherever it is made, and splits without leaks.

python -m pytest tests/data/test_building.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.data import Document, TokenDataset, build, verify
from llmkit.data.packing import encode, pieces, split_codes, split_cut, unigram_entropy
from llmkit.data.synthetic import synthetic
from llmkit.data.tokenizer import END_ID, train_tokenizer
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
    monkeypatch.setattr("llmkit.data.packing.LARGEST_UINT16", 256)
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


def codes_of(texts: list[str], share: float) -> np.ndarray:
    """0 (train) or 1 (val) of each text; the keys come in lots of seven."""
    hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
    keys = np.array([int.from_bytes(h[:8], "big") for h in hashes], dtype=np.uint64)
    lots = [keys[i : i + 7] for i in range(0, len(keys), 7)]
    return split_codes(keys, split_cut(lambda: iter(lots), len(keys), share))


def test_the_validation_share_is_met_and_at_least_one():
    texts = [d.text for d in synthetic(documents=200)]
    for share, expected in [(0.0, 0), (0.001, 1), (0.02, 4), (0.5, 100)]:
        assert codes_of(texts, share).sum() == expected
    assert codes_of(texts[:1], 0.5).tolist() == [0]
    assert sorted(codes_of(texts[:2], 0.02).tolist()) == [0, 1]


@given(
    keys=st.lists(st.integers(0, 3) | st.integers(0, 2**64 - 1), min_size=2, max_size=40),
    share=st.floats(0.001, 0.5),
)
def test_the_cut_is_the_one_that_sorting_all_keys_would_give(keys, share):
    wanted = min(max(1, round(share * len(keys))), len(keys) - 1)
    array = np.array(keys, dtype=np.uint64)
    assert split_cut(lambda: [array[::2], array[1::2]], len(keys), share) == sorted(keys)[wanted - 1]


def test_equal_texts_never_sit_on_both_sides():
    texts = [d.text for d in synthetic(documents=30)]
    codes = codes_of(texts * 3, 0.2)
    assert (codes.reshape(3, 30) == codes[:30]).all()


def test_a_text_keeps_its_side_when_the_others_are_reordered():
    texts = [d.text for d in synthetic(documents=100)]
    assert codes_of(texts[::-1], 0.1).tolist() == codes_of(texts, 0.1)[::-1].tolist()


def test_equal_documents_only_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        make([Document(i, str(i), "same") for i in range(3)], tmp_path / "a")
    assert str(error.value) == "all 3 documents are equal\n  expected: at least two different texts"


def test_one_document_is_enough_to_train_on(tmp_path):
    one = make([Document(0, "a", "a text")], tmp_path / "one")
    assert (one.n_tokens("train") > 0, one.n_tokens("val")) == (True, 0)
    assert one.document(0).text == "a text" and verify(one.path) == []


def test_unigram_entropy_of_known_counts():
    assert unigram_entropy(np.array([0, 0])) == 0
    assert unigram_entropy(np.array([0, 3, 0])) == 0
    assert unigram_entropy(np.array([1, 1, 0, 1, 1])) == round(np.log(4), 6)


# ----------------------------------------------------------------------------------------------- any amount


WORKERS = """
import sys
from llmkit.data import build
from llmkit.data.preprocess import DropNearDuplicates, Normalise
from llmkit.data.synthetic import synthetic
documents = synthetic(documents=150, seed=3)
build(documents, sys.argv[1], vocab_size=400, name="small", sources={}, steps=[Normalise(), DropNearDuplicates()])
"""


def test_a_build_has_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    for threads in (1, 2):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TOKENIZERS_PARALLELISM": "true",
            "RAYON_NUM_THREADS": str(threads),
            "PYTHONHASHSEED": str(threads),
        }
        subprocess.run([sys.executable, "-c", WORKERS, tmp_path / str(threads)], env=environment, check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_documents_may_come_from_an_iterator_in_lots_of_any_size(documents, small, tmp_path, monkeypatch):
    monkeypatch.setattr("llmkit.data.spool.BATCH", 1500)  # a few documents at a time
    monkeypatch.setattr("llmkit.data.spool.LOT", 7)
    again = make(iter(documents), tmp_path / "again", sources={"seed": 3}, val_share=0.1, shard_tokens=1000)
    assert contents(again.path) == contents(small.path)


def test_a_set_of_many_shards_is_built_without_a_sketch(documents, small, tmp_path, monkeypatch):
    monkeypatch.setattr("llmkit.data.building.SKETCH_SHARDS", len(small.manifest.shards) - 1)
    options = {"sources": {"seed": 3}, "val_share": 0.1, "shard_tokens": 1000}
    without = make(documents, tmp_path / "a", **options)
    assert without.manifest.sketch is None and small.manifest.sketch is not None
    assert without.digest == small.digest and not (without.path / "sketch.npz").exists()


def test_a_document_longer_than_many_shards_begins_in_one_and_ends_in_another(tmp_path):
    documents = [Document(0, "a", "so be it. " * 50), Document(1, "b", "or not")]
    one = make(documents, tmp_path / "one", vocab_size=257, val_share=0, shard_tokens=100)
    assert [s.first_document for s in one.manifest.shards] == [0] * 6  # token 500 ends document 0
    assert [one.document(i).text for i in (0, 1)] == [d.text for d in documents] and verify(one.path) == []


def test_the_tokenizer_learns_from_a_share_that_the_texts_choose(documents, tmp_path, monkeypatch):
    monkeypatch.setattr("llmkit.data.building.TRAIN_BYTES", sum(len(d.text) for d in documents) // 4)
    whole = make(documents, tmp_path / "a")
    backwards = make(documents[::-1], tmp_path / "b")
    assert whole.tokenizer_digest == backwards.tokenizer_digest
    keys = [int.from_bytes(hashlib.sha256(d.text.encode()).digest()[8:16], "big") for d in documents]
    total = sum(len(d.text.encode()) for d in documents)
    share = (sum(len(d.text) for d in documents) // 4) / total
    chosen = [d.text for d, key in zip(documents, keys, strict=True) if key < share * 2**64]
    assert 0 < len(chosen) < len(documents) / 2
    assert train_tokenizer(chosen, 300).digest == whole.tokenizer_digest


def test_a_later_version_keeps_the_tokenizer_and_names_its_parent(documents, small, tmp_path):
    later = make(documents[:30], tmp_path / "later", parent=small.digest, tokenizer=small.tokenizer)
    assert later.manifest.parent == small.digest and later.tokenizer_digest == small.tokenizer_digest
    assert later.document(29).text == documents[29].text


def test_progress_is_told_in_documents(documents, tmp_path):
    told: list[tuple[str, int, int]] = []
    make(documents, tmp_path / "a", progress=lambda *words: told.append(words))
    assert told == [("train", 0, 40), ("encode", 40, 40)]


# ---------------------------------------------------------------------------------------------- long texts


BLANKS = st.text(alphabet="ab'st.1\u00e9\u4eac \n\r\t\u00a0\u2003\u3000", max_size=60)


@given(text=BLANKS | st.text(max_size=60))
def test_pieces_encode_to_the_ids_of_the_whole(small, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmkit.data.packing.PIECE", 1)
        parts = list(pieces(text))
        (ids,) = encode(small.tokenizer, [text], np.dtype(np.uint16))
    assert "".join(parts) == text
    assert ids.tolist() == [*small.encode(text), END_ID]


def test_a_long_text_is_cut_and_a_word_never_is():
    text = "word " * 2000 + "x" * 20_000 + " end"
    assert [len(p) for p in pieces(text)] == [4099, 4100, 21_801, 4]
    assert len(list(pieces("x" * 100_000))) == 1
