"""Protects seconds, GPU-hours and dollars: closed forms, limits that must be met, and what must be linear.

pytest tests/cost/test_time.py
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.cost.flops import training_flops
from llmkit.cost.job import job_of
from llmkit.cost.run import checkpoint_interval, days, goodput, gpu_hours, run_cost
from llmkit.cost.step import (
    bottleneck,
    calibrated,
    data_parallel,
    hardware_flops,
    mfu,
    model_flops,
    step_time,
    tensor_parallel,
)
from llmkit.errors import ConfigError

BASE = {"model": "gpt3-13b", "tokens": "100B", "gpus": 64, "gpu": "A100-SXM-80", "batch": 1024}
MEASURED = BASE | {"efficiency": 0.5}


def test_a_step_alone_is_flops_over_what_the_machine_does():
    job = job_of(MEASURED, gpus=1, batch=8)
    step = step_time(job)
    assert float(step) == pytest.approx(hardware_flops(job) / (312e12 * 0.5))
    assert [float(t) for t in step.terms[1:]] == [0, 0, 0, 0] and bottleneck(step) == "compute"
    assert float(mfu(job, float(step))) == pytest.approx(0.5)


def test_fp8_speeds_up_the_products_of_the_blocks_and_nothing_else():
    """Amdahl's law, with what products were measured to reach on an H100; by the peaks where nothing was."""
    short, long = ({"gpu": "H100-SXM", "gpus": 1, "batch": 8, "model": m} for m in ("gpt3-13b", "llama3-8b"))
    for plan in (short, long):
        half, fast = (job_of(BASE | plan, precision=p) for p in ("bf16", "fp8"))
        forward = training_flops(half.model)["forward"]
        share = float(forward["blocks"]) / float(forward)
        left = float(step_time(fast)["compute"]) / float(step_time(half)["compute"])
        assert left == pytest.approx(1 - share + share * 794.5 / 1402.6)
    other = {"gpu": "H800-SXM", "gpus": 1, "batch": 8}
    half, fast = (step_time(job_of(BASE | other, precision=p))["compute"] for p in ("bf16", "fp8"))
    assert 0.5 < float(fast) / float(half) < 0.56


def test_recomputation_is_hardware_work_and_not_the_models():
    job = job_of(MEASURED, recompute="full")
    assert hardware_flops(job) / model_flops(job) == pytest.approx(4 / 3, rel=0.01)
    assert model_flops(job) == model_flops(job_of(MEASURED))


def test_a_pipeline_idles_for_p_minus_1_over_m():
    """Narayanan et al. 2021: (p - 1) / m, and / v when interleaved."""
    job = job_of(MEASURED, pp=8, gpus=8, batch=64)
    step = step_time(job)
    assert float(step["pipeline bubble"]) == pytest.approx(float(step["compute"]) * 7 / 64)
    woven = step_time(job_of(job, interleave=5))
    assert float(woven["pipeline bubble"]) == pytest.approx(float(step["compute"]) * 7 / 320)


def test_gradients_take_twice_their_bytes_over_the_network_of_a_node():
    job = job_of(MEASURED, zero=0, gradient_bytes=2)
    ring = 2 * 63 / 64 * 2 * 12_853_386_240 / (0.8 * 200e9)
    assert data_parallel(job) == pytest.approx(ring, rel=0.01)
    assert data_parallel(job_of(job, gpus=1)) == 0
    assert data_parallel(job_of(job, zero=3)) > data_parallel(job)


def test_tensor_parallel_all_reduces_are_in_the_open():
    job = job_of(MEASURED, tp=8)
    volume = 4 * 2 * 2048 * 5120 * 40 * job.micro_batches
    assert tensor_parallel(job) == pytest.approx(2 * 7 / 8 * volume / (0.8 * 300e9))
    assert tensor_parallel(job_of(job, recompute="full")) == pytest.approx(1.5 * tensor_parallel(job))
    assert tensor_parallel(job_of(job, tp=1)) == 0


@given(st.floats(0, 1))
def test_traffic_hides_behind_computation_and_not_more_than_there_is(overlap):
    job = job_of(MEASURED, overlap=overlap)
    step, traffic = step_time(job), data_parallel(job)
    assert 0 <= float(step["data parallel"]) <= traffic
    assert float(step["data parallel"]) == pytest.approx(
        traffic - min(overlap * traffic, float(step["compute"]))
    )


