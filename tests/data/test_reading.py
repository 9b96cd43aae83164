"""Protects: your own files become documents exactly, and a malformed one is named with its line.

python -m pytest tests/data/test_reading.py
"""

from __future__ import annotations

import json
import sys

import pytest

from llmkit.data import Document, read_documents
from llmkit.errors import DataError, MissingDependency


def refusal(paths) -> str:
    with pytest.raises(DataError) as error:
        read_documents(paths)
    return str(error.value)


def test_a_folder_is_read_by_name_and_other_files_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.txt").write_bytes("line one\r\nna\u00efve".encode())
    (tmp_path / "a.JSONL").write_text('{"text": "first"}\n\n{"text": "second", "id": 7}\n')
    (tmp_path / "sub" / "c.txt").write_bytes(b"\xef\xbb\xbfafter the mark")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden" / "d.txt").write_text("not this")
    assert read_documents([tmp_path]) == [
        Document(0, f"{tmp_path}/a.JSONL:1", "first"),
        Document(1, f"{tmp_path}/a.JSONL:3", "second"),
        Document(2, f"{tmp_path}/b.txt", "line one\r\nna\u00efve"),
        Document(3, f"{tmp_path}/sub/c.txt", "after the mark"),
    ]


def test_paths_are_read_in_the_order_given(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    texts = [d.text for d in read_documents([str(tmp_path / "b.txt"), tmp_path / "a.txt"])]
    assert texts == ["b", "a"]


def test_a_path_that_does_not_exist_is_named(tmp_path):
    assert refusal([tmp_path / "x.txt"]) == f"no file or folder `{tmp_path / 'x.txt'}`"


def test_a_file_of_another_kind_is_refused_when_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    expected = f"cannot read `{tmp_path / 'a.csv'}`\n  expected: a .txt, .jsonl or .parquet file"
    assert refusal([tmp_path / "a.csv"]) == expected


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal([tmp_path]) == (
        f"no text in `{tmp_path}`\n  expected: at least one .txt, .jsonl or .parquet file with text in it"
    )
    assert refusal([]).startswith("no text in no paths\n")


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": bad}\n')
    assert refusal([path]) == (
        f'`{path}:2` is not JSON: expecting value at column 10\n  expected: a line such as {{"text": "..."}}'
    )


@pytest.mark.parametrize("line", ['{"body": "x"}', '{"text": 7}', '["text"]', '"text"', "null"])
def test_a_line_without_text_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    assert refusal([path]) == f'`{path}:1` has no text\n  expected: a line such as {{"text": "..."}}'


def test_another_field_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "x"}))
    assert read_documents([tmp_path], field="body")[0].text == "x"


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("caf\u00e9".encode("latin-1"))
    assert refusal([path]) == (
        f"`{path}` is not UTF-8 text: byte 3 is 0xe9\n"
        "  remedy: convert it, for example with: iconv -f LATIN1 -t UTF-8"
    )


def test_parquet_rows_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = ["one", "", "na\u00efve\r\n", "four"]
    parquet.write_table(pyarrow.table({"id": [1, 2, 3, 4], "text": texts}), path, row_group_size=2)
    assert read_documents([path]) == [
        Document(0, f"{path}#0", "one"),
        Document(1, f"{path}#2", "na\u00efve\r\n"),
        Document(2, f"{path}#3", "four"),
    ]
    with pytest.raises(DataError) as error:
        read_documents([path], field="body")
    assert str(error.value) == f"`{path}` has no column `body`\n  expected: one of its columns: `id`, `text`"
    with pytest.raises(DataError) as error:
        read_documents([path], field="id")
    assert str(error.value) == f"`{path}#0` has no text\n  expected: a string in column `id`"


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet here, only some text")
    assert refusal([path]).startswith(f"`{path}` is not a Parquet file: ")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(MissingDependency) as error:
        read_documents([tmp_path / "a.parquet"])
    assert str(error.value) == (
        f"reading `{tmp_path / 'a.parquet'}` needs pyarrow, which is not installed\n"
        '  remedy: pip install "llmkit[parquet]"'
    )
