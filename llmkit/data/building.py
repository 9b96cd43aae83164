"""Text in, data set out: spool it, train the tokenizer, set validation text apart, pack, name the whole.

Documents come as an iterator and memory does not grow with their number: texts wait on disk, are encoded a
MiB at a time, and shards are written as they fill. A build happens in a temporary folder beside its goal and
is renamed when every file is on disk: a killed build leaves no data set, and of two builds at once one wins
and both return it.

    dataset = build(documents, "data/mine", vocab_size=4096, name="mine", sources={"paths": ["notes/"]})
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import llmkit
from llmkit.data.corpus import FORMAT, MANIFEST, Document
from llmkit.data.dataset import TokenDataset
from llmkit.data.packing import Progress, pack
from llmkit.data.preprocess import Step, through
from llmkit.data.shards import write_file
from llmkit.data.sketch import sketch_of
from llmkit.data.spool import Spool
from llmkit.data.tokenizer import Tokenizer, train_tokenizer
from llmkit.errors import ConfigError, DataError, StorageError
from llmkit.folder import storage, sync_folder, write_whole

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest

# What the locked packages give: the digest of a data set by name and vocabulary, and of its text by name.
REFERENCE = {
    ("docstrings", 4096): "5aeaa8f025990ffae01aab4e469d7ada9ec28cc5ba6d26b398ab52f5046ba660",
    ("docstrings", 512): "f53eeb13092728a5f5e3eeb062211429c1b6d15bd4b764b229e8ba57095dc160",
    ("generated", 512): "eafc2db39e9bfd2df089b4485576e75075a004cf3b0d8f2760de51e97f0050c6",
}
REFERENCE_TEXT = {
    "docstrings": "1739cc2e88b5414474cd9f19f6ac58125722517c0b5142ce5ac0458c32648e8e",
    "generated": "feb9a4c359d8cfaa22e66924ab6888b5ac8f1deb6d2acbb152e7b49a7633ff28",
}

SKETCH_SHARDS = 32
TRAIN_BYTES = 2**24  # of text that the tokenizer learns from: more takes time and changes few merges


@dataclass(frozen=True)
class Recipe:
    """What a build was asked for, but for the documents and the folder."""

    name: str
    vocab_size: int
    sources: dict[str, Any]
    val_share: float
    shard_tokens: int
    steps: Sequence[Step]
    parent: str | None
    tokenizer: Tokenizer | None
    progress: Progress


def build(
    documents: Iterable[Document],
    folder: os.PathLike | str,
    *,
    vocab_size: int = 4096,
    name: str,
    sources: dict[str, Any],
    val_share: float = 0.02,
    shard_tokens: int = 2**20,
    steps: Sequence[Step] = (),
    parent: str | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> TokenDataset:
    """Build a data set in a new folder. Same documents, options and versions: same bytes, on any machine.

    Memory: some 300 MB and 30 bytes per byte of the longest text, however many there are
    (benchmarks/data.py measures it). Disk: the text once more while it is built.

    Args:
        documents: numbered 0, 1, 2, ... anew, in the order in which they come out of the steps.
        vocab_size: tokens of the byte-level BPE, at least 257, trained on all text, or, of more than 16 MiB,
            on that much of it, chosen by hash.
        sources: where the text came from, as JSON values; kept in the manifest.
        val_share: share of documents kept for validation, 0 to 0.5; one at least when there are two.
        shard_tokens: tokens in a full shard.
        steps: preprocessing, in order; see llmkit.data.preprocess. Kept in the manifest with their counts.
        parent: digest of the data set that this one succeeds.
        tokenizer: encode with this one, as a later version of a data set should, instead of training one.
        progress: called with the stage (`read`, `train`, `encode`), documents done, documents in all (0 while
            that is not known).

    Raises:
        ConfigError: an impossible argument.
        DataError: no text, or a folder that holds something already.
        StorageError: full disk or unwritable folder; nothing is left behind.
    """
    if not 0 <= val_share <= 0.5:
        raise ConfigError(f"val_share is {val_share}", expected="a share from 0 to 0.5")
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens is {shard_tokens}", expected="at least 1")
    folder = Path(folder)
    refuse_occupied(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{token_hex(4)}.tmp")
    silent: Progress = lambda stage, done, total: None  # noqa: E731
    recipe = Recipe(
        name, vocab_size, sources, val_share, shard_tokens, steps, parent, tokenizer, progress or silent
    )
    try:
        with storage(folder):
            sweep(folder)
            temporary.mkdir(parents=True)
        write_dataset(documents, temporary, recipe)
        publish(temporary, folder)
    except StorageError as error:
        with storage(folder):  # name the folder that was asked for, not a file in the temporary one
            raise error.__cause__ from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenDataset(folder)


def refuse_occupied(folder: Path) -> None:
    """Raises DataError when the folder holds anything: a build never mixes with what is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"`{folder}` already exists and is not an empty folder",
            remedy="name a new folder, or delete this one first",
        )


