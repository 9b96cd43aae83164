"""Is every byte of a data set the one that was written?

    verify("data/mine")         # [] or one sentence per problem, each naming its file

Hashing runs on every core (SHA-256 releases the interpreter's lock): about 1.6 GB/s a core where the
processor has SHA instructions, so 200 GB is some two minutes on one core if the disk keeps up.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.data.dataset import SPLITS, TokenDataset
from llmkit.data.shards import check_hash
from llmkit.errors import IntegrityError

if TYPE_CHECKING:
    from llmkit.data.manifest import FileEntry


def verify(path: os.PathLike | str) -> list[str]:
    """Problems of a data set, in the order of its manifest; an empty list means that every byte is right.

    Raises:
        DataError: there is no data set at `path`.
    """
    from llmkit.data.manifest import read_manifest

    try:
        manifest = read_manifest(Path(path))
    except IntegrityError as error:
        return [str(error)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [p for p in pool.map(lambda entry: _problem(Path(path), entry), manifest.files()) if p]
    return problems or _contents(TokenDataset(path, check=False))


def _problem(folder: Path, entry: FileEntry) -> str:
    try:
        check_hash(folder / entry.name, entry)
    except IntegrityError as error:
        return error.found + (f", expected {error.expected}" if error.expected else "")
    return ""


def _contents(dataset: TokenDataset) -> list[str]:
    """What hashes cannot see, because a faulty writer hashes what it wrote: do the parts fit together?"""
    problems = []
    try:
        _ = dataset.tokenizer
    except IntegrityError as error:
        problems.append(error.found)
    for split in SPLITS:
        stream = dataset.tokens(split)
        lengths = dataset.lengths(split)[1]
        if dataset.starts(split).tolist() != (np.cumsum(lengths) - lengths).tolist() or lengths.sum() != len(
            stream
        ):
            problems.append(f"split `{split}`: the document index does not cover its {len(stream):,} tokens")
        for entry, shard in zip(dataset.shards(split), stream.shards, strict=True):
            if shard.max() >= dataset.vocab_size:
                problems.append(
                    f"`{dataset.path / entry.name}` holds token {shard.max():,}, the vocabulary ends at "
                    f"{dataset.vocab_size - 1:,}"
                )
    return problems
