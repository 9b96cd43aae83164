"""Protects the loss-scale lab and the number line: their twins say what their panels say, and it is true.

pytest tests/show/test_scale_lab.py
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.lab.number_line import FORMATS, facts, place
from llmkit.lab.scale_lab import Trace, compare, layer_table
from llmkit.observe.exponents import Exponents
from llmkit.show import number_line, scale_lab
from llmkit.show.scale_lab import CHASE
from llmkit.train import build, tiny, train
from llmkit.train.scale_policies import POLICIES


@pytest.fixture(scope="module")
def looks(dataset):
    run = build(tiny(precision="bf16", steps=8, data="generated"), dataset=dataset)
    run.observers.append(watch := Exponents())
    list(train(run))
    return watch.looks


@pytest.fixture
def lab(looks):
    return scale_lab(looks)


def texts(shown):
    return [
        v
        for value in shown.values()
        for v in (value if isinstance(value, list) else [value])
        if type(v) is str
    ]


@pytest.mark.parametrize("knobs", [{}, {"power": 16}, {"power": -8, "policy": "opt"}, {"policy": "megatron"}])
def test_the_labs_twin_says_word_for_word_what_the_panel_says(lab, looks, knobs):
    lab.turn(**knobs)
    assert [says for says in texts(lab.shown) if says not in str(lab)] == []
    assert all(name in str(lab) for name in looks[-1].layers)
    assert json.loads(json.dumps(lab.board)) and json.loads(json.dumps(lab.shown))


def test_the_scale_moves_the_shares_as_torchs_fp16_would(lab, looks):
    lab.turn(power=4)
    low, high = looks[-1].underflow(16.0), looks[-1].overflow(16.0)
    assert lab.shown["headline"] == f"{low:.2%} become 0, {high:.2%} infinite"
    shares = {}
    for power in (-8, 4, 30):
        lab.turn(power=power)
        shares[power] = [float(part.split("%")[0]) for part in lab.shown["headline"].split(", ")]
    assert shares[-8][0] > shares[4][0] >= shares[30][0] and shares[30][1] > shares[4][1] == 0


def test_the_strips_are_the_histogram_of_the_last_look(lab, looks):
    for row in lab.board["rows"]:
        counts = looks[-1].layers[row["name"]]
        assert sum(row["shares"]) == pytest.approx(1.0, abs=1e-3)
        peak = lab.board["first"] + int(np.argmax(row["shares"]))
        assert counts[peak + 127] == counts[1:].max()
    assert len(lab.board["rows"][0]["shares"]) == lab.board["last"] - lab.board["first"] + 1


@pytest.mark.parametrize("policy", POLICIES)
def test_the_chase_that_is_drawn_is_the_comparators(lab, looks, policy):
    lab.turn(policy=policy)
    done = compare(Trace.recorded(looks), [policy], **CHASE)[policy]
    assert [2.0**power for power in lab.shown["chase"]] == done.scales
    assert lab.shown["skipped"] == done.skipped and f"{sum(done.skipped)} of 8" in lab.shown["outcome"]
    over = [scale >= limit for scale, limit in zip(lab.shown["chase"], lab.shown["limits"], strict=True)]
    assert over == done.skipped


def test_an_unknown_policy_is_refused_and_the_lab_stays_usable(lab):
    with pytest.raises(ConfigError, match=r"no policy `megatrn`\n.*megatron"):
        lab.turn(policy="megatrn")
    lab.turn(policy="static")
    assert repr(lab) == "<loss-scale lab: 18 layers, 8 steps>"


def test_the_table_of_layers_has_the_shares_before_scaling_and_after(looks):
    (head, *rows) = layer_table(looks[-1], 2.0**10).splitlines()
    assert head.split() == ["exponents", "0", "at", "2^0", "0", "at", "2^10", "infinite"]
    for row in rows:
        name, first, _, last, before, after, infinite = row.split()
        counts = looks[-1].layers[name]
        assert (
            counts[int(first) + 127] and counts[int(last) + 127] and not counts[int(last) + 128 : 255].any()
        )
        shares = (looks[-1].underflow(1.0, name), looks[-1].underflow(2.0**10, name), 0.0)
        assert [before, after, infinite] == [f"{share:.2%}" for share in shares]


# ------------------------------------------------------------------------------------------------ the number line


@pytest.mark.parametrize("name", FORMATS)
def test_neighbours_are_next_to_each_other_and_the_nearest_is_stored(name):
    """On every representable number of the small formats, and on midpoints, where ties go to even."""
    dtype, integer = FORMATS[name]
    known = facts(name)
    assert known.largest == torch.finfo(dtype).max and known.digits == {
        "fp32": 24, "bf16": 8, "fp16": 11, "fp8 e5m2": 3, "fp8 e4m3": 4,
    }[name]  # fmt: skip
    step = {torch.int8: 1, torch.int16: 131, torch.int32: 9_000_011}[integer]
    bits = torch.arange(1, torch.iinfo(integer).max, step, dtype=integer).view(dtype).float()
    for value in bits[bits.isfinite()].tolist()[:-1]:
        at = place(name, value)
        assert (at.stored, at.verdict) == (value, "exact") and at.below < value < at.above
        between = place(name, value + 0.3 * (at.above - value)) if name != "fp32" else at
        assert between.stored == value
        assert name == "fp32" or between.verdict == ("subnormal" if value < known.smallest else "rounded")


@pytest.mark.parametrize(
    ("name", "value", "stored", "verdict"),
    [
        ("fp16", 65519.0, 65504.0, "rounded"),
        ("fp16", 65520.0, math.inf, "becomes inf"),
        ("fp16", 2.0**-25, 0.0, "becomes 0"),
        ("fp16", 1.1 * 2.0**-25, 2.0**-24, "subnormal"),
        ("bf16", 65520.0, 65536.0, "rounded"),
        ("fp8 e4m3", 463.0, 448.0, "rounded"),
        ("fp8 e4m3", 464.0, 448.0, "saturated"),
        ("fp8 e5m2", 61440.0, math.inf, "becomes inf"),
    ],
)
def test_the_borders_of_the_formats(name, value, stored, verdict):
    at = place(name, value)
    assert (at.stored, at.verdict) == (stored, verdict)
    assert at.error(value) == abs(stored - value) / value


@pytest.mark.parametrize(
    "knobs", [{}, {"power": -25}, {"power": 16, "mantissa": 1.5}, {"mantissa": 1.015625}]
)
def test_the_number_lines_twin_says_word_for_word_what_the_panel_says(knobs):
    line = number_line()
    line.turn(**knobs)
    said = texts(line.shown) + [band["says"] for band in line.board["formats"]]
    assert [says for says in said if says not in str(line)] == []
    assert repr(line) == "<number line: fp32, bf16, fp16, fp8 e5m2, fp8 e4m3>"
    assert json.loads(json.dumps(line.board)) and json.loads(json.dumps(line.shown))


def test_the_number_line_says_what_became_of_a_number():
    line = number_line()
    line.turn(power=-25)
    assert line.shown["headline"] == "1 x 2^-25 = 2.98023224e-08"
    assert [says.split(":")[0] for says in line.shown["says"]] == ["exact", "exact", *["becomes 0"] * 3]
    line.turn(mantissa=1.25)
    assert (
        line.shown["says"][2]
        == "subnormal: 5.96046448e-08, relative error 6.0e-01, next below 0, above 1.1920929e-07"
    )
    assert line.board["formats"][2]["says"] == "2^-24 to 65504, 11 binary digits from 2^-14"
