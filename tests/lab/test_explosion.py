"""Protects the study of explosions: what the word means, that the shipped cells are of this code, and that a
part of them, run again, says the same.

pytest tests/lab/test_explosion.py
"""

from __future__ import annotations

import math

import pytest

from llmkit.lab import share
from llmkit.lab.explosions import LEAST, RISE, SURGE, WINDOW, rise, surge
from llmkit.lab.studies import STUDIES
from llmkit.lab.studies.explosion import CHANGES, SEEDS

pytestmark = pytest.mark.usefixtures("dataset")

STUDY = STUDIES["explosion"]
AGAIN = 2  # seeds that are run again in every arm


@pytest.fixture(scope="module")
def cells(dataset):
    return STUDY.cells()


# ------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("losses", "nats"),
    [
        ([6.0, 5.0, 4.0], 0.0),
        ([6.0, 5.0, 5.5, 4.0, 5.0], 1.0),
        ([6.0, 8.0, 5.0], 2.0),
        ([5.0, 6.0, 4.5, 5.25], 1.0),
        ([6.0], 0.0),
        ([6.0, math.inf], math.inf),
        ([6.0, math.nan, 5.0], math.inf),
    ],
)
def test_a_rise_is_above_the_lowest_loss_before(losses, nats):
    assert rise(losses) == nats


def test_a_surge_is_a_multiple_of_the_norms_before_and_the_first_steps_have_none():
    calm = [2.0] * LEAST
    assert surge([50.0, *calm[1:]]) == 0.0
    assert surge([*calm, 9.0]) == 4.5
    assert surge([*calm, 9.0, 9.0, 9.0]) == 4.5
    assert surge([1000.0] * 20 + [2.0] * WINDOW + [4.0]) == 2.0
    assert surge([*calm, math.nan]) == surge([*calm, math.inf]) == math.inf


# ------------------------------------------------------------------------------------------- the shipped cells


def test_the_study_is_not_stale():
    plan = STUDY.plan()
    missing = plan.missing(STUDY.file)
    assert not missing, f"{len(missing)} cells are of other code: run `llmkit sweep --study {STUDY.name}`"
    assert len(STUDY.file.read_text().splitlines()) == len(plan.plan) == SEEDS * len(CHANGES)
    assert SEEDS >= 300


def test_a_part_of_it_run_again_says_the_same(cells, tmp_path):
    """Processors round differently and a chaotic run multiplies that: early losses are compared closely, and of
    what the runs came to all but one or two."""
    plan = STUDY.plan()
    part = type(plan)(plan.base, plan.arms, range(AGAIN), measure=plan.measure)
    differ = 0
    for cell in part.run(tmp_path / "again.jsonl", workers=1):
        then, now = cells[cell.arm][cell.seed].outcome, cell.outcome
        assert now["first"] == pytest.approx(then["first"], abs=2e-3)
        assert now["fifth"] == pytest.approx(then["fifth"], abs=2e-2)
        differ += (now["rise"] >= RISE) != (then["rise"] >= RISE)
    assert differ <= 2


def rates(cells, name, least):
    return {arm: share(c.outcome[name] >= least for c in some) for arm, some in cells.items()}


def test_at_a_tenth_of_the_learning_rate_nothing_explodes_or_surges(cells):
    """The decoy of both words: noise between batches does not count as an explosion."""
    assert rates(cells, "rise", RISE)["lr / 10"].count == 0
    assert rates(cells, "surge", SURGE)["lr / 10"].count == 0


def test_what_notebook_05_says_of_the_changes_is_what_the_cells_say(cells):
    exploded, surged = rates(cells, "rise", RISE), rates(cells, "surge", SURGE)
    against = {arm: rate.minus(exploded["base"]) for arm, rate in exploded.items()}
    fewer = {arm for arm, (_, high) in against.items() if high < 0}
    more = {arm for arm, (low, _) in against.items() if low > 0}
    assert fewer == {"bias correction: rectified", "no warmup", "lr / 3", "lr / 10"}
    assert more == {"bias correction: none", "bias correction: none, lr / 5", "warmup 16"}
    assert {arm for arm, rate in exploded.items() if rate.count == 0} == fewer - {"no warmup"}
    assert surged["bias correction: none"].minus(surged["base"])[0] < 0
    assert surged["QK-norm"].minus(surged["base"])[0] > 0
