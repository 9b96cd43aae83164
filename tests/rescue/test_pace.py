"""Protects the pace: a stalled step is seen and placed, the ordinary jitter of a machine is not.

pytest tests/rescue/test_pace.py
"""

from __future__ import annotations

import math
import random

import pytest

from llmkit.rescue import Pace

STEP = {"data": 0.01, "forward": 0.1, "backward": 0.2, "optimizer": 0.02}


def paced(steps=20, seed=0):
    pace, rng = Pace(), random.Random(seed)
    for _ in range(steps):
        assert pace.see({name: spent * math.exp(rng.gauss(0, 0.1)) for name, spent in STEP.items()}) is None
    return pace


def test_a_stalled_loader_is_slow_in_data():
    slow = paced().see(STEP | {"data": 2.0})
    assert (slow.phase, round(slow.seconds, 2)) == ("data", 2.32)
    assert slow.usual_s == pytest.approx(0.33, rel=0.1)
    assert slow.z > 8


def test_the_first_steps_are_not_looked_at():
    pace = Pace()
    assert [pace.see({"forward": seconds}) for seconds in (60.0, 20.0, 5.0)] == [None] * 3
    assert math.isnan(pace.usual)
    pace.see({"forward": 0.1})
    assert pace.usual == 0.1


def test_a_slow_step_does_not_become_the_usual():
    pace = paced()
    before = list(pace.totals)
    assert pace.see(STEP | {"data": 5.0})
    assert list(pace.totals) == before


@pytest.mark.parametrize(("data", "slow"), [(0.3, False), (1.2, False), (1.5, True)])
def test_slow_is_five_times_the_usual(data, slow):
    assert bool(paced().see(STEP | {"data": data})) == slow


def test_a_step_of_milliseconds_may_stumble():
    pace = Pace()
    for _ in range(20):
        pace.see({"forward": 0.01})
    assert pace.see({"forward": 0.3}) is None, "30 times as long, and nobody's business"
    assert pace.see({"forward": 0.5}).phase == "forward"


def test_a_new_pace_is_accepted_after_16_steps():
    pace = paced()
    slow = [bool(pace.see({name: 10 * spent for name, spent in STEP.items()})) for _ in range(40)]
    assert slow == [True] * 16 + [False] * 24


def test_jitter_is_no_alarm():
    """Log-normal steps with a rare one up to four times as long: garbage collection, another process."""
    for seed in range(50):
        rng, pace = random.Random(seed), Pace()
        for _ in range(200):
            factor = math.exp(rng.gauss(0, 0.15)) * (rng.uniform(1, 4) if rng.random() < 0.02 else 1)
            assert pace.see({name: factor * spent for name, spent in STEP.items()}) is None
