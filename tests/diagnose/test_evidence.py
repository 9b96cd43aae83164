"""Protects the reading: any trainer's log, a log that grows, is torn, is cut back, or was lived twice.

pytest tests/diagnose/test_evidence.py
"""

from __future__ import annotations

import json
import math

import pytest

from llmkit.diagnose import Chart, Doctor, as_text, diagnose
from llmkit.errors import RecordError
from llmkit.folder import RunFolder
from llmkit.records import Event, StepRecord, to_json


def folder(path, patient):
    run = RunFolder.create(path, patient.facts)
    patient.write(run)
    run.close()
    return run


def plain(diagnosis):
    return to_json(diagnosis)


# ------------------------------------------------------------------------------------------ a foreign trainer


def foreign(path, lines):
    path.mkdir()
    (path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_step_and_loss_are_enough_to_begin(tmp_path):
    path = foreign(tmp_path / "run", [{"step": s, "loss": 4 - s / 100, "epoch": 0} for s in range(80)])
    diagnosis = diagnose(path)
    assert diagnosis.healthy and diagnosis.steps == 80
    assert {r.code: r.because for r in diagnosis.ruled_out} == {
        "LK101": "every loss and gradient norm is finite",
        "LK102": "every loss and gradient norm is finite",
        "LK103": "nothing scales the loss in this precision",
        "LK104": "no step was skipped because of a gradient",
    }
    shown = ("LK201", "LK301", "LK401", "LK501")
    assert {r.code: r.because for r in diagnosis.not_judged if r.code in shown} == {
        "LK201": "no events.jsonl: an allocation that fails leaves no line in steps.jsonl",
        "LK301": "steps.jsonl has no `lr`: write the learning rate used by each step",
        "LK401": "steps.jsonl has no `grad_norm`: write the norm before clipping",
        "LK501": "no times.jsonl: attach `llmkit.observe.Recorder`, which splits a step's seconds",
    }


def test_a_foreign_run_that_turned_nan_is_not_healthy(tmp_path):
    lines = [{"step": s, "loss": 4.0, "grad_norm": 1.0, "lr": 1e-3} for s in range(40)]
    lines += [{"step": s, "loss": "NaN", "grad_norm": "NaN", "lr": 1e-3} for s in range(40, 50)]
    finding = diagnose(foreign(tmp_path / "run", lines)).findings[0]
    assert (finding.code, finding.step, finding.confidence) == ("LK101", 40, "possible")
    assert finding.says == "the loss is not finite from step 40, and no record says which module made it so"


def test_a_foreign_spike_is_not_judged_without_sequences(tmp_path):
    lines = [{"step": s, "loss": 4.0 + s % 3 / 50, "grad_norm": 1.0, "lr": 1e-3} for s in range(80)]
    lines[60] |= {"loss": 6.0, "grad_norm": 30.0}
    because = {r.code: r.because for r in diagnose(foreign(tmp_path / "run", lines)).not_judged}
    assert because["LK401"].startswith("the loss jumps at step 60, but steps.jsonl has no `sequence_losses`")


def test_a_line_without_a_loss_is_refused_with_file_and_line(tmp_path):
    path = foreign(tmp_path / "run", [{"step": 0, "loss": 4.0}, {"step": 1}])
    with pytest.raises(RecordError, match=r"steps\.jsonl, line 2: StepRecord cannot be read"):
        diagnose(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is not a run folder"):
        diagnose(tmp_path)


def test_several_ranks_in_one_log_count_once(tmp_path):
    lines = [{"step": s, "loss": 4.0, "grad_norm": 1.0, "lr": 1e-3} for s in range(30) for _ in range(4)]
    assert diagnose(foreign(tmp_path / "run", lines)).steps == 30


# ------------------------------------------------------------------------------------------- what is not read


def test_the_doctor_does_not_read_the_wreckers_notes(ward):
    patient = ward.healthy(0, steps=60)
    told = ward.healthy(0, steps=60)
    told.facts["fault"] = {"name": "poisoned-document", "document": 17}
    told.tell("fault", 30, name="poisoned-document", document=17)
    chart = told.chart()
    assert chart.events_of("fault") == [] and "fault" not in chart.facts
    assert plain(diagnose(chart)) == plain(diagnose(patient.chart()))


# ---------------------------------------------------------------------------------------------- a growing log


@pytest.mark.parametrize("illness", ["poison", "lr_glitch", "nan_division", "out_of_memory"])
def test_following_a_run_ends_where_reading_it_at_once_does(ward, tmp_path, illness):
    patient = ward.healthy(1, steps=140, batch=8, precision="fp32", norm_jumps=0.0)
    getattr(ward, illness)(patient, 100)
    run = RunFolder.create(tmp_path / "run", patient.facts)
    doctor, seen = Doctor(run), []
    for step in range(0, 140, 7):
        run.append("steps", *[s for s in patient.steps if step <= s.step < step + 7])
        run.append("times", *[t for t in patient.times if step <= t.step < step + 7])
        run.append("events", *[e for e in patient.events if step <= e.step < step + 7])
        seen.append(len(doctor.look().findings))
    run.close()
    assert plain(doctor.look()) == plain(diagnose(run)) and seen == sorted(seen) and seen[-1] == 1


def test_a_look_at_nothing_new_is_the_same_diagnosis(ward, tmp_path):
    doctor = Doctor(folder(tmp_path / "run", ward.healthy(2, steps=30)))
    assert doctor.look() is doctor.look()


def test_a_torn_last_line_waits_for_its_end(ward, tmp_path):
    run = folder(tmp_path / "run", ward.healthy(3, steps=30))
    doctor, path = Doctor(run), tmp_path / "run" / "steps.jsonl"
    line = to_json(StepRecord(step=30, loss=3.0, grad_norm=1.0, lr=1e-3)) + "\n"
    for part, steps in ((line[:20], 30), (line[20:], 31)):
        with open(path, "a") as file:
            file.write(part)
        assert doctor.look().steps == steps


def test_every_byte_at_which_a_log_can_be_cut_is_read(ward, tmp_path):
    run = folder(tmp_path / "run", ward.healthy(4, steps=5, batch=2))
    path = tmp_path / "run" / "steps.jsonl"
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert len(Chart.open(run).steps) == content[:end].count(b"\n")


def test_a_resume_cuts_the_log_back_and_the_doctor_notices(ward, tmp_path):
    patient = ward.healthy(5, steps=100, precision="fp32")
    ward.nan_division(patient, 80)
    run = folder(tmp_path / "run", patient)
    doctor = Doctor(run)
    assert [f.step for f in doctor.look().findings] == [80]
    run.truncate("steps", 60)
    run.append("steps", *ward.healthy(5, steps=100, precision="fp32").steps[60:95])
    run.close()
    assert doctor.look().steps == 95
    # events keep everything, so what happened in the other life is still known
    assert [(f.code, f.cause) for f in doctor.look().findings] == [("LK101", "blocks.1.mlp")]


# ------------------------------------------------------------------------------------------ lives thrown away


@pytest.mark.parametrize(("illness", "code"), [("poison", "LK401"), ("lr_glitch", "LK301")])
def test_what_a_rollback_threw_away_is_read_from_the_rescue(ward, illness, code):
    """The supervisor cuts steps.jsonl back; its event holds the records, and the doctor needs no more."""
    world = {"steps": 140, "batch": 8, "precision": "fp32", "norm_jumps": 0.0, "row_noise": 0.05}
    well, patient = ward.healthy(6, **world), ward.healthy(6, **world)
    getattr(ward, illness)(patient, 100)
    lost = [json.loads(to_json(s)) for s in patient.steps[90:103]]
    well.tell("rescue", 102, policy="rollback-skip-data", lost_steps=13, records=lost)
    assert [(f.code, f.step) for f in diagnose(well.chart()).findings] == [(code, 100)]
    well.events.clear()
    assert diagnose(well.chart()).healthy


def test_a_poisoned_step_that_was_rolled_back_at_once_is_judged_by_its_second_life(ward):
    world = {"steps": 140, "batch": 8, "precision": "fp32", "norm_jumps": 0.0, "row_noise": 0.05}
    well, patient = ward.healthy(7, **world), ward.healthy(7, **world)
    ward.poison(patient, 100)
    well.tell("rescue", 100, policy="rollback-skip-data", records=[json.loads(to_json(patient.steps[100]))])
    assert [(f.code, f.cause) for f in diagnose(well.chart()).findings] == [("LK401", "document 77777")]


def test_a_log_that_was_not_cut_back_holds_both_lives(ward):
    world = {"steps": 140, "batch": 8, "precision": "fp32", "norm_jumps": 0.0, "row_noise": 0.05}
    well, patient = ward.healthy(8, **world), ward.healthy(8, **world)
    ward.poison(patient, 100)
    patient.steps = patient.steps[:110] + well.steps[80:]
    chart = patient.chart()
    assert [s.number for s in chart.steps] == list(range(140)) and len(chart.abandoned) == 1
    assert [(f.code, f.step) for f in diagnose(chart).findings] == [("LK401", 100)]


# -------------------------------------------------------------------------------------------------- questions


def test_precision_is_told_by_config_event_or_loss_scale():
    step = StepRecord(step=0, loss=1.0, grad_norm=1.0, lr=1e-3)
    event = Event(kind="nonfinite", step=0, data={"precision": "bf16"})
    scaled = StepRecord(step=0, loss=1.0, grad_norm=1.0, lr=1e-3, loss_scale=1024.0)
    assert Chart.of([step], facts={"config": {"precision": "fp32"}}).precision == "fp32"
    assert Chart.of([step], events=[event]).precision == "bf16"
    assert Chart.of([scaled]).precision == "fp16"
    assert Chart.of([step]).precision == ""


def test_scale_changes_are_read_from_the_steps_where_there_are_no_events():
    scales = [1024.0, 1024.0, 512.0, 512.0, 1024.0]
    steps = [
        StepRecord(step=s, loss=1.0, grad_norm=1.0, lr=1e-3, loss_scale=scale)
        for s, scale in enumerate(scales)
    ]
    changes = Chart.of(steps).scale_changes()
    assert [(c.step, c.old, c.new) for c in changes] == [(1, 1024, 512), (3, 512, 1024)]


def test_facts_may_be_anything(ward):
    patient = ward.healthy(9, steps=40)
    for config in (None, [], "fp16", {"lr": "high", "precision": None}):
        patient.facts = {"config": config}
        assert diagnose(patient.chart()).healthy


def test_huge_and_tiny_numbers_do_not_break_the_reading():
    steps = [
        StepRecord(step=s, loss=2.0, grad_norm=1e300 if s == 50 else 1e-300 if s < 50 else 0.0, lr=1e-3)
        for s in range(60)
    ]
    assert diagnose(Chart.of(steps, times=[], events=[])).healthy
    assert as_text(diagnose(Chart.of(steps)))


def test_nan_losses_from_the_first_step_are_a_finding():
    steps = [
        StepRecord(step=s, loss=math.nan, grad_norm=math.nan, lr=1e-3, nonfinite="loss") for s in range(3)
    ]
    assert [f.step for f in diagnose(Chart.of(steps, events=[])).findings] == [0]
