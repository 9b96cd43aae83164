"""Token shards: files of bare token ids, read through the page cache as one long stream.

A shard holds nothing but little-endian integers, so position p of a split is byte p * itemsize of shard
p // shard_tokens, and memory mapping does the rest: no index, no copy, no more memory than is looked at.

    stream = open_stream(folder, shards, shard_tokens)
    stream[100:120]             # across shard borders too
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.errors import IntegrityError
from llmkit.folder import storage, write_whole

if TYPE_CHECKING:
    from llmkit.data.manifest import FileEntry, ShardEntry


LEAF = 2**20  # bytes; each has its SHA-256 in the data set, so that a damaged range is found and named


class TokenStream:
    """The tokens of one split as if they were one array. Shards are (shard_tokens,), the last one shorter."""

    def __init__(self, shards: list[np.ndarray], shard_tokens: int):
        self.shards, self.shard_tokens = shards, shard_tokens
        self._length = sum(len(s) for s in shards)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice) -> np.ndarray | int:
        """One token, or a copy of a run of tokens."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self._length)
            out = np.empty(max(0, stop - start), dtype=self.shards[0].dtype if self.shards else np.uint16)
            self.read(start, out)
            return out[::step]
        key = range(self._length)[key]  # negative indices and IndexError, as a list has them
        return int(self.shards[key // self.shard_tokens][key % self.shard_tokens])

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill `out` (n,) with the tokens from `start` on; the caller keeps within the stream.

        Raises:
            IntegrityError: a shard is shorter than it was when the set was opened.
        """
        assert 0 <= start <= self._length - len(out), "beyond the stream"
        done = 0
        while done < len(out):
            shard, offset = divmod(start + done, self.shard_tokens)
            piece = self.shards[shard][offset : offset + len(out) - done]
            if not len(piece):
                raise IntegrityError(
                    f"shard {shard} ends at token {len(self.shards[shard]):,}, and {offset:,} was asked for",
                    expected="the tokens that were there when the data set was opened",
                    remedy="`llmkit data verify` names the file; copy or build it again",
                )
            out[done : done + len(piece)] = piece
            done += len(piece)


def open_stream(folder: Path, entries: list[ShardEntry], shard_tokens: int) -> TokenStream:
    """Map the shards of one split, whose sizes were checked."""
    shards = []
    for entry in entries:
        mapped = np.memmap(folder / entry.name, dtype=np.dtype(entry.dtype).newbyteorder("<"), mode="r")
        shards.append(np.asarray(mapped))  # a plain view: slicing a memmap object costs three times as much
    return TokenStream(shards, shard_tokens)


def write_file(folder: Path, name: str, content: bytes) -> FileEntry:
    """Write one file of a data set, synced, and describe it."""
    from llmkit.data.manifest import FileEntry

    write_whole(folder / name, content)
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class FileWriter:
    """A file of a data set that grows piece by piece and is hashed meanwhile, whole and by MiB."""

    def __init__(self, folder: Path, name: str):
        self.path, self.bytes = folder / name, 0
        self.leaves: list[bytes] = []  # SHA-256 of each full MiB; `finish` adds the last, shorter one
        self._digest, self._leaf = hashlib.sha256(), hashlib.sha256()
        with storage(self.path):
            self._file = open(self.path, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *failure) -> None:
        self.abandon()

    def write(self, content: bytes) -> None:
        """Raises StorageError when the disk is full."""
        with storage(self.path):
            self._file.write(content)
        self._digest.update(content)
        start = 0
        while start < len(content):
            piece = memoryview(content)[start : start + LEAF - self.bytes % LEAF]
            self._leaf.update(piece)
            self.bytes, start = self.bytes + len(piece), start + len(piece)
            if self.bytes % LEAF == 0:
                self._end_leaf()

    def _end_leaf(self) -> None:
        self.leaves.append(self._leaf.digest())
        self._leaf = hashlib.sha256()

    def finish(self, sync: bool = True) -> FileEntry:
        """Close it, on disk, and describe it. Raises StorageError when the disk is full."""
        from llmkit.data.manifest import FileEntry

        if self.bytes % LEAF:
            self._end_leaf()
        with storage(self.path), self._file:
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        return FileEntry(name=self.path.name, bytes=self.bytes, sha256=self._digest.hexdigest())

    def abandon(self) -> None:
        """Close it whatever its state; nothing after `finish`."""
        with suppress(OSError):  # the disk may be full: then what is in the buffer cannot be written either
            self._file.close()


class ShardWriter:
    """Packs documents into the shards of one split."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int, vocab_size: int):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.documents = self.tokens = 0
        self.counts = np.zeros(vocab_size, dtype=np.int64)  # of each token
        self.leaves: list[bytes] = []
        self._entries: list[ShardEntry] = []
        self._open: FileWriter | None = None
        self._first = 0  # id of the document that the open shard begins with

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *failure) -> None:
        if self._open is not None:
            self._open.abandon()

    def add(self, ids: np.ndarray, tokens: list[np.ndarray]) -> np.ndarray:
        """Append documents (n,) with their tokens, end tokens included; their first positions (n,)."""
        lengths = np.array([len(t) for t in tokens], dtype=np.int64)
        starts = self.tokens + np.cumsum(lengths) - lengths
        stream = np.concatenate([np.zeros(0, dtype=self.dtype), *tokens])
        self.counts += np.bincount(stream, minlength=len(self.counts))
        self.documents += len(ids)
        done = 0
        while done < len(stream):
            room = self.shard_tokens - self.tokens % self.shard_tokens
            if self._open is None:
                self._open = FileWriter(self.folder, f"{self.split}-{len(self._entries):05d}.bin")
                self._first = int(ids[np.searchsorted(starts, self.tokens, "right") - 1])
            piece = stream[done : done + room]
            self._open.write(piece.astype(self.dtype.newbyteorder("<")).tobytes())
            done, self.tokens = done + len(piece), self.tokens + len(piece)
            if len(piece) == room:
                self._end_shard()
        return starts

    def _end_shard(self) -> None:
        from llmkit.data.manifest import ShardEntry

        file, self._open = self._open, None
        self._entries.append(
            ShardEntry(
                **file.finish().model_dump(),
                split=self.split,
                tokens=file.bytes // self.dtype.itemsize,
                dtype=self.dtype.name,
                first_document=self._first,
            )
        )
        self.leaves += file.leaves

    def finish(self) -> list[ShardEntry]:
        """The shards of this split, all on disk."""
        if self._open is not None:
            self._end_shard()
        return self._entries


def check_size(path: Path, entry: FileEntry) -> None:
    """Raises IntegrityError when the file is missing, of another size, or a link out of its folder. Free."""
    if path.is_symlink() and path.parent.resolve() not in path.resolve().parents:
        raise IntegrityError(
            f"`{path}` is a link that leads out of the data set",
            expected="a file in the folder",
            remedy="put the file itself there",
        )
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise IntegrityError(f"`{path}` is missing", remedy="build the data set again") from None
    if size != entry.bytes:
        raise IntegrityError(
            f"`{path}` has {size:,} bytes",
            expected=f"{entry.bytes:,} bytes, as its manifest says",
            remedy="build the data set again",
        )


def check_hash(path: Path, entry: FileEntry) -> None:
    """Raises IntegrityError when the file's bytes are not those that were written. About 1.6 GB/s a core."""
    check_size(path, entry)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise IntegrityError(
            f"`{path}` is corrupt: SHA-256 {found[:12]}...",
            expected=f"{entry.sha256[:12]}..., as its manifest says",
            remedy="build the data set again",
        )
