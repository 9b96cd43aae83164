"""Protects the statistic behind every rule: a spike is seen on a falling curve, noise and trends are not.

pytest tests/diagnose/test_signals.py
"""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.diagnose.signals import ENOUGH, WINDOW, YOUNG, Surprise, limit, median, spread

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(numbers, min_size=1, max_size=80))
def test_the_median_is_the_library_median(values):
    assert median(values) == statistics.median(values)


def test_the_median_of_nothing_is_nan():
    assert math.isnan(median([]))


def test_the_spread_of_normal_noise_is_its_standard_deviation():
    rng = random.Random(0)
    assert spread([rng.gauss(5, 0.3) for _ in range(20_000)]) == pytest.approx(0.3, rel=0.03)


def read(values, floor=0.0, **more):
    surprise = Surprise(floor, **more)
    return [surprise.see(value) for value in values]


def test_nothing_is_unusual_before_eleven_healthy_values():
    readings = read([4.0, 4.1] * 20)
    assert [math.isnan(r.z) for r in readings] == [i < YOUNG + ENOUGH for i in range(40)]


@settings(deadline=None)
@given(st.lists(numbers, min_size=30, max_size=60, unique=True), st.integers(-10, 10), st.integers(-3, 3))
def test_z_does_not_depend_on_level_or_unit(values, shift, power):
    ours, theirs = read(values), read([(value + shift * 1e5) * 2.0**power for value in values])
    for a, b in zip(ours, theirs, strict=True):
        assert a.z == pytest.approx(b.z, rel=1e-3, abs=1e-3, nan_ok=True) or a.spread < 1e-2


def test_a_spike_is_seen_on_a_steeply_falling_curve():
    rng = random.Random(1)
    values = [8 * math.exp(-step / 30) + 3 + rng.gauss(0, 0.03) for step in range(60)]
    quiet = max(r.z for r in read(values) if r.z == r.z)
    values[40] += 1.5  # still far below where the curve was ten steps earlier
    assert values[40] < values[20]
    loud = read(values)[40].z
    assert quiet < 4 < loud


def test_a_spike_does_not_widen_its_own_yardstick_nor_hide_the_next_one():
    rng = random.Random(2)
    values = [3 + rng.gauss(0, 0.05) for _ in range(100)]
    values[60] = values[70] = 6.0
    readings = read(values)
    assert readings[60].z > 30 and readings[70].z > 30 and abs(readings[61].z) < 4


def test_unhealthy_values_are_read_and_forgotten():
    surprise = Surprise(0.0)
    for value in (4.0, 4.1, 3.9, 4.0, 4.2, 3.8) * 4:
        surprise.see(value)
    base = surprise.see(4.0).base
    surprise.see(math.nan)
    surprise.see(1e9, healthy=False)
    assert surprise.see(4.0).base == base


def test_a_curve_that_never_moves_is_not_infinitely_surprised_by_a_ripple():
    assert read([3.0] * 40 + [3.01], floor=0.005)[-1].z < 1


def test_the_limit_is_wider_while_the_yardstick_is_young():
    assert limit(WINDOW, 4) == 4 < limit(32, 4) < limit(ENOUGH, 4) == pytest.approx(4 * 1.535, abs=0.01)


def test_normal_noise_reaches_four_no_more_often_than_once_in_two_thousand():
    """White noise around a level: the change from a median of 8 has 1.1 times the noise's deviation."""
    rng, loud, total = random.Random(3), 0, 0
    for _ in range(40):
        for reading in read([rng.gauss(3, 0.1) for _ in range(200)]):
            total += reading.z == reading.z
            loud += reading.above(4)
    assert total > 7000 and loud / total < 1 / 2000
