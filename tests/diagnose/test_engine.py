"""Protects the diagnosis as a whole: order, causes before consequences, words, JSON, independence of torch,
cost.

pytest tests/diagnose/test_engine.py
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import llmkit.diagnose
from llmkit.diagnose import RULES, Chart, as_markdown, as_text, diagnose, engine, explain
from llmkit.diagnose.words import listing, number, percent, plural, seconds, size
from llmkit.errors import ConfigError
from llmkit.records import Diagnosis, StepRecord, from_json, to_json


def test_findings_are_ordered_by_certainty_then_step(ward):
    patient = ward.healthy(
        0, steps=160, batch=8, norm_jumps=0.0, precision="fp32", row_noise=0.05, pauses=0.0
    )
    ward.poison(patient, 60)
    ward.stall(patient, [20, 30, 40])
    ward.out_of_memory(patient, 150)
    findings = diagnose(patient.chart()).findings
    assert [(f.code, f.confidence) for f in findings] == [
        ("LK201", "certain"), ("LK501", "likely"), ("LK401", "likely"),
    ]  # fmt: skip


def test_every_rule_is_heard_once(ward):
    for seed in range(10):
        diagnosis = diagnose(ward.healthy(seed).chart())
        heard = [r.code for r in (*diagnosis.ruled_out, *diagnosis.not_judged)]
        assert sorted(heard) == [rule.code for rule in RULES]


def test_judging_is_a_pure_function_of_the_records(ward):
    patient = ward.healthy(1, steps=120, batch=8, precision="fp16")
    ward.fp16_overflow(patient, 90)
    chart = patient.chart()
    assert to_json(diagnose(chart)) == to_json(diagnose(chart)) == to_json(diagnose(patient.chart()))


def test_a_diagnosis_goes_through_json(ward):
    patient = ward.healthy(2, steps=120, precision="fp32")
    ward.nan_division(patient, 90)
    diagnosis = diagnose(patient.chart())
    back = from_json(Diagnosis, to_json(diagnosis))
    assert back.findings[0]["code"] == diagnosis.findings[0].code


# ------------------------------------------------------------------------------------------------------ words


FEW = ("LK101", "LK102", "LK201", "LK301", "LK4", "LK501")  # as many rules as a page shows


def test_the_text_of_a_finding(ward, monkeypatch):
    monkeypatch.setattr(engine, "RULES", tuple(rule for rule in RULES if rule.code.startswith(FEW)))
    steps = [StepRecord(step=s, loss=4.0, grad_norm=1.0, lr=1e-3) for s in range(40)]
    patient = ward.Patient(steps, [], [], {"config": {"precision": "fp32"}})
    patient.tell(
        "oom", 40, module="head", phase="forward", requested_bytes=16 << 20, live_bytes=150 << 20,
        limit_bytes=160 << 20, by_category={"activations": 90 << 20, "parameters": 60 << 20}, micro_batch=8,
        emulated=True,
    )  # fmt: skip
    assert (
        as_text(diagnose(patient.chart()))
        == """\
1 finding in 40 steps

LK201 out of memory (step 40, certain)
  `head` ran out of memory in the forward pass of step 40 (emulated budget)
  evidence: 16.0 MiB were asked for with 150.0 MiB live, and the limit is 160.0 MiB
            [events.jsonl]
            live then: activations 90.0 MiB (60 %) and parameters 60.0 MiB (40 %) [events.jsonl]
  confirm:  step 40 again with half the micro-batch (8 -> 4)
            predicted: it fits, or asks for about 45.0 MiB less
            with llmkit.memory.budget(limit, run): next(llmkit.train.train(run))
  fix:      halve the micro-batch and double accumulation (the same global batch, about half the
            activations), then activation checkpointing, then a shorter context
  confused: a memory leak, a longer batch than usual, fragmentation (CUDA only)

ruled out:
  LK101 NaN made inside a module: every loss and gradient norm is finite
  LK102 fp16 overflow: precision is fp32, and every loss and gradient norm is finite
  LK301 learning-rate glitch: the learning rate never rose

