"""Protects the drift lab: its twin says what the panel says, its truth is exact, and its answers are honest.

pytest tests/show/test_drift_lab.py
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from llmkit.errors import ConfigError
from llmkit.lab import drift_lab as workshop
from llmkit.lab.drift_lab import KINDS, Reading, again, on_text, plant, power, trial
from llmkit.show.drift_lab import DriftLab, screen


@pytest.fixture(scope="module")
def world(dataset):
    return on_text(dataset)


@pytest.fixture
def lab(world):
    return DriftLab(world)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d,.]*%?", text)


@pytest.mark.parametrize(
    "knobs", [{}, {"kind": "none"}, {"kind": "special"}, {"share": 0.03}, {"tokens": 10_000}]
)
def test_the_twin_says_word_for_word_what_the_panel_says(lab, knobs):
    lab.turn(**knobs)
    lab.again(2)
    shown, text = lab.shown, str(lab)
    said = [
        shown["headline"],
        shown["power"],
        *(v for _, v in shown["facts"]),
        *(b["says"] for b in shown["bars"]),
    ]
    assert [says for says in said if says not in text] == []
    told = [f"{shown['share']:.2%}", f"{shown['tokens']:,}", *(n for s in said for n in numbers(s))]
    names = "".join(name for name, _ in shown["facts"]) + "".join(b["name"] for b in shown["bars"])
    assert sorted(numbers(text)) == sorted(told + numbers(names))  # and no number more
    assert json.loads(json.dumps(shown)) == shown | {"facts": [list(fact) for fact in shown["facts"]]}


def test_a_knob_is_one_trial_and_rest_adds_trials_of_the_seeds_that_follow(lab, world):
    lab.handle({"kind": "merges", "share": 0.01, "tokens": 50_000})
    assert (lab.reading.kind, lab.reading.share, lab.reading.tokens) == ("merges", 0.01, 50_000)
    drawn = lab.shown["bars"]
    for _ in range(3):
        lab.handle({"again": 1})
    alone = [trial(world, "merges", share=0.01, tokens=50_000, seed=seed) for seed in range(4)]
    assert lab.reading.trials == tuple(alone)
    assert lab.shown["bars"] == drawn and len(lab.shown["trials"]) == 4
    assert lab.reading.alarms / 4 == power(world, "merges", share=0.01, tokens=50_000, trials=4)
    lab.handle({"share": 0.001})
    assert len(lab.reading.trials) == 1 and lab.reading.kind == "merges"


def test_where_nothing_is_planted_there_is_no_alarm_at_the_pinned_seeds(lab):
    lab.turn(kind="none")
    lab.again(9)
    assert lab.shown["trials"] == ["quiet"] * 10
    assert lab.shown["headline"] == "no drift seen: none is there"
    assert lab.shown["power"] == "false alarms: 0 of 10 trials (95% interval 0% to 28%); promised: 1%"
    assert not any(bar["beyond"] or bar["planted"] for bar in lab.shown["bars"])


@pytest.mark.parametrize("kind", ["special", "white space", "merges"])
def test_a_drift_of_one_per_cent_is_found_in_its_shard_and_its_subwords_lead(lab, kind):
    lab.turn(kind=kind, share=0.01)
    lab.again(4)
    assert lab.shown["trials"] == ["named"] * 5
    assert lab.shown["headline"] == f"drift in {lab.reading.trials[0].planted_in}: found"
    beyond = [bar for bar in lab.shown["bars"] if bar["beyond"]]
    subwords = [bar for bar in beyond if bar["name"].startswith(("'", '"'))]
    assert subwords[0]["planted"]
    assert [b["beyond"] for b in lab.shown["bars"]] == sorted(
        (b["beyond"] for b in lab.shown["bars"]), reverse=True
    )


def test_what_is_missed_is_called_missed(lab):
    lab.turn(kind="merges", share=0.0003, tokens=50_000)
    assert lab.shown["headline"] == f"no drift seen: it is in {lab.reading.trials[0].planted_in}"
    assert lab.shown["trials"] == ["quiet"]
    lab.turn(tokens=10_000)
    assert lab.shown["verdict"] == "not testable"
    assert re.fullmatch(
        r"not testable: \d\d documents in a shard, at least 100 are needed", lab.shown["headline"]
    )


def test_the_three_meanings_of_a_share_are_those_of_the_shard_before_and_after(world):
    rng = np.random.default_rng([5, 50_000])
    parts = world.draw(50_000, 3, rng)
    ill = int(rng.integers(3))
    after, reassigned = plant(world, "merges", 0.01, parts[ill], rng)
    tried = trial(world, "merges", share=0.01, tokens=50_000, seed=5)
    a, b = (np.bincount(t, minlength=512) / len(t) for t in (parts[ill][0], after[0]))
    assert tried.planted_in == f"shard {ill}" and tried.reassigned == reassigned
    assert tried.variation == pytest.approx(np.abs(a - b).sum() / 2)
    changes = dict(zip(workshop.CLASSES, (b - a) @ world.table, strict=True))
    assert tried.shift == pytest.approx(changes[tried.shifted])
    assert abs(tried.shift) == pytest.approx(max(map(abs, changes.values())))
    # one token that becomes two: twice the share in total variation
    assert tried.variation == pytest.approx(2 * tried.reassigned, rel=0.05)
    nothing = trial(world, "none", share=0.01, tokens=50_000, seed=5)
    assert (nothing.reassigned, nothing.variation, nothing.shift, nothing.outcome) == (0, 0, 0, "quiet")


@pytest.mark.parametrize("n", [1, 5, 20, 300])
def test_the_interval_of_the_power_covers_about_as_often_as_it_says(n):
    trials = {alarm: trial_like(alarm) for alarm in (True, False)}
    readings = [Reading("", 0, 0, 0, (trials[True],) * k + (trials[False],) * (n - k)) for k in range(n + 1)]
    intervals = [reading.interval for reading in readings]
    assert [reading.alarms for reading in readings] == list(range(n + 1))
    assert all(0 <= low <= k / n <= high <= 1 for k, (low, high) in enumerate(intervals))
    covered = [
        sum(
            comb(n, k) * p**k * (1 - p) ** (n - k)
            for k, (low, high) in enumerate(intervals)
            if low <= p <= high
        )
        for p in np.linspace(0.005, 0.995, 199)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def trial_like(alarm: bool) -> workshop.Trial:
    compared = workshop.Comparison("drift" if alarm else "no drift seen", ("shard 0",), {}, 0.01)
    return workshop.Trial(compared, "shard 0", 0.0, 0.0, 0.0, "special")


def test_an_alarm_is_a_z_beyond_the_limit_that_is_drawn(world):
    for seed in range(6):
        for share in (0.001, 0.003, 0.01):
            found = trial(world, "merges", share=share, tokens=50_000, seed=seed).compared
            changes = (*found.subwords, *found.classes)
            assert [abs(c.z) > c.limit for c in changes] == [c.p <= found.alpha / 2 for c in changes]
            assert found.alarm == any(abs(c.z) > c.limit for c in changes)


def test_an_alarm_for_the_wrong_shard_or_for_nothing_is_not_called_found(lab):
    lab.turn(kind="merges", share=0.03)
    (tried,) = lab.reading.trials
    wrong = replace(tried, planted_in="shard 9")
    nothing = replace(tried, reassigned=0.0)
    for one, says in ((wrong, "it is in shard 9"), (nothing, "none is there")):
        shown = screen(replace(lab.reading, trials=(one,)), set())
        assert shown["headline"] == f"drift in {tried.compared.shard}: {says}"
        assert shown["trials"] == ["alarm"]


def test_only_what_the_text_can_show_is_offered(lab, world):
    offered = [kind for kind, _ in lab.choices["kinds"]]
    assert offered == [
        kind for kind in KINDS if kind != "casing"
    ]  # the made-up language has no word in capitals
    for tokens in lab.choices["sizes"]:
        assert again(world, Reading("none", 0.003, tokens, 0), 1).trials
    with pytest.raises(ConfigError, match=r"no drift `merge` here\n.*merges"):
        lab.turn(kind="merge")
    lab.turn()  # a refusal leaves it usable
    assert repr(lab) == "<drift lab: 6 kinds of drift>"
