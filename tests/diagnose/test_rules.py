"""Protects the findings: each illness, at each place and step, is named as itself, with its culprit, and
nothing else is named beside it.

pytest tests/diagnose/test_rules.py
"""

from __future__ import annotations

import dataclasses
import math

import pytest

from llmkit.diagnose import RULES, diagnose
from llmkit.diagnose.rules.suspects import names, suspects

STEPS = 160
WORLD = {"start": 7.0, "floor": 3.0, "row_noise": 0.06, "pauses": 0.0}
ILLNESSES = {
    "nan_division": ("LK101", "blocks.1.mlp"),
    "fp16_overflow": ("LK102", "blocks.0.mlp.down"),
    "out_of_memory": ("LK201", "head"),
    "lr_glitch": ("LK301", "learning rate"),
    "poison": ("LK401", "document 77777"),
    "stall": ("LK501", "loader"),
}


def sick(ward, illness, seed, at, **more):
    fixed = {"steps": STEPS, "batch": 8, "norm_jumps": 0.0, "norm_noise": 0.15, "loss_noise": 0.015, **WORLD}
    fixed["precision"] = "fp16" if illness == "fp16_overflow" else "fp32"
    patient = ward.healthy(seed, **fixed)
    if illness == "stall":
        ward.stall(patient, range(at, at + 12, 4), **more)
    else:
        getattr(ward, illness)(patient, at, **more)
    return patient


@pytest.mark.parametrize("at", [60, 90, 140])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("illness", ILLNESSES)
def test_the_doctor_names_what_was_done_and_nothing_else(ward, illness, seed, at):
    """The confusion matrix is diagonal: six illnesses, six codes."""
    code, cause = ILLNESSES[illness]
    findings = diagnose(sick(ward, illness, seed, at).chart()).findings
    assert [(f.code, f.cause, f.step) for f in findings] == [(code, cause, at)]
    finding = findings[0]
    assert finding.evidence and finding.fix and finding.confirm.predicts and finding.also_seen_with


@pytest.mark.parametrize("illness", ILLNESSES)
def test_no_prefix_of_a_sick_run_is_given_another_name(ward, illness):
    """A log can end anywhere. Before the illness: silence. After it: this code or none yet."""
    patient = sick(ward, illness, 0, 60)
    for end in [*range(40, 76, 2), 110]:
        part = ward.Patient(
            [s for s in patient.steps if s.step < end],
            [t for t in patient.times if t.step < end],
            [e for e in patient.events if e.step < end],
            patient.facts,
        )
        codes = [f.code for f in diagnose(part.chart()).findings]
        assert codes in ([], [ILLNESSES[illness][0]]), f"cut at {end}"
        assert not codes or end > 60


# -------------------------------------------------------------------------------------------- LK101 and LK102


@pytest.mark.parametrize("module", ["embed", "blocks.0.attention", "blocks.5.mlp.down", "norm"])
def test_the_module_is_the_cause(ward, module):
    finding = diagnose(sick(ward, "nan_division", 3, 70, module=module).chart()).findings[0]
    assert finding.cause == module
    assert finding.says == f"`{module}` turned finite inputs into NaN values in the forward pass of step 70"
    assert finding.confidence == "certain"


def test_nan_from_small_inputs_is_arithmetic_under_fp16_too(ward):
    patient = ward.healthy(4, steps=STEPS, precision="fp16")
    ward.nan_division(patient, 80)
    findings = diagnose(patient.chart()).findings
    assert [f.code for f in findings] == ["LK101"]
    assert any("it acts on the backward pass and cannot help" in e.says for e in findings[0].evidence)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_infinity_outside_fp16_is_made_by_the_module(ward, precision):
    patient = ward.healthy(5, steps=STEPS, precision=precision)
    ward.nan_division(patient, 80)
    for event in patient.events:
        event.data.update({"kind": "inf"} if event.kind == "nonfinite" else {})
    findings = diagnose(patient.chart()).findings
    assert [(f.code, "infinite" in f.says) for f in findings] == [("LK101", True)]


def test_inputs_near_the_limit_make_a_nan_an_overflow(ward):
    patient = sick(ward, "fp16_overflow", 6, 80)
    for event in patient.events:
        event.data.update({"kind": "nan", "input_absmax": 6.0e4} if event.kind == "nonfinite" else {})
    assert [f.code for f in diagnose(patient.chart()).findings] == ["LK102"]


