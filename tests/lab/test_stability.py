"""Protects the stability map: what is called diverged or exploded is, and the edge lies before the first of them.

pytest tests/lab/test_stability.py
"""

from __future__ import annotations

import math

import pytest

from llmkit.errors import ConfigError
from llmkit.lab.stability import MapCell, StabilityMap

UNIGRAM = 5.1
GOOD = tuple(6.2 - 0.02 * step for step in range(100))  # ends at 4.31
STUCK = tuple(max(5.2, 6.2 - 0.1 * step) for step in range(100))  # never jumps, never below 5.2
JUMP = tuple(loss + 1.5 * (step == 30) for step, loss in enumerate(GOOD))  # explodes and comes back
DEAD = (6.2, 5.9, math.nan)


def cell(*curves: tuple[float, ...]) -> MapCell:
    return MapCell(0.01, 5, curves, UNIGRAM)


@pytest.mark.parametrize(
    ("curves", "diverged", "exploded", "verdict"),
    [
        ((GOOD,) * 3, 0, 0, "stable"),
        ((GOOD, STUCK, GOOD), 1, 0, "1 of 3 diverged"),
        ((GOOD, JUMP, JUMP), 0, 2, "2 of 3 exploded"),
        ((DEAD, STUCK, JUMP), 2, 2, "2 of 3 diverged, 2 of 3 exploded"),
    ],
)
def test_sinking_to_the_frequencies_and_exploding_are_told_apart(curves, diverged, exploded, verdict):
    seen = cell(*curves)
    assert (seen.diverged, seen.exploded, seen.verdict) == (diverged, exploded, verdict)


def test_the_final_loss_is_the_median_of_the_means_of_the_last_ten():
    seen = cell(GOOD, tuple(loss + 1 for loss in GOOD), DEAD)
    mean = sum(GOOD[-10:]) / 10
    assert seen.finals == (pytest.approx(mean), pytest.approx(mean + 1), math.inf)
    assert seen.final == pytest.approx(mean + 1)
    assert cell(DEAD, DEAD, GOOD).final == math.inf
    for below, diverged in ((0.05, 1), (0.15, 0)):  # of the frequencies, within and beyond the noise
        assert cell((UNIGRAM - below,) * 20).diverged == diverged


def test_the_edge_is_the_last_rate_before_the_first_that_diverges():
    def row(*bad: bool) -> tuple[MapCell, ...]:
        curves = ((STUCK if one else GOOD,) for one in bad)
        return tuple(MapCell(lr, 0, own, UNIGRAM) for lr, own in zip((1.0, 2.0, 4.0), curves, strict=True))

    rows = row(False, True, False), row(False, False, False), row(True, False, False)
    seen = StabilityMap((1.0, 2.0, 4.0), (0, 5, 10), rows)
    assert [seen.edge(warmup) for warmup in (0, 5, 10)] == [1.0, 4.0, 0.0]
    assert seen.at(2.0, 5) is rows[1][1]
    with pytest.raises(ConfigError) as refused:
        seen.at(3.0, 5)
    assert str(refused.value) == (
        "no cell at lr 3 and warmup 5\n  expected: lr of 1, 2, 4; warmup of 0, 5, 10"
    )
