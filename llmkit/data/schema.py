"""The schema of documents and of shards, and every place that breaks it, found in one pass of bounded memory.

    for violation in Check(["corpus/"]):
        print(violation.where, violation.field, violation.found, violation.expected)

A document, one line of .jsonl or row of .parquet, has these fields; others are let through unread:

    text     string   required: not blank, Unicode without half characters, no NUL, no other document's text
    id       string (not empty) or integer (0 to 2^63 - 1), no other document's id
    source   string, not empty, one line: where it came from
    licence  string, not empty, one line, at most 200 characters: an SPDX expression such as CC-BY-4.0
    length   integer: the number of characters in `text`

A shard of a built data set holds ids of its vocabulary, and one end token at the end of each document and
nowhere else. Hashes are not looked at: that is `verify`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.data.corpus import MANIFEST
from llmkit.data.dataset import SPLITS, TokenDataset
from llmkit.data.preprocess import on_disk, utf8
from llmkit.data.reading import LONGEST, Violation, files_of, place, rows
from llmkit.data.tokenizer import END_ID
from llmkit.errors import DataError, IntegrityError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from llmkit.data.manifest import ShardEntry

FIELDS = ("text", "id", "source", "licence", "length")
LICENCE = 200  # characters
TABLE = "CREATE TABLE seen (hash BLOB PRIMARY KEY, file INTEGER, line INTEGER) WITHOUT ROWID"
SHOWN = 60  # characters of a found value


class Check:
    """Violations of files and folders, in the order in which they are met; iterate once.

    Memory: the longest line `limit` lets through (some six times its bytes), 96 MiB for finding duplicates
    (the rest of their hashes is kept on disk), and one shard of a data set. It does not grow with the files.

    Args:
        paths: files, folders of files, and folders of built data sets.
        field: the name of the text field.
        limit: bytes of the longest line or .txt file; a longer one is a violation.
        progress: called with the number of documents after each 10,000.

    Raises:
        DataError: a path that does not exist, of no known kind, or a folder without a file to check.
        MissingDependency: .parquet or .zst without pyarrow.
    """

    def __init__(
        self,
        paths: Iterable[os.PathLike | str],
        field: str = "text",
        limit: int = LONGEST,
        progress: Callable[[int], None] = lambda documents: None,
    ):
        self.paths, self.field, self.limit = [Path(path) for path in paths], field, limit
        self.progress = progress
        self.files = self.documents = self.violations = 0
        self._names: list[Path] = []  # of the files, by the number that the table of hashes holds

    def __iter__(self) -> Iterator[Violation]:
        with closing(on_disk(TABLE)) as seen:
            for path in self.paths:
                built = (path / MANIFEST).is_file()
                for violation in shard_violations(path) if built else self._documents(path, seen):
                    self.violations += 1
                    yield violation
                self.files += built

    def _documents(self, path: Path, seen: Connection) -> Iterator[Violation]:
        if not (files := files_of(path)):
            raise DataError(f"nothing to check in `{path}`", expected="files of documents, or a data set")
        for file in files:
            self.files += 1
            self._names.append(file)
            line = row = None
            for line, row in rows(file, self.limit, [self.field, *FIELDS[1:]]):
                if isinstance(row, Violation):
                    yield row
                    continue
                self.documents += 1
                if self.documents % 10_000 == 0:
                    self.progress(self.documents)
                copies = self._repeated(line, row, seen)
                for name, found, expected in [*wrong(row, self.field), *copies]:
                    yield Violation(str(file), line, name, found, expected)
            if row is None:
                yield Violation(str(file), None, "", "holds no document", "one or more")

    def _repeated(
        self, line: int | None, row: dict[str, Any], seen: Connection
    ) -> Iterator[tuple[str, str, str]]:
        """(field, found, expected) of an id or a text that another document has."""
        text, name = row.get(self.field), row.get("id")
        keys = [("id", f"i{name!r}")] if is_id(name) else []
        keys += [(self.field, f"t{text}")] if isinstance(text, str) and text.strip() else []
        for which, key in keys:
            entry = sha256(utf8(key)).digest()[:16], len(self._names) - 1, line
            if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", entry).rowcount:
                first = seen.execute("SELECT file, line FROM seen WHERE hash = ?", entry[:1]).fetchone()
                other = f"{self._names[first[0]]}{place(self._names[first[0]], first[1])}"
                found = f"{shown(name)}, as in {other}" if which == "id" else f"is the same as in {other}"
                yield which, found, "one of its own"


# ------------------------------------------------------------------------------------------------- documents


def wrong(row: dict[str, Any], field: str) -> Iterator[tuple[str, str, str]]:
    """(field, found, expected) of each field of one document that is not as the schema says."""
    text = row.get(field)
    if field not in row:
        yield field, "is missing", "a string"
    elif not isinstance(text, str):
        yield field, shown(text), "a string"
    elif not text.strip():
        yield field, "is empty" if not text else "is blank", "text"
    else:
        if (at := text.find("\0")) >= 0:
            yield field, f"holds NUL at character {at:,}", "no NUL"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"half a character, U+{ord(text[error.start]):04X}, at {error.start:,}"
            yield field, f"holds {half}", "Unicode text"
    for name, expected, fine in (
        ("id", "a string that is not empty, or an integer from 0 to 2^63 - 1", is_id),
        ("source", "one line that is not empty", is_line),
        ("licence", f"one line of 1 to {LICENCE} characters", lambda v: is_line(v) and len(v) <= LICENCE),
    ):
        if name in row and not fine(row[name]):
            yield name, shown(row[name]), expected
    if "length" in row and isinstance(text, str) and not same(row["length"], len(text)):
        yield "length", shown(row["length"]), f"{len(text)}, the characters of `{field}`"


def is_id(value: object) -> bool:
    return (isinstance(value, str) and value != "") or (type(value) is int and 0 <= value < 2**63)


def is_line(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and len(value.splitlines()) == 1


def same(value: object, number: int) -> bool:
    return type(value) is int and value == number


def shown(value: object) -> str:
    """A found value, as Python writes it, cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; deep nesting
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


