"""manifest.json: what a data set is made of, with the hash of every file, checked whenever it is read.

One digest names the whole: SHA-256 over the tokenizer's digest, the hash of the document index, the hash of
the document names, and one line per shard (name, dtype, hash), sorted by name. Any change of a token, of
their order, of a document's borders or name, or of a token's meaning changes it; the machine, the date and
the version of the file format do not.

    manifest = read_manifest(Path("data/mine"))
    manifest.digest == manifest.recompute()     # always: a manifest that disagrees with itself is refused

This file imports pydantic (0.13 s), so the others import it inside the functions that read or write.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmkit.data.corpus import MANIFEST
from llmkit.errors import DataError, IntegrityError

Sha256 = Field(pattern="^[0-9a-f]{64}$")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(Strict):
    """A file beside the shards."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Sha256


class ShardEntry(FileEntry):
    """A shard: little-endian token ids, nothing else in the file. Every shard but a split's last is full."""

    split: Literal["train", "val"]
    tokens: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    first_document: int = Field(ge=0)  # id of the document that the first token belongs to


class SplitEntry(Strict):
    """Counts of one split. `unigram_entropy_nats` is the loss of a model that knows frequencies only."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)  # end tokens included
    unigram_entropy_nats: float


class Manifest(Strict):
    """A data set. `reference` says that it is, to the bit, the one this version of the kit was tested on."""

    format: Literal[1]
    name: str
    digest: str = Sha256
    tokenizer_digest: str = Sha256
    text_digest: str = Sha256
    reference: bool
    vocab_size: int = Field(ge=257)
    shard_tokens: int = Field(ge=1)
    documents: int = Field(ge=1)
    splits: dict[Literal["train", "val"], SplitEntry]
    sources: dict[str, Any]  # where the text came from: package versions and checks, paths, seed
    made_with: dict[str, str]
    tokenizer: FileEntry
    index: FileEntry  # per document: split, first position in the split's stream, tokens with the end token
    names: FileEntry  # per document: its source, one JSON string a line
    shards: list[ShardEntry]

    @model_validator(mode="after")
    def shards_fit(self) -> Manifest:
        """Positions are found by division, so each shard has to have the size that they assume."""
        for split, entry in self.splits.items():
            tokens = [shard.tokens for shard in self.shards if shard.split == split]
            if sum(tokens) != entry.tokens or any(n != self.shard_tokens for n in tokens[:-1]):
                raise ValueError(f"its shards do not make up split `{split}`")
        return self

    def recompute(self) -> str:
        """The data-set digest from its parts, as described at the top of this file."""
        lines = [
            f"tokenizer {self.tokenizer_digest}",
            f"index {self.index.sha256}",
            f"names {self.names.sha256}",
        ]
        lines += [f"{s.name} {s.dtype} {s.sha256}" for s in sorted(self.shards, key=lambda s: s.name)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def files(self) -> list[FileEntry]:
        return [self.tokenizer, self.index, self.names, *self.shards]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a data-set folder.

    Raises:
        DataError: no data set there.
        IntegrityError: the manifest is not JSON, lacks a field, or disagrees with itself.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no data set in `{folder}`",
            expected="a folder with manifest.json, `docstrings` or `generated`",
            remedy="build one with: llmkit data build PATH... --out FOLDER",
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        says = first["msg"].removeprefix("Value error, ")
        what = (f"field `{where}`: " if where else "") + says[:1].lower() + says[1:]
        raise IntegrityError(f"`{path}` is corrupt: {what}", remedy="build the data set again") from error
    if manifest.recompute() != manifest.digest:
        raise IntegrityError(
            f"`{path}` is corrupt: its digest is not the digest of its parts",
            remedy="build the data set again",
        )
    return manifest
