"""Inputs kept for ever: texts that were seen before, to be asked again of every later model.

    pin(open_dataset("docstrings"), "pins.jsonl", sample=64)    # by seed; or documents=[1017, 12]
    pin(newer, "pins.jsonl", documents=[3])                     # adds to those that are there

The texts themselves are kept, so that pins outlive the data set they came from: one JSON line each, sorted by
the hash of the text, under a first line with the SHA-256 of the rest. A pin is never lost by pinning more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from llmkit.data.dataset import TokenDataset
from llmkit.data.versions import text_hashes
from llmkit.errors import DataError, IntegrityError
from llmkit.folder import write_whole


@dataclass(frozen=True)
class Pin:
    """One kept input."""

    sha256: str  # of the text
    source: str  # where it was first seen
    text: str


def pin(
    dataset: TokenDataset,
    path: os.PathLike | str,
    *,
    documents: Iterable[int] | None = None,
    sample: int = 64,
    seed: int = 0,
    split: str = "train",
) -> list[Pin]:
    """Add documents to a pin file, which is made if there is none; returns all that are in it now.

    Args:
        documents: their ids. None: a sample.
        sample: how many to draw when no ids are given. The seed and the text decide, so a document's chance
            does not depend on its place, and equal sets give equal samples.
        split: where the sample is drawn from; what was trained on is what was seen.

    Raises:
        ConfigError: no such document or split.
        DataError, IntegrityError: as `read_pins` does.
        StorageError: it cannot be written; the old file still stands.
    """
    if documents is None:
        hashes, ids = text_hashes(dataset), dataset.lengths(split)[0].tolist()
        documents = sorted(ids, key=lambda i: hashlib.sha256(b"%d:" % seed + hashes[i]).digest())[:sample]
    kept = {one.sha256: one for one in (read_pins(path) if Path(path).exists() else ())}
    for document in map(dataset.document, documents):
        sha256 = hashlib.sha256(document.text.encode()).hexdigest()
        kept.setdefault(sha256, Pin(sha256, document.source, document.text))
    pins = [kept[sha256] for sha256 in sorted(kept)]
    body = "".join(json.dumps(asdict(one)) + "\n" for one in pins)
    head = {"pins": len(pins), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    write_whole(path, json.dumps(head) + "\n" + body)
    return pins


def read_pins(path: os.PathLike | str) -> list[Pin]:
    """The pins of a file, in its order.

    Raises:
        DataError: there is no such file.
        IntegrityError: it is not a pin file, or not the one that was written.
    """
    try:
        head, _, body = Path(path).read_bytes().partition(b"\n")
    except OSError as error:
        raise DataError(f"no pin file `{path}`", remedy="write one with: llmkit data pin") from error
    try:
        if json.loads(head)["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its lines are not those that were written")
        return [Pin(**json.loads(line)) for line in body.decode().splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"`{path}` is no pin file, or a damaged one: {error}", remedy="take it from a backup"
        ) from error
