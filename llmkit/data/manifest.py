"""manifest.json: what a data set is made of, with the hash of every file, checked whenever it is read.

One digest names the whole: SHA-256 over the tokenizer's digest, the hash of the document index, the hash of
the document names, and one line per shard (name, dtype, hash), sorted by name. Any change of a token, of
their order, of a document's borders or name, or of a token's meaning changes it; the machine, the date and
the version of the file format do not. Nor does how the text came about: `steps` and `parent` are history.

    manifest = read_manifest(Path("data/mine"))
    manifest.digest == manifest.recompute()     # always: a manifest that disagrees with itself is refused

This file imports pydantic (0.13 s), so the others import it inside the functions that read or write.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmkit.data.corpus import FORMAT, MANIFEST
from llmkit.errors import DataError, IntegrityError

HEX = "^[0-9a-f]{64}$"
Sha256 = Field(pattern=HEX)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(Strict):
    """A file beside the shards. Its name stays within the folder, whoever wrote the manifest."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Sha256

    @field_validator("name")
    @classmethod
    def plain(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or name == MANIFEST:
            raise ValueError(f"`{name}` is no plain file name")
        return name


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


class StepEntry(Strict):
    """One preprocessing step, as it ran. Bytes are those of the texts in UTF-8."""

    name: str
    version: int = Field(ge=1)  # raised when the same text and settings give another result
    settings: dict[str, Any]
    documents_in: int = Field(ge=0)
    documents_out: int = Field(ge=0)
    bytes_in: int = Field(ge=0)
    bytes_out: int = Field(ge=0)


class Manifest(Strict):
    """A data set. `reference` says that it is, to the bit, the one this version of the kit was tested on."""

    format: Literal[2]
    name: str
    digest: str = Sha256
    parent: str | None = Field(default=None, pattern=HEX)  # digest of the version that this one succeeds
    tokenizer_digest: str = Sha256
    text_digest: str = Sha256
    reference: bool
    vocab_size: int = Field(ge=257)
    shard_tokens: int = Field(ge=1)
    documents: int = Field(ge=1)
    splits: dict[Literal["train", "val"], SplitEntry]
    sources: dict[str, Any]  # where the text came from: package versions and checks, paths, seed
    steps: list[StepEntry]  # preprocessing, in the order in which it ran
    made_with: dict[str, str]
    tokenizer: FileEntry
    index: FileEntry  # per document: split, first position in the split's stream, tokens with the end token
    names: FileEntry  # per document: its source, one JSON string a line
    hashes: FileEntry  # per document: SHA-256 of its text, 32 bytes
    leaves: FileEntry  # per MiB of each shard, shards in this order: SHA-256, 32 bytes
    sketch: FileEntry | None = None  # token histograms per shard, for drift
    shards: list[ShardEntry]

    @model_validator(mode="after")
    def shards_fit(self) -> Manifest:
        """Positions are found by division, so each shard has to have the size that they assume."""
        for split, entry in self.splits.items():
            tokens = [shard.tokens for shard in self.shards if shard.split == split]
            if sum(tokens) != entry.tokens or any(n != self.shard_tokens for n in tokens[:-1]):
                raise ValueError(f"its shards do not make up split `{split}`")
        return self

    @model_validator(mode="after")
    def names_differ(self) -> Manifest:
        names = [entry.name.lower() for entry in self.files()]  # some file systems do not tell A from a
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ValueError(f"two of its entries claim the file `{name}`")
            seen.add(name)
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
        beside = [self.tokenizer, self.index, self.names, self.hashes, self.leaves, self.sketch]
        return [*(entry for entry in beside if entry), *self.shards]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a data-set folder.

    Raises:
        DataError: no data set there, or one of another format than this version reads.
        IntegrityError: the manifest is not JSON, lacks a field, or disagrees with itself.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no data set in `{folder}`",
            expected="a folder with manifest.json, `docstrings` or `generated`",
            remedy="build one with: llmkit data build PATH... --out FOLDER",
        )
    content = path.read_bytes()
    refuse_other_format(path, content)
    try:
        manifest = Manifest.model_validate_json(content)
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


def refuse_other_format(path: Path, content: bytes) -> None:
    """Raises DataError when a manifest says that it is of another format; what is no manifest passes."""
    try:
        says = json.loads(content)
        found, maker = int(says["format"]), str(says.get("made_with", {}).get("llmkit", "unknown"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    if found != FORMAT:
        age, remedy = ("a newer", "upgrade llmkit") if found > FORMAT else ("an older", "build it again")
        raise DataError(
            f"`{path}` was made by {age} llmkit ({maker}): format {found}",
            expected=f"format {FORMAT}",
            remedy=remedy,
        )
