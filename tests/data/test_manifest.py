"""Protects: the digest covers all that decides the tokens, and a wrong manifest is refused with the reason.

python -m pytest tests/data/test_manifest.py
"""

from __future__ import annotations

import hashlib
import json

import pytest

from llmkit.data import open_dataset, verify
from llmkit.data.manifest import read_manifest
from llmkit.data.shards import LEAF, FileWriter
from llmkit.errors import DataError, IntegrityError


def edit(folder, change) -> str:
    """Change the manifest's JSON and return the message it is refused with."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError) as error:
        read_manifest(folder)
    return str(error.value)


def corrupt(folder, what: str) -> str:
    return f"`{folder / 'manifest.json'}` is corrupt: {what}\n  remedy: build the data set again"


def test_a_torn_manifest_is_refused(copied):
    path = copied / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(IntegrityError) as error:
        read_manifest(copied)
    assert str(error.value).startswith(f"`{path}` is corrupt: invalid JSON: EOF while parsing")


def test_a_missing_field_is_named(copied):
    assert edit(copied, lambda m: m.pop("digest")) == corrupt(copied, "field `digest`: field required")


def test_a_field_of_another_type_is_named(copied):
    def change(m):
        m["shards"][1]["tokens"] = "many"

    assert edit(copied, change) == corrupt(copied, "field `shards.1.tokens`: input should be a valid integer")


def test_an_unknown_field_is_named(copied):
    message = edit(copied, lambda m: m.update(extra=1))
    assert message == corrupt(copied, "field `extra`: extra inputs are not permitted")


def test_shards_that_do_not_make_up_a_split_are_refused(copied):
    message = edit(copied, lambda m: m["shards"].pop(0))
    assert message == corrupt(copied, "its shards do not make up split `train`")


def swap_two_shards(m):
    one, two = m["shards"][:2]
    one["sha256"], two["sha256"] = two["sha256"], one["sha256"]


@pytest.mark.parametrize(
    "change",
    [
        swap_two_shards,
        lambda m: m.update(tokenizer_digest="0" * 64),
        lambda m: m["index"].update(sha256="0" * 64),
        lambda m: m["names"].update(sha256="0" * 64),
        lambda m: m["shards"][2].update(sha256="0" * 64),
        lambda m: m["shards"][2].update(dtype="uint32"),
    ],
)
def test_the_digest_covers_tokens_their_order_their_meaning_and_their_documents(copied, change):
    assert edit(copied, change) == corrupt(copied, "its digest is not the digest of its parts")


def test_the_digest_does_not_depend_on_the_order_in_which_shards_are_listed(copied):
    manifest = read_manifest(copied)
    backwards = manifest.model_copy(update={"shards": manifest.shards[::-1]})
    assert backwards.recompute() == manifest.digest


# --------------------------------------------------------------------------------- other versions, other files


@pytest.mark.parametrize(
    ("found", "age", "remedy"), [(3, "a newer", "upgrade llmkit"), (1, "an older", "build it again")]
)
def test_another_format_is_named_before_anything_else_is_looked_at(copied, found, age, remedy):
    path = copied / "manifest.json"
    path.write_text(json.dumps({"format": found, "made_with": {"llmkit": "9.1"}, "unheard": "of"}))
    with pytest.raises(DataError) as error:
        read_manifest(copied)
    assert str(error.value) == (
        f"`{path}` was made by {age} llmkit (9.1): format {found}\n  expected: format 2\n  remedy: {remedy}"
    )
    assert not isinstance(error.value, IntegrityError)


@pytest.mark.parametrize(
    "content", ["[]", "null", "7", '{"format": []}', '{"format": "x"}', "[" * 9999, "\xff"]
)
def test_what_is_no_manifest_is_corrupt_and_not_of_another_version(copied, content):
    (copied / "manifest.json").write_text(content)
    with pytest.raises(IntegrityError, match="is corrupt"):
        read_manifest(copied)


def test_two_entries_with_one_name_are_refused(copied):
    def change(m):
        m["shards"][1]["name"] = m["shards"][0]["name"].upper()

    message = edit(copied, change)
    assert message == corrupt(copied, "two of its entries claim the file `train-00000.bin`")
    (problem,) = verify(copied)
    assert "two of its entries claim" in problem


@pytest.mark.parametrize(
    "name", ["../train-00000.bin", "a/b", "a\\b", "/etc/passwd", "..", "", ".x", "manifest.json"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(copied, name):
    message = edit(copied, lambda m: m["shards"][0].update(name=name))
    assert message == corrupt(copied, f"field `shards.0.name`: `{name}` is no plain file name")


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(copied, small):
    shard = copied / "train-00000.bin"
    shard.rename(copied / "elsewhere")
    shard.symlink_to("elsewhere")
    assert open_dataset(copied).digest == small.digest and verify(copied) == []
    shard.unlink()
    shard.symlink_to(small.path / "train-00000.bin")  # the right bytes, and still not ours to trust
    with pytest.raises(IntegrityError) as error:
        open_dataset(copied)
    assert str(error.value) == (
        f"`{shard}` is a link that leads out of the data set\n"
        "  expected: a file in the folder\n"
        "  remedy: put the file itself there"
    )
    assert verify(copied) == [
        f"`{shard}` is a link that leads out of the data set, expected a file in the folder"
    ]


def test_a_data_set_may_be_reached_through_a_link(copied, tmp_path):
    (tmp_path / "link").symlink_to(copied)
    assert verify(tmp_path / "link") == []


# -------------------------------------------------------------------------------- what is beside the shards


def test_hashes_are_those_of_the_texts_in_the_order_of_their_ids(small, documents):
    found = (small.path / "documents.sha256").read_bytes()
    assert found == b"".join(hashlib.sha256(d.text.encode()).digest() for d in documents)


def test_leaves_are_those_of_the_shards_in_the_order_of_the_manifest(small):
    found = (small.path / "leaves.sha256").read_bytes()
    shards = [(small.path / s.name).read_bytes() for s in small.manifest.shards]
    assert found == b"".join(hashlib.sha256(content).digest() for content in shards)  # all below a MiB


def test_a_leaf_is_a_mebibyte_however_the_file_was_written(tmp_path):
    content = bytes(range(256)) * 4096 * 2 + b"rest"
    first = hashlib.sha256(content[:LEAF]).digest()
    expected = [first, first, hashlib.sha256(b"rest").digest()]
    for size in (999_983, LEAF, 3 * LEAF):
        file = FileWriter(tmp_path, "file")
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
        entry = file.finish()
        assert file.leaves == expected
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (tmp_path / "file").read_bytes() == content
    empty = FileWriter(tmp_path, "empty")
    assert (empty.finish().bytes, empty.leaves) == (0, [])
