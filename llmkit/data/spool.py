"""Texts on their way through a build, kept on disk: read as often as needed, never all in memory.

    with Spool(folder) as spool:
        for document in documents:
            spool.add(document)
        hashes, names, digest = spool.finish()      # the first two stay in the data set
        for texts in spool.batches(): ...           # in the order in which they came

A build sees its text three times (to hash it, to train the tokenizer, to encode it) and may get it from an
iterator that can be read once only. Until the build is done the texts take their own bytes on disk again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.data.corpus import Document, TextDigest
from llmkit.data.shards import FileWriter
from llmkit.errors import DataError

if TYPE_CHECKING:
    from llmkit.data.manifest import FileEntry

BATCH = 2**20  # bytes of text at a time: encoding them takes some 60 times that, however much text there is
LOT = 2**16  # rows of a file that are looked at together


class Spool:
    """Documents numbered 0, 1, 2, ... as they come; the ids that they bring are not looked at."""

    def __init__(self, folder: Path):
        self.folder, self.documents, self.bytes = folder / "spool", 0, 0
        self.folder.mkdir()
        self._texts, self._lengths = FileWriter(self.folder, "texts"), FileWriter(self.folder, "lengths")
        self._hashes = FileWriter(folder, "documents.sha256")
        self._names = FileWriter(folder, "documents.jsonl")
        self._digest = TextDigest()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *failure) -> None:
        for file in (self._texts, self._lengths, self._hashes, self._names):
            file.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, document: Document) -> None:
        """Raises DataError when the text is empty or not encodable, StorageError when the disk is full."""
        text = encoded(document)
        self._digest.add(document.source, text)
        self._texts.write(text)
        self._lengths.write(len(text).to_bytes(8, "little"))
        self._hashes.write(hashlib.sha256(text).digest())
        self._names.write(json.dumps(document.source).encode() + b"\n")
        self.documents += 1
        self.bytes += len(text)

    def finish(self) -> tuple[FileEntry, FileEntry, str]:
        """Entries of documents.sha256 and documents.jsonl, and the digest of all sources and texts."""
        self._texts.finish(sync=False)
        self._lengths.finish(sync=False)
        return self._hashes.finish(), self._names.finish(), self._digest.hexdigest()

    def hashes(self) -> Iterator[np.ndarray]:
        """SHA-256 of the texts as four big-endian numbers each, (LOT, 4), in order."""
        with open(self.folder.parent / "documents.sha256", "rb") as file:
            while len(lot := np.fromfile(file, dtype=">u8", count=4 * LOT)):
                yield lot.reshape(-1, 4)

    def texts(self, share: float = 1.0) -> Iterator[str]:
        """The texts in order; of a share below 1 those that their hash chooses, whatever their order.

        It looks at the second number of the hash: the first one decides what is kept for validation.
        """
        limit = int(share * 2**64)
        with open(self.folder / "texts", "rb") as file, open(self.folder / "lengths", "rb") as lengths:
            for keys in self.hashes():
                sizes = np.fromfile(lengths, dtype="<i8", count=len(keys))
                for size, key in zip(sizes.tolist(), keys[:, 1].tolist(), strict=True):
                    if key < limit:
                        yield file.read(size).decode()
                    else:
                        file.seek(size, 1)

    def batches(self) -> Iterator[list[str]]:
        """The texts in order, lists of about a MiB together."""
        texts: list[str] = []
        size = 0
        for text in self.texts():
            texts.append(text)
            size += len(text)
            if size >= BATCH:
                yield texts
                texts, size = [], 0
        if texts:
            yield texts


def encoded(document: Document) -> bytes:
    """A document's text in UTF-8. Raises DataError when it is empty or no Unicode text."""
    if not document.text:
        raise DataError(f"document `{document.source}` is empty", expected="at least one character")
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"document `{document.source}` is not Unicode text: half a character at {error.start:,}",
            remedy="read the file with its right encoding, or drop the document",
        ) from error
