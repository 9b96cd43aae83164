"""Your own text: a document is a .txt file, a line of .jsonl, .jsonl.gz or .jsonl.zst, a row of .parquet.

    documents = iter_documents(["notes/", "answers.jsonl.gz"])      # one at a time, as they are asked for
    build(documents, "data/mine", name="mine", sources={"paths": ["notes/", "answers.jsonl.gz"]})

One reader serves two callers: a build stops at the first thing that is wrong, and `llmkit data check`
(llmkit.data.schema) reports it and reads on. So it gives, row by row, the fields or what is wrong with them.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llmkit.data.corpus import Document
from llmkit.errors import DataError, MissingDependency

KINDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
LONGEST = 2**26  # bytes of a line or a .txt file; reading one takes up to some six times its length in memory
EXTRA = 'pip install "llmkit[parquet]"'


@dataclass(frozen=True)
class Violation:
    """What is wrong at one place."""

    file: str
    line: int | None  # from 1; of .parquet the row, from 0; None is the whole file
    field: str
    found: str
    expected: str

    @property
    def where(self) -> str:
        """The place, in a form that editors open."""
        return self.file + place(Path(self.file), self.line)


Row = tuple[int | None, dict[str, Any] | Violation]  # line or row as in a violation, and its fields


def place(path: Path, line: int | None) -> str:
    return "" if line is None else f"{'#' if kind_of(path) == '.parquet' else ':'}{line}"


def iter_documents(
    paths: Iterable[os.PathLike | str], field: str = "text", limit: int = LONGEST
) -> Iterator[Document]:
    """Documents of files and folders, in the order of `paths`; of a folder, all files below it by name.

    Texts of nothing but white space are left out, as are hidden files and files of other kinds in a folder;
    a file of another kind is refused when it is named. `source` is the file, with `:line` or `#row`.

    Args:
        field: name of the text field in .jsonl and of the text column in .parquet.
        limit: bytes of the longest line or .txt file that is read.

    Raises:
        DataError: a path that does not exist, a file of another kind, or one that is malformed (named with
            its line); no text at all.
        MissingDependency: .parquet or .zst without pyarrow.
    """
    paths, count = [Path(path) for path in paths], 0
    for file in (file for path in paths for file in files_of(path)):
        for line, row in rows(file, limit, [field]):
            found = row if isinstance(row, Violation) else no_text(file, line, row, field)
            if found:
                raise DataError(f"`{found.where}` {found.found}", expected=found.expected)
            if row[field].strip():
                yield Document(count, f"{file}{place(file, line)}", row[field])
                count += 1
    if not count:
        raise DataError(
            "no text in " + (", ".join(f"`{path}`" for path in paths) or "no paths"),
            expected=f"at least one {', '.join(KINDS[:-1])} or .txt file with text in it",
        )


def read_documents(paths: Iterable[os.PathLike | str], field: str = "text") -> list[Document]:
    """All documents of `iter_documents`, in memory."""
    return list(iter_documents(paths, field))


def no_text(file: Path, line: int | None, row: dict[str, Any], field: str) -> Violation | None:
    if isinstance(row.get(field), str):
        return None
    expected = f"a string in column `{field}`" if kind_of(file) == ".parquet" else like(field)
    return Violation(str(file), line, field, "has no text", expected)


def like(field: str) -> str:
    return f'a line such as {{"{field}": "..."}}'


def kind_of(path: Path) -> str | None:
    """Which of KINDS a file is, by its name."""
    return next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)


def files_of(path: Path) -> list[Path]:
    """A file, or the readable files below a folder sorted by name."""
    if path.is_dir():
        found = [p for p in path.rglob("*") if kind_of(p) and p.is_file()]
        hidden = [p for p in found if any(part.startswith(".") for part in p.relative_to(path).parts)]
        return sorted(set(found) - set(hidden), key=Path.as_posix)
    if not path.exists():
        raise DataError(f"no file or folder `{path}`")
    if not kind_of(path):
        raise DataError(f"cannot read `{path}`", expected=f"a {', '.join(KINDS[:-1])} or .txt file")
    return [path]


def rows(path: Path, limit: int = LONGEST, columns: list[str] | None = None) -> Iterator[Row]:
    """Every row of a file, in order, or what is wrong with it. Holds one line (or 256 rows of Parquet).

    A file that breaks off in the middle gives a violation where it does, and ends there.

    Args:
        columns: those of Parquet that are wanted, the first of them being required; all, if None.

    Raises:
        MissingDependency: .parquet or .zst without pyarrow.
    """
    readers: dict[str, Callable[..., Iterator[Row]]] = {".txt": txt_rows, ".parquet": parquet_rows}
    line = None
    try:
        for line, row in readers.get(kind_of(path), jsonl_rows)(path, limit, columns or ["text"]):
            yield line, row
    except (OSError, EOFError, zlib.error) as error:
        why = (getattr(error, "strerror", None) or str(error)).splitlines()[0].lower()
        after = f" after line {line:,}" if line else ""
        yield None, Violation(str(path), None, "", f"cannot be read{after}: {why}", "a whole, readable file")


def txt_rows(path: Path, limit: int, columns: list[str]) -> Iterator[Row]:
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    text = decoded(path, None, content) if len(content) <= limit else too_long(path, None, limit)
    yield None, text if isinstance(text, Violation) else {columns[0]: text}


def jsonl_rows(path: Path, limit: int, columns: list[str]) -> Iterator[Row]:
    with opened(path) as file:
        number = 0
        while line := file.readline(limit + 1):
            number += 1
            if len(line) > limit and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(2**20)
                yield number, too_long(path, number, limit)
            elif line.strip():
                yield number, parsed(path, number, line, columns[0])


def opened(path: Path) -> BinaryIO:
    """A .jsonl file, unpacked as it is read."""
    if kind_of(path) == ".jsonl.gz":
        return gzip.open(path, "rb")
    if kind_of(path) == ".jsonl.zst":
        try:
            import pyarrow
        except ImportError as error:
            raise missing(path) from error
        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), 2**18)
    return open(path, "rb")


def missing(path: Path) -> MissingDependency:
    return MissingDependency(f"reading `{path}` needs pyarrow, which is not installed", remedy=EXTRA)


def too_long(path: Path, line: int | None, limit: int) -> Violation:
    return Violation(
        str(path), line, "", f"is longer than {limit:,} bytes", "shorter documents, or a larger limit"
    )


def parsed(path: Path, number: int, line: bytes, field: str) -> dict[str, Any] | Violation:
    """One line of JSON, an object."""
    text = decoded(path, number, line.rstrip(b"\r\n"))
    if isinstance(text, Violation):
        return text
    try:
        content = JSON.decode(text)
        why = "" if isinstance(content, dict) else "has no text"
    except json.JSONDecodeError as error:
        why = f"is not JSON: {error.msg.lower()} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 5,000 brackets; NaN
        why = f"is not JSON: {str(error).partition(';')[0].lower()}"
    return Violation(str(path), number, "", why, like(field)) if why else content


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(content := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


JSON = json.JSONDecoder(parse_constant=no_constant, object_pairs_hook=unique)


def parquet_rows(path: Path, limit: int, columns: list[str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing(path) from error
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if columns[0] not in names:
                has = "one of its columns: " + ", ".join(f"`{name}`" for name in names)
                yield None, Violation(str(path), None, "", f"has no column `{columns[0]}`", has)
                return
            wanted = [name for name in columns if name in names]
            for group in file.iter_batches(256, columns=wanted, use_threads=False):
                for content in group.to_pylist():
                    yield row, content
                    row += 1
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # UnicodeDecodeError is a ValueError
        why = (str(error).splitlines() or ["malformed"])[0].lower()
        yield None, Violation(str(path), None, "", f"is not a Parquet file: {why}", "a whole Parquet file")


def decoded(path: Path, line: int | None, content: bytes) -> str | Violation:
    """UTF-8 text; a byte order mark at the start of a file is dropped."""
    try:
        text = content.decode("utf-8")
        return text.removeprefix("\ufeff") if line in (None, 1) else text
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 text: byte {error.start:,} is 0x{content[error.start]:02x}"
        return Violation(str(path), line, "", found, "UTF-8; convert it, e.g. with iconv -f LATIN1 -t UTF-8")
