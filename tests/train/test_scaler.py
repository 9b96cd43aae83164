"""Protects the loss scaler: equal to torch.amp.GradScaler on every pattern, except at the floor that torch
lacks.

pytest tests/train/test_scaler.py
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from llmkit.train import LossScaler, train

PATTERNS = list(itertools.product((False, True), repeat=8))


def torch_reference(pattern, scale, interval):
    """(scale, growth tracker, weight) after each step of torch.amp.GradScaler on one parameter under SGD."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.125)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    trace = []
    for overflow in pattern:
        optimizer.zero_grad()
        scaler.scale((weight * 1.0).sum()).backward()
        if overflow:
            weight.grad.fill_(math.inf)
        scaler.step(optimizer)
        scaler.update()
        trace.append((scaler.get_scale(), scaler._get_growth_tracker(), weight.item()))
    return trace


def ours(pattern, scale, interval, make=LossScaler):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.125)
    scaler = make(scale, growth_interval=interval)
    trace = []
    for overflow in pattern:
        optimizer.zero_grad()
        scaler.scale((weight * 1.0).sum()).backward()
        if overflow:
            weight.grad.fill_(math.inf)
        norms = scaler.unscale_([("weight", weight.grad)])
        bad = [] if torch.isfinite(norms).all() else ["weight"]
        if not bad:
            optimizer.step()
        scaler.update(bad)
        trace.append((scaler.current, scaler.good_steps, weight.item()))
    return trace


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_scaler_equals_torch_on_every_pattern_of_eight_steps(interval):
    for pattern in PATTERNS:  # 256: state, scale and whether the weight moved, after every step
        assert ours(pattern, 1024.0, interval) == torch_reference(pattern, 1024.0, interval), pattern


class ForgetsToReset(LossScaler):
    def update(self, overflowed, *, phase="backward"):
        kept = self.good_steps
        super().update(overflowed, phase=phase)
        if overflowed:
            self.good_steps = kept


class GrowsByFour(LossScaler):
    growth_factor = 4.0


class BacksOffByFour(LossScaler):
    backoff_factor = 0.25


class StepsOnOverflow(LossScaler):
    def unscale_(self, named_grads, correction=1.0):
        return torch.nan_to_num(super().unscale_(named_grads, correction), posinf=0.0)


@pytest.mark.parametrize("mutant", [ForgetsToReset, GrowsByFour, BacksOffByFour, StepsOnOverflow])
def test_a_planted_defect_differs_from_torch_on_some_pattern(mutant):
    assert any(ours(p, 1024.0, 2, mutant) != torch_reference(p, 1024.0, 2) for p in PATTERNS)


def test_growth_stops_where_torch_stops():
    good = [False] * 3
    assert ours(good, 2.0**126, 1) == torch_reference(good, 2.0**126, 1)


def test_at_scale_zero_torch_turns_the_weight_into_nan_and_ours_stays_at_its_floor():
    overflows = [True] * 12 + [False]
    tiny_scale = 2.0**-140  # torch's scale reaches 0 within the twelve overflows
    assert math.isnan(torch_reference(overflows, tiny_scale, 2000)[-1][2])
    trace = ours([True] * 30 + [False], 8.0, 2000)
    assert [scale for scale, _, _ in trace[:4]] == [4.0, 2.0, 1.0, 1.0]
    assert trace[-1] == (1.0, 1, 0.875)


def test_every_change_is_told_with_its_reason_and_the_floor_says_so():
    told = []
    scaler = LossScaler(
        4.0, growth_interval=2, floor=2.0, tell=lambda kind, says, **data: told.append((kind, says))
    )
    for overflowed in (["a.weight", "b.weight"], ["a.weight"], [], []):
        scaler.update(overflowed)
    assert told == [
        ("scale", "loss scale 4 -> 2: overflow in backward: a.weight and 1 more"),
        ("floor", "loss scale is at its floor 2 and a step still overflowed: overflow in backward: a.weight"),
        ("scale", "loss scale 2 -> 4: 2 good steps in a row"),
    ]


def test_a_disabled_scaler_is_the_identity_and_never_changes():
    scaler = LossScaler(4.0, enabled=False)
    grad = torch.tensor([3.0])
    assert scaler.scale(grad) is grad
    scaler.unscale_([("w", grad)])
    scaler.update(["w"])
    assert (grad.item(), scaler.current, scaler.can_back_off) == (3.0, 1.0, False)


def test_state_survives_a_round_trip():
    scaler = LossScaler(4.0, growth_interval=3)
    scaler.update([])
    other = LossScaler(64.0, growth_interval=3)
    other.load_state_dict(scaler.state_dict())
    for overflowed in ([], [], ["w"], []):
        scaler.update(overflowed), other.update(overflowed)
        assert scaler.state_dict() == other.state_dict()


def test_an_overflow_in_a_run_is_told_with_the_largest_finite_gradient(tiny_run):
    run, told = tiny_run(steps=3, precision="fp16", loss_scale=2.0**24), []
    run.sinks.append(lambda event: told.append(event))
    list(train(run))
    first = next(event for event in told if event.kind == "scale")
    assert (first.data["old"], first.data["new"], first.data["phase"]) == (2.0**24, 2.0**23, "backward")
    # what fp16 still held at that scale, divided by it; the token count divides by 1 here
    assert 0 < first.data["largest"] <= 65504 / 2.0**24
    grown = LossScaler(4.0, growth_interval=1, tell=lambda kind, says, **data: told.append(data))
    grown.update([])
    assert "largest" not in told[-1]


def test_a_summed_loss_gives_the_same_records_at_a_scale_smaller_by_the_targets_of_a_step(tiny_run):
    """512 of them, a power of two: not a bit of any record differs, and the same steps overflow."""
    same = {"precision": "fp16", "steps": 8, "micro_batch": 2, "growth_interval": 3}
    mean = list(train(tiny_run(**same, loss_scale=2.0**21)))
    total = list(train(tiny_run(**same, loss_scale=2.0**12, loss_sum=True)))
    assert {record.skipped for record in mean} == {False, True}
    assert [repr(dataclasses.replace(r, loss_scale=r.loss_scale * 512)) for r in total] == list(
        map(repr, mean)
    )
