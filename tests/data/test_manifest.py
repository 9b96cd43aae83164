"""Protects: the digest covers all that decides the tokens, and a wrong manifest is refused with the reason.

python -m pytest tests/data/test_manifest.py
"""

from __future__ import annotations

import json

import pytest

from llmkit.data.manifest import read_manifest
from llmkit.errors import IntegrityError


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
