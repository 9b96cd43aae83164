"""Is every byte of a data set the one that was written? If not: which file, and which bytes of it?

    verify("data/mine")         # [] or one sentence per problem, each naming its file
    examine("data/mine")        # the same as objects, with the byte ranges that differ

Each file is hashed whole, on every core (SHA-256 releases the interpreter's lock): about 1.6 GB/s a core
where the processor has SHA instructions, so 200 GB is some two minutes on one core if the disk keeps up. Only
where a hash is wrong are those of its single MiB ("leaves") compared, which names the damage to the MiB. The
largest token is looked for in the same buffer while it is in the cache, so that it costs no second read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.data.corpus import MANIFEST
from llmkit.data.dataset import SPLITS
from llmkit.data.shards import LEAF, check_hash, check_size
from llmkit.data.tokenizer import load_tokenizer
from llmkit.errors import IntegrityError

if TYPE_CHECKING:
    from llmkit.data.manifest import FileEntry, Manifest

BUFFER = 2**18  # bytes read at once: small enough to stay in a core's cache between hash and maximum
SHOWN = 8  # ranges spelled out in a sentence; `ranges` has all

Stamp = tuple[int, ...] | None
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with a data set."""

    file: str
    says: str
    ranges: Ranges = ()  # bytes [start, stop) that differ, to the MiB, ascending


@dataclass(frozen=True)
class _Reading:
    """What one pass over a file found."""

    entry: FileEntry
    sha256: str = ""
    largest: int = 0  # token
    stamp: Stamp = None  # of the file that was read
    refused: str = ""  # why it was not read to the end


def verify(path: os.PathLike | str, progress: Callable[[int], None] | None = None) -> list[str]:
    """Problems of a data set, in the order of its manifest; an empty list means that every byte is right.

    A file that changes while it is being verified is a problem too, whatever its bytes were.

    Args:
        progress: called with the size of each file, in bytes, when it has been read.

    Raises:
        DataError: there is no data set at `path`, or one of another format.
    """
    return [damage.says for damage in examine(path, progress)]


def examine(path: os.PathLike | str, progress: Callable[[int], None] | None = None) -> list[Damage]:
    """As `verify`, with the byte ranges that differ."""
    from llmkit.data.manifest import read_manifest

    folder = Path(path)
    before = _stamp(folder / MANIFEST)
    try:
        manifest = read_manifest(folder)
    except IntegrityError as error:
        return [Damage(str(folder / MANIFEST), str(error))]
    readings = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for reading in pool.map(partial(_read, folder), manifest.files()):
            readings.append(reading)
            if progress is not None:
                progress(reading.entry.bytes)
    found = [damage for reading in readings if (damage := _judge(folder, manifest, reading))]
    if _stamp(folder / MANIFEST) != before:
        found.append(_replaced(folder / MANIFEST))
    found += _rivals(folder, manifest)
    return found or _contents(folder, manifest, readings)


def _rivals(folder: Path, manifest: Manifest) -> list[Damage]:
    """Other manifests in the folder that claim one of its shards: a build into a used folder leaves such."""
    ours, found = {shard.name for shard in manifest.shards}, []
    for path in sorted(folder.glob("*.json")):
        if path.name in (MANIFEST, manifest.tokenizer.name):
            continue
        try:
            claims = {shard["name"] for shard in json.loads(path.read_bytes())["shards"]}
        except (OSError, ValueError, LookupError, TypeError):  # some other JSON file
            continue
        if both := sorted(ours & claims):
            found.append(Damage(str(path), f"`{path}` is a second manifest that claims `{both[0]}`"))
    return found


