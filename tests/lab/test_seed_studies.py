"""Protects the shipped studies `seeds`, `recipes` and `stability`: not stale, run again the same, each cell at its
place, and what notebook 06 says of them.

pytest tests/lab/test_seed_studies.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmkit.lab.luck import SEEDS, chosen, luck_study
from llmkit.lab.stability import stability_map
from llmkit.lab.studies import STUDIES
from llmkit.lab.studies.seeds import DROPOUTS, INITS, ORDERS, PIECES
from llmkit.lab.studies.stability import LRS, STEPS, WARMUPS, arm

pytestmark = pytest.mark.usefixtures("dataset")

NAMES = ("seeds", "recipes", "stability")


@pytest.fixture(scope="module")
def luck(dataset):
    return luck_study()


@pytest.fixture(scope="module")
def seen(dataset):
    return stability_map()


@pytest.mark.parametrize("name", NAMES)
def test_the_study_is_not_stale_and_its_file_holds_its_cells_alone(name):
    study = STUDIES[name]
    cells = study.whole()  # raises with the command that runs it again
    assert len(study.file.read_text().splitlines()) == sum(map(len, cells.values())) == len(study.plan().plan)


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("seeds", ("order 0, dropout 0", "order 4, dropout 3")),
        ("recipes", ("base",)),
        ("stability", (arm(LRS[0], 0), arm(LRS[1], WARMUPS[-1]))),
    ],
)
def test_a_part_of_it_run_again_says_the_same(name, arms, tmp_path):
    """Cells that are far from the edge: one bit of one weight moves their validation loss by less than 1e-6
    nats, so that another processor's rounding cannot reach 1e-3; the runs lie some 1e-1 apart."""
    study = STUDIES[name]
    plan, cells = study.plan(), study.whole()
    part = type(plan)(plan.base, {arm: plan.arms[arm] for arm in arms}, plan.seeds[:1], plan.measure)
    for cell in part.run(tmp_path / "again.jsonl", workers=1):
        then = cells[cell.arm][0].outcome
        assert cell.outcome.keys() == then.keys()
        for what, values in cell.outcome.items():
            assert values == pytest.approx(then[what], abs=2e-3)


def test_every_loss_lands_on_its_seeds(luck):
    cells = STUDIES["seeds"].whole()
    assert luck.losses.shape == (INITS, ORDERS, DROPOUTS)
    for init, order, dropout in ((0, 0, 0), (5, 4, 3), (1, 2, 4), (3, 1, 0)):
        (cell,) = (c for c in cells[f"order {order}, dropout {dropout}"] if c.seed == init)
        for kind in ("val", "averaged"):
            assert luck.crossed[kind][init, order, dropout].tolist() == list(cell.outcome[kind])
            assert len(cell.outcome[kind]) == PIECES


def test_every_cell_of_the_map_has_the_curves_of_its_own_arm(seen, dataset):
    cells = STUDIES["stability"].whole()
    assert (seen.lrs, seen.warmups) == (LRS, WARMUPS)
    for warmup in WARMUPS:
        for lr in LRS:
            own = seen.at(lr, warmup)
            assert (own.lr, own.warmup) == (lr, warmup)
            assert own.curves == tuple(tuple(one.outcome["losses"]) for one in cells[arm(lr, warmup)])
            assert {len(curve) for curve in own.curves} == {STEPS}
    assert seen.cells[0][0].unigram == dataset.manifest.splits["train"].unigram_entropy_nats
