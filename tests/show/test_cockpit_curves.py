"""Protects the live curves: few points, no spike lost, and a front end that patches has what a new one is
given.

pytest tests/show/test_cockpit_curves.py
"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.show.cockpit_curves import BRANCH, BRANCHES, RECENT, WHOLE, Axis, Curve, telling


class Screen:
    """What the browser does with patches: cockpit.js, `patch`, in Python."""

    def __init__(self) -> None:
        self.points, self.recent, self.branches = [], [], []

    def take(self, change) -> None:
        if change is None:
            return
        self.points = [p for p in self.points if p[0] < change["from"]] + change["points"]
        self.recent = change["recent"] if change["from"] < 0 else (self.recent + change["recent"])[-RECENT:]
        self.branches = change.get("branches", self.branches)


values = st.floats(0.0, 1e6, width=32) | st.sampled_from([math.nan, math.inf])
# a flight: values, rollbacks by some steps, looks of the browser (None)
flights = st.lists(st.lists(values, min_size=1, max_size=60) | st.integers(1, 90) | st.none(), max_size=25)


@settings(max_examples=60, deadline=None)
@given(flights)
def test_a_browser_that_patches_shows_what_a_new_one_is_given(flight):
    curve, old, new, step = Curve(), Screen(), Screen(), 0
    for event in [*flight, None]:
        if event is None:
            old.take(curve.patch())
        elif isinstance(event, int):
            step = max(0, step - event)
        else:
            for value in event:
                curve.add(step, value)
                step += 1
    new.take(curve.everything())
    assert vars(old) == vars(new)
    assert len(new.points) <= WHOLE
    assert len(new.recent) <= RECENT
    assert len(new.branches) <= BRANCHES
    assert all(len(branch) <= BRANCH for branch in new.branches)
    assert max(WHOLE, RECENT) + BRANCH * BRANCHES <= 250
    steps = [step for step, _ in new.points]
    assert steps == sorted(set(steps))


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=2000))
def test_no_extreme_is_lost(series):
    curve = Curve()
    for step, value in enumerate(series):
        curve.add(step, value)
    finite = [v for v in series if math.isfinite(v)]
    shown = [v for _, v in curve.points() if math.isfinite(v)]
    if finite:
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    first = next((step for step, v in enumerate(series) if not math.isfinite(v)), None)
    assert first == next((step for step, v in curve.points() if not math.isfinite(v)), None)


def test_a_spike_of_one_step_in_a_hundred_thousand_is_on_the_screen():
    curve = Curve()
    for step in range(100_000):
        curve.add(step, 9.0 if step == 31_415 else math.nan if step == 27_182 else 2.0)
    assert (31_415, 9.0) in curve.points()
    assert 27_182 in [step for step, value in curve.points() if math.isnan(value)]
    assert len(curve.points()) <= WHOLE


def test_a_rollback_leaves_the_old_branch_joined_to_the_line():
    curve = Curve()
    for step in range(10):
        curve.add(step, 5.0 - step / 10)
    curve.rewind(6)
    curve.add(6, 1.0)
    assert [list(branch) for branch in curve.branches] == [[(s, 5.0 - s / 10) for s in range(5, 10)]]
    assert curve.points() == [(s, 5.0 - s / 10) for s in range(6)] + [(6, 1.0)]
    assert curve.last == (6, 1.0)


def test_a_step_that_comes_again_is_a_rollback_too():
    curve = Curve()
    for step in (0, 1, 2, 1):
        curve.add(step, float(step))
    assert curve.points() == [(0, 0.0), (1, 1.0)]
    assert len(curve.branches) == 1


def test_nothing_new_is_no_patch():
    curve = Curve()
    assert curve.patch() is None
    curve.add(0, math.inf)
    assert curve.patch() == {"from": 0, "points": [[0, "inf"]], "recent": [[0, "inf"]]}
    assert curve.patch() is None


def test_a_bucket_keeps_the_lowest_the_highest_and_the_first_that_is_no_number():
    points = [(0, 3.0), (1, math.nan), (2, 1.0), (3, 2.0), (4, math.inf), (5, 4.0)]
    kept = telling(points)
    assert [step for step, _ in kept] == [1, 2, 5]


@pytest.mark.parametrize(
    ("kind", "values", "limits"),
    [
        ("linear", [], [0.0, 1.0]),
        ("linear", [6.2], [5, 8]),
        ("linear", [6.2, 4.9, 8.1], [2, 14]),  # 5..8, then 2..8, then 2..14
        ("linear", [6.2, math.nan, math.inf], [5, 8]),
        ("log10", [0.5], [-2, 1]),
        ("log10", [0.5, 0.0, 100.0], [-2, 4]),
        ("log2", [65536.0], [15, 17]),
        ("log2", [65536.0, 4096.0], [9, 17]),  # 15..17, 13..17, 9..17
    ],
)
def test_an_axis_grows_by_doubling(kind, values, limits):
    axis = Axis(kind)
    for value in values:
        axis.take(value)
    assert axis.limits() == limits


def test_an_axis_stays_within_what_is_possible():
    steps = Axis(low=0.0, high=64.0, least=0.0, most=100.0)
    steps.take(99)
    assert steps.limits() == [0.0, 100.0]
    loss = Axis(least=0.0)
    for value in (2.5, 0.1):
        loss.take(value)
    assert loss.limits() == [0.0, 4]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_an_axis_holds_every_value_and_never_shrinks(values):
    axis, spans = Axis(), []
    for value in values:
        axis.take(value)
        spans.append(axis.high - axis.low)
    assert all(axis.low <= value <= axis.high for value in values)
    assert spans == sorted(spans)
    grown = {b / a for a, b in itertools.pairwise(spans)}
    assert all(math.log2(ratio).is_integer() for ratio in grown)
