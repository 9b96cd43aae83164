"""Could chance have dealt these documents so? A permutation test on many counts at once.

If the shards hold text of one kind, the label of a block says nothing about its counts: dealing the labels
anew gives sets that are as likely as the one seen. The p-value is the share of such dealings whose largest
|z| is at least the one observed. That holds for any distribution of tokens, however bursty, and since the
maximum runs over all tokens and shards, looking at thousands of them costs no further correction.

    rest = residuals(counts, counts.sum(1), stratum)
    weights = contrasts(shard, stratum, of=[0, 1, 2], against=None)
    seen = scores(weights, rest, stratum)                           # (3, tokens)
    largest = maxima(weights, rest, stratum, orders(stratum, 1999, np.random.default_rng(0)))
    p = p_value(np.abs(seen).max(), largest)

Source: Westfall and Young, "Resampling-based multiple testing", 1993 (the maximum as statistic).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHUNK = 128  # dealings at a time: a few MB of scores


def contrasts(group: np.ndarray, stratum: np.ndarray, of: Sequence[int], against: int | None) -> np.ndarray:
    """Weights (s, n) of n blocks that set each group of `of` against `against`, or against all others.

    They sum to 0 within each stratum. A stratum with m blocks here and k there enters with weight
    m*k / (m + k), and not at all if either is 0.
    """
    weights = np.zeros((len(of), len(group)))
    for row, wanted in zip(weights, of, strict=True):
        for code in np.unique(stratum):
            here = (group == wanted) & (stratum == code)
            there = (group != wanted if against is None else group == against) & (stratum == code)
            m, k = here.sum(), there.sum()
            if m and k:
                row[here], row[there] = k / (m + k), -m / (m + k)
    return weights


def residuals(counts: np.ndarray, size: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """What each block holds beyond its due: counts (n, k) less size (n, 1 or k) times the stratum's rate."""
    rest = np.empty(counts.shape)
    for code in np.unique(stratum):
        rows = stratum == code
        rate = counts[rows].sum(0) / np.maximum(size[rows].sum(0), 1)
        rest[rows] = counts[rows] - size[rows] * rate
    return rest


def spread(weights: np.ndarray, rest: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Standard deviation (s, k) of weights @ rest over all dealings of the labels; inf where nothing varies.

    Within a stratum of n blocks the variance is sum(w^2) sum(r^2) / (n - 1): this is where words that come
    in bursts get the wide error that is their due.
    """
    variance = np.zeros((len(weights), rest.shape[1]))
    for code in np.unique(stratum):
        rows = stratum == code
        r2 = (rest[rows] ** 2).sum(0) / max(1, rows.sum() - 1)
        variance += np.outer((weights[:, rows] ** 2).sum(1), r2)
    return np.sqrt(np.where(variance > 1e-9, variance, np.inf))


def scores(weights: np.ndarray, rest: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """z (s, k) of each group and each count."""
    return weights @ rest / spread(weights, rest, stratum)


def orders(stratum: np.ndarray, times: int, rng: np.random.Generator) -> np.ndarray:
    """(times, n) dealings of n labels; a label never leaves its stratum."""
    dealt = np.empty((times, len(stratum)), np.int64)
    for code in np.unique(stratum):
        rows = np.flatnonzero(stratum == code)
        dealt[:, rows] = rows[np.argsort(rng.random((times, len(rows))), axis=1)]
    return dealt


def maxima(weights: np.ndarray, rest: np.ndarray, stratum: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    """Largest |z| (b,) over groups and counts of each dealing (b, n): one matrix product per chunk.

    With one stratum the spread is a product of a row and a column, divided out beforehand.
    """
    sd = spread(weights, rest, stratum)
    one = len(np.unique(stratum)) == 1
    norms = np.sqrt((weights**2).sum(1, keepdims=True))
    small = (rest / sd[norms.argmax()] * norms.max() if one else rest).astype(np.float32)
    weights = (weights / np.where(norms > 0, norms, 1) if one else weights).astype(np.float32)
    largest = np.empty(len(dealt))
    for i in range(0, len(dealt), CHUNK):
        labels = weights[:, dealt[i : i + CHUNK]]  # (s, c, n)
        z = (labels.reshape(-1, labels.shape[2]) @ small).reshape(*labels.shape[:2], -1)
        if not one:
            z /= sd[:, None].astype(np.float32)
        largest[i : i + CHUNK] = np.maximum(z.max(axis=(0, 2), initial=0), -z.min(axis=(0, 2), initial=0))
    return largest


def p_value(seen: float | np.ndarray, largest: np.ndarray) -> float | np.ndarray:
    """(1 + dealings at least as extreme) / (1 + dealings); a hair's breadth below counts as equal."""
    above = np.sort(largest)
    return (1 + len(above) - np.searchsorted(above, np.asarray(seen) * (1 - 1e-5))) / (1 + len(above))
