"""A data set on disk: verified token shards, and the way back from any position to its document.

dataset = open_dataset("generated")         # or "docstrings", or a folder that `build` wrote
dataset.document_at("train", 123_456)       # (document id, offset in its tokens)
dataset.document(7).text                    # decoded from the shards: byte-level BPE loses nothing
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.data.corpus import Document
from llmkit.data.shards import TokenStream, check_hash, check_size, open_stream
from llmkit.data.tokenizer import Tokenizer, load_tokenizer
from llmkit.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest, ShardEntry

SPLITS = ("train", "val")
HASH_ON_OPEN = 64 * 2**20  # bytes; 40 ms of hashing. Larger sets are size-checked, and hashed by `verify`


class TokenDataset:
    """A data-set folder, opened. Pickles as its path. Positions count tokens of one split's stream from 0."""

    def __init__(self, path: os.PathLike | str, *, check: bool | None = None):
        from llmkit.data.manifest import read_manifest

        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        small = sum(f.bytes for f in self.manifest.files()) <= HASH_ON_OPEN
        for entry in self.manifest.files():
            (check_hash if (small if check is None else check) else check_size)(self.path / entry.name, entry)
        self._index = np.fromfile(self.path / self.manifest.index.name, dtype="<i8").reshape(-1, 3)
        self._streams: dict[str, TokenStream] = {}
        self._borders: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for code, split in enumerate(SPLITS):
            self._streams[split] = open_stream(self.path, self.shards(split), self.manifest.shard_tokens)
            ids = np.flatnonzero(self._index[:, 0] == code)
            self._borders[split] = (ids, np.ascontiguousarray(self._index[ids, 1]))

    def __reduce__(self):
        return _reopen, (self.path,)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{self.n_tokens(split):,} {split}" for split in SPLITS)
        return f"TokenDataset({self.name!r}, {sizes} tokens of {self.vocab_size:,}, {self.digest[:12]})"

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def digest(self) -> str:
        """SHA-256 that names this data set; see llmkit.data.manifest for what it covers."""
        return self.manifest.digest

    @property
    def tokenizer_digest(self) -> str:
        return self.manifest.tokenizer_digest

    @property
    def n_documents(self) -> int:
        return len(self._index)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded when first asked for, and refused if it is not the one the shards were written with."""
        path = self.path / self.manifest.tokenizer.name
        tokenizer = load_tokenizer(path)
        if tokenizer.digest != self.tokenizer_digest:
            raise IntegrityError(
                f"`{path}` is not the tokenizer of this data set", remedy="build the data set again"
            )
        return tokenizer

    @cached_property
    def sources(self) -> list[str]:
        """Where each document came from, by id."""
        lines = (self.path / self.manifest.names.name).read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[: self.n_documents]]

    def tokens(self, split: str) -> TokenStream:
        """The packed stream of a split: document, end token, document, end token, ..."""
        return self._streams[_known(split)]

    def n_tokens(self, split: str) -> int:
        return len(self._streams[_known(split)])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids) -> str:
        return self.tokenizer.decode(ids)

    def documents_at(self, split: str, positions: np.ndarray) -> np.ndarray:
        """Document id of each position, same shape, int64; an end token belongs to the document it ends."""
        ids, starts = self._borders[_known(split)]
        return ids[np.searchsorted(starts, positions, side="right") - 1]

    def document_at(self, split: str, position: int) -> tuple[int, int]:
        """Document id, and offset in that document's tokens, of one position of a split's stream."""
        if not 0 <= position < self.n_tokens(split):
            raise ConfigError(
                f"no position {position:,} in split `{split}`",
                expected=f"0 to {self.n_tokens(split) - 1:,}",
            )
        document = int(self.documents_at(split, np.array([position]))[0])
        return document, position - int(self._index[document, 1])

    def span(self, document: int) -> tuple[str, int, int]:
        """Split, first position and length in tokens (its end token included) of a document."""
        if not 0 <= document < self.n_documents:
            raise ConfigError(f"no document {document:,}", expected=f"0 to {self.n_documents - 1:,}")
        code, start, length = (int(v) for v in self._index[document])
        return SPLITS[code], start, length

    def lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) of a split's documents, ascending, and their lengths (n,) in tokens with the end token."""
        ids = self._borders[_known(split)][0]
        return ids, self._index[ids, 2]

    def starts(self, split: str) -> np.ndarray:
        """First position (n,) of each of a split's documents, ascending."""
        return self._borders[_known(split)][1]

    def shards(self, split: str) -> list[ShardEntry]:
        """The manifest's entries for a split, in stream order."""
        return [entry for entry in self.manifest.shards if entry.split == _known(split)]

    def document(self, document: int) -> Document:
        """A document by id, its text decoded from the shards."""
        split, start, length = self.span(document)
        text = self.decode(self._streams[split][start : start + length - 1])
        return Document(document, self.sources[document], text)

    def check_vocab(self, vocab_size: int) -> None:
        """Raises ConfigError when a model's vocabulary is not this data set's."""
        if vocab_size != self.vocab_size:
            raise ConfigError(
                f"vocabulary mismatch: data set `{self.name}` has {self.vocab_size:,}, not {vocab_size:,}",
                expected="the same vocabulary in model and data",
                remedy=f"set vocab_size={self.vocab_size}, or build the data with another vocabulary",
            )


def _reopen(path: Path) -> TokenDataset:
    return TokenDataset(path, check=False)  # it was checked when it was opened


def _known(split: str) -> str:
    if split not in SPLITS:
        raise ConfigError(f"unknown split `{split}`", expected="`train` or `val`")
    return split


def describe(path: os.PathLike | str) -> dict[str, Any]:
    """What a data set is, as plain JSON values, from its manifest alone: no shard is read."""
    from llmkit.data.manifest import read_manifest

    manifest = read_manifest(Path(path))
    return {"path": str(path), **manifest.model_dump(mode="json")}
