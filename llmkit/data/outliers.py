"""Documents that do not belong: one by one, because three foreign ones in a thousand move no average.

A document's *surprise* is its cross-entropy under the token frequencies of all other documents, in nats a
token. If a shard were dealt from the same documents as the rest, the chance that j of its documents lie above
the rest's 99.9 % quantile is a ratio of binomial coefficients, whatever the surprises look like.

    high, p = exceedance(surprise_here, surprise_there)         # which documents, and how likely by chance

Source of the test: precedence and exceedance tests, Balakrishnan and Ng, "Precedence-type tests", 2006.
"""

from __future__ import annotations

from math import ceil, exp, lgamma

import numpy as np

SHORTEST = 32  # tokens; shorter documents are surprising by chance
QUANTILE = 0.999


def surprises(tokens: np.ndarray, starts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Surprise (d,) of each document, in nats a token; -inf below 32 tokens.

    Args:
        tokens: (n,) of all documents, one after the other; starts: (d,) where each begins.
        total: (V,) counts over all shards, these documents included: each is taken out for its own score,
            since a long document makes its own words look common.
    """
    lengths = np.diff(starts, append=len(tokens))
    keys = np.repeat(np.arange(len(starts)), lengths) * len(total) + tokens
    pairs, count = np.unique(keys, return_counts=True)
    document, token = np.divmod(pairs, len(total))
    q = (total[token] - count + 0.5) / (total.sum() - lengths[document] + 0.5 * len(total))
    nats = np.bincount(document, -count * np.log(q), len(starts)) / lengths
    return np.where(lengths < SHORTEST, -np.inf, nats)


def exceedance(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, float]:
    """Indices of `here` (n,) above the 99.9 % quantile of `there` (m,), and the chance of so many.

    The quantile is the k-th largest of `there`, k = ceil(m / 1000). At least j of `here` lie above it if and
    only if j or more of the j + k - 1 largest of both come from `here`: a hypergeometric tail, exact.
    """
    n, m = len(here), len(there)
    k = ceil(round(m * (1 - QUANTILE), 6))
    high = np.flatnonzero(here > np.sort(there)[-k])
    j, drawn = len(high), len(high) + k - 1
    logs = [_log_choose(n, i) + _log_choose(m, drawn - i) for i in range(j, min(n, drawn) + 1)]
    return high, min(1.0, sum(exp(v - _log_choose(n + m, drawn)) for v in logs))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) if 0 <= k <= n else float("-inf")
