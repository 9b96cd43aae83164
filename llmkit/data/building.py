"""Text in, data set out: train the tokenizer, set validation text apart, pack, write shards, name the whole.

A build happens in a temporary folder beside its goal and is renamed when every file is on disk: a killed
build leaves no data set, and of two builds at once one wins and both return it.

    dataset = build(documents, "data/mine", vocab_size=4096, name="mine", sources={"paths": ["notes/"]})
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np

import llmkit
from llmkit.data.corpus import FORMAT, MANIFEST, Document, text_digest
from llmkit.data.dataset import SPLITS, TokenDataset, require_text
from llmkit.data.shards import leaf_hashes, write_file, write_shards
from llmkit.data.tokenizer import END_ID, train_tokenizer
from llmkit.errors import ConfigError, DataError, StorageError
from llmkit.folder import storage, sync_folder, write_whole

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest, ShardEntry, SplitEntry

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

LARGEST_UINT16 = 2**16  # vocabularies up to here have ids of two bytes


def build(
    documents: Iterable[Document],
    folder: os.PathLike | str,
    *,
    vocab_size: int,
    name: str,
    sources: dict[str, Any],
    val_share: float = 0.02,
    shard_tokens: int = 2**20,
) -> TokenDataset:
    """Build a data set in a new folder. Texts are held in memory; peak about 12 bytes per byte of text.

    Args:
        documents: ids must be 0, 1, 2, ...
        vocab_size: tokens of the byte-level BPE, at least 257.
        sources: where the text came from, as JSON values; kept in the manifest.
        val_share: share of documents kept for validation, 0 to 0.5; one at least when there are two.
        shard_tokens: tokens in a full shard.

    Raises:
        ConfigError: an impossible argument.
        DataError: no text, or a folder that holds something already.
        StorageError: full disk or unwritable folder; nothing is left behind.
    """
    if not 0 <= val_share <= 0.5:
        raise ConfigError(f"val_share is {val_share}", expected="a share from 0 to 0.5")
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens is {shard_tokens}", expected="at least 1")
    documents, folder = list(documents), Path(folder)
    require_text(documents)
    assert [d.id for d in documents] == list(range(len(documents))), "ids are 0, 1, 2, ..."
    refuse_occupied(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{token_hex(4)}.tmp")
    try:
        with storage(folder):
            sweep(folder)
            temporary.mkdir(parents=True)
        write_dataset(documents, temporary, vocab_size, name, sources, val_share, shard_tokens)
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


def write_dataset(
    documents: list[Document],
    folder: Path,
    vocab_size: int,
    name: str,
    sources: dict[str, Any],
    val_share: float,
    shard_tokens: int,
) -> None:
    """Everything `build` writes, manifest last."""
    from importlib.metadata import version

    from llmkit.data.manifest import Manifest

    texts = [d.text for d in documents]
    tokenizer = train_tokenizer(texts, vocab_size)
    dtype = np.uint16 if tokenizer.vocab_size <= LARGEST_UINT16 else np.uint32
    encoded = [np.array([*ids, END_ID], dtype=dtype) for ids in tokenizer.encode_batch(texts)]
    index = np.zeros((len(documents), 3), dtype="<i8")
    index[:, 0] = split_codes(texts, val_share)
    index[:, 2] = [len(ids) for ids in encoded]
    splits, shards = pack(folder, encoded, index, shard_tokens)
    hashes = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    leaves = b"".join(leaf_hashes((folder / shard.name).read_bytes()) for shard in shards)
    names = "".join(json.dumps(d.source) + "\n" for d in documents)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        digest="0" * 64,
        tokenizer_digest=tokenizer.digest,
        text_digest=text_digest(documents),
        reference=False,
        vocab_size=tokenizer.vocab_size,
        shard_tokens=shard_tokens,
        documents=len(documents),
        splits=splits,
        sources=sources,
        parent=None,
        steps=[],
        made_with={"llmkit": llmkit.__version__, "tokenizers": version("tokenizers")},
        tokenizer=write_file(folder, "tokenizer.json", tokenizer.text.encode()),
        index=write_file(folder, "documents.i64", index.tobytes()),
        names=write_file(folder, "documents.jsonl", names.encode()),
        hashes=write_file(folder, "documents.sha256", hashes),
        leaves=write_file(folder, "leaves.sha256", leaves),
        shards=shards,
    )
    manifest = manifest.model_copy(update={"digest": manifest.recompute()})
    manifest = manifest.model_copy(update={"reference": is_reference(manifest)})
    write_whole(folder / MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())


def pack(
    folder: Path, encoded: list[np.ndarray], index: np.ndarray, shard_tokens: int
) -> tuple[dict[str, SplitEntry], list[ShardEntry]]:
    """Concatenate each split's documents in id order and write the shards.

    Args:
        encoded: token ids of each document, its end token last.
        index: (n, 3) split code, first position, length; the positions are filled in here.
    """
    from llmkit.data.manifest import SplitEntry

    splits, shards = {}, []
    for code, split in enumerate(SPLITS):
        ids = np.flatnonzero(index[:, 0] == code)
        starts = np.cumsum(index[ids, 2]) - index[ids, 2]
        index[ids, 1] = starts
        stream = np.concatenate([np.zeros(0, dtype=encoded[0].dtype), *(encoded[i] for i in ids)])
        borders = np.arange(0, len(stream), shard_tokens)
        shards += write_shards(
            folder, split, stream, ids[np.searchsorted(starts, borders, "right") - 1], shard_tokens
        )
        entropy = unigram_entropy(stream)
        splits[split] = SplitEntry(documents=len(ids), tokens=len(stream), unigram_entropy_nats=entropy)
    return splits, shards


def is_reference(manifest: Manifest) -> bool:
    """Whether text (and digest, if this vocabulary is in REFERENCE) are those the kit was tested on."""
    known = REFERENCE.get((manifest.name, manifest.vocab_size), manifest.digest)
    return manifest.digest == known and manifest.text_digest == REFERENCE_TEXT.get(manifest.name)


def split_codes(texts: Sequence[str], val_share: float) -> np.ndarray:
    """0 (train) or 1 (val) for each text (n,): the texts with the smallest SHA-256 are kept for validation.

    Content decides, so a text keeps its split when others are added or reordered (but for the few at the
    cut), and two equal texts never sit on both sides.

    Raises:
        DataError: the texts are all equal, so that nothing would be left to train on.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts], np.uint64
    )
    wanted = min(max(1, round(val_share * len(texts))), len(texts) - 1) if val_share else 0
    if not wanted:
        return np.zeros(len(texts), dtype=np.int64)
    codes = (hashes <= np.partition(hashes, wanted - 1)[wanted - 1]).astype(np.int64)
    if codes.all():
        raise DataError(f"all {len(texts):,} documents are equal", expected="at least two different texts")
    return codes


def unigram_entropy(tokens: np.ndarray) -> float:
    """Entropy of the token frequencies, -sum p ln p, in nats, to six places; 0 for no tokens."""
    counts = np.bincount(tokens).astype(np.float64)
    p = counts[counts > 0] / max(1, len(tokens))
    return round(float(-(p * np.log(p)).sum()), 6) + 0.0  # + 0.0 turns -0.0 into 0.0
