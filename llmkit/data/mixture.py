"""Which source each document came from: the first part of its path, beyond what all paths share.

names, ids = sources_of(open_dataset("docstrings", 512))
names                       # ["jinja2", "networkx", "sympy"]
names[ids[1017]]            # of document 1017
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llmkit.data.dataset import TokenDataset

MOST = 16  # sources; a set with more names than that has files, not sources
MOST_DOCUMENTS = 2**20  # whose names are read: about a second


def sources_of(dataset: TokenDataset) -> tuple[list[str], np.ndarray]:
    """Names of the sources, sorted, and the source of each document as an index into them (n_documents,).

    A set without that structure, or of more than 2**20 documents, is one source, named as the set.
    """
    one = [dataset.name], np.zeros(dataset.n_documents, dtype=np.int64)
    if dataset.n_documents > MOST_DOCUMENTS:
        return one
    folders = [name.split("/")[:-1] for name in dataset.sources]
    ends = zip(min(folders), max(folders), strict=False)  # in order, what these two share, all share
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    parts = [folder[shared] if len(folder) > shared else "" for folder in folders]
    names = sorted(set(parts))
    if not 1 < len(names) <= MOST:
        return one
    return names, np.array([names.index(part) for part in parts], dtype=np.int64)


def composition(dataset: TokenDataset) -> dict[str, Any]:
    """What the training split is made of, for run.json.

    Returns:
        `shards`: `tokens` of a full one and `count`; `sources`: share of the tokens that each source has.
    """
    names, ids = sources_of(dataset)
    documents, lengths = dataset.lengths("train")
    tokens = np.bincount(ids[documents], weights=lengths, minlength=len(names)) / lengths.sum()
    return {
        "shards": {"tokens": dataset.manifest.shard_tokens, "count": len(dataset.shards("train"))},
        "sources": {name: round(float(share), 6) for name, share in zip(names, tokens, strict=True)},
    }
