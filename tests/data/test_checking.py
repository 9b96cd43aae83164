"""Protects: `verify` finds every flipped bit and every part that does not fit, and names the file.

python -m pytest tests/data/test_checking.py
"""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest

from llmkit.data import verify
from llmkit.data.manifest import Manifest, read_manifest
from llmkit.errors import DataError


def test_a_good_data_set_has_no_problems(small):
    assert verify(small.path) == []


def test_every_one_of_a_hundred_random_bit_flips_is_found_in_its_file(copied):
    draw = random.Random(0)
    files = sorted(p for p in copied.iterdir() if p.name != "manifest.json")
    for _ in range(100):
        file = draw.choice(files)
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        (problem,) = verify(copied)
        assert problem.startswith(f"`{file}` is corrupt: SHA-256 ")
        file.write_bytes(content)
    assert verify(copied) == []


def test_all_problems_are_listed_in_the_order_of_the_manifest(copied):
    (copied / "val-00000.bin").unlink()
    (copied / "train-00001.bin").write_bytes(b"")
    assert verify(copied) == [
        f"`{copied / 'train-00001.bin'}` has 0 bytes, expected 2,000 bytes, as its manifest says",
        f"`{copied / 'val-00000.bin'}` is missing",
    ]


def test_a_corrupt_manifest_is_a_problem(copied):
    (copied / "manifest.json").write_text("{}")
    (problem,) = verify(copied)
    assert problem.startswith(f"`{copied / 'manifest.json'}` is corrupt: field `format`: field required")


def test_no_data_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no data set in"):
        verify(tmp_path)


def rewrite(folder, name: str, change) -> None:
    """Change a file and hash it anew, as a faulty writer would: the hashes are right, the content is not."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in [manifest["tokenizer"], manifest["index"], *manifest["shards"]]:
        if entry["name"] == name:
            entry["sha256"], entry["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    manifest["digest"] = Manifest.model_construct(
        tokenizer_digest=manifest["tokenizer_digest"],
        **{k: read_entry(manifest[k]) for k in ("index", "names")},
        shards=[read_entry(s) for s in manifest["shards"]],
    ).recompute()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    read_manifest(folder)


def read_entry(content: dict):
    from llmkit.data.manifest import FileEntry, ShardEntry

    return (ShardEntry if "dtype" in content else FileEntry)(**content)


def test_a_token_beyond_the_vocabulary_is_found_though_its_hash_is_right(copied):
    def change(content):
        tokens = np.frombuffer(content, "<u2").copy()
        tokens[5] = 300
        return tokens.tobytes()

    rewrite(copied, "train-00002.bin", change)
    assert verify(copied) == [f"`{copied / 'train-00002.bin'}` holds token 300, the vocabulary ends at 299"]


def test_an_index_that_does_not_cover_its_split_is_found(copied, small):
    def change(content):
        index = np.frombuffer(content, "<i8").reshape(-1, 3).copy()
        index[7, 2] += 1
        return index.tobytes()

    rewrite(copied, "documents.i64", change)
    split = small.span(7)[0]
    assert verify(copied) == [
        f"split `{split}`: the document index does not cover its {small.n_tokens(split):,} tokens"
    ]


def test_another_tokenizer_is_found(copied):
    def change(content):
        tokenizer = json.loads(content)
        vocab = tokenizer["model"]["vocab"]
        one, two = sorted(vocab, key=vocab.get)[-2:]
        vocab[one], vocab[two] = vocab[two], vocab[one]
        return json.dumps(tokenizer).encode()

    rewrite(copied, "tokenizer.json", change)
    assert verify(copied) == [f"`{copied / 'tokenizer.json'}` is not the tokenizer of this data set"]
