"""The right windows in the wrong order, or not all of them.

The one idea: only the choice of windows is changed (`Loader.samples`); what is read, removed and recorded is
the loader's own doing.

    with SourceMissing(run, source="networkx", at=40):
        list(train(run))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmkit.data import Batch, Loader
from llmkit.data.mixture import sources_of
from llmkit.errors import FaultError, closest
from llmkit.faults.data_tokens import BatchFault, draws, loader_behind, positions_of


class OrderFault(BatchFault):
    """Chooses other windows from step `at` on. Of two such faults the one put in first decides."""

    def call(self, inner: Any, step: int) -> Batch:
        loader = loader_behind(inner)
        if not self.active(step):
            return inner.batch(step)
        before, samples = vars(loader).get("samples"), self.choose(loader, step)
        loader.samples = lambda step: samples
        try:
            return inner.batch(step)
        finally:
            del loader.samples
            if before is not None:
                loader.samples = before

    def choose(self, loader: Loader, step: int) -> np.ndarray:
        """Window indices (b,) of this rank's rows."""
        raise NotImplementedError


class UnshuffledOrder(OrderFault):
    """Windows as they lie on disk, one after the other: the shuffle was forgotten."""

    name = "unshuffled-order"

    def choose(self, loader: Loader, step: int) -> np.ndarray:
        rows = loader.batch_size // loader.world
        first = loader.skip.cursor(step) * loader.batch_size + loader.rank * rows
        return np.arange(first, first + rows, dtype=np.int64) % loader.n_windows


class SourceMissing(OrderFault):
    """One source of the mixture is no longer served; windows of the others take its place.

    Args:
        source: its name. None: the second largest.
    """

    name = "source-missing"

    def __init__(self, run: Any, source: str | None = None, **when: Any):
        super().__init__(run, **when)
        names, self._source_of = sources_of(run.dataset)
        if len(names) < 2:
            raise FaultError(
                f"data set `{run.dataset.name}` has one source",
                expected="documents from two folders or packages at least",
                remedy="train on `docstrings`",
            )
        ids, lengths = run.dataset.lengths("train")
        sizes = np.bincount(self._source_of[ids], weights=lengths, minlength=len(names))
        self.source = names[int(np.argsort(sizes)[-2])] if source is None else source
        if self.source not in names:
            raise FaultError(f"no source `{source}`", remedy=closest(self.source, names))
        self._gone = names.index(self.source)

    def choose(self, loader: Loader, step: int) -> np.ndarray:
        samples = loader.samples(step)
        for attempt in range(1000):  # more than a source of 99 % needs
            documents = loader.dataset.documents_at(loader.split, positions_of(loader, samples)[:, 1:])
            gone = (self._source_of[documents] == self._gone).any(axis=1)
            if not gone.any():
                break
            others = draws(samples, 6 + attempt) % np.uint64(loader.n_windows)
            samples = np.where(gone, others.astype(np.int64), samples)
        return samples
