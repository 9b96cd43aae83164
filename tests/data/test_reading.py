"""Protects: your own files become documents exactly, and a malformed one is named with its line.

python -m pytest tests/data/test_reading.py
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmkit.data import Document, iter_documents, read_documents
from llmkit.data.reading import KINDS, Violation, rows
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
    expected = f"cannot read `{tmp_path / 'a.csv'}`\n  expected: a .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt file"
    assert refusal([tmp_path / "a.csv"]) == expected


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal([tmp_path]) == (
        f"no text in `{tmp_path}`\n"
        "  expected: at least one .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt file with text in it"
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
        "  expected: UTF-8; convert it, e.g. with iconv -f LATIN1 -t UTF-8"
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


# ----------------------------------------------------------------------------------------------- packed files


def packed(kind: str, content: bytes) -> bytes:
    """The content of a .jsonl file as a file of this kind holds it."""
    if kind == ".jsonl.zst":
        return pytest.importorskip("pyarrow").compress(content, codec="zstd", asbytes=True)
    return gzip.compress(content) if kind == ".jsonl.gz" else content


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_packed_file_reads_as_the_file_within(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    path.write_bytes(packed(kind, b'{"text": "one"}\r\n\n{"text": "two"}'))
    assert read_documents([tmp_path]) == [Document(0, f"{path}:1", "one"), Document(1, f"{path}:3", "two")]


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (".jsonl.gz", "cut"),
        (".jsonl.gz", "flipped"),
        (".jsonl.gz", "not packed"),
        (".jsonl.zst", "cut"),  # not flipped: a checksum of the content is optional there
        (".jsonl.zst", "not packed"),
    ],
)
def test_a_packed_file_that_breaks_off_is_named_with_the_last_line_that_was_whole(tmp_path, kind, damage):
    lines = b"".join(b'{"text": "%d"}\n' % i for i in range(50_000))
    content = bytearray(packed(kind, lines))
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content[:] = lines
    path = tmp_path / f"a{kind}"
    path.write_bytes(content)
    found = list(rows(path))
    assert isinstance(found[-1][1], Violation) and found[-1][1].found.startswith("cannot be read")
    whole = [(line, row) for line, row in found[:-1] if isinstance(row, dict)]
    assert len(whole) < 50_000 and (damage != "cut" or len(whole) > 1000)
    with pytest.raises(DataError, match=r"cannot be read|is not"):
        read_documents([path])


def test_zst_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="needs pyarrow, which is not installed"):
        list(iter_documents([tmp_path]))


# --------------------------------------------------------------------------------------- lazily, and bounded


def test_a_document_is_read_when_it_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\nnot json\n')
    documents = iter_documents([tmp_path])
    assert next(documents).text == "first"
    with pytest.raises(DataError, match="is not JSON"):
        next(documents)


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".txt"])
def test_a_line_beyond_the_limit_is_reported_in_bounded_memory_and_the_next_is_read(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    path.write_bytes(packed(kind, b"x" * 30_000_000 + b'\n{"text": "next"}\n'))
    tracemalloc.start()
    found = list(rows(path, limit=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = None if kind == ".txt" else 1
    rest = [] if kind == ".txt" else [(2, {"text": "next"})]
    expected = Violation(
        str(path), line, "", "is longer than 100,000 bytes", "shorter documents, or a larger limit"
    )
    assert found == [(line, expected), *rest]
    assert peak < 5_000_000


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False)])
def test_the_limit_is_the_length_of_the_line_without_its_end(tmp_path, size, fits):
    line = json.dumps({"text": "x" * (size - 12)}).encode()
    assert len(line) == size
    for end in (b"", b"\n", b"\n\n"):
        (tmp_path / "a.jsonl").write_bytes(line + end)
        ((_, row),) = rows(tmp_path / "a.jsonl", limit=100)
        assert isinstance(row, dict) == fits


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": NaN}', "is not JSON: nan is no json value"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        (
            '{"text": ' + "1" * 5000 + "}",
            "is not JSON: exceeds the limit (4300 digits) for integer string conversion",
        ),
        ('"\\ud83d"', "has no text"),
        ('{"text": "a", "text": "b"}', "is not JSON: a key occurs twice"),
    ],
)
def test_json_that_python_would_trip_over_is_reported(tmp_path, line, why):
    (tmp_path / "a.jsonl").write_text(line + '\n{"text": "next"}\n')
    (_, row), (_, after) = rows(tmp_path / "a.jsonl")
    assert row.found.startswith(why) and after == {"text": "next"}


def parquet_bytes(texts: list[str]) -> bytes:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), sink, row_group_size=2)
    return sink.getvalue()


ANY = st.binary(max_size=80) | st.lists(
    st.sampled_from(
        [
            b'{"text": "a"}',
            b"\n",
            b'{"text":',
            b"\xff",
            b'"\\ud83d"}',
            b"{}",
            b"[]",
            b"\0",
            b"\xef\xbb\xbf",
            b"1e999",
            b"\r",
        ]
    ),
    max_size=8,
).map(b"".join)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != ".parquet"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ANY, whole=st.booleans())
@example(content=b"", whole=True)
def test_any_bytes_are_documents_or_a_data_error(tmp_path, kind, content, whole):
    path = tmp_path / f"a{kind}"
    path.write_bytes(packed(kind, content) if whole else content)
    for line, row in rows(path, limit=50):
        assert isinstance(row, Violation) or (isinstance(row, dict) and (kind == ".txt") == (line is None))
    with suppress(DataError):
        assert all(isinstance(d.text, str) and d.text.strip() for d in iter_documents([path], limit=50))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_parquet_file_is_documents_or_a_data_error(tmp_path, data):
    content = bytearray(parquet_bytes(["one", "two", "na\u00efve"]))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.parquet"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    with suppress(DataError):
        assert all(isinstance(d.text, str) for d in iter_documents([path]))
