"""Protects: `verify` finds every flipped bit and every part that does not fit, and names file and bytes.

python -m pytest tests/data/test_checking.py
"""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest

from llmkit.data import Document, build, examine, verify
from llmkit.data.manifest import Manifest, read_manifest
from llmkit.data.shards import LEAF
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
        f"`{copied / 'train-00001.bin'}` has 0 bytes, expected 2,000 bytes, as its manifest says; "
        "bytes 0 to 1,999 differ",
        f"`{copied / 'val-00000.bin'}` is missing",
    ]


def test_a_corrupt_manifest_is_a_problem(copied):
    (copied / "manifest.json").write_text("{}")
    (problem,) = verify(copied)
    assert problem.startswith(f"`{copied / 'manifest.json'}` is corrupt: field `format`: field required")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Three shards of 3 MiB and one of 300 kB: ten leaves, the last one short."""
    draw = random.Random(1)
    words = [" " + "".join(draw.choices("abcdefgh", k=7)) for _ in range(500)]
    texts = ["".join(draw.choices(words, k=24_350)) for _ in range(25)]
    documents = [Document(i, f"{i}", text) for i, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("data") / "long"
    build(documents, folder, vocab_size=257, name="long", sources={}, val_share=0, shard_tokens=3 * 2**19)
    return folder


def flip(path, position, bit=0):
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def test_every_one_of_a_hundred_random_flips_is_named_in_its_leaf_and_no_other(long):
    shards, draw = read_manifest(long).shards, random.Random(2)
    assert [s.bytes // LEAF for s in shards] == [3, 3, 3, 0] and shards[-1].bytes % LEAF > 0
    places = [(s, draw.randrange(s.bytes), draw.randrange(8)) for s in draw.choices(shards, k=96)]
    places += [(shards[1], p, 0) for p in (0, LEAF - 1, LEAF, 3 * LEAF - 1)]
    for shard, position, bit in places:
        flip(long / shard.name, position, bit)
        (damage,) = examine(long)
        leaf = position // LEAF * LEAF
        assert damage.file == str(long / shard.name)
        assert damage.ranges == ((leaf, min(leaf + LEAF, shard.bytes)),)
        assert damage.says.endswith(f"; bytes {leaf:,} to {damage.ranges[0][1] - 1:,} differ")
        flip(long / shard.name, position, bit)
    assert examine(long) == []


def test_adjacent_leaves_are_one_range_and_every_damaged_shard_is_named(long):
    names = [shard.name for shard in read_manifest(long).shards]
    flips = [(names[0], 5), (names[0], 2 * LEAF), (names[2], LEAF), (names[2], 3 * LEAF - 1), (names[3], 9)]
    for name, position in flips:
        flip(long / name, position)
    found = {damage.file: damage.ranges for damage in examine(long)}
    for name, position in flips:
        flip(long / name, position)
    assert found == {
        str(long / names[0]): ((0, LEAF), (2 * LEAF, 3 * LEAF)),
        str(long / names[2]): ((LEAF, 3 * LEAF),),
        str(long / names[3]): ((0, read_manifest(long).shards[3].bytes),),
    }
    assert examine(long) == []


@pytest.mark.parametrize(
    "size, ranges",
    [
        (0, ((0, 3 * LEAF),)),
        (LEAF, ((LEAF, 3 * LEAF),)),
        (LEAF + 7, ((LEAF, 3 * LEAF),)),
        (3 * LEAF - 1, ((2 * LEAF, 3 * LEAF),)),
        (3 * LEAF + 5, ((3 * LEAF, 3 * LEAF + 5),)),
    ],
)
def test_a_file_that_was_cut_or_grew_is_named_with_what_differs(long, size, ranges):
    path = long / read_manifest(long).shards[0].name
    content = path.read_bytes()
    path.write_bytes((content + bytes(size))[:size])
    (damage,) = examine(long)
    path.write_bytes(content)
    assert damage.ranges == ranges and f"has {size:,} bytes, expected {3 * LEAF:,} bytes" in damage.says


def test_damaged_leaves_are_named_themselves_and_no_range_is_made_up(copied):
    flip(copied / "leaves.sha256", 3)
    flip(copied / "train-00001.bin", 3)
    leaves, shard = examine(copied)
    assert leaves.file.endswith("leaves.sha256") and shard.file.endswith("train-00001.bin")
    assert shard.ranges == () and "bytes" not in shard.says


def test_a_shard_that_is_replaced_while_it_is_verified_is_noticed_though_every_byte_is_right(copied):
    shard = copied / "train-00002.bin"
    files = [entry.name for entry in read_manifest(copied).files()]
    read: list[int] = []

    def swap(size):
        read.append(size)
        if len(read) == len(files):  # the last one has been read; nothing has been judged
            again = copied / "again"
            again.write_bytes(shard.read_bytes())
            again.replace(shard)

    assert verify(copied, swap) == [f"`{shard}` was replaced or written to while it was verified"]
    assert read == [(copied / name).stat().st_size for name in files]
    assert verify(copied) == []


def test_a_manifest_that_is_replaced_meanwhile_is_noticed(copied):
    manifest = copied / "manifest.json"

    def swap(size):
        content = manifest.read_bytes()
        manifest.unlink()
        manifest.write_bytes(content + b"\n")

    assert verify(copied, swap) == [f"`{manifest}` was replaced or written to while it was verified"]


def test_what_cannot_be_read_is_a_problem_and_a_link_out_of_the_folder_is_not_followed(copied, tmp_path):
    outside = tmp_path / "elsewhere.bin"
    one, two = copied / "train-00000.bin", copied / "train-00001.bin"
    one.rename(outside)
    one.symlink_to(outside)
    two.unlink()
    two.mkdir()
    link, folder = examine(copied)
    assert link.says.startswith(f"`{one}` is a link that leads out of the data set") and link.ranges == ()
    assert folder.file == str(two) and folder.ranges == ()


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


def test_a_second_manifest_that_claims_a_shard_is_found_and_other_json_is_let_be(copied, small):
    (copied / "notes.json").write_text('{"shards": 3}')
    assert verify(copied) == []
    (copied / "old.json").write_bytes((copied / "manifest.json").read_bytes())
    first = sorted(shard.name for shard in small.manifest.shards)[0]
    assert verify(copied) == [f"`{copied / 'old.json'}` is a second manifest that claims `{first}`"]