def _stamp(path: Path | int) -> Stamp:
    """What changes when a file is replaced or written to; None when it is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read(folder: Path, entry: FileEntry) -> _Reading:
    """Hash a file and find its largest token, in one pass."""
    path, dtype = folder / entry.name, np.dtype(getattr(entry, "dtype", "uint8")).newbyteorder("<")
    digest, largest, buffer = hashlib.sha256(), 0, bytearray(BUFFER)
    view, tokens = memoryview(buffer), np.frombuffer(buffer, dtype)
    try:
        check_size(path, entry)
        with open(path, "rb") as file:
            stamp = _stamp(file.fileno())
            while count := file.readinto(buffer):
                digest.update(view[:count])
                largest = max(largest, int(tokens[: count // dtype.itemsize].max(initial=0)))
    except IntegrityError as error:
        says = error.found + (f", expected {error.expected}" if error.expected else "")
        return _Reading(entry, refused=says)
    except OSError as error:
        return _Reading(entry, refused=f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    return _Reading(entry, digest.hexdigest(), largest, stamp)


def _judge(folder: Path, manifest: Manifest, reading: _Reading) -> Damage | None:
    """What is wrong with one file; None when it is as it was written, and still the one that was read."""
    entry, path, says = reading.entry, folder / reading.entry.name, reading.refused
    if reading.stamp and _stamp(path) != reading.stamp:
        return _replaced(path)
    if not says:
        if reading.sha256 == entry.sha256:
            return None
        expected = f"expected {entry.sha256[:12]}..., as its manifest says"
        says = f"`{path}` is corrupt: SHA-256 {reading.sha256[:12]}..., {expected}"
    try:
        ranges = _differing(folder, manifest, entry)
    except (IntegrityError, OSError):  # no leaves to go by, or nothing there to compare with them
        return Damage(str(path), says)
    spelled = [f"{start:,} to {stop - 1:,}" for start, stop in ranges[:SHOWN]]
    more = f" and {len(ranges) - SHOWN:,} more ranges" if len(ranges) > SHOWN else ""
    return Damage(str(path), says + (f"; bytes {', '.join(spelled)}{more} differ" if ranges else ""), ranges)


def _replaced(path: Path) -> Damage:
    return Damage(str(path), f"`{path}` was replaced or written to while it was verified")


def _differing(folder: Path, manifest: Manifest, entry: FileEntry) -> Ranges:
    """Bytes of a shard whose leaves are not those that were written; adjacent leaves are one range.

    Bytes that are missing at the end, or that were added there, differ too. Files beside the shards have no
    leaves, and a link out of the folder is not followed.

    Raises:
        IntegrityError: leaves.sha256 is damaged itself.
    """
    leaves, path = folder / manifest.leaves.name, folder / entry.name
    if entry not in manifest.shards or path.resolve().parent != folder.resolve():
        return ()
    check_hash(leaves, manifest.leaves)
    before = manifest.shards[: manifest.shards.index(entry)]
    hashes, found = leaves.read_bytes()[32 * sum(-(-shard.bytes // LEAF) for shard in before) :], []
    with open(path, "rb") as file:
        for number, start in enumerate(range(0, entry.bytes, LEAF)):
            stop = min(start + LEAF, entry.bytes)
            if hashlib.sha256(file.read(stop - start)).digest() != hashes[32 * number : 32 * number + 32]:
                found.append((start, stop))
        if (end := os.fstat(file.fileno()).st_size) > entry.bytes:
            found.append((entry.bytes, end))
    merged: list[tuple[int, int]] = []
    for start, stop in found:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    return tuple(merged)


def _contents(folder: Path, manifest: Manifest, readings: list[_Reading]) -> list[Damage]:
    """What hashes cannot see, because a faulty writer hashes what it wrote: do the parts fit together?"""
    found, words = [], folder / manifest.tokenizer.name
    try:
        if load_tokenizer(words).digest != manifest.tokenizer_digest:
            found.append(Damage(str(words), f"`{words}` is not the tokenizer of this data set"))
    except IntegrityError as error:
        found.append(Damage(str(words), error.found))
    index = np.fromfile(folder / manifest.index.name, dtype="<i8").reshape(-1, 3)
    for code, split in enumerate(SPLITS):
        (starts, lengths), tokens = index[index[:, 0] == code, 1:].T, manifest.splits[split].tokens
        if not np.array_equal(starts, np.cumsum(lengths) - lengths) or lengths.sum() != tokens:
            says = f"split `{split}`: the document index does not cover its {tokens:,} tokens"
            found.append(Damage(str(folder / manifest.index.name), says))
    for entry, largest in ((one.entry, one.largest) for one in readings if hasattr(one.entry, "dtype")):
        if largest >= manifest.vocab_size:
            path, last = folder / entry.name, manifest.vocab_size - 1
            found.append(
                Damage(str(path), f"`{path}` holds token {largest:,}, the vocabulary ends at {last:,}")
            )
    return found
