"""Protects the cost labs: every setting of every knob has a screen, its text twin says all of it, and the screens
say what the calculator says.

pytest tests/cost/test_labs.py
"""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.cost.labs import LABS, as_text, roofline
from llmkit.errors import ConfigError

ANSWERS = {"yes", "no", "maybe"}


@pytest.mark.parametrize("name", LABS)
@settings(max_examples=25)
@given(data=st.data())
def test_every_setting_has_a_screen_whose_text_says_all_of_it(name, data):
    lab = LABS[name]
    setting = {knob.name: data.draw(st.sampled_from(knob.values), knob.name) for knob in lab.knobs}
    screen = lab.screen(setting)
    text = as_text(screen)
    assert json.loads(json.dumps(asdict(screen)))["headline"] == screen.headline
    assert all(value >= 0 and says in text for _, value, says in screen.bars)
    assert all(answer in ANSWERS and says in text for _, answer, says in screen.lights)
    assert all(says in text for _, says in screen.facts) and "nan" not in text


@pytest.mark.parametrize("name", LABS)
def test_the_first_screen_is_a_possible_plan(name):
    screen = LABS[name].screen({})
    assert screen.bars and screen.lights and screen.facts
    assert all(knob.start in knob.values for knob in LABS[name].knobs)


def test_an_impossible_plan_is_said_on_the_screen():
    screen = LABS["mixture"].screen({"experts": 4, "top_k": 8})
    assert screen.headline == "top_k is 8; expected: 1 to 4, the experts of a layer" and screen.bars == ()


def test_more_gpus_are_faster_and_dearer():
    lab, found = LABS["scaling"], []
    for gpus in (64, 1024, 4096):
        facts = dict(lab.screen({"gpus": gpus}).facts)
        found.append(
            [float(facts[name].split()[0].strip("$").replace(",", "")) for name in ("days", "dollars")]
        )
    assert found[0][0] > found[1][0] > found[2][0] and found[0][1] < found[1][1] < found[2][1]


def test_the_mixtures_utilisation_decides():
    cheap, dear = (LABS["mixture"].screen({"share": share}).headline for share in (1.0, 0.5))
    assert cheap.startswith("the mixture costs -2") and dear.startswith("the mixture costs +")


def test_a_batch_moves_the_point_to_the_right_until_arithmetic_binds():
    points = [LABS["serving"].screen({"batch": batch, "context": 512}) for batch in (1, 16, 256)]
    across = [screen.plot["dots"][0][0] for screen in points]
    assert across == sorted(across) and len(set(across)) == 3
    assert dict(points[0].facts)["bound by"] == "memory"


def test_the_roof_bends_where_peak_meets_bandwidth():
    plot = roofline(100.0, 1e14, peak=1e15, bandwidth=1e13)
    left, knee, right = plot["lines"][0]
    assert knee[0] == pytest.approx(3 / 5) and knee[1] == right[1] == pytest.approx(4 / 4.4, abs=1e-4)
    assert plot["dots"][0][0] == knee[0] and left[1] < knee[1]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"gpu": 8}, "no knob `gpu`\n  remedy: use `gpus`"),
        ({"gpus": 7}, "gpus is 7\n  expected: 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096"),
    ],
)
def test_refusals(setting, says):
    with pytest.raises(ConfigError) as caught:
        LABS["scaling"].screen(setting)
    assert str(caught.value) == says
