"""Protects the shipped studies `mixture`, `seeds`, `recipes` and `stability`: not stale, run again the same, each
cell at its place, and what notebook 06 says of them.

pytest tests/lab/test_seed_studies.py
"""

from __future__ import annotations

import pytest

from llmkit.cost import parameters, training_flops
from llmkit.lab import share
from llmkit.lab.luck import SEEDS, chosen, luck_study
from llmkit.lab.stability import stability_map
from llmkit.lab.studies import STUDIES
from llmkit.lab.studies.seeds import DROPOUTS, INITS, ORDERS, PIECES
from llmkit.lab.studies.stability import LRS, STEPS, WARMUPS, arm

pytestmark = pytest.mark.usefixtures("dataset")

NAMES = ("mixture", "seeds", "recipes", "stability")


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
        ("mixture", ("dense",)),  # notebook 14 runs a mixture of it again
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


def test_what_notebook_06_says_of_luck_is_so(luck):
    runs = luck.runs
    masks = runs.component("dropout")
    assert masks.sd < 0.005 and masks.low == 0.0 and masks.high < 0.0315**2  # their own part
    assert 0.045 < runs.between("dropout").sd < 0.055  # runs that differ in nothing else
    assert runs.component(*SEEDS).sd > 0.9 * runs.between("dropout").sd  # all interaction
    promised, kept = chosen(luck.losses, "dropout")
    assert 0.055 < promised < 0.065 and 0.0 < kept < promised / 15
    for seed, least, most in (("init", 0.7, 0.85), ("order", 0.0, 0.15)):
        promised, kept = chosen(luck.losses, seed)
        assert least < kept / promised < most


def test_what_notebook_06_says_of_remedies_is_so(luck):
    sds = {what: variance.sd for what, (_, variance) in luck.remedies().items()}
    one = sds["one run"]
    for nothing in (
        "1 piece of text, not 24",
        "24 pieces, drawn by each run",
        "order fixed",
        "weights averaged",
    ):
        assert abs(sds[nothing] / one - 1) < 0.05
    assert sds["initial weights fixed"] < 0.75 * one
    recipes = {what.removeprefix("recipe: "): sd for what, sd in sds.items() if what.startswith("recipe")}
    assert recipes["8 x longer"] < recipes["4 x longer"] < 0.6 * recipes["base"]
    eight = luck.remedies()["recipe: 8 x longer"][1]
    assert eight.high < luck.remedies()["recipe: base"][1].low  # beyond chance
    base, averaged = (luck.recipes[name].mean(axis=1) for name in ("base", "base, averaged"))
    assert (averaged > base).all()  # it puts the weights some steps back


def test_what_notebook_06_says_of_the_map_is_so(seen):
    first = {w: min(c.lr for c in row if c.diverged) for w, row in zip(seen.warmups, seen.cells, strict=True)}
    assert (first[0], first[40]) == (0.008, 0.032)
    cells = [cell for row in seen.cells for cell in row]
    assert (len(cells), sum(cell.diverged > 0 for cell in cells)) == (32, 14)
    assert [round(bound, 2) for bound in share([True, False, False]).interval] == [0.06, 0.79]
    assert any(cell.diverged > cell.exploded for cell in cells)  # it can happen without a jump


def test_every_arm_of_the_mixture_study_costs_a_token_the_same_to_the_last_operation():
    plan = STUDIES["mixture"].plan()
    shapes = [plan.config(arm, 0) for arm in plan.arms]
    assert {float(training_flops(cfg.model)) for cfg in shapes} == {884_736.0}
    weights = [parameters(cfg.model).value for cfg in shapes]
    assert max(weights) / min(weights) == pytest.approx(2.4, abs=0.05)
    assert [cfg.steps * cfg.tokens_per_step for cfg in shapes] == [102_400] * 3 + [409_600] * 2
