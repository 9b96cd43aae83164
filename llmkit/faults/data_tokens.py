"""Tokens that are not what the shard holds: random, renumbered, padded, leaked, or with the wrong targets.

The one idea: a batch is changed on its way out of the loader, where tokenizing, collating and shifting stand
in a real pipeline. What becomes of a window depends on the window alone, so it is the same in every epoch.
Documents on the loader's skip list stay removed.

    with TokenizerSwap(run, at=40):
        list(train(run))
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from llmkit.data import Batch, Loader
from llmkit.data.order import mix
from llmkit.data.tokenizer import END_ID
from llmkit.errors import FaultError
from llmkit.faults.base import Fault, LoaderWrapper, Wrapper


def loader_behind(part: Any) -> Loader:
    """The loader itself, whatever stands in front of it."""
    while isinstance(part, Wrapper):
        part = part.inner
    return part


def draws(values: np.ndarray, key: int) -> np.ndarray:
    """A random-looking uint64 for each of `values`; the same one every time."""
    return mix(mix(np.asarray(values).astype(np.uint64) + np.uint64(key)))


def chances(values: np.ndarray, key: int) -> np.ndarray:
    """The same as floats in [0, 1)."""
    return (draws(values, key) >> np.uint64(11)) / 2.0**53


class BatchFault(Fault):
    """Changes batches from step `at` on."""

    lasts = math.inf

    def install(self) -> None:
        self.wrap(self.run, "loader", LoaderWrapper)

    def call(self, inner: Any, step: int) -> Batch:
        batch = inner.batch(step)
        return self.spoil(loader_behind(inner), batch) if self.active(step) else batch

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        raise NotImplementedError


def tokens_of(batch: Batch) -> np.ndarray:
    """Inputs and the last target (b, T + 1)."""
    return np.concatenate((batch.x, batch.y[:, -1:]), axis=1)


def with_tokens(batch: Batch, tokens: np.ndarray) -> Batch:
    """The batch with other tokens (b, T + 1); targets stay one ahead of inputs."""
    return dataclasses.replace(batch, x=tokens[:, :-1].copy(), y=tokens[:, 1:].copy())


def positions_of(loader: Loader, samples: np.ndarray) -> np.ndarray:
    """Where in the split's stream the inputs of windows (b,) and the last target lie (b, T + 1)."""
    return samples[:, None] * loader.context + np.arange(loader.context + 1)


def place(run: Any, step: int, shard: int | None) -> tuple[int, int]:
    """A training shard and a token in it: its middle, or where the first row of `step` begins.

    Raises:
        FaultError: there is no such shard.
    """
    shards, loader = run.dataset.shards("train"), loader_behind(run.loader)
    if shard is None:  # the first rank's choice counts
        first = run.parallel.gather(int(loader.samples(step)[0]))[0] * loader.context
        return divmod(first, run.dataset.manifest.shard_tokens)
    if not 0 <= shard < len(shards):
        raise FaultError(f"no shard {shard}", expected=f"0 to {len(shards) - 1}")
    return shard, shards[shard].tokens // 2


class CorruptShard(BatchFault):
    """One shard of ids drawn blindly, as from a file of the wrong dtype, or one compressed or encrypted.

    Args:
        shard: which of the training split. None: the one that the first row at step `at` lies in.
    """

    name = "corrupt-shard"

    def __init__(self, run: Any, shard: int | None = None, **when: Any):
        super().__init__(run, **when)
        self.shard, _ = place(run, self.at, shard)

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        positions, dataset = positions_of(loader, batch.samples), loader.dataset
        removed = np.isin(dataset.documents_at("train", positions), list(loader.skip.documents))
        hit = (positions // dataset.manifest.shard_tokens == self.shard) & ~removed
        noise = (draws(positions, 1) % np.uint64(dataset.vocab_size)).astype(np.int64)
        return with_tokens(batch, np.where(hit, noise, tokens_of(batch)))


class TokenizerSwap(BatchFault):
    """Another tokenizer from one step on: text is cut as before, every token but the end has another id."""

    name = "tokenizer-swap"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        ids = np.arange(run.dataset.vocab_size)
        rest = ids[ids != END_ID]
        self.table = ids.copy()
        self.table[rest] = rest[np.argsort(draws(rest, 2))]

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        return dataclasses.replace(batch, x=self.table[batch.x], y=self.table[batch.y])


class ShiftedLabels(BatchFault):
    """Targets that were never shifted: each position predicts the token it is given."""

    name = "shifted-labels"

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        return dataclasses.replace(batch, y=batch.x.copy())


class DoubleShift(BatchFault):
    """Targets shifted by the loader and once more by the model: each position predicts the one after next."""

    name = "double-shift"

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        stream = loader.dataset.tokens(loader.split)
        after = np.minimum(positions_of(loader, batch.samples)[:, -1] + 1, len(stream) - 1)
        last = [[stream[int(position)]] for position in after]
        return dataclasses.replace(batch, y=np.concatenate((batch.y[:, 1:], last), axis=1))


class PartFault(BatchFault):
    """Spoils a share of what is served.

    Args:
        share: above 0, below 1.
    """

    def __init__(self, run: Any, share: float = 0.5, **when: Any):
        super().__init__(run, **when)
        if not 0 < share < 1:
            raise FaultError(f"share is {share:g}", expected="above 0, below 1")
        self.share = share


class PadsNotMasked(PartFault):
    """Sequences cut short and filled up with the end token, which counts as a target.

    Args:
        share: of the positions that are padding. From one sequence to the next it varies by a third.
    """

    name = "pads-not-masked"

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        tokens = tokens_of(batch)
        share = np.minimum(self.share * (2 / 3 + 2 / 3 * chances(batch.samples, 3)), 0.99)
        padded = np.arange(tokens.shape[1]) >= tokens.shape[1] * (1 - share)[:, None]
        return with_tokens(batch, np.where(padded, END_ID, tokens))


class ValLeak(PartFault):
    """Validation text in the training data, under other names: set apart by window, not by document.

    Args:
        share: of the training windows whose place a validation window takes.
    """

    name = "val-leak"

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        tokens, val = tokens_of(batch), loader.dataset.tokens("val")
        starts = chances(batch.samples, 5) * (len(val) - loader.context)
        for row in np.flatnonzero(chances(batch.samples, 4) < self.share):
            leaked = val[int(starts[row]) : int(starts[row]) + loader.context + 1]
            tokens[row, : len(leaked)] = leaked
        return with_tokens(batch, tokens)
