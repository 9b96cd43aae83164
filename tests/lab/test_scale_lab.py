"""Protects the comparator of loss-scale policies: its replay is what torch's fp16 would have done, and the traps
show.

pytest tests/lab/test_scale_lab.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmkit.lab import scale_lab
from llmkit.lab.scale_lab import Replay, Trace, compare, replay, synthetic, table
from llmkit.observe.exponents import Exponents, Look
from llmkit.train import train
from llmkit.train.scale_policies import POLICIES, Static


@pytest.fixture(scope="module")
def gradients():
    """Forty steps of two thousand numbers whose size wanders, with outliers: (steps, numbers)."""
    generator = torch.Generator().manual_seed(3)
    wander = torch.randn(40, 1, generator=generator).cumsum(0) * 0.7 - 14
    return torch.randn(40, 2000, generator=generator) * 2.0 ** (
        wander + 4 * torch.randn(40, 2000, generator=generator)
    )


def traced(gradients):
    looks = []
    for step, values in enumerate(gradients):
        watch = Exponents()
        watch.looks.append(Look(step, forward=step % 11 == 5))
        watch._count("layer", values)
        looks += watch.looks
    return Trace.recorded(looks)


@pytest.mark.parametrize("name", POLICIES)
def test_a_replay_is_what_fp16_itself_would_have_done(gradients, name):
    policy, options = (
        POLICIES[name](scale=2.0**12, growth_interval=3),
        {"scale": 2.0**12, "growth_interval": 3},
    )
    scales, skipped, vanished = [], [], []
    for step, values in enumerate(gradients):
        half = (values * policy.current).half()
        scales.append(policy.current)
        skipped.append(step % 11 == 5 or not half.isfinite().all().item())
        vanished.append((half == 0).float().mean().item())
        policy.update(["w"] if skipped[-1] else [])
    done = compare(traced(gradients), [name], **options)[name]
    assert (done.scales, done.skipped, done.ended) == (scales, skipped, "")
    assert done.vanished == pytest.approx(vanished, abs=1e-6)
    taken = [v for v, s in zip(vanished, skipped, strict=True) if not s]
    assert done.lost == pytest.approx(np.mean(taken))
    assert {True, False} == set(skipped)


def test_a_run_in_bf16_is_a_trace_whose_search_is_that_of_the_run_in_fp16(tiny_run):
    """While every step is skipped the weights are the same, so the first scales are too."""
    plain, half = (tiny_run(precision=p, steps=6, data="generated") for p in ("bf16", "fp16"))
    plain.observers.append(watch := Exponents())
    list(train(plain))
    half.scaler = POLICIES["megatron"](scale=2.0**22, tell=half.tell)
    records = list(train(half))
    done = compare(Trace.recorded(watch.looks), ["megatron"], scale=2.0**22)["megatron"]
    searched = [record.skipped for record in records].index(False)
    assert searched >= 2
    assert done.scales[: searched + 1] == [record.loss_scale for record in records][: searched + 1]


# --------------------------------------------------------------------------------------------------- the traps


def world(**options):
    return synthetic(20_000, np.random.default_rng(0), **({"limit": 20.0, "noise": 0.3} | options))


def test_the_ratchet_one_bad_batch_in_500_takes_the_scale_down_for_ever_and_the_gradients_with_it():
    done = compare(world(bad_every=500), ["torch.amp", "megatron", "opt", "static"], scale=2.0**16)
    assert [sum(replay.skipped) for replay in done.values()] == [40] * 4
    assert done["torch.amp"].scales[-1] == 2.0 ** (16 - 39)
    assert done["megatron"].scales[-1] == 1.0
    assert done["torch.amp"].lost > 10 * done["static"].lost
    healed = replay(world(bad_every=500), POLICIES["megatron"](scale=2.0**16, consecutive=True))
    assert set(healed.scales) == {2.0**16}
    assert compare(world(bad_every=2100), ["torch.amp"])["torch.amp"].scales[-1] == 2.0**16


def test_without_a_floor_the_scale_reaches_0_and_the_next_good_step_kills_the_weights():
    bad = synthetic(200, np.random.default_rng(0), bad_every=1)
    trace = Trace(bad.largest, bad.counts, np.arange(200) < 170)
    done = compare(trace, ["torch.amp", "llmkit", "deepspeed-zero"])
    assert done["torch.amp"].scales.index(0.0) == 166  # from 2^16: 165 halvings to 2^-149, one more to 0
    assert done["torch.amp"].ended == "step 170 was taken at scale 0: the weights are no numbers any more"
    assert (done["llmkit"].ended, done["llmkit"].scales[-1]) == ("", 1.0)
    assert done["deepspeed-zero"].ended == "step 17: a step overflowed at the lowest loss scale, 1"


def test_hysteresis_saves_nothing_in_a_steady_state_and_is_refilled_by_growth_alone():
    done = compare(world(), ["deepspeed-fused", "deepspeed-zero", "torch.amp"])
    skips = {name: sum(replay.skipped) for name, replay in done.items()}
    assert skips["deepspeed-zero"] > 1.5 * skips["deepspeed-fused"] > 1.5 * skips["torch.amp"] > 0
    apart = Trace(*(part[:300] for part in vars(world(bad_every=100)).values()))
    assert replay(apart, POLICIES["megatron"](scale=2.0**16)).scales[-1] == 2.0**15
    assert replay(apart, POLICIES["megatron"](scale=2.0**16, consecutive=True)).scales[-1] == 2.0**16


# --------------------------------------------------------------------------------------------- numbers in words


def test_the_synthetic_trace_has_the_limit_that_was_asked_for():
    trace = world(limit=10.0, noise=0.0)
    for scale, overflows in ((2.0**10, True), (2.0**9, False)):
        assert replay(trace, Static(scale)).skipped == [overflows] * 20_000
    noisy = np.log2(65520 / world(limit=10.0, noise=0.5).largest)
    assert (noisy.mean(), noisy.std()) == pytest.approx((10.0, 0.5), abs=0.02)


def test_the_table_says_scale_skips_losses_and_the_end():
    dies = Replay([1.0, 0.75], [True, False], [0.5, 0.25], "step 1 died")
    assert table({"a": dies}).splitlines() == [
        "policy            first   last  skipped  vanished",
        "a                   2^0   0.75        1    25.00%  step 1 died",
    ]


def test_a_replay_that_forgets_the_floor_of_invertible_scales_is_caught(monkeypatch):
    monkeypatch.setattr(scale_lab, "INVERTIBLE", -1.0)
    with pytest.raises(AssertionError):
        test_without_a_floor_the_scale_reaches_0_and_the_next_good_step_kills_the_weights()
