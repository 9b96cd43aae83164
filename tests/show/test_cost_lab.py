"""Protects the cost labs without their front end: what a slider sends changes the screen, and the twin agrees.

pytest tests/show/test_cost_lab.py
"""

from __future__ import annotations

import pytest

from llmkit.cost.labs import LABS
from llmkit.errors import ConfigError
from llmkit.show.cost_lab import cost_lab


@pytest.mark.parametrize("name", LABS)
def test_a_turn_changes_the_screen_and_the_twin(name):
    lab = cost_lab(name)
    before = str(lab)
    knob = next(k for k in lab.lab.knobs if k.name in ("gpus", "batch"))
    lab.turn(**{knob.name: knob.values[-1]})
    assert str(lab) != before and lab.shown["headline"] == str(lab).splitlines()[0]
    assert lab.shown["setting"][knob.name] == knob.values[-1] and lab.shown["title"] == lab.lab.title


def test_a_message_from_the_browser_is_a_turn():
    lab = cost_lab("serving")
    lab._handle_custom_msg({"batch": 64, "tp": 2}, [])
    assert (lab.setting["batch"], lab.setting["tp"], lab.setting["context"]) == (64, 2, 2048)


def test_a_refused_turn_changes_nothing():
    lab = cost_lab("scaling", gpus=128)
    shown = lab.shown
    with pytest.raises(ConfigError):
        lab.turn(gpus=129)
    assert lab.setting["gpus"] == 128 and lab.shown == shown


def test_notebooks_store_the_same_words_at_every_setting():
    assert (
        repr(cost_lab("scaling", gpus=8))
        == repr(cost_lab())
        == "<cost lab: From a model to days and dollars>"
    )
    with pytest.raises(ConfigError) as caught:
        cost_lab("scalling")
    assert str(caught.value) == "no lab `scalling`\n  remedy: use `scaling`"
