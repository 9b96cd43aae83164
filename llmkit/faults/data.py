"""Data that goes wrong: one document of coherent garbage, and a loader that waits.

with PoisonedDocument(run, at=40) as fault:
    list(train(run))
fault.document      # its id
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from llmkit.data import Batch
from llmkit.data.tokenizer import END_ID
from llmkit.errors import FaultError
from llmkit.faults.base import Fault, LoaderWrapper


class PoisonedDocument(Fault):
    """One document whose tokens are all the same, wherever and whenever a window shows it.

    Coherent garbage moves weights: every one of its targets pushes the same way. Its end token stays, its
    neighbours in the window stay, and a loader that has been told to skip the document serves none of it.

    Args:
        document: its id. None: the one that fills most of a window at step `at`.
        token: the id it repeats. None: the last of the vocabulary, the rarest that byte-pair encoding made.
    """

    name = "poisoned-document"
    lasts = float("inf")

    def __init__(self, run: Any, document: int | None = None, token: int | None = None, **when: Any):
        super().__init__(run, **when)
        vocab = run.config.model.vocab_size
        self.token = vocab - 1 if token is None else token
        if not 0 <= self.token < vocab:
            raise FaultError(f"no token {self.token}", expected=f"0 to {vocab - 1}, the model's vocabulary")
        if document is None:  # every rank chooses among its own rows; the first rank's choice counts
            document = run.parallel.gather(self._largest(run.loader.batch(self.at).documents))[0]
        elif not 0 <= document < run.loader.dataset.n_documents:
            raise FaultError(
                f"no document {document}", expected=f"an id from 0 to {run.loader.dataset.n_documents - 1}"
            )
        self.document = document

    def _largest(self, documents: np.ndarray) -> int:
        """The document with most targets in one row; the first of equals."""
        best, most = -1, 0
        for row in documents:
            ids, counts = np.unique(row, return_counts=True)
            if counts.max() > most:
                best, most = int(ids[counts.argmax()]), int(counts.max())
        return best

    def install(self) -> None:
        self.wrap(self.run, "loader", LoaderWrapper)

    def call(self, inner: Any, step: int) -> Batch:
        batch = inner.batch(step)
        if not self.active(step) or self.document in inner.skip.documents:
            return batch
        target = batch.documents == self.document
        # x is y, one token earlier; where a window's first target opens the document, its first input is an
        # end token, which stays
        source = np.concatenate((target[:, :1], target[:, :-1]), axis=1)
        return dataclasses.replace(batch, x=self._spoil(batch.x, source), y=self._spoil(batch.y, target))

    def _spoil(self, tokens: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.where(where & (tokens != END_ID), self.token, tokens)


class StalledLoader(Fault):
    """A read that waits: an evicted cache, a slow disk, a worker that swaps.

    Args:
        seconds: how long each batch is late, on the run's clock.
    """

    name = "stalled-loader"

    def __init__(self, run: Any, seconds: float = 0.5, **when: Any):
        super().__init__(run, **when)
        if not seconds > 0:
            raise FaultError(f"seconds is {seconds:g}", expected="seconds > 0")
        self.seconds = seconds

    def install(self) -> None:
        self.wrap(self.run, "loader", LoaderWrapper)

    def call(self, inner: Any, step: int) -> Batch:
        if self.active(step):
            self.run.clock.sleep(self.seconds)
        return inner.batch(step)
