"""Protects verdicts and comparisons: a limit is met, missed or open, and what would turn it is named.

pytest tests/cost/test_decide.py
"""

from __future__ import annotations

import pytest

from llmkit.cost.decide import Limits, as_text, busiest_month, compare, estimate, flips
from llmkit.cost.job import job_of
from llmkit.cost.run import gpu_hours, run_cost
from llmkit.errors import ConfigError

SMALL = {
    "model": "gpt3-2.7b",
    "tokens": "60B",
    "gpus": 32,
    "gpu": "A100-SXM-80",
    "batch": 512,
    "micro_batch": 4,
    "name": "2.7B",
}
LARGE = {"tokens": "1T", "gpus": 1024, "gpu": "H800-SXM", "batch": 8192}
DENSE = job_of(LARGE, model="deepseek-67b", name="dense")
MIXTURE = job_of(LARGE, model="deepseek-v2-236b", name="mixture")


def verdicts(job, **limits):
    return {v.name: v.answer for v in estimate(job, Limits(**limits)).verdicts}


def test_a_limit_is_met_missed_or_open():
    job = job_of(SMALL)
    low, high = gpu_hours(job).interval
    assert verdicts(job, gpu_hours=1.01 * high)["budget"] == "yes"
    assert verdicts(job, gpu_hours=float(gpu_hours(job)))["budget"] == "maybe"
    assert verdicts(job, gpu_hours=0.99 * low)["budget"] == "no"
    assert set(verdicts(job)) == {"memory"}


def test_latency_limits():
    answers = verdicts(job_of(SMALL), token_ms=150, first_token_ms=800)
    assert (answers["token"], answers["first token"]) == ("yes", "yes")
    assert verdicts(DENSE, token_ms=10)["token"] == "no"


def test_48_gigabytes_are_another_envelope_than_80():
    job = job_of(SMALL, micro_batch=2)
    assert verdicts(job)["memory"] == "yes"
    assert verdicts(job, memory_gb=24)["memory"] == "no"


def test_a_month_has_730_hours():
    assert float(busiest_month(job_of(DENSE, tokens=15e12))) == 1024 * 730
    assert float(busiest_month(job_of(SMALL))) == float(gpu_hours(job_of(SMALL)))


def test_dense_against_mixture_says_what_flops_alone_would():
    found = compare(DENSE, MIXTURE, change_dollars=100_000)
    change = float(run_cost(MIXTURE)) / float(run_cost(DENSE)) - 1
    assert found.naive == pytest.approx(-0.58, abs=0.02) and found.naive < change < -0.3
    assert found.saved.interval[0] < float(found.saved) < found.saved.interval[1]
    assert found.break_even_runs == pytest.approx(100_000 / float(found.saved))
    assert compare(MIXTURE, DENSE).break_even_runs is None


def test_all_experts_are_in_memory():
    assert float(estimate(MIXTURE).quantities[0]) > 3 * float(estimate(DENSE).quantities[0])
    assert float(estimate(MIXTURE).quantities[1]) < float(estimate(DENSE).quantities[1]) / 3


def test_the_assumption_that_turns_a_verdict_is_named():
    job = job_of(SMALL, gpus=512, zero=3, micro_batch=1)
    open_limit = Limits(gpu_hours=gpu_hours(job).interval[1] * 1.01)
    assert [says for says in flips(job, job, open_limit) if says.startswith("no traffic hides")] == [
        "no traffic hides behind computation: budget of a is maybe",
        "no traffic hides behind computation: budget of b is maybe",
    ]
    assert flips(job_of(SMALL), job_of(SMALL), Limits(gpu_hours=1e9)) == ()


def test_more_gpus_at_a_fixed_batch_cost_more_for_less_time():
    plan = {"zero": 3, "messages": 12, "micro_batch": 1, "batch": 1536, "tokens": 3e11, "model": "gpt3-175b"}
    few, many = (job_of(SMALL | plan, gpus=n, efficiency=0.5) for n in (768, 1536))
    found = compare(few, many)
    assert float(found.saved) < 0 and found.b.bottleneck == "data parallel"


def test_a_comparison_reads_as_columns():
    lines = as_text(compare(DENSE, MIXTURE, Limits(gpu_hours=12_000), change_dollars=1e5)).splitlines()
    assert lines[0].split() == ["a:", "dense", "b:", "mixture", "b", "/", "a"]
    assert any(line.startswith("b saves $") and "training FLOPs alone say -5" in line for line in lines)
    assert sum("budget: over 12,000 GPU-hours" in line for line in lines) == 2
    assert any(line.startswith("the change is earned after") for line in lines)
    text = as_text(estimate(job_of(SMALL), Limits(token_ms=150)))
    assert text.startswith("2.7B: 32 x A100-SXM-80\n") and "  token: within 150 ms: " in text


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ConfigError) as caught:
        Limits(gpu_hours=-1)
    assert str(caught.value) == "gpu_hours is -1\n  expected: gpu_hours > 0"