def sweep(folder: Path) -> None:
    """Remove what killed builds of this folder left behind more than a day ago."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        with suppress(FileNotFoundError):  # another build swept it
            if left.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(left, ignore_errors=True)


def publish(temporary: Path, folder: Path) -> None:
    """Rename a finished build to its place. If another process was quicker with an equal one, that stands.

    Raises:
        DataError: another process was quicker, with other data.
    """
    from llmkit.data.manifest import read_manifest

    with storage(folder):
        sync_folder(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / MANIFEST).exists():
                raise
            if read_manifest(folder).digest != read_manifest(temporary).digest:
                refuse_occupied(folder)
        sync_folder(folder.parent)


def write_dataset(documents: Iterable[Document], folder: Path, recipe: Recipe) -> None:
    """Everything `build` writes, manifest last."""
    from importlib.metadata import version

    from llmkit.data.manifest import Manifest

    with storage(folder):
        spool = Spool(folder)
    with spool:
        documents, entries = through(documents, recipe.steps)
        for document in documents:
            spool.add(document)
            if spool.documents % 1000 == 0:
                recipe.progress("read", spool.documents, 0)
        if not spool.documents:
            raise DataError(
                "no documents to build a data set from",
                expected="at least one non-empty text",
                remedy="name files or folders with .txt, .jsonl or .parquet in them",
            )
        hashes, names, text_digest = spool.finish()
        tokenizer = recipe.tokenizer or train(spool, recipe)
        packed = pack(folder, spool, tokenizer, recipe.val_share, recipe.shard_tokens, recipe.progress)
    manifest = Manifest(
        format=FORMAT,
        name=recipe.name,
        digest="0" * 64,
        parent=recipe.parent,
        tokenizer_digest=tokenizer.digest,
        text_digest=text_digest,
        reference=False,
        vocab_size=tokenizer.vocab_size,
        shard_tokens=recipe.shard_tokens,
        documents=spool.documents,
        splits=packed.splits,
        sources=recipe.sources,
        steps=entries(),
        made_with={"llmkit": llmkit.__version__, "tokenizers": version("tokenizers")},
        tokenizer=write_file(folder, "tokenizer.json", tokenizer.text.encode()),
        index=packed.index,
        names=names,
        hashes=hashes,
        leaves=write_file(folder, "leaves.sha256", packed.leaves),
        shards=packed.shards,
    )
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Name the whole, and write the manifest; then sketch the shards, and write it again with the sketch.

    A sketch takes some 2 MiB of memory a shard while it is made. So that a build stays bounded, a larger set
    has none, and `drift` makes one when it is asked.
    """
    manifest = manifest.model_copy(update={"digest": manifest.recompute()})
    manifest = manifest.model_copy(update={"reference": is_reference(manifest)})
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    if len(manifest.shards) > SKETCH_SHARDS:
        return
    sketch = write_file(folder, "sketch.npz", sketch_of(TokenDataset(folder, check=False)).to_bytes())
    manifest = manifest.model_copy(update={"sketch": sketch})
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def train(spool: Spool, recipe: Recipe) -> Tokenizer:
    """A tokenizer from the spooled text, or from a share of it that the texts' hashes choose."""
    recipe.progress("train", 0, spool.documents)
    return train_tokenizer(spool.texts(share=min(1.0, TRAIN_BYTES / spool.bytes)), recipe.vocab_size)


def is_reference(manifest: Manifest) -> bool:
    """Whether text (and digest, if this vocabulary is in REFERENCE) are those the kit was tested on."""
    known = REFERENCE.get((manifest.name, manifest.vocab_size), manifest.digest)
    return manifest.digest == known and manifest.text_digest == REFERENCE_TEXT.get(manifest.name)
