"""Protects the loss-scale policies: each equal, on every pattern of ten steps, to the rule of its source.

The references below are written from those sources as arithmetic on step numbers, not as state machines.

pytest tests/train/test_scale_policies.py
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmkit.errors import NonFiniteError
from llmkit.train import build, tiny, train
from llmkit.train.scale_policies import POLICIES, DeepSpeedFused, Hysteresis, Opt

PATTERNS = list(itertools.product((False, True), repeat=10))
INTERVALS = (1, 2, 3)


def ours(name, pattern, **options):
    """The scale after each step; "ends" where the policy ends the run."""
    policy, scales = POLICIES[name](**options), []
    for overflowed in pattern:
        try:
            policy.update(["w"] if overflowed else [])
        except NonFiniteError:
            return [*scales, "ends"]
        scales.append(policy.current)
    return scales


def amp_like(pattern, scale, interval, low=0.0, high=math.inf):
    """torch.amp, apex, Megatron without hysteresis: after every `interval` good steps in a row."""
    scales, since = [], 0  # index of the step that starts the present stretch of good ones
    for step, overflowed in enumerate(pattern):
        if overflowed:
            scale, since = max(scale / 2, low), step + 1
        elif step + 1 - since == interval:
            scale, since = min(scale * 2, high), step + 1
        scales.append(scale)
    return scales


def fused(pattern, scale, interval):
    """DeepSpeed: `(step - last overflow) - 1` good steps lie *before* this one; a multiple of the window doubles."""
    scales, last = [], -1
    for step, overflowed in enumerate(pattern):
        stable = step - last - 1
        if overflowed:
            scale, last = max(scale / 2, 1), step
        elif stable > 0 and stable % interval == 0:
            scale *= 2
        scales.append(scale)
    return scales


def zero(pattern, scale, interval, shift, consecutive):
    """DeepSpeed ZeRO: one overflow in `shift` is free, until a doubling (or with `consecutive` any good step)."""
    scales, last, credit = [], -1, shift
    for step, overflowed in enumerate(pattern):
        stable = step - last - 1
        if overflowed and credit > 1:
            credit, last = credit - 1, step
        elif overflowed:
            if scale == 1:
                return [*scales, "ends"]
            scale, last = max(scale / 2, 1), step
        else:
            doubles = stable > 0 and stable % interval == 0
            credit = shift if consecutive or doubles else credit
            scale = scale * 2 if doubles else scale
        scales.append(scale)
    return scales


def megatron(pattern, scale, interval, shift):
    """Every overflow since the last doubling counts: the scale falls at the `shift`-th and at each one after it."""
    scales, good, seen = [], 0, 0
    for overflowed in pattern:
        good, seen = (0, seen + 1) if overflowed else (good + 1, seen)
        if overflowed and seen >= shift:
            scale = max(scale / 2, 1.0)
        if good == interval:
            scale, good, seen = scale * 2, 0, 0
        scales.append(scale)
    return scales


def metaseq(pattern, scale, window, low, tolerance=0.0):
    """With metaseq's own counters: iterations, the last overflow, the last change, overflows since then."""
    scales, last_overflow, last_change, since = [], -1, -1, 0
    for step, overflowed in enumerate(pattern):
        if overflowed:
            before, last_overflow, since = scale, step, since + 1
            if since / (step - last_change) >= tolerance:
                scale, window, last_change, since = scale / 2, max(int(window / 2), 1), step, 0
            scale = before if scale < low else scale
        elif (step - last_overflow) % window == 0:
            scale, window, last_change = scale * 2, window * 2, step
        scales.append(scale)
    return scales