not judged:
  LK401 poisoned document: steps.jsonl has no `sequence_losses`: write the mean loss of each
        sequence and its document ids
  LK402 corrupt shard, LK406 tokenizer swap: `stats` has no `foreign_rows`: attach
        `llmkit.observe.Recorder`, or `Tokens`
  LK403 unshuffled order: steps.jsonl has no `samples`: write the window index of each sequence
  LK404 shifted labels, LK405 double shift: `stats` has no `targets_next`: attach
        `llmkit.observe.Recorder`, or `Tokens`
  LK407 pads not masked: `stats` has no `pad_targets`: attach `llmkit.observe.Recorder`, or
        `Tokens`
  LK408 train/val leak: `stats` has no `val_rows`: attach `llmkit.observe.Recorder`, or `Tokens`
  LK409 source missing: run.json has no `data.sources`: write the share of tokens of each source
  LK410 truncated shard, LK411 flipped byte, LK412 duplicate shard: the files were not checked:
        `llmkit diagnose RUN --check-data` does
  LK501 stalled loader: no times.jsonl: attach `llmkit.observe.Recorder`, which splits a step's
        seconds"""
    )


def test_markdown_says_what_the_text_says(ward):
    patient = ward.healthy(3, steps=120, batch=8, precision="fp32")
    ward.lr_glitch(patient, 90)
    diagnosis = diagnose(patient.chart())
    marked, finding = as_markdown(diagnosis), diagnosis.findings[0]
    for words in (
        finding.code,
        finding.says,
        finding.fix,
        finding.confirm.predicts,
        finding.evidence[0].says,
    ):
        assert words in marked
    assert marked.startswith("1 finding in 120 steps\n\n### LK301 learning-rate glitch\n")


def test_no_line_of_the_text_is_wider_than_the_terminal(ward):
    for seed in range(5):
        patient = ward.healthy(seed, steps=150, batch=8, precision="fp16")
        ward.fp16_overflow(patient, 100, module="blocks.11.attention.qkv")
        assert max(map(len, as_text(diagnose(patient.chart())).splitlines())) <= 96


def test_a_healthy_run_says_how_much_was_judged(ward, monkeypatch):
    monkeypatch.setattr(engine, "RULES", tuple(rule for rule in RULES if rule.code.startswith(FEW)))
    assert as_text(diagnose(ward.healthy(4, steps=80).chart())).startswith(
        "no finding in 80 steps: 7 of 17 rules"
    )


def test_says_holds_no_measured_number(ward):
    """Conclusions are compared word for word across machines; digits stay in the evidence."""
    for illness in ("lr_glitch", "poison"):
        a, b = (
            ward.healthy(5, steps=140, batch=8, precision="fp32", norm_jumps=0.0, floor=f, row_noise=0.05)
            for f in (2.5, 3.0)
        )
        says = []
        for patient in (a, b):
            getattr(ward, illness)(patient, 100)
            says.append(diagnose(patient.chart()).findings[0].says)
        assert says[0] == says[1]


def test_explain():
    assert explain("LK101").startswith("LK101: NaN made inside a module.\n\nWhat it sees: ")
    assert explain("lk401") == explain("LK401")
    with pytest.raises(ConfigError) as caught:
        explain("LK499")
    assert str(caught.value).startswith("unknown finding `LK499`\n  remedy: use `LK4")


def test_words():
    assert [number(x) for x in (4.1666, 65536.0, 1.234e-5, float("nan"), float("-inf"))] == [
        "4.17", "65,536", "1.23e-05", "NaN", "-infinity",
    ]  # fmt: skip
    assert [size(x) for x in (0, 1023, 1 << 20, 3 << 30, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 MiB",
        "3.0 GiB",
        "5.0 TiB",
    ]
    assert (seconds(0.0123), seconds(2.5), percent(0.034), percent(0.5)) == (
        "12.3 ms",
        "2.5 s",
        "3.4 %",
        "50 %",
    )
    assert (plural(1, "step"), plural(2000, "step")) == ("1 step", "2,000 steps")
    assert (listing([]), listing(["a"]), listing(["a", "b", "c"], "or")) == ("", "a", "a, b or c")


# ------------------------------------------------------------------------------------------------------ house


def test_the_public_names_are_sorted_and_complete():
    assert sorted(llmkit.diagnose.__all__) == sorted(set(llmkit.diagnose.__all__))
    assert all(hasattr(llmkit.diagnose, name) for name in llmkit.diagnose.__all__)


def test_a_doctor_can_be_called_where_there_is_no_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'matplotlib'): sys.modules[name] = None\n"
        "from llmkit.diagnose import Chart, as_text, diagnose\n"
        "from llmkit.records import StepRecord\n"
        "step = StepRecord(step=0, loss=1., grad_norm=1., lr=1.)\n"
        "print(as_text(diagnose(Chart.of([step]))).splitlines()[0])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("no finding in 1 step:")


def test_a_long_run_is_read_in_linear_time(ward):
    """Per step, four times the steps may cost at most twice as much (linear is once; the clock is shared)."""
    patient = ward.healthy(6, steps=4000, batch=8, documents=5000)

    def cost(steps):
        begin = time.process_time()
        diagnose(Chart.of(patient.steps[:steps], patient.times[:steps], [], patient.facts))
        return (time.process_time() - begin) / steps

    assert min(cost(4000) for _ in range(2)) < 2 * max(cost(1000) for _ in range(2))
