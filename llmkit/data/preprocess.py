"""Preprocessing in small named steps, each with a version, its settings and its counts in the manifest.

    steps = [Normalise(), DropDuplicates(), DropNearDuplicates(0.8)]
    build(documents, "data/mine", steps=steps, name="mine", sources={})

A step is an iterator in, an iterator out. `version` is raised whenever the same text and settings would give
another result: the text and every step's name, version and settings decide every byte of a data set.
The embedded data sets take no step: what they hold is what their packages hold.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import numpy as np

from llmkit.data.corpus import Document
from llmkit.data.order import mix
from llmkit.errors import ConfigError

if TYPE_CHECKING:
    from llmkit.data.manifest import StepEntry


class Step(Protocol):
    """What `build(steps=...)` takes."""

    name: str
    version: int

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values: all that decides the result, beside the version."""

    def run(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents that are left, in order, each once it is known that it stays."""


def through(
    documents: Iterable[Document], steps: Sequence[Step]
) -> tuple[Iterator[Document], Callable[[], list[StepEntry]]]:
    """The documents after all steps; and, to call when they have all been taken, what each step did."""
    counts = [Counted(documents)]
    for step in steps:
        counts.append(Counted(step.run(iter(counts[-1]))))

    def entries() -> list[StepEntry]:
        from llmkit.data.manifest import StepEntry

        return [
            StepEntry(
                name=step.name,
                version=step.version,
                settings=step.settings,
                documents_in=before.documents,
                documents_out=after.documents,
                bytes_in=before.bytes,
                bytes_out=after.bytes,
            )
            for step, before, after in zip(steps, counts, counts[1:], strict=False)
        ]

    return iter(counts[-1]), entries


class Counted:
    """Documents, counted as they pass."""

    def __init__(self, documents: Iterable[Document]):
        self._of, self.documents, self.bytes = documents, 0, 0

    def __iter__(self) -> Iterator[Document]:
        for document in self._of:
            self.documents += 1
            self.bytes += len(utf8(document.text))
            yield document


def utf8(text: str) -> bytes:
    """Bytes of any text: half a character has some too, until the build refuses its document by name."""
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Normalise:
    """Unicode in composed form (NFC), and one kind of line end: CRLF becomes LF.

    "é" can be one character or two, and looks the same; a tokenizer gives them different ids. What NFC is
    depends on the Unicode version of the Python that runs it only for characters that version does not know,
    so it is recorded.
    """

    name = "normalise"
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        return {"form": "NFC", "line_ends": "LF", "unicode": unicodedata.unidata_version}

    def run(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            text = unicodedata.normalize("NFC", document.text).replace("\r\n", "\n")
            yield document if text == document.text else replace(document, text=text)


@dataclass(frozen=True)
class DropDuplicates:
    """Of equal texts the first stays. SHA-256 of the text decides; those seen so far are kept on disk."""

    name = "drop-duplicates"
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        return {"hash": "sha256, first 128 bits"}

    def run(self, documents: Iterator[Document]) -> Iterator[Document]:
        with closing(on_disk("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")) as seen:
            for document in documents:
                row = (sha256(utf8(document.text)).digest()[:16],)
                if seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", row).rowcount:
                    yield document


def on_disk(*tables: str) -> sqlite3.Connection:
    """A private database with 96 MiB of cache; what is more goes to a file that vanishes with it.

    It is one transaction that never ends: a commit walks all changed pages, and one per text is quadratic.
    """
    database = sqlite3.connect("", isolation_level=None)
    for line in (
        "PRAGMA journal_mode=OFF",
        "PRAGMA synchronous=OFF",
        "PRAGMA cache_size=-98304",
        *tables,
        "BEGIN",
    ):
        database.execute(line)
    return database


# -------------------------------------------------------------------------------------------- near duplicates

WORDS, HASHES = 5, 128  # words in a shingle, numbers in a signature
_SEEDS = mix(np.arange(2 * HASHES, dtype=np.uint64)).reshape(2, HASHES, 1)
FACTORS, SUMMANDS = _SEEDS[0] | np.uint64(1), _SEEDS[1]


def shingles(text: str) -> np.ndarray:
    """A 64-bit hash (n,) of every run of five words, in lower case; of a shorter text, of all of it."""
    crcs = [crc32(utf8(word)) for word in text.lower().split()]
    words = np.array(crcs + [0] * (WORDS - len(crcs)), dtype=np.uint64)
    runs = np.zeros(len(words) - WORDS + 1, dtype=np.uint64)
    for i in range(WORDS):
        runs = mix(runs + words[i : i + len(runs)])
    return np.unique(runs)


def signature(text: str) -> np.ndarray:
    """MinHash (Broder 1997): under each of 128 hash functions the smallest value of any shingle, uint32.

    Two texts agree in one of these numbers with the chance |A and B| / |A or B| of their shingles A and B
    (Jaccard): whichever of all shingles comes first under that function has to be in both. So the share of
    equal numbers estimates it, with a standard error of sqrt(J (1 - J) / 128), 0.035 at J = 0.8.
    """
    runs = shingles(text)
    smallest = np.full(HASHES, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(runs), 4096):  # 128 x 4,096 numbers at a time, whatever the text
        values = (FACTORS * runs[start : start + 4096] + SUMMANDS) >> np.uint64(32)
        smallest = np.minimum(smallest, values.min(axis=1).astype(np.uint32))
    return smallest


def rows_of(threshold: float) -> int:
    """Numbers in a band: the most that still find a pair at the threshold with a chance of 99 %.

    A pair of similarity J shares a band of r numbers with chance J^r, and one or more of b bands with chance
    1 - (1 - J^r)^b. More rows leave fewer pairs to compare, and find fewer.
    """
    found = [r for r in range(1, 33) if 1 - (1 - threshold**r) ** (HASHES // r) >= 0.99]
    return max(found, default=1)


@dataclass(frozen=True)
class DropNearDuplicates:
    """Of texts whose five-word shingles overlap by `threshold` (Jaccard) or more, the first stays.

    Found by locality-sensitive hashing: only texts that share one band of their signatures are compared, by
    the whole signature. A text is compared with those that stayed. Memory does not grow with the documents;
    the temporary file takes about a kilobyte for each. About 1 ms a document of 2 KB.

    Raises:
        ConfigError: a threshold below 0.3, which would compare nearly everything, or above 1.
    """

    threshold: float = 0.8
    name = "drop-near-duplicates"
    version = 1

    def __post_init__(self) -> None:
        if not 0.3 <= self.threshold <= 1:
            raise ConfigError(f"a threshold of {self.threshold} for near duplicates", expected="0.3 to 1")

    @property
    def settings(self) -> dict[str, Any]:
        rows = rows_of(self.threshold)
        bands = {"rows": rows, "bands": HASHES // rows}
        return {"threshold": self.threshold, "words": WORDS, "hashes": HASHES, **bands}

    def run(self, documents: Iterator[Document]) -> Iterator[Document]:
        rows = rows_of(self.threshold)
        bands = HASHES // rows
        with closing(
            on_disk(
                "CREATE TABLE kept (id INTEGER PRIMARY KEY, signature BLOB)",
                "CREATE TABLE bands (key INTEGER, id INTEGER, PRIMARY KEY (key, id)) WITHOUT ROWID",
            )
        ) as seen:
            of_a_key = "SELECT signature FROM kept WHERE id IN (SELECT id FROM bands WHERE key IN ({}))"
            similar = of_a_key.format(", ".join("?" * bands))
            for document in documents:
                mine = signature(document.text)
                keys = band_keys(mine, bands, rows)
                near = (np.frombuffer(blob, dtype=np.uint32) for (blob,) in seen.execute(similar, keys))
                if any(np.mean(theirs == mine) >= self.threshold for theirs in near):
                    continue
                row = seen.execute("INSERT INTO kept (signature) VALUES (?)", (mine.tobytes(),)).lastrowid
                seen.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(key, row) for key in keys])
                yield document


def band_keys(signature: np.ndarray, bands: int, rows: int) -> list[int]:
    """A signed 64-bit number for each band, of the band's place and its numbers."""
    numbers = signature[: bands * rows].reshape(bands, rows).astype(np.uint64)
    keys = mix(np.arange(bands, dtype=np.uint64))
    for i in range(rows):
        keys = mix(keys + numbers[:, i])
    return keys.view(np.int64).tolist()
