"""Protects: every violation of the schema is reported where it is, and clean text passes in silence.

python -m pytest tests/data/test_schema.py
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit.data.manifest import Manifest
from llmkit.data.reading import Violation
from llmkit.data.schema import Check
from llmkit.errors import DataError

GOOD = {"text": "a good text", "id": "a", "source": "notes/a", "licence": "CC-BY-4.0", "length": 11}


def lines(path, *rows) -> list[Violation]:
    """Violations of rows written as JSON lines; a string is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return list(Check([path]))


def brief(violations: list[Violation]) -> list[tuple]:
    return [(v.line, v.field, v.found) for v in violations]


def test_a_good_document_passes(tmp_path):
    path = tmp_path / "a.jsonl"
    assert lines(path, GOOD) == []
    assert (
        lines(
            path, {"text": "only this"}, {"text": "and more", "extra": [None]}, {"text": "n\u00e4h", "id": 0}
        )
        == []
    )


@pytest.mark.parametrize(
    ("change", "field", "found", "expected"),
    [
        ({"text": 7}, "text", "7", "a string"),
        ({"text": None}, "text", "None", "a string"),
        ({"text": "", "length": 0}, "text", "is empty", "text"),
        ({"text": " \n\u3000", "length": 3}, "text", "is blank", "text"),
        ({"text": "a good\0text"}, "text", "holds NUL at character 6", "no NUL"),
        ({"text": "a good \udc80tex"}, "text", "holds half a character, U+DC80, at 7", "Unicode text"),
        ({"id": ""}, "id", "''", "a string that is not empty, or an integer from 0 to 2^63 - 1"),
        ({"id": -1}, "id", "-1", "a string that is not empty, or an integer from 0 to 2^63 - 1"),
        (
            {"id": 2**63},
            "id",
            "9223372036854775808",
            "a string that is not empty, or an integer from 0 to 2^63 - 1",
        ),
        ({"id": True}, "id", "True", "a string that is not empty, or an integer from 0 to 2^63 - 1"),
        ({"id": 1.0}, "id", "1.0", "a string that is not empty, or an integer from 0 to 2^63 - 1"),
        ({"source": " "}, "source", "' '", "one line that is not empty"),
        ({"source": "a\nb"}, "source", "'a\\nb'", "one line that is not empty"),
        ({"source": ["a"]}, "source", "['a']", "one line that is not empty"),
        ({"licence": "x" * 201}, "licence", "'" + "x" * 56 + "...", "one line of 1 to 200 characters"),
        ({"licence": None}, "licence", "None", "one line of 1 to 200 characters"),
        ({"length": 12}, "length", "12", "11, the characters of `text`"),
        ({"length": 11.0}, "length", "11.0", "11, the characters of `text`"),
        ({"length": "11"}, "length", "'11'", "11, the characters of `text`"),
    ],
)
def test_a_field_that_breaks_the_schema_is_reported_with_what_was_found(
    tmp_path, change, field, found, expected
):
    path = tmp_path / "a.jsonl"
    other = {"text": "before"}
    assert lines(path, other, GOOD | change) == [Violation(str(path), 2, field, found, expected)]


def test_a_document_without_text_is_reported(tmp_path):
    assert brief(lines(tmp_path / "a.jsonl", {"id": 1})) == [(1, "text", "is missing")]


def test_all_violations_of_a_document_are_reported_and_the_next_document_is_read(tmp_path):
    found = lines(
        tmp_path / "a.jsonl",
        {"text": "\0\ud83d", "id": [], "length": 3},
        "{",
        "[]",
        {"text": "fine"},
        {"id": 4},
    )
    assert brief(found) == [
        (1, "text", "holds NUL at character 0"),
        (1, "text", "holds half a character, U+D83D, at 1"),
        (1, "id", "[]"),
        (1, "length", "3"),
        (2, "", "is not JSON: expecting property name enclosed in double quotes at column 2"),
        (3, "", "has no text"),
        (5, "text", "is missing"),
    ]


def test_ids_and_texts_that_occur_twice_are_reported_with_the_first_place(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": 1, "text": "same"}) + "\n")
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"id": "1", "text": "Same"}) + "\n" + json.dumps({"id": 1, "text": "1"})
    )
    assert [(v.where, v.field, v.found) for v in Check([tmp_path])] == [
        (f"{tmp_path}/b.jsonl:1", "text", f"is the same as in {tmp_path}/a.txt"),
        (f"{tmp_path}/c.jsonl:2", "id", f"1, as in {tmp_path}/b.jsonl:1"),
    ]


