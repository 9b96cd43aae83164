"""Do the shards hold what the tokenizer makes of the documents, and do targets stand one token after inputs?

A shard's hash says that its bytes are those that were written, not that the right ones were: a worker with
another tokenizer hashes its own work. What cannot be forged is the text: every document is decoded, compared
with the SHA-256 taken before it was encoded, and encoded again.

    check_tokenised(open_dataset("docstrings")).flaws       # ()
    check_batches(notes, run.loader, steps=range(4))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llmkit.data.corpus import Document
from llmkit.data.dataset import SPLITS, TokenDataset
from llmkit.data.fidelity import Fidelity, Notes, check_tokenizer, name_of
from llmkit.data.loader import Loader
from llmkit.data.tokenizer import END_ID, Tokenizer

STEPS = 16  # batches looked at


def check_tokenised(dataset: TokenDataset, baseline: Tokenizer | None = None) -> Fidelity:
    """Every check of `llmkit.data.fidelity` and of this file. About 1 MB of text a second."""
    notes = Notes()
    check_borders(notes, dataset)
    windows = (dataset.n_tokens("train") - 1) // 64
    if windows:
        check_batches(notes, Loader(dataset, batch=min(8, windows), context=64, seed=0), range(STEPS))
    return check_tokenizer(dataset.tokenizer, stored(notes, dataset), baseline, notes)


def stored(notes: Notes, dataset: TokenDataset) -> Iterator[Document]:
    """A data set's documents as their shards have them, each checked on its way out."""
    hashes = np.fromfile(dataset.path / dataset.manifest.hashes.name, dtype=np.uint8).reshape(-1, 32)
    for number in range(dataset.n_documents):
        document = dataset.document(number)
        split, start, length = dataset.span(number)
        ids = dataset.tokens(split)[start : start + length - 1]
        notes.looked.update(("canonical", "stored"))
        if hashlib.sha256(document.text.encode()).digest() != hashes[number].tobytes():
            says = f"its tokens read {document.text[:30]!r}, which is not the text they were made from"
            notes.note("stored", name_of(document), says)
        if not np.array_equal(dataset.encode(document.text), ids):
            says = f"its {len(ids):,} tokens in the shard are not what their text is encoded to"
            notes.note("canonical", name_of(document), says)
        yield document


def check_borders(notes: Notes, dataset: TokenDataset) -> None:
    """End tokens of the stream against the document index."""
    for split in SPLITS:
        stream, ends = dataset.tokens(split), dataset.starts(split) + dataset.lengths(split)[1] - 1
        found = [
            np.flatnonzero(shard == END_ID) + i * stream.shard_tokens for i, shard in enumerate(stream.shards)
        ]
        found = np.concatenate([np.zeros(0, dtype=np.int64), *found])
        notes.looked["borders"] += len(ends)
        wrong = np.setxor1d(found, ends)
        if len(wrong):
            first = int(wrong[0])
            says = "has no end token" if first in ends else "is an end token inside a document"
            notes.note("borders", f"split {split}, position {first:,}", says, len(wrong))


def check_batches(notes: Notes, loader: Any, steps: Iterable[int]) -> None:
    """Targets against inputs, in what a loader serves: y[t] is x[t + 1], for all but a row's last column."""
    for step in steps:
        batch = loader.batch(step)
        notes.looked["labels"] += batch.y[:, :-1].size
        wrong = np.argwhere(batch.y[:, :-1] != batch.x[:, 1:])
        if len(wrong):
            row, column = (int(v) for v in wrong[0])
            fits = {
                k: float((batch.y[:, 2:-2] == np.roll(batch.x, -k, 1)[:, 2:-2]).mean()) for k in (-1, 0, 2)
            }
            best = max(fits, key=fits.get)
            says = f"target {batch.y[row, column]} is not input {batch.x[row, column + 1]}"
            if fits[best] > 0.9:
                says += f"; targets are the inputs {best:+d} places on, not +1"
            notes.note("labels", f"step {step}, row {row}, column {column}", says, len(wrong))
