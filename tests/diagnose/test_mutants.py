"""Protects the tests: planted defects in the rules, each of which the battery below must notice.

pytest tests/diagnose/test_mutants.py
"""

from __future__ import annotations

import math

import pytest

from llmkit.diagnose import Chart, diagnose, evidence, timeline
from llmkit.diagnose.rules import data, loss_scale, numeric, optimization, suspects, throughput

WORLD = {"steps": 140, "batch": 8, "norm_jumps": 0.0, "norm_noise": 0.15, "row_noise": 0.05, "pauses": 0.0}


def sick(ward, illness, precision="fp32", **more):
    patient = ward.healthy(1, precision=precision, **WORLD)
    if illness == "stall":
        ward.stall(patient, [90, 94, 98], **more)
    elif illness:
        getattr(ward, illness)(patient, 90, **more)
    return patient


def whole_batch(ward):
    patient = sick(ward, None)
    old = patient.steps[90]
    rows = tuple(row + 2 for row in old.sequence_losses)
    patient.change(90, loss=old.loss + 2, sequence_losses=rows, grad_norm=old.grad_norm * 30)
    return patient


def shifted(ward):
    patient = sick(ward, None)
    for step in range(90, 140):
        ward.poison(patient, step, rows=3)
    return patient


def searching(ward):
    patient = sick(ward, None, precision="fp32")
    patient.facts["config"]["precision"] = "fp16"
    for step in range(12):
        patient.change(
            step, grad_norm=math.inf, skipped=True, nonfinite="grad", loss_scale=2.0 ** (16 - step)
        )
        patient.tell("scale", step, old=2.0 ** (16 - step), new=2.0 ** (15 - step), phase="backward")
    return patient


def busy(ward):
    patient = sick(ward, "stall", factor=1.5)
    for step in range(85, 101, 2):
        old = patient.times[step]
        patient.times[step] = old.__class__(**(vars(old) | {"backward_s": old.backward_s * 4}))
    return patient


def cleared(ward):
    patient = sick(ward, "poison")
    patient.change(90, documents=((77_777, 88_888), *patient.steps[90].documents[1:]))
    patient.change(40, documents=((88_888,), *patient.steps[40].documents[1:]))
    return patient


def noted(ward):
    patient = sick(ward, None)
    patient.tell("fault", 90, kind="nan", module="blocks.1.mlp", inputs_finite=True)
    patient.events[:] = [
        e.__class__(kind="fault", step=90, data=e.data) for e in patient.events if e.kind == "fault"
    ]
    return patient


BATTERY = {
    "nan": (lambda w: sick(w, "nan_division"), [("LK101", "blocks.1.mlp")]),
    "nan under fp16": (lambda w: sick(w, "nan_division", "fp16"), [("LK101", "blocks.1.mlp")]),
    "overflow": (lambda w: sick(w, "fp16_overflow", "fp16"), [("LK102", "blocks.0.mlp.down")]),
    "glitch": (lambda w: sick(w, "lr_glitch"), [("LK301", "learning rate")]),
    "poison": (lambda w: sick(w, "poison"), [("LK401", "document 77777")]),
    "cleared": (cleared, [("LK401", "document 77777")]),
    "stall": (lambda w: sick(w, "stall"), [("LK501", "loader")]),
    "whole batch": (whole_batch, []),
    "shift": (shifted, []),
    "norm alone": (lambda w: sick(w, "poison", excess=0.0, norm=30.0), []),
    "loss alone": (lambda w: sick(w, "poison", excess=8.0, norm=1.0), []),
    "scale search": (searching, []),
    "busy host": (busy, []),
    "the wrecker's note": (noted, []),
}


def wrong(ward):
    """Names of the cases of the battery that go wrong."""
    failed = []
    for name, (make, expected) in BATTERY.items():
        findings = diagnose(make(ward).chart()).findings
        if [(f.code, f.cause) for f in findings] != expected:
            failed.append(name)
    return failed


def test_the_battery_passes(ward):
    assert wrong(ward) == []


def _always_first(bad, healthy):
    return [sorted(row)[-1:] for row in bad]


MUTANTS = {
    "the norm is not asked": (data, "NORM_RATIO", -1.0, data, "NORM_Z", -9.0),
    "the loss is not asked": (data, "LOSS_Z", -9.0, data, "ROW_Z", -9.0, timeline, "ROW_Z", -9.0),
    "the next step is not asked": (data, "BACK_Z", 1e9),
    "any sequence is bad": (timeline, "ROW_Z", -9.0),
    "no one is cleared": (data, "suspects", _always_first),
    "a glitch is any rise": (optimization, "JUMP", 1.0),
    "a glitch never ends": (optimization, "LONGEST", 0),
    "the search is a collapse": (loss_scale, "_settled", lambda chart: 0),
    "an infinity is a NaN": (numeric, "_overflowed", lambda event, chart: False),
    "a NaN is an overflow": (numeric, "_overflowed", lambda event, chart: True),
    "waiting is healthy": (throughput, "WAITS", 1e9),
    "a busy host is a stalled loader": (throughput, "OUTWEIGHS", 0.0),
    "other pauses do not count": (throughput, "ELSEWHERE", 1e9, throughput, "_work", lambda times: 1.0),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_defect_is_noticed(ward, monkeypatch, mutant):
    change = MUTANTS[mutant]
    for module, name, value in zip(change[::3], change[1::3], change[2::3], strict=True):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)
    assert wrong(ward) != []


def test_reading_the_wreckers_notes_would_be_noticed(ward, monkeypatch):
    """The note of `noted` is a finished `nonfinite` event under another name."""
    take = evidence.Chart._take

    def gullible(self, steps, times, events):
        events = list(events)
        take(self, steps, times, events)
        self.events += [e.__class__(**(vars(e) | {"kind": "nonfinite"})) for e in events if e.kind == "fault"]

    monkeypatch.setattr(Chart, "_take", gullible)
    assert "the wrecker's note" in wrong(ward)
    assert suspects.MOST == 3
