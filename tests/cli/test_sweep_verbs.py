"""Protects `llmkit sweep`: what is typed is what is run, and what is shown is what was measured.

pytest tests/cli/test_sweep_verbs.py
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.cli.sweep_verbs import arms, facts, numbers
from llmkit.errors import ConfigError
from llmkit.lab import Share

SMALL = ["--set=data=generated", "--set=model__width=8", "--set=model__heads=1", "--set=model__layers=1"]
SMALL += ["--set=model__context=8", "--set=batch=2", "--steps=3", "--workers=1"]


def test_an_arm_is_a_name_and_its_settings():
    typed = arms(["base", "hot lr=0.1 bias_correction=none clip=Infinity"])
    assert typed == {"base": {}, "hot": {"lr": 0.1, "bias_correction": "none", "clip": float("inf")}}


@pytest.mark.parametrize(("text", "meant"), [("3", [0, 1, 2]), ("5:7", [5, 6]), ("0", [])])
def test_seeds_are_a_number_of_them_or_a_range(text, meant):
    assert list(numbers(text)) == meant


@pytest.mark.parametrize("text", ["three", "1:2:3", "4:"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="FIRST:STOP"):
        numbers(text)


def test_facts_are_medians_of_numbers_ends_of_curves_and_shares_of_what_happened():
    outcomes = [{"val": v, "curve": [9, v], "died": v > 2, "why": "?"} for v in (1.0, 2.0, 7.0)]
    found = facts(outcomes)
    assert found == {"cells": 3, "median val": 2.0, "median last curve": 2.0, "died": Share(1, 3)}
    assert facts([]) == {"cells": 0}


@pytest.mark.parametrize("name", ["losses", "rise"])
def test_explosions_are_counted_in_curves_and_in_rises(name):
    kept = {"losses": [[5.0, 6.0], [5.0, 5.5], [6.0, 5.0]], "rise": [1.0, 0.5, 0.0]}[name]
    assert facts([{name: value} for value in kept])["exploded"] == Share(1, 3)


def test_a_sweep_answers_with_its_arms_and_goes_on_where_it_was(dataset, tmp_path):
    def sweep(*more):
        words = ["sweep", *SMALL, "--seeds=2", f"--out={tmp_path / 'cells.jsonl'}", "--json", *more]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(done.stdout), done.stderr

    first, _ = sweep("--arm=base")
    assert first["base"]["cells"] == 2
    assert (
        first["base"]["died"]
        == first["base"]["exploded"]
        == {
            "count": 0,
            "of": 2,
            "interval": [0.0, pytest.approx(0.658, abs=1e-3)],
        }
    )
    both, says = sweep("--arm=base", "--arm=hot lr=0.1 warmup=0")
    assert both["base"] == first["base"] and "4 cells, 2 of them in" in says
    assert both["hot"]["median last losses"] != both["base"]["median last losses"]


def test_a_study_that_is_not_shipped_is_refused():
    with pytest.raises(ConfigError, match="unknown study `nothing`"):
        CliRunner().invoke(app, ["sweep", "--study=nothing"], catch_exceptions=False)
