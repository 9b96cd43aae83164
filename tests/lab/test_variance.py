"""Protects the variance components: equal to their definition over pairs, right on draws of known variance.

pytest tests/lab/test_variance.py
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.errors import ConfigError
from llmkit.lab.variance import Crossed

FACTORS = ("init", "order", "dropout")
SUBSETS = [c for size in (1, 2, 3) for c in itertools.combinations(FACTORS, size)]


def half_mean_square_of_pairs(values: np.ndarray, names: tuple[str, ...]) -> float:
    """What `between` estimates, as it is said: pairs of runs that differ in each of `names` and in nothing
    else, half their squared difference, over all pairs."""
    moved = [FACTORS.index(name) for name in names]
    cells = list(np.ndindex(values.shape))
    pairs = [
        (values[a] - values[b]) ** 2 / 2
        for a in cells
        for b in cells
        if all((a[i] != b[i]) == (i in moved) for i in range(values.ndim))
    ]
    return float(np.mean(pairs))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.tuples(*[st.integers(2, 4)] * 3))
def test_between_is_half_the_mean_square_of_all_pairs_that_differ_in_these_factors_alone(seed, shape):
    values = np.random.default_rng(seed).normal(4.0, 1.0, shape)
    runs = Crossed(values, FACTORS)
    for names in SUBSETS:
        assert runs.between(*names).value == pytest.approx(half_mean_square_of_pairs(values, names))


def test_sums_of_squares_add_up_and_parts_add_up_to_the_whole():
    values = np.random.default_rng(1).normal(size=(3, 4, 5))
    runs = Crossed(values, FACTORS)
    total = sum(square * freedom for square, freedom in runs.mean_squares.values())
    assert total == pytest.approx(((values - values.mean()) ** 2).sum())
    assert sum(freedom for _, freedom in runs.mean_squares.values()) == values.size - 1
    parts = sum(runs.component(*names).value for names in SUBSETS)
    assert runs.between(*FACTORS).value == pytest.approx(parts)
    assert parts - runs.component("order").value == pytest.approx(
        sum(runs.component(*names).value for names in SUBSETS if names != ("order",))
    )


def test_a_mean_over_all_levels_varies_as_the_means_that_were_seen_do():
    values = np.random.default_rng(2).normal(size=(6, 5))
    runs = Crossed(values, ("run", "batch"))
    assert runs.between("run", over={"batch": 5}).value == pytest.approx(values.mean(1).var(ddof=1))
    own = runs.between("run", "batch", over={"batch": 10}).value  # each run on batches of its own
    assert own == pytest.approx(
        runs.component("run").value
        + (runs.component("batch").value + runs.component("run", "batch").value) / 10
    )


def test_with_one_factor_it_is_the_sample_variance_and_its_textbook_interval():
    """Chi-squared with 9 degrees of freedom: 2.700 and 19.023 are its 2.5 and 97.5 % points."""
    values = np.random.default_rng(3).normal(size=10)
    found, s2 = Crossed(values, ("seed",)).between("seed"), values.var(ddof=1)
    assert found.value == pytest.approx(s2)
    assert (found.low, found.high) == (
        pytest.approx(9 * s2 / 19.023, rel=0.02),
        pytest.approx(9 * s2 / 2.700, rel=0.02),
    )


def simulated(rng: np.random.Generator, sds: dict[tuple[str, ...], float], shape=(6, 6, 6)) -> np.ndarray:
    values = np.full(shape, 4.0)
    for names, sd in sds.items():
        own = [n if name in names else 1 for name, n in zip(FACTORS, shape, strict=True)]
        values = values + rng.normal(0.0, sd, own)
    return values


SDS = dict(zip(SUBSETS, (0.08, 0.04, 0.01, 0.02, 0.0, 0.01, 0.02), strict=True))


def test_known_components_are_found_without_bias_and_intervals_hold_what_they_promise():
    rng, n = np.random.default_rng(4), 300
    worlds = [Crossed(simulated(rng, SDS), FACTORS) for _ in range(n)]
    asked = {names: sd**2 for names, sd in SDS.items()}
    for names, true in asked.items():
        values = np.array([w.component(*names).value for w in worlds])
        assert abs(values.mean() - true) < 4 * values.std(ddof=1) / math.sqrt(n)
    for names in (("init",), ("order",), ("dropout",), ("init", "order"), FACTORS):
        true = sum(sd**2 for part, sd in SDS.items() if set(part) & set(names))
        found = [w.between(*names) for w in worlds]
        assert abs(np.mean([f.value for f in found]) / true - 1) < 0.1
        held = np.mean([f.low <= true <= f.high for f in found])
        assert 0.92 <= held <= 0.99  # 95 %, 300 worlds: 2.5 standard errors either side


def test_where_nothing_varies_nothing_is_claimed():
    rng = np.random.default_rng(5)
    only_init = Crossed(simulated(rng, {("init",): 0.1}), FACTORS)
    assert only_init.between("dropout").value == pytest.approx(0.0, abs=1e-12)
    assert only_init.between("init").value == pytest.approx(only_init.component("init").value)
    noise = [Crossed(simulated(rng, {FACTORS: 0.1}), FACTORS).component("init") for _ in range(100)]
    assert np.mean([one.low == 0.0 for one in noise]) > 0.9
    below = next(one for one in noise if one.value < 0)  # unbiased, so half of them lie below 0
    assert below.sd == 0.0 and "sd 0.0000 (0.0000 to" in str(below)


@pytest.mark.parametrize(
    ("values", "factors", "says"),
    [
        (np.zeros((3, 3)), ("init",), "expected: an axis of at least two levels for each factor"),
        (np.zeros((3, 1)), ("init", "order"), "values of shape (3, 1) for init, order"),
        (np.zeros((3, 3)), ("init", "init"), "for init, init"),
        (np.array([1.0, math.nan, 2.0]), ("init",), "1 of 3 values are not finite"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(values, factors, says):
    with pytest.raises(ConfigError) as refused:
        Crossed(values, factors)
    assert says in str(refused.value)


def test_an_unknown_factor_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no factor `drop`\n  remedy: use `dropout`"):
        Crossed(np.zeros((2, 2, 2)), FACTORS).between("drop")
