"""Small data sets of their own: a build of forty documents takes 50 ms."""

from __future__ import annotations

import shutil

import pytest

from llmkit.data import Document, Loader, TokenDataset, build
from llmkit.data.synthetic import synthetic


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    return synthetic(documents=40, seed=3)


@pytest.fixture(scope="session")
def small(documents, tmp_path_factory) -> TokenDataset:
    """Forty documents, several shards per split. Read it; to damage one, take `copied`."""
    folder = tmp_path_factory.mktemp("data") / "small"
    return build(
        documents,
        folder,
        vocab_size=300,
        name="small",
        sources={"seed": 3},
        val_share=0.1,
        shard_tokens=1000,
    )


@pytest.fixture
def copied(small, tmp_path):
    """The folder of a copy of `small`, free to be damaged."""
    return shutil.copytree(small.path, tmp_path / "copied")


@pytest.fixture
def loader(small) -> Loader:
    """Eight rows of sixteen targets from `small`."""
    return Loader(small, batch=8, context=16, seed=1)
