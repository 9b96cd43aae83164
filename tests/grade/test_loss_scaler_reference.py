"""Protects: the references of exercise 01 are what torch does, to the bit or to float32's last digits.

pytest tests/grade/test_loss_scaler_reference.py
"""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from llmkit.grade.collect import unpack
from llmkit.grade.exercise import load, source

EXERCISE = load("01_loss_scaler")
scale_rules = source("01_loss_scaler", "scale")
FP32_MAX, drive_update, update_once = scale_rules.FP32_MAX, scale_rules.drive_update, scale_rules.update_once


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_reference_update_is_gradscaler_on_every_pattern_of_eight_steps(interval):
    for pattern in itertools.product([False, True], repeat=8):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
        scaler.scale(torch.zeros(1))  # makes its state
        mine = drive_update(update_once, pattern, 1024.0, 2.0, 0.5, interval)
        for overflow, (scale, good_steps) in zip(pattern, mine, strict=True):
            torch._amp_update_scale_(
                scaler._scale, scaler._growth_tracker, torch.tensor([float(overflow)]), 2.0, 0.5, interval
            )
            assert (scaler.get_scale(), scaler._get_growth_tracker()) == (scale, good_steps)


def test_the_reference_update_stops_growing_where_torch_does():
    scale, tracker = torch.tensor(2.0**127), torch.tensor(0, dtype=torch.int32)
    torch._amp_update_scale_(scale, tracker, torch.tensor([0.0]), 2.0, 0.5, 1)
    assert update_once(2.0**127, 0, False, interval=1) == (scale.item(), tracker.item()) == (2.0**127, 0)
    assert torch.finfo(torch.float32).max == FP32_MAX


@pytest.mark.parametrize("seed", range(20))
def test_the_reference_unscale_is_gradscaler_unscale(seed):
    task = EXERCISE.task("unscale")
    for case in [*task.public, *task.hidden(random.Random(seed))]:
        grads = [unpack(grad, torch) for grad in case.packed()["grads"]]
        scaler = torch.amp.GradScaler("cpu", init_scale=case.inputs["scale"])
        parameters = [torch.zeros_like(grad).requires_grad_() for grad in grads if grad is not None]
        for parameter, grad in zip(parameters, (g for g in grads if g is not None), strict=True):
            parameter.grad = grad
        want = task.reference(**case.inputs)
        if parameters:
            optimizer = torch.optim.SGD(parameters, lr=1.0)
            scaler.scale(torch.zeros(1))
            scaler.unscale_(optimizer)
            found = any(v.item() for v in scaler._found_inf_per_device(optimizer).values())
            assert found == want.value
            afterwards = [list(map(float, p.grad.flatten())) for p in parameters]
            mine = [list(g.values) for g in want.args["grads"] if g is not None]
            assert repr(afterwards) == repr(mine)  # by repr, so that NaN equals NaN


@pytest.mark.parametrize("seed", range(20))
def test_the_reference_clip_is_torch_clip_grad_norm(seed):
    task = EXERCISE.task("clip_after_unscale")
    for case in [*task.public, *task.hidden(random.Random(seed))]:
        parameters = []
        for wire in case.packed()["grads"]:
            parameters.append(torch.zeros(()).requires_grad_())
            if wire is not None:
                grad = unpack(wire, torch)
                parameters[-1] = torch.zeros_like(grad).requires_grad_()
                parameters[-1].grad = grad / case.inputs["scale"]
        want = task.reference(**case.inputs)
        norm = torch.nn.utils.clip_grad_norm_(parameters, case.inputs["max_norm"])
        assert norm.item() == pytest.approx(want.value, rel=1e-5)
        for parameter, mine in zip(parameters, want.args["grads"], strict=True):
            if mine is not None:
                assert parameter.grad.flatten().tolist() == pytest.approx(mine.values, rel=1e-4)


def test_the_predicted_number_of_overflows_is_what_torch_takes_to_reach_zero():
    scale, tracker, overflows = torch.tensor(65536.0), torch.tensor(0, dtype=torch.int32), 0
    while scale.item() > 0:
        torch._amp_update_scale_(scale, tracker, torch.tensor([1.0]), 2.0, 0.5, 2000)
        overflows += 1
    assert EXERCISE.predictions["overflows until zero"].answer == overflows == 166


def test_at_scale_zero_torch_steps_and_the_weights_become_nan():
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale((weight * 2).sum()).backward()
    scaler._scale.fill_(0.0)
    weight.grad.zero_()  # what the backward pass of a loss times 0 leaves
    scaler.step(optimizer)
    assert math.isnan(weight.item())
