"""Protects the memory lab: what a slider and the button do, as plain calls, and the text twin.

pytest tests/show/test_memory_lab.py
"""

from __future__ import annotations

import pytest

from llmkit.errors import ConfigError
from llmkit.memory import parse_size
from llmkit.memory.formula import estimate
from llmkit.memory.lab import LAB, PARTS, config_of
from llmkit.memory.remedies import peak_at_depth
from llmkit.show.memory_lab import memory_lab


def test_every_knob_moves_the_stack_and_the_twin_has_the_same_numbers():
    lab = memory_lab()
    for knob in LAB.knobs:
        screens = set()
        for value in knob.values:
            lab.turn(**{knob.name: value})
            screens.add(lab.shown["headline"])
            assert lab.shown["headline"] in str(lab)
            assert all(f"{name}: {says}" in str(lab) for name, _, says in lab.shown["bars"])
        assert len(screens) > 1, knob.name
        lab.turn(**{knob.name: knob.start})


def test_the_bars_are_the_formula_and_stack_to_the_headline():
    lab = memory_lab(model="gpt-7b", batch=1)
    found = estimate(config_of(lab.setting).model, batch=1)
    assert {name: size for name, size, _ in lab.shown["bars"]} == {k: v for k, v in found.parts.items() if v}
    assert set(found.parts) <= set(PARTS)
    assert lab.shown["headline"].startswith(f"{found.bytes / 2**30:.1f} GiB of 79.1 GiB: ")
    assert lab.shown["limit"] == parse_size("A100-80")


def test_the_button_rehearses_the_setting_and_a_slider_takes_it_back():
    lab = memory_lab(model="gpt2", layers=12, sequence=512, batch=1)
    lab.handle({"rehearse": True})
    peak, _ = peak_at_depth(config_of(lab.setting))
    assert lab.shown["rehearsed"].startswith(f"rehearsed: {peak / 2**30:.1f} GiB in backward")
    assert lab.shown["rehearsed"] in str(lab)
    lab.handle({"batch": 2})
    assert lab.shown["rehearsed"] == "" and lab.setting["batch"] == 2


@pytest.mark.parametrize("knobs", [{"batch": 3}, {"size": 1}])
def test_what_the_knobs_do_not_have_is_refused(knobs):
    lab = memory_lab()
    before = lab.shown
    with pytest.raises(ConfigError):
        lab.turn(**knobs)
    assert lab.shown == before and repr(lab) == "<memory lab: 9 knobs>"