@given(st.lists(st.sampled_from(["x", "y", "z", "1"]), max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_copy_is_reported_and_nothing_else(tmp_path, texts):
    found = lines(tmp_path / "a.jsonl", *({"text": text} for text in texts), {"text": "last"})
    assert [v.line for v in found] == [i + 1 for i, text in enumerate(texts) if text in texts[:i]]


def test_files_without_documents_are_reported(tmp_path):
    for name in ("a.jsonl", "b.txt", "c.jsonl"):
        (tmp_path / name).write_text("\n \n" if name == "c.jsonl" else "")
    assert [(v.where, v.field, v.found) for v in Check([tmp_path])] == [
        (f"{tmp_path}/a.jsonl", "", "holds no document"),
        (f"{tmp_path}/b.txt", "text", "is empty"),
        (f"{tmp_path}/c.jsonl", "", "holds no document"),
    ]


def test_what_cannot_be_checked_is_an_error(tmp_path):
    for path, message in [(tmp_path, "nothing to check in"), (tmp_path / "x.txt", "no file or folder")]:
        with pytest.raises(DataError, match=message):
            list(Check([path]))


def test_rows_and_missing_columns_of_parquet_are_reported(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [GOOD, GOOD | {"id": "b", "text": None, "length": None}, GOOD | {"text": "other", "length": 4}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [(v.where.rpartition("/")[2], v.field, v.found) for v in Check([tmp_path])] == [
        ("a.parquet#1", "text", "None"),
        ("a.parquet#2", "length", "4"),
        ("a.parquet#2", "id", "'a', as in " + str(tmp_path / "a.parquet#0")),
    ]
    (violation,) = Check([tmp_path], field="body")
    assert violation.found == "has no column `body`" and violation.line is None


def test_text_of_ten_megabytes_is_checked_in_bounded_memory(tmp_path):
    with open(tmp_path / "a.jsonl", "w") as file:
        for i in range(10_000):
            file.write(json.dumps({"id": i, "text": f"{i} " * 200}) + "\n")
    tracemalloc.start()
    told: list[int] = []
    check = Check([tmp_path], progress=told.append)
    assert list(check) == [] and (check.documents, check.files, told) == (10_000, 1, [10_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.jsonl").stat().st_size > 9_000_000 and peak < 2_000_000


# ---------------------------------------------------------------------------------------------------- shards


def test_a_data_set_as_it_was_built_passes(small):
    assert list(Check([small.path])) == []


def forged(folder, name: str, change) -> None:
    """Change a shard and hash it anew, as a faulty writer would."""
    tokens = np.fromfile(folder / name, "<u2")
    change(tokens)
    tokens.tofile(folder / name)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    sha = hashlib.sha256(tokens.tobytes()).hexdigest()
    shards = [s.model_copy(update={"sha256": sha}) if s.name == name else s for s in manifest.shards]
    manifest = manifest.model_copy(update={"shards": shards})
    manifest = manifest.model_copy(update={"digest": manifest.recompute()})
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_ids_and_end_tokens_out_of_place_are_reported(copied, small):
    ends = np.flatnonzero(np.fromfile(copied / "train-00001.bin", "<u2") == 0)

    def change(tokens):
        tokens[ends[0]] = 5
        tokens[[7, 9]] = 300, 400

    forged(copied, "train-00001.bin", change)
    forged(copied, "train-00002.bin", lambda tokens: tokens.__setitem__(3, 0))
    other = np.fromfile(small.path / "train-00002.bin", "<u2")
    assert [(v.where, v.field, v.found, v.expected) for v in Check([copied])] == [
        (f"{copied}/train-00001.bin", "ids", "300 at token 7 (2 in all)", "0 to 299"),
        (
            f"{copied}/train-00001.bin",
            "end tokens",
            f"no end token at token {ends[0]} ({len(ends) - 1} in all)",
            f"{len(ends)}, one per document",
        ),
        (
            f"{copied}/train-00002.bin",
            "end tokens",
            f"an end token at token 3 ({(other == 0).sum() + 1} in all)",
            f"{(other == 0).sum()}, one per document",
        ),
    ]


def test_a_shard_of_another_size_or_a_torn_manifest_is_reported(copied):
    (copied / "train-00001.bin").write_bytes(b"")
    (violation,) = Check([copied])
    assert violation.found == f"`{copied / 'train-00001.bin'}` has 0 bytes"
    (copied / "manifest.json").write_text("{}")
    (violation,) = Check([copied])
    assert "manifest.json` is corrupt" in violation.found


def test_ids_wider_than_the_vocabulary_needs_are_reported(documents, tmp_path, monkeypatch):
    from llmkit.data import build

    monkeypatch.setattr("llmkit.data.packing.LARGEST_UINT16", 256)
    wide = build(documents, tmp_path / "wide", vocab_size=300, name="wide", sources={}, val_share=0)
    assert [(v.field, v.found, v.expected) for v in Check([wide.path])] == [
        ("dtype", "uint32", "uint16 for 300 tokens")
    ]
