"""Protects the heatmaps and the stability explorer: table, picture and twin have the numbers of the map, no others.

pytest tests/show/test_stability.py
"""

from __future__ import annotations

import json
import math
import re

import pytest

from llmkit.errors import ConfigError
from llmkit.lab.landscape import Slice
from llmkit.lab.stability import MapCell, StabilityMap
from llmkit.show.heatmap import TOP, heatmap, landscape_grid, stability_grid, table
from llmkit.show.stability import CEILING, StabilityExplorer

LRS, WARMUPS, UNIGRAM = (0.001, 0.01, 0.1), (0, 20), 5.1


def curve(final: float, *, jump: float = 0.0, dies: bool = False) -> tuple[float, ...]:
    losses = [6.2 + (final - 6.2) * min(1.0, step / 80) + jump * (step == 40) for step in range(100)]
    return (*losses[:60], math.inf) if dies else tuple(losses)


@pytest.fixture
def seen() -> StabilityMap:
    def cell(lr: float, warmup: int) -> MapCell:
        worse = math.log10(lr / 0.001) - warmup / 40  # from -0.5 to 2
        curves = [curve(4.3 + worse + 0.01 * seed, jump=4.0 * (worse > 1)) for seed in range(3)]
        if worse == 2:
            curves[2] = curve(6.0, dies=True)
        return MapCell(lr, warmup, tuple(curves), UNIGRAM)

    return StabilityMap(LRS, WARMUPS, tuple(tuple(cell(lr, warmup) for lr in LRS) for warmup in WARMUPS))


def test_the_table_has_every_cell_at_its_place_with_its_marks(seen):
    lines = table(stability_grid(seen)).splitlines()
    assert lines[0] == "final loss, × diverged, ^ exploded; columns: peak learning rate"
    assert lines[1].split() == ["warmup,", "steps", "0.001", "0.01", "0.1"]
    assert lines[2].split() == ["0", "4.31", "5.31", "×3", "6.31", "×3^3"]
    assert lines[3].split() == ["20", "3.81", "4.81", "5.81", "×3^3"]
    assert len({len(line) for line in lines[1:]}) == 1  # columns line up


def test_the_picture_says_what_the_table_says_and_its_shade_follows_the_loss(seen):
    grid = stability_grid(seen)
    figure = heatmap(grid)
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(2, 0)] == "6.31 ×3^3" and texts[(0, 1)] == "3.81"
    shades = axes.images[0].get_array()
    assert shades[1][0] == pytest.approx(3.81) and shades[0][2] == pytest.approx(3.81 + TOP)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    figure.canvas.draw()


def test_a_landscape_that_is_not_finite_somewhere_is_drawn_and_marked_at_its_centre():
    around = Slice((-1.0, 0.0, 1.0), ((math.nan, 5.0, math.inf), (4.5, 4.0, 4.5), (6.0, 5.0, 6.0)))
    grid = landscape_grid(around)
    lines = table(grid).splitlines()
    assert lines[2].split() == ["-1.00", "5.00"] and lines[3].split()[:4] == ["+0.00", "4.50", "4.00", "o"]
    shades = heatmap(grid).axes[0].images[0].get_array()
    assert shades[0][0] == shades[0][2] == 4.0 + TOP and shades[1][1] == 4.0


# ------------------------------------------------------------------------------------------- the explorer


@pytest.fixture
def explorer(seen) -> StabilityExplorer:
    return StabilityExplorer(seen)


def test_a_click_shows_that_cells_curves_and_keeps_the_one_before_it(explorer, seen):
    first = explorer.shown
    assert (first["lr"], first["warmup"], first["before"]) == (0.001, 0, None)
    explorer.pick(**{"lr": 0.1, "warmup": 20})  # the browser's message
    assert explorer.shown["headline"] == "final loss 5.81, 3 of 3 diverged, 3 of 3 exploded"
    assert explorer.shown["before"] == {"name": first["name"], "curves": first["curves"]}
    own = seen.at(0.1, 20).curves
    assert explorer.shown["curves"] == [[min(loss, CEILING) for loss in one] for one in own]
    assert max(map(max, own)) > CEILING
    with pytest.raises(ConfigError, match=r"no cell at lr 0\.2 and warmup 20"):
        explorer.pick(0.2, 20)
    assert explorer.shown["lr"] == 0.1  # a refusal leaves it as it was


def test_a_curve_that_is_not_finite_ends_in_a_gap(explorer):
    explorer.pick(0.1, 0)
    assert explorer.shown["curves"][2][-1] is None and len(explorer.shown["curves"][2]) == 61
    assert explorer.shown["seeds"][2].endswith("last inf, highest inf")


def test_the_twin_has_the_words_and_numbers_of_the_screen_and_no_others(explorer, seen):
    explorer.pick(0.01, 20)
    explorer.pick(0.1, 0)
    shown, text = explorer.shown, str(explorer)
    assert text.startswith(table(stability_grid(seen)))
    rest = text.removeprefix(table(stability_grid(seen)))
    said = [shown["name"], shown["headline"], *shown["seeds"], shown["before"]["name"]]
    assert [one for one in said if one not in rest] == []
    assert sorted(re.findall(r"\d[\d.]*", rest)) == sorted(re.findall(r"\d[\d.]*", " ".join(said)))
    for row in explorer.cells["rows"]:
        for one in row:
            assert one["text"] in text and one["marks"] in text and one["text"] in one["says"]
    assert json.loads(json.dumps(explorer.cells)) and json.loads(json.dumps(shown))
    assert repr(explorer) == "<stability map: 2 x 3 cells>"


def test_the_words_for_a_seed_are_its_losses(explorer, seen):
    explorer.pick(0.01, 0)
    one = seen.at(0.01, 0).curves[1]
    assert explorer.shown["seeds"][1] == (
        f"seed 1: loss at step 0: {one[0]:.2f}, 10: {one[10]:.2f}, 25: {one[25]:.2f}, 50: {one[50]:.2f}, "
        f"75: {one[75]:.2f}; last {one[-1]:.2f}, highest {max(one):.2f}"
    )
