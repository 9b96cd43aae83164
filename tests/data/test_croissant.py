"""Protects croissant.json: every property that the standard requires, every file with size and hash, no clock.

pytest tests/data/test_croissant.py
"""

from __future__ import annotations

import hashlib
import json

import pytest

from llmkit.data import verify, write_croissant
from llmkit.errors import DataError

GIVEN = {
    "licence": "https://spdx.org/licenses/MIT", "url": "https://example.org/x", "creator": "A. Author",
    "published": "2026-11-25",
}  # fmt: skip


@pytest.fixture
def written(copied):
    assert write_croissant(copied, **GIVEN) == []
    return json.loads((copied / "croissant.json").read_text())


def test_the_dataset_has_what_section_dataset_level_information_requires(written):
    required = {
        "@context",
        "@type",
        "conformsTo",
        "description",
        "license",
        "name",
        "url",
        "creator",
        "datePublished",
    }
    assert required | {"distribution"} <= written.keys()
    assert (written["@type"], written["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.1")
    assert written["creator"] == {"@type": "sc:Organization", "name": "A. Author"}


def test_every_file_of_the_set_is_an_object_with_its_size_and_hash(written, copied):
    files = {entry["@id"]: entry for entry in written["distribution"]}
    assert set(files) == {path.name for path in copied.iterdir()} - {"croissant.json"}
    for name, entry in files.items():
        content = (copied / name).read_bytes()
        assert entry["@type"] == "cr:FileObject" and entry["name"] == entry["contentUrl"] == name
        assert entry["contentSize"] == f"{len(content)} B"
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert "/" in entry["encodingFormat"]


def test_ids_are_unique_and_every_reference_leads_to_one(written):
    ids, references = [], []

    def visit(node):
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            visit(child)
        if isinstance(node, dict) and "@id" in node:
            (references if len(node) == 1 else ids).append(node["@id"])

    visit({key: value for key, value in written.items() if key != "@context"})
    assert len(ids) == len(set(ids)) and references and set(references) <= set(ids)


def test_the_terms_that_are_used_are_in_the_context(written):
    used = set()

    def visit(node):
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            visit(child)
        used.update(node if isinstance(node, dict) else ())

    visit(written["recordSet"])
    schema_org = {"name", "@type", "@id"}
    assert used - schema_org <= written["@context"].keys()


def test_the_records_are_the_documents(written, small, copied):
    (records,) = written["recordSet"]
    (names,) = {field["source"]["fileObject"]["@id"] for field in records["field"]}
    lines = (copied / names).read_text().splitlines()
    assert [json.loads(line) for line in lines] == small.sources
    parts = {field["name"]: field["source"]["extract"]["fileProperty"] for field in records["field"]}
    assert parts == {"id": "lineNumbers", "source": "lines"} and records["key"] == {"@id": "documents/id"}


def test_the_same_set_gives_the_same_bytes_and_stays_whole(copied):
    write_croissant(copied, **GIVEN)
    before = (copied / "croissant.json").read_bytes()
    write_croissant(copied, **GIVEN)
    assert (copied / "croissant.json").read_bytes() == before and verify(copied) == []


def test_what_is_required_and_not_known_is_left_out_and_named(copied, tmp_path):
    assert write_croissant(copied) == ["license", "url", "creator", "datePublished"]
    assert "license" not in json.loads((copied / "croissant.json").read_text())
    with pytest.raises(DataError, match="no data set in"):
        write_croissant(tmp_path / "nothing")
