"""Protects the memory of a GPU: bytes by ZeRO stage, every pipeline stage, the cache, and what must be monotone.

pytest tests/cost/test_memory.py
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cost import parameters
from llmkit.cost.job import job_of, shape_named
from llmkit.cost.memory import fits, kv_cache, serving_memory, stage_parameters, states, training_memory
from llmkit.cost.quantity import Quantity

BASE = {"model": "gpt3-13b", "tokens": "1B", "gpus": 64, "gpu": "A100-SXM-80", "batch": 1024}


@pytest.mark.parametrize(
    ("zero", "per_parameter"),
    [(0, 18.0), (1, 6 + 12 / 64), (2, 2 + 16 / 64), (3, 18 / 64)],
)
def test_bytes_a_parameter_by_zero_stage(zero, per_parameter):
    """Rajbhandari et al. 2020 with fp32 gradients; ZeRO 3 also holds two gathered layers."""
    job, held = job_of(BASE, zero=zero), 1e9
    gathered = 2 * 2 * held / 40 * (1 - 1 / 64) if zero == 3 else 0
    assert sum(map(float, states(job, held))) == pytest.approx(per_parameter * held + gathered)


def test_gpt3_on_512_gpus_needs_what_korthikanti_says_and_not_25_times_as_much():
    """TP 8, PP 8: 45.6 GiB of states on a middle stage; a copied script says 2,872.9 GiB."""
    job = job_of(BASE | {"model": "gpt3-175b", "gpus": 64, "tp": 8, "pp": 8, "zero": 0})
    middle = training_memory(job)[3]
    total = sum(float(middle[name]) for name in ("weights", "gradients", "optimizer")) / 2**30
    assert total == pytest.approx(45.6, rel=0.01)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_the_stages_hold_every_parameter_once_and_a_tied_head_twice(tp, pp):
    job = job_of(BASE, tp=tp, pp=pp, gpus=64)
    again = 50_257 * 5120 if pp > 1 else 0
    assert tp * sum(stage_parameters(job)) == pytest.approx(float(parameters(job.model)) + again)
    assert len(training_memory(job)) == pp


@given(
    st.sampled_from([0, 1, 2, 3]), st.sampled_from(["none", "selective", "full"]), st.sampled_from([1, 2, 4])
)
def test_memory_is_the_sum_of_its_parts_and_monotone(zero, recompute, micro_batch):
    def peak(**changes):
        (stage,) = training_memory(
            job_of(BASE, **({"zero": zero, "recompute": recompute, "micro_batch": micro_batch} | changes))
        )
        assert float(stage) == pytest.approx(sum(float(t) for t in stage.terms))
        assert stage.interval[0] < float(stage) < stage.interval[1]
        return float(stage)

    assert peak(micro_batch=2 * micro_batch) > peak()
    assert peak(zero=min(3, zero + 1)) <= peak() <= peak(recompute="none")
    assert peak(tp=8) < peak() and peak(gpus=128) <= peak()


def test_published_cache_sizes():
    """Llama 2 13B at 8,192 tokens: 6.7 GB; DeepSeek-V3's latent cache: 70,272 B a token."""
    assert float(kv_cache(shape_named("llama2-13b"), batch=1, context=8192)) == pytest.approx(6.7e9, rel=0.01)
    latent = {"vocab_size": 9, "context": 9, "layers": 61, "width": 8, "heads": 1, "kv_numbers": 512 + 64}
    assert float(kv_cache(latent, batch=1, context=1)) == 70_272
    assert (
        float(kv_cache(shape_named("llama2-7b"), batch=1, context=4096)) == 2 * 2**30
    )  # 1 GiB is a known error


def test_a_mixture_is_served_with_all_of_its_experts():
    memory = serving_memory(shape_named("mixtral-8x7b"), batch=1, context=4096, tp=2)
    assert float(memory["weights"]) == pytest.approx(46.7e9, rel=0.01)  # x 2 B / 2 GPUs
    assert float(memory) > float(memory["weights"])


def test_a_verdict_is_open_where_the_interval_is():
    q = Quantity(name="m", value=50e9, unit="B").between(40e9, 60e9)
    assert [fits(q, room) for room in (39, 48, 60)] == ["no", "maybe", "yes"]
