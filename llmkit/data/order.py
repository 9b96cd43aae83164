"""A shuffle that is a formula: where does index i go in epoch e, without shuffling anything.

A list that is shuffled must be held in memory and drawn in order, so the order depends on what ran before.
A *keyed permutation* does not: write i as two digits (left, right) in base m, and repeat a few times

    left, right  =  right, (left + F(key, right)) mod m

Whatever F is, a round can be undone (right is still there, so F can be subtracted again), and so no two
indices collide: that is a Feistel network, the frame of the block cipher DES. With m*m >= n it permutes
0 .. m*m-1; an index that lands at n or above is sent through again until it lands below ("cycle walking").
m is the next integer above sqrt(n), so that fewer than 2m+1 of the m*m indices have to walk. Integers only:
the same order on every machine, O(1) memory for any n.

    permute(np.arange(10), n=10, keys=keys_of(seed=0, epochs=np.zeros(10)))
"""

from __future__ import annotations

from math import isqrt

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
# 4 rounds look random to whoever sees few values (Luby and Rackoff 1988); 2 more for tiny n
ROUNDS = [np.uint64(GOLDEN * r & (2**64 - 1)) for r in range(1, 7)]


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on a uint64 array: each input bit flips each output bit half of the time."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys_of(seed: int, epochs: np.ndarray) -> np.ndarray:
    """One 64-bit key per entry of `epochs` (k,): a function of seed and epoch only. Shape (k,) uint64."""
    seeds = np.full(len(epochs), seed & (2**64 - 1), dtype=np.uint64)
    return mix(mix(seeds + np.uint64(GOLDEN)) + epochs.astype(np.uint64) * np.uint64(GOLDEN))


def permute(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Send each of `indices` (k,), all in 0 .. n-1, through the permutation of its own key (k,).

    Returns:
        (k,) int64 in 0 .. n-1; for one key, all n indices give all n values.
    """
    side = isqrt(n - 1) + 1  # the smallest m with m*m >= n
    out = _rounds(indices.astype(np.uint64), side, keys)
    while len(walking := np.flatnonzero(out >= n)):
        out[walking] = _rounds(out[walking], side, keys[walking])
    return out.astype(np.int64)


def _rounds(x: np.ndarray, side: int, keys: np.ndarray) -> np.ndarray:
    m = np.uint64(side)
    left, right = x // m, x % m
    for constant in ROUNDS:
        left, right = right, (left + mix(keys + constant + right) % m) % m
    return left * m + right
