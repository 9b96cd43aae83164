"""Protects: every document comes back from the shards as it went in, and every position knows its document.

python -m pytest tests/data/test_dataset.py
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from llmkit.data import TokenDataset, describe
from llmkit.data.tokenizer import END_ID
from llmkit.errors import ConfigError, DataError, IntegrityError

SPLITS = ("train", "val")


def test_every_document_comes_back_bit_for_bit(small, documents):
    assert [small.document(i) for i in range(small.n_documents)] == documents


def test_the_stream_is_documents_and_end_tokens_in_order(small, documents):
    for split in SPLITS:
        ids = [i for i in range(40) if small.span(i)[0] == split]
        expected = [t for i in ids for t in [*small.encode(documents[i].text), END_ID]]
        assert small.tokens(split)[:].tolist() == expected
        assert len(ids) == small.manifest.splits[split].documents > 0


def test_every_position_of_every_split_is_traced_to_its_document(small):
    for split in SPLITS:
        stream = small.tokens(split)
        seen: dict[int, list[int]] = {}
        for position in range(len(stream)):
            document, offset = small.document_at(split, position)
            assert offset == len(seen.setdefault(document, []))
            seen[document].append(stream[position])
        for document, ids in seen.items():
            assert ids[-1] == END_ID and END_ID not in ids[:-1]
            assert small.decode(ids[:-1]) == small.document(document).text


def test_shards_read_as_one_array_across_their_borders(small):
    stream = small.tokens("train")
    whole = np.concatenate(stream.shards)
    assert len(stream.shards) > 3 and len(stream) == len(whole) == small.n_tokens("train")
    for start, stop in [(0, 10), (990, 1010), (995, 3005), (len(whole) - 5, len(whole) + 5), (7, 7)]:
        assert stream[start:stop].tolist() == whole[start:stop].tolist()
    assert stream[10:2000:7].tolist() == whole[10:2000:7].tolist()
    assert [stream[999], stream[1000], stream[-1]] == [whole[999], whole[1000], whole[-1]]
    with pytest.raises(IndexError):
        stream[len(whole)]
    with pytest.raises(AssertionError, match="beyond the stream"):
        stream.read(len(whole) - 3, np.empty(4, dtype=np.int64))


def test_shards_are_mapped_and_cannot_be_written(small):
    with pytest.raises(ValueError, match="read-only"):
        small.tokens("train").shards[0][0] = 1


def test_first_documents_of_shards_are_true(small):
    for split in SPLITS:
        for i, shard in enumerate(small.shards(split)):
            assert small.document_at(split, i * 1000)[0] == shard.first_document


def test_a_pickled_data_set_is_the_same(small):
    again = pickle.loads(pickle.dumps(small))
    assert again.digest == small.digest and again.document(3) == small.document(3)


def test_describe_is_plain_json_values(small):
    facts = describe(small.path)
    assert facts["digest"] == small.digest
    assert facts["sources"] == {"seed": 3}
    assert facts["splits"]["train"]["tokens"] == small.n_tokens("train")


def test_unigram_entropy_is_that_of_the_token_counts(small):
    counts = np.bincount(small.tokens("train")[:])
    p = counts[counts > 0] / counts.sum()
    assert small.manifest.splits["train"].unigram_entropy_nats == pytest.approx(
        -(p * np.log(p)).sum(), abs=1e-6
    )


def test_a_flipped_bit_in_any_file_is_found_on_opening_and_named(copied):
    for file in sorted(copied.iterdir()):
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(IntegrityError) as error:
            TokenDataset(copied)
        assert f"`{file}` is corrupt: " in str(error.value)
        file.write_bytes(content)
    TokenDataset(copied)


def test_the_message_for_a_corrupt_shard(copied):
    shard = copied / "train-00001.bin"
    content = bytearray(shard.read_bytes())
    content[0] ^= 128
    shard.write_bytes(content)
    with pytest.raises(IntegrityError) as error:
        TokenDataset(copied)
    first, expected, remedy = str(error.value).split("\n")
    assert first.startswith(f"`{shard}` is corrupt: SHA-256 ") and first.endswith("...")
    assert expected.startswith("  expected: ") and expected.endswith("..., as its manifest says")
    assert remedy == "  remedy: build the data set again"


def test_a_missing_and_a_short_shard_are_found_without_hashing(copied):
    shard = copied / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(IntegrityError) as error:
        TokenDataset(copied, check=False)
    assert str(error.value) == (
        f"`{shard}` has 1,998 bytes\n"
        "  expected: 2,000 bytes, as its manifest says\n"
        "  remedy: build the data set again"
    )
    shard.unlink()
    with pytest.raises(IntegrityError) as error:
        TokenDataset(copied, check=False)
    assert str(error.value) == f"`{shard}` is missing\n  remedy: build the data set again"


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        TokenDataset(tmp_path / "nowhere")
    assert str(error.value) == (
        f"no data set in `{tmp_path / 'nowhere'}`\n"
        "  expected: a folder with manifest.json, `docstrings` or `generated`\n"
        "  remedy: build one with: llmkit data build PATH... --out FOLDER"
    )


def test_another_vocabulary_is_refused(small):
    small.check_vocab(300)
    with pytest.raises(ConfigError) as error:
        small.check_vocab(512)
    assert str(error.value) == (
        "vocabulary mismatch: data set `small` has 300, not 512\n"
        "  expected: the same vocabulary in model and data\n"
        "  remedy: set vocab_size=300, or build the data with another vocabulary"
    )


def test_what_does_not_exist_is_refused(small):
    with pytest.raises(ConfigError, match="unknown split `test`\n  expected: `train` or `val`"):
        small.tokens("test")
    with pytest.raises(ConfigError, match="no document 40\n  expected: 0 to 39"):
        small.document(40)
    with pytest.raises(ConfigError, match=r"no position -1 in split `val`\n  expected: 0 to "):
        small.document_at("val", -1)
