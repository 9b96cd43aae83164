"""Protects: the shuffle is a permutation, for every size, and a function of seed and epoch alone.

python -m pytest tests/data/test_order.py
"""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.data.order import keys_of, permute


def order(n: int, seed: int = 0, epoch: int = 0) -> list[int]:
    return permute(np.arange(n), n, keys_of(seed, np.full(n, epoch))).tolist()


def test_every_size_up_to_300_is_a_permutation():
    for n in range(1, 301):
        assert sorted(order(n, seed=n)) == list(range(n))


@pytest.mark.parametrize("n", [10_007, 65_536, 99_999])
def test_large_sizes_are_permutations(n):
    assert np.array_equal(np.sort(order(n)), np.arange(n))


def test_one_index_alone_goes_where_it_goes_among_all():
    whole = order(1000, seed=5, epoch=2)
    alone = [int(permute(np.array([i]), 1000, keys_of(5, np.array([2])))[0]) for i in range(1000)]
    assert alone == whole


def test_sizes_beyond_32_bits_stay_in_range():
    n = 10**12 + 39
    out = permute(np.arange(n - 1000, n), n, keys_of(0, np.zeros(1000)))
    assert len(set(out.tolist())) == 1000
    assert out.min() >= 0 and out.max() < n


def test_seed_and_epoch_each_change_the_order():
    assert len({tuple(order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_negative_and_huge_seeds_are_seeds():
    assert sorted(order(20, seed=-1)) == list(range(20))
    assert order(20, seed=2**64 + 3) == order(20, seed=3)


def test_the_order_is_the_same_on_every_machine():
    assert order(12, seed=0, epoch=0) == [5, 1, 10, 9, 7, 11, 6, 0, 3, 8, 2, 4]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 64])
def test_every_index_lands_everywhere_equally_often(n):
    """Chi-square over (index, place), 4,000 epochs: below mean + 5 sd of its (n-1)^2 degrees of freedom."""
    epochs = 4000
    indices = np.tile(np.arange(n), epochs)
    places = permute(indices, n, keys_of(7, np.repeat(np.arange(epochs), n)))
    counts = np.bincount(indices * n + places, minlength=n * n)
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_are_not_neighbours_afterwards():
    out = np.array(order(10_000))
    assert (np.abs(np.diff(out)) == 1).sum() < 12  # 2 expected of a random order
    assert abs(np.corrcoef(np.arange(10_000), out)[0, 1]) < 0.04  # 4 standard errors
