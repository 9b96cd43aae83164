"""Protects the silence: a healthy run gets no finding, whatever its schedule, precision, noise and luck.

pytest tests/diagnose/test_healthy.py
pytest tests/diagnose/test_healthy.py -m slow      # 3,000 runs, some 400,000 steps

A doctor that cries wolf is switched off, so this is the property that counts most.
"""

from __future__ import annotations

import dataclasses
import math

import pytest

from llmkit.diagnose import diagnose
from llmkit.records import StepRecord


def alarms(ward, seeds, **fixed):
    """Findings per seed, empty for the healthy."""
    told = {seed: diagnose(ward.healthy(seed, **fixed).chart()).findings for seed in seeds}
    return {seed: [(f.code, f.says) for f in findings] for seed, findings in told.items() if findings}


def test_two_hundred_healthy_runs_get_no_finding(ward):
    assert alarms(ward, range(200)) == {}


@pytest.mark.slow
def test_three_thousand_healthy_runs_get_no_finding(ward):
    assert alarms(ward, range(200, 3200)) == {}


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear", "restarts", "plateaus", "no warmup"])
def test_no_schedule_is_a_glitch(ward, schedule):
    assert alarms(ward, range(5), schedule=schedule, steps=200) == {}


def test_a_short_cycle_that_jumps_all_the_time_is_a_schedule(ward):
    patient = ward.healthy(1, steps=120)
    for step in range(120):
        patient.change(step, lr=1e-3 if step % 5 == 0 else 1e-4)
    assert diagnose(patient.chart()).healthy


def test_the_search_for_the_first_loss_scale_is_healthy(ward):
    patient = ward.healthy(3, steps=80, precision="fp32")
    patient.facts["config"]["precision"] = "fp16"
    for step in range(80):
        patient.change(step, loss_scale=2.0 ** max(16 - step, 4))
    for step in range(12):
        patient.change(step, grad_norm=math.inf, skipped=True, nonfinite="grad")
        patient.tell("scale", step, old=2.0 ** (16 - step), new=2.0 ** (15 - step), phase="backward")
    diagnosis = diagnose(patient.chart())
    assert diagnosis.healthy
    because = {r.code: r.because for r in diagnosis.ruled_out}
    assert because["LK102"].startswith("12 falls while the scale was searched for, 0 since")
    assert because["LK101"] == "every loss is finite; gradients that overflow are the loss scale's business"


def test_one_overflow_after_each_doubling_is_the_upkeep_of_the_scale(ward):
    patient = ward.healthy(4, steps=200, precision="fp32")
    patient.facts["config"]["precision"] = "fp16"
    for step in range(20, 200, 20):
        patient.tell("scale", step, old=1024.0, new=2048.0, reason="growth", phase="")
        patient.tell("scale", step + 1, old=2048.0, new=1024.0, reason="overflow", phase="backward")
        patient.change(step + 1, grad_norm=math.inf, skipped=True, nonfinite="grad")
    assert diagnose(patient.chart()).healthy


@pytest.mark.parametrize("factor", [2, 5, 20, 100])
def test_a_gradient_spike_without_the_loss_is_no_finding(ward, factor):
    patient = ward.healthy(5, steps=150, norm_jumps=0.0)
    patient.change(100, grad_norm=patient.steps[100].grad_norm * factor)
    assert diagnose(patient.chart()).healthy


def test_a_hard_page_without_the_gradient_is_no_finding(ward):
    patient = ward.healthy(6, steps=150, norm_jumps=0.0, batch=8)
    ward.poison(patient, 100, excess=6.0, norm=1.0)
    assert diagnose(patient.chart()).healthy


def test_a_spike_of_the_whole_batch_is_not_a_document(ward):
    patient = ward.healthy(7, steps=150, batch=8, norm_jumps=0.0)
    old = patient.steps[100]
    rows = tuple(row + 1.5 for row in old.sequence_losses)
    patient.change(100, loss=old.loss + 1.5, sequence_losses=rows, grad_norm=old.grad_norm * 20)
    diagnosis = diagnose(patient.chart())
    assert diagnosis.healthy
    because = {r.code: r.because for r in diagnosis.ruled_out}
    assert because["LK401"] == "the loss jumps at step 100, but no minority of its sequences carries the jump"


def test_a_shift_of_the_data_that_stays_is_not_a_document(ward):
    patient = ward.healthy(8, steps=150, batch=8, norm_jumps=0.0)
    for step in range(100, 150):
        ward.poison(patient, step, rows=3, excess=5.0, norm=8.0)
    assert diagnose(patient.chart()).healthy


def test_one_pause_of_a_few_steps_is_a_garbage_collection(ward):
    patient = ward.healthy(9, steps=150, step_s=0.05, pauses=0.0)
    ward.stall(patient, [100], factor=4.0)
    assert diagnose(patient.chart()).healthy


def test_a_host_that_pauses_every_phase_is_not_the_loader(ward):
    patient = ward.healthy(10, steps=150, step_s=0.05, pauses=0.0)
    ward.stall(patient, [60, 80, 100], factor=1.5)
    for step in range(55, 110, 5):
        old = patient.times[step]
        patient.times[step] = dataclasses.replace(old, backward_s=old.backward_s + 0.2)
    assert diagnose(patient.chart()).healthy


@pytest.mark.parametrize("restarts", [(0,), (0, 70), (0, 40, 80, 120)])
def test_cold_first_steps_are_healthy_after_every_start(ward, restarts):
    patient = ward.healthy(11, steps=150, step_s=0.05, pauses=0.0)
    for start in restarts:
        ward.stall(patient, range(start, start + 3), factor=30.0)
        if start:
            patient.tell("resume", start)
    assert diagnose(patient.chart()).healthy


def test_a_resumed_run_with_a_gap_in_its_steps_is_healthy(ward):
    patient = ward.healthy(12, steps=200)
    del patient.steps[100:140], patient.times[100:140]
    patient.events[:] = [e for e in patient.events if not 100 <= e.step < 140]
    assert diagnose(patient.chart()).healthy


def test_a_run_that_lives_the_same_steps_twice_is_healthy(ward):
    patient = ward.healthy(13, steps=120)
    again = list(patient.steps[60:])
    patient.steps += again
    chart = patient.chart()
    assert len(chart.steps) == 120 and len(chart.abandoned) == 1
    assert diagnose(chart).healthy


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 12])
def test_a_run_that_has_just_begun_is_healthy(ward, steps):
    diagnosis = diagnose(
        ward.healthy(14, steps=steps or 5).chart() if steps else ward.Patient([], [], [], {}).chart()
    )
    assert diagnosis.healthy
    if not steps:
        assert {r.because for r in diagnosis.not_judged} == {"no steps are recorded"}


def test_a_constant_run_is_healthy():
    from llmkit.diagnose import Chart

    steps = [StepRecord(step=s, loss=2.0, grad_norm=1.0, lr=1e-3) for s in range(100)]
    assert diagnose(Chart.of(steps, times=[], events=[])).healthy
