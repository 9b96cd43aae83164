"""Protects what is read off the seed study: each remedy's spread is its runs', a choice of luck is worth nothing.

pytest tests/lab/test_luck.py
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmkit.lab.luck import SEEDS, Luck, chosen

SHAPE = (5, 4, 3)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, shape)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_choice_promises_and_keeps_what_a_loop_over_all_worlds_says(seed):
    losses = noise(0, *SHAPE)
    axis = SEEDS.index(seed)
    others = [n for i, n in enumerate(SHAPE) if i != axis]
    rows = {world: np.moveaxis(losses, axis, -1)[world] for world in np.ndindex(*others)}
    promised, kept = [], []
    for world, row in rows.items():
        best = min(range(len(row)), key=lambda level: row[level])
        promised.append(row.mean() - row[best])
        strange = [rows[w] for w in rows if w[0] != world[0] and w[1] != world[1]]
        kept.append(np.mean([other.mean() - other[best] for other in strange]))
    assert chosen(losses, seed) == (pytest.approx(np.mean(promised)), pytest.approx(np.mean(kept)))


def test_a_seed_that_does_nothing_of_its_own_promises_a_gain_and_keeps_none():
    found = [chosen(noise(n, 8, 6, 5), "dropout") for n in range(200)]
    promised, kept = np.mean(found, axis=0)
    assert promised == pytest.approx(0.116, rel=0.05)  # 1.163 sd: the mean of the largest of five normals
    assert abs(kept) < 0.002
    promised, kept = chosen(noise(0, 1, 1, 5) + np.zeros((8, 6, 1)), "dropout")
    assert kept == pytest.approx(promised)


@pytest.fixture
def luck() -> Luck:
    text = noise(1, 1, 1, 1, 6)
    val = 4 + noise(2, 5, 4, 3, 1) + noise(3, 5, 4, 3, 6) + text
    return Luck({"val": val, "averaged": val.mean() + (val - val.mean()) / 2}, {"base": 4 + noise(4, 9, 6)})


def test_each_remedy_is_the_spread_of_the_runs_that_it_leaves(luck):
    found = {what: variance.value for what, (_, variance) in luck.remedies().items()}
    means, val = luck.losses, luck.crossed["val"]
    drawn = half_square(means, lambda a, b: all(x != y for x, y in zip(a, b, strict=True)))
    assert found["one run"] == pytest.approx(drawn)
    assert luck.runs.between(*SEEDS).value == pytest.approx(drawn)
    fixed = half_square(means, lambda a, b: a[1] == b[1] and a[0] != b[0] and a[2] != b[2])
    assert found["order fixed"] == pytest.approx(fixed)
    one = np.mean(
        [
            half_square(val[..., piece], lambda a, b: all(x != y for x, y in zip(a, b, strict=True)))
            for piece in range(6)
        ]
    )
    assert found["1 piece of text, not 6"] == pytest.approx(one)
    assert found["weights averaged"] == pytest.approx(drawn / 4)
    base = luck.recipes["base"].mean(axis=1)
    assert found["recipe: base"] == pytest.approx(base.var(ddof=1))
    assert luck.remedies()["recipe: base"][0] == pytest.approx(base.mean())


def half_square(values: np.ndarray, pair) -> float:
    cells = list(np.ndindex(values.shape))
    return float(
        np.mean([(values[a] - values[b]) ** 2 / 2 for a, b in itertools.product(cells, cells) if pair(a, b)])
    )
