"""Protects the out-of-memory fault: a real refusal in the phase asked for, which half a batch escapes.

Run it: python -m pytest tests/faults/test_memory.py -q
"""

from __future__ import annotations

import pytest
import torch

from llmkit.errors import FaultError
from llmkit.faults import apply
from llmkit.memory import measure
from llmkit.train import train

PHASES = ("forward", "backward", "optimizer")
RUNS = {"fp32": {}, "fp16": {"precision": "fp16"}, "recomputed": {"model__checkpointing": "full"}}


def die(run):
    with pytest.raises(torch.OutOfMemoryError) as error:
        list(train(run))
    return error.value.llmkit


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("phase", PHASES)
def test_it_dies_in_the_phase_asked_for_at_its_step_naming_a_layer(tiny_run, phase, at, overrides):
    run = tiny_run(steps=6, **overrides)
    with apply("oom", run, at=at, phase=phase):
        facts = die(run)
    assert run.step == at
    assert facts.phase == phase and facts.emulated
    assert facts.module in {"GPT", *dict(run.model.named_modules())} - {""}
    assert phase != "optimizer" or facts.module == "embed"  # the first gradient that is looked at
    assert facts.live_bytes <= facts.limit_bytes < facts.live_bytes + facts.requested_bytes
    assert sum(facts.by_category.values()) == facts.live_bytes


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_half_the_micro_batch_escapes_and_the_run_ends_under_the_fault(tiny_run, phase):
    run = tiny_run(steps=6)
    with apply("oom", run, at=2, phase=phase):
        die(run)
        die(run)  # the card has not grown
        run.micro_batch = 4
        steps = [record.step for record in train(run)]
    assert steps == [2, 3, 4, 5]


def test_no_micro_batch_escapes_a_neighbour_but_the_next_step_does(tiny_run):
    run = tiny_run(steps=6)
    with apply("oom", run, at=2, phase="optimizer"):
        die(run)
        run.micro_batch = 1
        assert die(run).phase == "optimizer"
        run.step = 3
        assert [record.step for record in train(run)] == [3, 4, 5]


def test_a_step_that_died_moved_no_weight(tiny_run):
    run = tiny_run(steps=6)
    next(train(run))
    before = [p.clone() for p in run.model.parameters()]
    for phase in PHASES:
        with apply("oom", run, phase=phase):
            die(run)
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_a_limit_can_be_given_instead(tiny_run):
    run = tiny_run(steps=3)
    peak = measure(run, steps=2).bytes
    with apply("oom", run, limit=f"{2 * peak} bytes"):
        next(train(run))
    with apply("oom", run, limit=1_500_000):
        assert die(run).limit_bytes == 1_500_000
    assert run.step == 1


def test_an_unknown_phase_is_refused(tiny_run):
    with pytest.raises(FaultError) as error:
        apply("oom", tiny_run(), phase="backwards")
    assert str(error.value) == "no phase `backwards`\n  remedy: use `backward`"