# ---------------------------------------------------------------------------------------------------- shards


def shard_violations(folder: Path) -> Iterator[Violation]:
    """Where the shards of a data set are not as the manifest and the document index say."""
    try:
        dataset = TokenDataset(folder, check=False)
    except IntegrityError as error:
        yield Violation(str(folder), None, "", error.found, error.expected or "a data set as it was built")
        return

    def of(entry: ShardEntry, field: str, found: str, expected: str) -> Violation:
        return Violation(str(folder / entry.name), None, field, found, expected)

    smallest = "uint16" if dataset.vocab_size <= 2**16 else "uint32"
    for split in SPLITS:
        ends = dataset.starts(split) + dataset.lengths(split)[1] - 1
        first = 0
        for entry, shard in zip(dataset.shards(split), dataset.tokens(split).shards, strict=True):
            if entry.dtype != smallest:
                yield of(entry, "dtype", entry.dtype, f"{smallest} for {dataset.vocab_size:,} tokens")
            if len(beyond := np.flatnonzero(shard >= dataset.vocab_size)):
                found = f"{shard[beyond[0]]:,} at token {beyond[0]:,} ({len(beyond):,} in all)"
                yield of(entry, "ids", found, f"0 to {dataset.vocab_size - 1:,}")
            low, high = np.searchsorted(ends, [first, first + len(shard)])
            found, expected = np.flatnonzero(shard == END_ID), ends[low:high] - first
            if len(odd := np.setxor1d(found, expected)):
                kind = "no end token" if odd[0] in expected else "an end token"
                what = f"{kind} at token {odd[0]:,} ({len(found):,} in all)"
                yield of(entry, "end tokens", what, f"{len(expected):,}, one per document")
            first += len(shard)