def test_a_nan_that_nobody_traced_is_a_possible_finding_that_orders_the_tracer(ward):
    patient = sick(ward, "nan_division", 7, 80)
    patient.events.clear()
    finding = diagnose(patient.chart()).findings[0]
    assert (finding.code, finding.cause, finding.confidence) == ("LK101", "", "possible")
    assert finding.confirm.name == "trace-nonfinite" and "llmkit.observe.Recorder" in finding.fix


def test_a_weight_that_was_already_nan_is_named(ward):
    patient = sick(ward, "nan_division", 8, 80)
    for event in patient.events:
        event.data.update(inputs_finite=False, parameter="blocks.0.mlp.up.weight", module="blocks.0.mlp.up")
    finding = diagnose(patient.chart()).findings[0]
    assert (finding.code, finding.cause) == ("LK101", "blocks.0.mlp.up.weight")
    assert finding.says.endswith("`blocks.0.mlp.up.weight` was not finite before it")


def test_documents_of_the_non_finite_sequences_are_evidence(ward):
    patient = sick(ward, "nan_division", 9, 80)
    first = next(e for e in patient.events if e.kind == "nonfinite")
    first.data.update(sequences=[2], documents=[1017])
    says = [e.says for e in diagnose(patient.chart()).findings[0].evidence]
    assert "only in sequence 2 of the batch, with document 1017" in says


@pytest.mark.parametrize("events", [True, False])
def test_a_collapsing_scale_is_an_overflow_of_gradients(ward, events):
    patient = ward.healthy(10, steps=STEPS, precision="fp32")
    patient.facts["config"]["precision"] = "fp16"
    for step in range(STEPS):
        patient.change(step, loss_scale=4096.0)
    ward.scale_collapse(patient, 100)
    if not events:
        patient.events.clear()
    findings = diagnose(patient.chart()).findings
    assert [(f.code, f.step) for f in findings] == [("LK102", 100)]
    assert findings[0].says.startswith("the loss scale collapses from step 100")