def test_a_slow_loader_is_the_step():
    fast = step_time(job_of(MEASURED))
    rate = job_of(MEASURED).step_tokens / float(fast) / 3
    slow = step_time(job_of(MEASURED, loader_tokens_per_s=rate))
    assert float(slow) == pytest.approx(3 * float(fast)) and bottleneck(slow) == "loader"


@settings(max_examples=20)
@given(st.floats(0.2, 0.7), st.sampled_from([1, 8]), st.sampled_from([0, 1, 3]))
def test_calibration_finds_the_efficiency_that_made_the_step(efficiency, tp, zero):
    """Unless the step waits for the network: it then tells nothing about the speed of computation."""
    job = job_of(BASE, tp=tp, zero=zero)
    made = step_time(job_of(job, efficiency=efficiency))
    found = calibrated(job, [float(made)] * 3)
    assert float(step_time(found)) == pytest.approx(float(made), rel=1e-6)
    if float(made["compute"]) > job.overlap * data_parallel(job):
        assert found.efficiency == pytest.approx(efficiency, rel=1e-6)


def test_calibration_tightens_the_interval():
    job = job_of(BASE)
    measured = float(step_time(job_of(job, efficiency=0.55)))
    found = calibrated(job, [0.99 * measured, measured, 1.01 * measured])

    def width(q):
        return (q.interval[1] - q.interval[0]) / float(q)

    assert width(step_time(found)) < 0.1 < width(step_time(job))
    assert width(gpu_hours(found)) < width(gpu_hours(job)) / 3


@pytest.mark.parametrize("steps", [[], [0.0], [-1.0], [float("nan")], [9.0, float("inf")]])
def test_steps_that_took_no_time_are_refused(steps):
    with pytest.raises(ConfigError, match="measured steps are"):
        calibrated(job_of(BASE), steps)


def test_an_impossible_step_is_refused():
    with pytest.raises(ConfigError) as caught:
        calibrated(job_of(BASE), [1.0])
    assert "of the peak of 64 A100-SXM-80\n  expected: an MFU below 100 %" in str(caught.value)
    ideal = model_flops(job_of(BASE)) / (64 * 312e12)
    with pytest.raises(ConfigError, match="leaves no time for the network"):
        calibrated(job_of(BASE, overlap=0.0), [1.001 * ideal])


@given(st.floats(0.1, 10), st.sampled_from([BASE, MEASURED]))
def test_dollars_are_linear_in_tokens_and_price(times, base):
    job = job_of(base, dollars_per_gpu_hour=2.0)
    assert float(run_cost(job_of(job, tokens=1e11 * times))) == pytest.approx(times * float(run_cost(job)))
    dearer = job_of(job, dollars_per_gpu_hour=2.0 * times)
    assert float(run_cost(dearer)) == pytest.approx(times * float(run_cost(job)))
    assert float(days(job)) * 24 * 64 == pytest.approx(float(gpu_hours(job)))


def test_an_unmeasured_run_has_the_interval_of_its_hours_times_that_of_the_price():
    cost = run_cost(job_of(BASE))
    hours, price = cost["GPU-hours"], cost.terms[1]
    assert cost.interval == pytest.approx(
        (hours.interval[0] * price.interval[0], hours.interval[1] * price.interval[1])
    )


def test_bloom_should_have_saved_every_two_hours():
    """Young: a save of 40 s, one failure a week on 384 GPUs: 1.93 h. It saved every 2.9 h; the optimum is flat."""
    job = job_of(BASE, gpus=384, batch=384, save_s=40.0, gpu_hours_per_failure=384 * 168)
    assert float(checkpoint_interval(job)) / 3600 == pytest.approx(1.93, abs=0.01)


def test_llama_3_was_interrupted_every_three_hours_and_kept_nine_tenths():
    job = job_of(BASE | {"model": "llama3.1-405b", "gpus": 16_384, "batch": 16_384})
    between = goodput(job)["checkpoint interval"]["between failures"]
    assert float(between) / 3600 == pytest.approx(3.09, abs=0.01)
    assert 0.88 <= float(goodput(job)) <= 0.95
    assert goodput(job).interval[0] < float(goodput(job)) < goodput(job).interval[1]


@given(st.integers(1, 64))
def test_more_gpus_fail_more_often(nodes):
    job = job_of(BASE, gpus=8 * nodes, batch=8 * nodes)
    twice = job_of(BASE, gpus=16 * nodes, batch=16 * nodes)
    assert float(goodput(twice)) < float(goodput(job)) < 1 and math.isfinite(float(gpu_hours(twice)))
