"""Token shards: files of bare token ids, read through the page cache as one long stream.

A shard holds nothing but little-endian integers, so position p of a split is byte p * itemsize of shard
p // shard_tokens, and memory mapping does the rest: no index, no copy, no more memory than is looked at.

    stream = open_stream(folder, shards, shard_tokens)
    stream[100:120]             # across shard borders too
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.errors import IntegrityError
from llmkit.folder import write_whole

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
        """Fill `out` (n,) with the tokens from `start` on; the caller keeps within the stream."""
        assert 0 <= start <= self._length - len(out), "beyond the stream"
        done = 0
        while done < len(out):
            shard, offset = divmod(start + done, self.shard_tokens)
            piece = self.shards[shard][offset : offset + len(out) - done]
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


def write_shards(
    folder: Path, split: str, tokens: np.ndarray, first_documents: np.ndarray, shard_tokens: int
) -> list[ShardEntry]:
    """Cut a split's stream (n,) into shards; `first_documents` holds the document at the start of each."""
    from llmkit.data.manifest import ShardEntry

    entries = []
    for i, start in enumerate(range(0, len(tokens), shard_tokens)):
        piece = tokens[start : start + shard_tokens]
        content = piece.astype(piece.dtype.newbyteorder("<")).tobytes()
        file = write_file(folder, f"{split}-{i:05d}.bin", content)
        entries.append(
            ShardEntry(
                **file.model_dump(),
                split=split,
                tokens=len(piece),
                dtype=piece.dtype.name,
                first_document=int(first_documents[i]),
            )
        )
    return entries


def leaf_hashes(content: bytes | memoryview) -> bytes:
    """SHA-256 of each MiB of a shard, the last one shorter: 32 bytes a leaf."""
    return b"".join(
        hashlib.sha256(content[start : start + LEAF]).digest() for start in range(0, len(content), LEAF)
    )


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