def test_three_halvings_are_not_yet_a_collapse_but_the_floor_is(ward):
    patient = ward.healthy(11, steps=STEPS, precision="fp32")
    patient.facts["config"]["precision"] = "fp16"
    for step in (100, 104, 108):
        patient.tell(
            "scale", step, old=2.0 ** (30 - step // 4), new=2.0 ** (29 - step // 4), phase="backward"
        )
    assert diagnose(patient.chart()).healthy
    patient.tell("floor", 112, scale=1.0, reason="overflow in backward", phase="backward")
    assert [(f.code, f.step) for f in diagnose(patient.chart()).findings] == [("LK102", 112)]


# ------------------------------------------------------------------------------------------------------ LK201


@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
@pytest.mark.parametrize(("largest", "word"), [("activations", "micro-batch"), ("optimizer_state", "shard")])
def test_the_fix_follows_what_filled_the_memory(ward, phase, largest, word):
    patient = sick(ward, "out_of_memory", 12, 80, phase=phase)
    patient.events[-1].data["by_category"][largest] = 1 << 30
    finding = diagnose(patient.chart()).findings[0]
    where = "optimizer update" if phase == "optimizer" else f"{phase} pass"
    assert finding.says == f"`head` ran out of memory in the {where} of step 80 (emulated budget)"
    assert word in finding.fix and finding.evidence[1].says.startswith(
        f"live then: {largest.replace('_', ' ')}"
    )


def test_memory_that_rose_before_it_broke_is_called_a_leak(ward):
    patient = sick(ward, "out_of_memory", 13, 80)
    for leak, word in ((1 << 20, "a leak?"), (0, "not a leak")):
        patient.times = [
            dataclasses.replace(t, memory_bytes=(64 << 20) + leak * t.step) for t in patient.times
        ]
        assert any(word in e.says for e in diagnose(patient.chart()).findings[0].evidence)


# ------------------------------------------------------------------------------------------------------ LK301


def test_the_lag_is_in_the_evidence(ward):
    finding = diagnose(sick(ward, "lr_glitch", 14, 90).chart()).findings[0]
    assert finding.says == "the learning rate left its trend at step 90; the loss reacted at step 91"
    says = " | ".join(e.says for e in finding.evidence)
    assert "30 times" in says and "as expected" in says and "1 step later" in says
    assert finding.confidence == "certain"


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_glitch_of_up_to_four_steps_is_found(ward, length):
    patient = sick(ward, "lr_glitch", 15, 90)
    for step in range(91, 90 + length):
        patient.change(step, lr=patient.steps[step].lr * 30)
    assert [f.step for f in diagnose(patient.chart()).findings] == [90]


def test_a_glitch_that_did_no_harm_is_likely_and_says_so(ward):
    patient = ward.healthy(16, steps=STEPS)
    patient.change(90, lr=patient.steps[90].lr * 30)
    finding = diagnose(patient.chart()).findings[0]
    assert (finding.code, finding.confidence) == ("LK301", "likely") and "did not react" in finding.says


def test_a_glitch_on_the_last_step_is_seen_by_the_configured_peak(ward):
    patient = sick(ward, "lr_glitch", 17, 90)
    del patient.steps[91:], patient.times[91:]
    assert [f.step for f in diagnose(patient.chart()).findings] == [90]
    del patient.facts["config"]["lr"]  # nothing to compare with: wait for the next step
    assert diagnose(patient.chart()).healthy


def test_what_follows_from_a_glitch_is_not_a_second_finding(ward):
    patient = ward.healthy(18, steps=STEPS, precision="fp16")
    ward.fp16_overflow(patient, 91)
    patient.change(90, lr=patient.steps[90].lr * 30)
    diagnosis = diagnose(patient.chart())
    assert [f.code for f in diagnosis.findings] == ["LK301"]
    because = {r.code: r.because for r in diagnosis.ruled_out}["LK102"]
    assert because.endswith("it follows from LK301 at step 90")


# ------------------------------------------------------------------------------------------------------ LK401


def test_two_occurrences_convict_the_document_they_share(ward):
    patient = sick(ward, "poison", 19, 90)
    ward.poison(patient, 110)
    finding = diagnose(patient.chart()).findings[0]
    assert finding.cause == "document 77777" and "at steps 90 and 110" in finding.says


def test_documents_that_cannot_be_told_apart_are_all_named(ward):
    patient = sick(ward, "poison", 20, 90)
    documents = [(77_777, 77_778), *patient.steps[90].documents[1:]]
    patient.change(90, documents=tuple(documents))
    finding = diagnose(patient.chart()).findings[0]
    assert (finding.cause, finding.confidence) == ("one of documents 77777 or 77778", "possible")
    assert "one replay a suspect" in finding.confirm.says


def test_a_document_seen_in_good_company_is_cleared(ward):
    patient = sick(ward, "poison", 21, 90)
    patient.change(90, documents=((77_777, 88_888), *patient.steps[90].documents[1:]))
    patient.change(40, documents=((88_888,), *patient.steps[40].documents[1:]))
    finding = diagnose(patient.chart()).findings[0]
    assert finding.cause == "document 77777"
    assert any("88888 also seen in good sequences" in e.says for e in finding.evidence)


def test_half_of_the_batch_may_be_bad(ward):
    patient = ward.healthy(22, steps=STEPS, batch=8, norm_jumps=0.0, precision="fp32", **WORLD)
    ward.poison(patient, 90, rows=4, excess=6.0, norm=12.0)
    assert [f.cause for f in diagnose(patient.chart()).findings] == ["document 77777"]


def test_a_step_that_a_rescuer_vetoed_still_tells(ward):
    patient = sick(ward, "poison", 23, 90)
    patient.change(90, skipped=True)
    assert [f.cause for f in diagnose(patient.chart()).findings] == ["document 77777"]


def test_a_page_of_one_token_convicts_itself_with_a_modest_jump(ward):
    """One repeated token is learned fast: its loss may be ordinary, the gradient is not."""
    patient = ward.healthy(24, steps=STEPS, batch=8, norm_jumps=0.0, norm_noise=0.1, precision="fp32")
    ward.poison(patient, 90, excess=0.5, norm=3.0)
    assert diagnose(patient.chart()).healthy
    patient.change(90, stats={"token_share_max": 0.97, "token_share_row": 0.0})
    finding = diagnose(patient.chart()).findings[0]
    assert (finding.code, finding.cause) == ("LK401", "document 77777")
    assert any(e.says.startswith("one token makes 97 % of a sequence") for e in finding.evidence)
    patient.change(90, grad_norm=patient.steps[89].grad_norm)  # a ruler in a docstring moves nothing
    assert diagnose(patient.chart()).healthy


def test_a_jump_on_the_last_step_waits_for_the_next(ward):
    patient = sick(ward, "poison", 25, 90)
    del patient.steps[91:], patient.times[91:]
    diagnosis = diagnose(patient.chart())
    assert diagnosis.healthy
    because = {r.code: r.because for r in diagnosis.not_judged}["LK401"]
    assert because == "the loss jumps at step 90, the last recorded: the next step decides"


def test_without_documents_the_samples_are_named(ward):
    patient = sick(ward, "poison", 26, 90)
    patient.steps = [dataclasses.replace(s, documents=()) for s in patient.steps]
    finding = diagnose(patient.chart()).findings[0]
    sample = patient.steps[90].samples[0]
    assert finding.cause == "" and f"samples {sample}" in finding.evidence[-1].says


@pytest.mark.parametrize(
    ("bad", "healthy", "expected"),
    [
        ([{7, 8}, {8, 9}], {}, [[8]]),
        ([{7, 8}], {}, [[7, 8]]),
        ([{7, 8}], {7: 1}, [[8]]),
        ([{7, 8}], {7: 1, 8: 1}, [[7, 8]]),  # seen in good company both: neither is cleared by it
        ([{1, 2}, {2, 3}, {5}], {}, [[2], [5]]),  # two culprits
        ([{1, 2}, {2, 3}, {3, 4}], {3: 9}, [[2], [4]]),
        ([set()], {}, []),
    ],
)
def test_elimination(bad, healthy, expected):
    from collections import Counter

    assert suspects([frozenset(row) for row in bad], Counter(healthy)) == expected


def test_elimination_always_explains_every_bad_sequence():
    """Every small world: three bad sequences over four documents, any of them seen healthy or not."""
    from collections import Counter
    from itertools import combinations, product

    rows = [frozenset(c) for size in (1, 2) for c in combinations(range(4), size)]
    for bad in product(rows, repeat=3):
        for seen in product((0, 1), repeat=4):
            groups = suspects(bad, Counter(dict(enumerate(seen))))
            assert all(any(row & set(group) for group in groups) for row in bad)
            shared = frozenset.intersection(*bad)
            if len(shared) == 1 and not any(seen):
                assert groups == [[*shared]]


def test_names():
    assert names([[8]]) == ("document 8", True)
    assert names([[8], [9]]) == ("documents 8 and 9", True)
    assert names([[8, 9]]) == ("one of documents 8 or 9", False)
    assert names([]) == ("", False)


# ------------------------------------------------------------------------------------------------------ LK501


def test_one_very_long_stall_needs_no_company(ward):
    patient = ward.healthy(27, steps=STEPS, step_s=0.03, pauses=0.0)
    ward.stall(patient, [90], factor=15.0)
    findings = diagnose(patient.chart()).findings
    assert [(f.code, f.step, f.confidence) for f in findings] == [("LK501", 90, "possible")]


def test_a_loader_that_was_always_slow_is_found_without_a_jump(ward):
    patient = ward.healthy(28, steps=STEPS, pauses=0.0)
    ward.stall(patient, range(STEPS), factor=1.5)
    finding = diagnose(patient.chart()).findings[0]
    assert finding.says.startswith("waiting for data takes more of a step than computing")


def test_every_rule_has_a_page_in_the_template():
    parts = ("What it sees:", "Why it hurts:", "Looks like:", "Confirm:", "Fix:", "Confused with:")
    for rule in RULES:
        page = rule.judge.__doc__
        assert page.startswith(f"{rule.code}: {rule.title}."), rule.code
        assert [part for part in parts if f"\n    {part}" in page] == list(parts), rule.code


def test_loss_is_never_compared_while_it_is_nan(ward):
    patient = sick(ward, "nan_division", 29, 70)
    assert all(not math.isnan(f.step) for f in diagnose(patient.chart()).findings)