REFERENCES = {
    "apex": (lambda p, n: amp_like(p, 2.0**23, n, high=2.0**24), {"scale": 2.0**23}),
    "deepspeed-fused": (lambda p, n: fused(p, 8.0, n), {"scale": 8.0}),
    "deepspeed-zero": (lambda p, n: zero(p, 4.0, n, 2, False), {"scale": 4.0}),
    "megatron": (lambda p, n: megatron(p, 4.0, n, 2), {"scale": 4.0}),
    "opt": (lambda p, n: metaseq(p, 0.25, n, 2.0**-5), {"scale": 0.25}),
    "static": (lambda p, n: [4.0] * len(p), {"scale": 4.0}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_policy_is_its_source_on_every_pattern_of_ten_steps(name):
    reference, options = REFERENCES[name]
    for interval, pattern in itertools.product(INTERVALS, PATTERNS):
        got = ours(name, pattern, growth_interval=interval, **options)
        assert got == reference(pattern, interval), (interval, pattern)


@pytest.mark.parametrize("consecutive", [False, True])
@pytest.mark.parametrize("shift", [1, 3])
def test_hysteresis_is_its_source_at_other_depths(shift, consecutive):
    for pattern in PATTERNS:
        options = {"growth_interval": 2, "hysteresis": shift, "consecutive": consecutive, "scale": 4.0}
        assert ours("deepspeed-zero", pattern, **options) == zero(pattern, 4.0, 2, shift, consecutive)


def gradscaler(pattern, scale, interval):
    """(scale, weight) after each step of torch.amp.GradScaler itself."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.125)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    return [(scaler.get_scale(), weight.item()) for _ in one_weight(pattern, weight, scaler, optimizer)]


def one_weight(pattern, weight, scaler, optimizer):
    for overflowed in pattern:
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        if overflowed:
            weight.grad.fill_(math.inf)
        scaler.step(optimizer)
        scaler.update()
        yield


class AsGradScaler:
    """`TorchAmp` under GradScaler's four names."""

    def __init__(self, policy):
        self.policy, self.scale = policy, policy.scale

    def step(self, optimizer):
        weight = optimizer.param_groups[0]["params"][0]
        norms = self.policy.unscale_([("weight", weight.grad)])
        self.bad = [] if torch.isfinite(norms).all() else ["weight"]
        if not self.bad:
            optimizer.step()

    def update(self):
        self.policy.update(self.bad)


@pytest.mark.parametrize("scale", [1024.0, 2.0**-145])
def test_torch_amp_is_gradscaler_on_every_pattern_of_eight_steps_down_to_scale_zero_and_dead_weights(scale):
    ends = set()
    for pattern in itertools.product((False, True), repeat=8):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.125)
        policy = POLICIES["torch.amp"](scale=scale, growth_interval=3)
        steps = one_weight(pattern, weight, AsGradScaler(policy), optimizer)
        got = [(policy.current, weight.item()) for _ in steps]
        assert str(got) == str(gradscaler(pattern, scale, 3)), pattern
        ends.add(math.isfinite(got[-1][1]))
    assert ends == ({True} if scale == 1024.0 else {False, True})


def test_a_published_log_of_zero_is_replayed():
    """deepspeedai/DeepSpeed issue 931: "Attempted loss scale: 65536, but hysteresis is 2", then 32768, 16384, 8192."""
    assert ours("deepspeed-zero", [True] * 4) == [65536.0, 32768.0, 16384.0, 8192.0]


def test_defaults_are_those_of_the_sources():
    found = {
        n: (p.current, p.growth_interval, p.floor) for n, p in ((n, make()) for n, make in POLICIES.items())
    }
    assert found == {
        "llmkit": (2.0**16, 2000, 1.0), "static": (2.0**16, 2000, 2.0**16), "torch.amp": (2.0**16, 2000, 0.0),
        "apex": (2.0**16, 2000, 0.0), "deepspeed-fused": (2.0**16, 1000, 1.0),
        "deepspeed-zero": (2.0**16, 1000, 1.0), "megatron": (2.0**32, 1000, 1.0), "opt": (4.0, 256, 2.0**-5),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- the traps


def isolated(steps, every):
    return [step % every == every - 1 for step in range(steps)]


def test_the_ratchet_one_bad_step_in_500_drives_the_scale_down_for_ever():
    pattern = isolated(20_000, every=500)
    assert ours("torch.amp", pattern)[-1] == 2.0 ** (16 - 40)
    assert ours("megatron", pattern, scale=2.0**16)[-1] == 1.0
    assert ours("deepspeed-zero", pattern)[-1] == "ends"
    assert ours("deepspeed-zero", pattern, consecutive=True)[-1] == 2.0**16
    assert ours("llmkit", pattern)[-1] == 1.0  # held by the floor, and no better before it


def test_one_growth_interval_between_bad_steps_is_enough_to_stop_the_ratchet():
    assert ours("torch.amp", isolated(20_010, every=2001))[-1] == 2.0**16


def test_hysteresis_is_refilled_by_growth_alone():
    far_apart = [True, *[False] * 999, True]
    assert ours("megatron", far_apart)[-1] == 2.0**31
    assert ours("megatron", [True, *[False] * 1000, True])[-1] == 2.0**33  # it grew in between
    assert ours("megatron", far_apart, consecutive=True)[-1] == 2.0**32


def test_opts_window_shrinks_at_the_floor_until_one_good_step_doubles_the_scale():
    assert ours("opt", [True] * 20 + [False] * 2)[-3:] == [2.0**-5, 2.0**-4, 2.0**-3]


# -------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"static"}))
def test_every_policy_trains_a_run_and_comes_back_from_its_state(name, dataset):
    def fresh():
        run = build(tiny(steps=12, precision="fp16", data="generated"), dataset=dataset)
        run.scaler = POLICIES[name](scale=2.0**20, growth_interval=2, tell=run.tell)
        return run

    run, other = fresh(), fresh()
    records = list(train(run))
    other.scaler.load_state_dict(run.scaler.state_dict())
    for overflowed in ([], ["w"], [], [], [], ["w"], ["w"], []):
        run.scaler.update(overflowed), other.scaler.update(overflowed)
        assert run.scaler.state_dict() == other.scaler.state_dict()
    assert {record.skipped for record in records} == {False, True}


# --------------------------------------------------------------------------------------------------- mutants


class RefillsNever(Hysteresis):
    def next_scale(self, overflowed):
        left = self.left
        scale = super().next_scale(overflowed)
        self.left = min(self.left, left)
        return scale


class CountsThisStepToo(DeepSpeedFused):
    def next_scale(self, overflowed):
        self.good_steps += not overflowed and self.good_steps == 0
        return super().next_scale(overflowed)


class KeepsItsWindow(Opt):
    def next_scale(self, overflowed):
        window = self.growth_interval
        scale = super().next_scale(overflowed)
        self.growth_interval = window
        return scale


@pytest.mark.parametrize(
    ("mutant", "name"),
    [(RefillsNever, "megatron"), (CountsThisStepToo, "deepspeed-fused"), (KeepsItsWindow, "opt")],
)
def test_a_planted_defect_differs_from_the_source(monkeypatch, mutant, name):
    floor = POLICIES[name]().floor
    monkeypatch.setitem(POLICIES, name, lambda **options: mutant(**({"floor": floor} | options)))
    reference, options = REFERENCES[name]
    assert any(ours(name, p, growth_interval=2, **options) != reference(p, 2) for p in PATTERNS)
