"""Protects the false-alarm rate: the permutation test is the enumerated one, and its unit is the document.

pytest tests/data/test_permutation.py
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from llmkit.data.permutation import contrasts, maxima, orders, p_value, residuals, scores, spread

ONE = np.zeros(6, np.int64)  # all in one stratum
COUNTS = np.array([[9, 1, 0], [7, 2, 1], [8, 0, 2], [3, 5, 2], [2, 6, 2], [4, 4, 4]], float)


def by_hand(counts: np.ndarray, here: tuple[int, ...]) -> float:
    """max |z| of the blocks `here` against the rest, from the definition: sum of residuals over its spread."""
    share = counts.sum(0) / counts.sum()
    rest = counts - counts.sum(1, keepdims=True) * share
    n, m = len(counts), len(here)
    sd = np.sqrt(m * (n - m) / (n * (n - 1)) * (rest**2).sum(0))
    return float((np.abs(rest[list(here)].sum(0)) / sd).max())


def test_the_null_distribution_is_the_enumerated_one():
    group = np.array([0, 0, 0, 1, 1, 1])
    weights, rest = contrasts(group, ONE, [0], None), residuals(COUNTS, COUNTS.sum(1, keepdims=True), ONE)
    dealt = np.array(list(permutations(range(6))))  # all 720
    found = np.sort(maxima(weights, rest, ONE, dealt))
    # each choice of three of six blocks comes up 36 times
    exact = np.sort(np.repeat([by_hand(COUNTS, c) for c in combinations(range(6), 3)], 36))
    assert found == pytest.approx(exact, rel=1e-5)
    seen = np.abs(scores(weights, rest, ONE)).max()
    assert seen == pytest.approx(by_hand(COUNTS, (0, 1, 2)))
    as_extreme = np.mean([by_hand(COUNTS, c) >= seen - 1e-9 for c in combinations(range(6), 3)])
    assert p_value(seen, found) == pytest.approx((1 + 720 * as_extreme) / 721)
    assert as_extreme == 0.1  # the two mirror images of the 20 ways, no other


def test_the_spread_is_that_of_all_dealings_also_with_strata_and_a_baseline():
    stratum = np.array([0, 0, 0, 1, 1, 1])
    for group, against in [([0, 1, 1, 0, 1, 1], None), ([0, 1, 2, 0, 1, 2], 2)]:
        weights = contrasts(np.array(group), stratum, [0, 1], against)
        rest = residuals(COUNTS, COUNTS.sum(1, keepdims=True), stratum)
        all_of = [(*a, *b) for a in permutations(range(3)) for b in permutations(range(3, 6))]
        sums = np.array([weights[:, list(order)] @ rest for order in all_of])
        assert sums.mean(0) == pytest.approx(0, abs=1e-12)
        assert np.sqrt((sums**2).mean(0)) == pytest.approx(spread(weights, rest, stratum))
        by_division = np.abs(sums / spread(weights, rest, stratum)).max(axis=(1, 2))
        assert maxima(weights, rest, stratum, np.array(all_of)) == pytest.approx(by_division, rel=1e-5)


def test_a_label_never_leaves_its_stratum_and_each_is_dealt_once():
    stratum = np.array([0, 1, 0, 1, 1, 2])
    dealt = orders(stratum, 200, np.random.default_rng(0))
    assert (np.sort(dealt, axis=1) == np.arange(6)).all()
    assert (stratum[dealt] == stratum).all()
    assert len({tuple(row) for row in dealt.tolist()}) == 2 * 6  # all of them


def test_a_stratum_on_one_side_only_says_nothing():
    group, stratum = np.array([0, 0, 1, 1, 0]), np.array([0, 0, 0, 0, 1])
    assert contrasts(group, stratum, [0], None).tolist() == [[0.5, 0.5, -0.5, -0.5, 0]]


def test_a_count_that_never_varies_is_no_signal():
    rest = residuals(np.array([[2.0, 1], [4, 3], [6, 2], [8, 0]]), np.array([[1.0], [2], [3], [4]]), ONE[:4])
    weights = contrasts(np.array([0, 0, 1, 1]), ONE[:4], [0], None)
    assert np.isinf(spread(weights, rest, ONE[:4])[0, 0])
    assert scores(weights, rest, ONE[:4])[0, 0] == 0
    assert np.isfinite(maxima(weights, rest, ONE[:4], orders(ONE[:4], 9, np.random.default_rng(0)))).all()


def bursty(rng: np.random.Generator, documents: int, vocab: int = 40) -> np.ndarray:
    """Counts (documents, vocab) of documents that repeat their own words: Dirichlet-multinomial."""
    shares = rng.dirichlet(np.full(vocab, 0.3), documents)
    return np.array([rng.multinomial(rng.integers(20, 400), share) for share in shares], float)


def alarms(of_documents: bool, trials: int = 200, alpha: float = 0.05) -> int:
    """Clean shards that are rejected, when whole documents are dealt, or (the mutant) pieces of them."""
    found, rng = 0, np.random.default_rng(7)
    for _ in range(trials):
        units, group = bursty(rng, 40), np.repeat([0, 1], 20)
        if not of_documents:
            owner = np.repeat(np.arange(40), 8)
            units = np.concatenate([cut(rng, row, 8) for row in units])
            group = group[owner]
        stratum = np.zeros(len(units), np.int64)
        rest = residuals(units, units.sum(1, keepdims=True), stratum)
        weights = contrasts(group, stratum, [0], None)
        seen = np.abs(scores(weights, rest, stratum)).max()
        found += p_value(seen, maxima(weights, rest, stratum, orders(stratum, 99, rng))) <= alpha
    return found


def cut(rng: np.random.Generator, row: np.ndarray, pieces: int) -> np.ndarray:
    """A document cut into pieces: each of its tokens falls into one of them."""
    return np.stack([rng.multinomial(int(n), [1 / pieces] * pieces) for n in row], axis=1)


def test_clean_documents_alarm_as_often_as_they_should():
    found = alarms(of_documents=True)
    assert 2 <= found <= 19  # 99.5 % of Binomial(200, 0.05) lies there


def test_the_mutant_that_deals_pieces_of_documents_alarms_all_the_time():
    assert alarms(of_documents=False) > 150
