"""The data sets that need no download: built once from what is installed, then kept in the cache.

The cache is the folder in LLMKIT_CACHE, or the user's cache folder. Deleting it costs a rebuild of seconds.

    open_dataset("docstrings", vocab_size=4096)     # English and mathematics
    open_dataset("generated")                       # a made-up language, equal on every machine for ever
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.data.building import build
from llmkit.data.corpus import FORMAT, MANIFEST, Document
from llmkit.data.dataset import TokenDataset
from llmkit.data.synthetic import synthetic
from llmkit.errors import DataError, closest

NAMES = ("docstrings", "generated")


def cache_folder() -> Path:
    """Where built data sets are kept."""
    if named := os.environ.get("LLMKIT_CACHE"):
        return Path(named)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("llmkit"))


def cached(
    name: str,
    vocab_size: int,
    identity: dict[str, Any],
    make: Callable[[], tuple[list[Document], dict[str, Any]]],
    cache: os.PathLike | str | None,
) -> TokenDataset:
    """The data set with this identity from the cache, built there first if need be."""
    from importlib.metadata import version

    identity = {**identity, "format": FORMAT, "tokenizers": version("tokenizers")}
    key = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:10]
    folder = (Path(cache) if cache is not None else cache_folder()) / f"{name}-{vocab_size}-{key}"
    if not (folder / MANIFEST).exists():
        documents, sources = make()
        try:
            return build(documents, folder, vocab_size=vocab_size, name=name, sources=sources)
        except DataError:
            if not (folder / MANIFEST).exists():  # if it does, another process was quicker
                raise
    return TokenDataset(folder)


def generated(
    vocab_size: int = 512, documents: int = 2000, seed: int = 0, cache: os.PathLike | str | None = None
) -> TokenDataset:
    """The seeded made-up language of `llmkit.data.synthetic`, tokenised. About a second the first time."""
    identity = {"documents": documents, "seed": seed}
    return cached("generated", vocab_size, identity, lambda: (synthetic(documents, seed), identity), cache)


def embedded(vocab_size: int = 4096, cache: os.PathLike | str | None = None) -> TokenDataset:
    """Docstrings of sympy, networkx and jinja2 as installed, tokenised. About 12 s the first time.

    With the locked versions `manifest.reference` is true and the digest is the same on every machine.

    Raises:
        MissingDependency: one of the packages is not installed.
        IntegrityError: one of their files is not the one that its wheel brought.
    """
    from llmkit.data.docstrings import docstrings, package_versions

    return cached("docstrings", vocab_size, package_versions(), docstrings, cache)


def open_dataset(path_or_name: os.PathLike | str, vocab_size: int | None = None) -> TokenDataset:
    """A data set by name or folder. Up to 64 MiB every byte is hashed; beyond, sizes only (see `verify`).

    Raises:
        DataError: nothing there.
        IntegrityError: a file is not the one that was written.
        ConfigError: a folder whose vocabulary is not `vocab_size`.
    """
    if path_or_name == "docstrings":
        return embedded(vocab_size or 4096)
    if path_or_name == "generated":
        return generated(vocab_size or 512)
    path = Path(path_or_name)
    if not path.exists() and path.name == str(path_or_name):
        raise DataError(
            f"no data set `{path_or_name}`",
            expected="`docstrings`, `generated`, or a folder with manifest.json",
            remedy=closest(str(path_or_name), NAMES),
        )
    dataset = TokenDataset(path)
    if vocab_size is not None:
        dataset.check_vocab(vocab_size)
    return dataset
