"""Protects what a job may be: a plan that adds up, fields that exist, numbers without units, and no more.

pytest tests/cost/test_job.py
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmkit.cost.job import Job, job_of, published_shapes, shape_named
from llmkit.errors import ConfigError

BASE = {"model": "llama3-8b", "tokens": "300B", "gpus": 64, "gpu": "H100-SXM", "batch": 512}


def test_numbers_may_carry_a_suffix_and_defaults_are_said():
    job = job_of(BASE)
    assert (job.tokens, job.steps, job.ranks, job.micro_batches) == (
        300_000_000_000,
        300e9 / (512 * 8192),
        64,
        8,
    )
    assert (
        job_of(BASE | {"tokens": "1.5T"}).tokens == 1.5e12 and job_of(BASE | {"gpus": "0.128k"}).gpus == 128
    )
    assert job_of(job, gpus=128).ranks == 128 and job_of(job) == job


def test_every_published_shape_can_be_named():
    assert len(published_shapes()) > 50
    assert all(shape_named(name).layers == row["layers"] for name, row in published_shapes().items())


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 64), st.integers(1, 4))
def test_the_plan_multiplies_out(tp, pp, ranks, micro_batch):
    micro_batches = 8
    job = job_of(BASE, tp=tp, pp=pp, gpus=tp * pp * ranks, micro_batch=micro_batch,
                 batch=ranks * micro_batch * micro_batches)  # fmt: skip
    assert job.tp * job.pp * job.ranks == job.gpus
    assert job.micro_batches * job.micro_batch * job.ranks == job.batch


@given(st.integers(1, 100), st.integers(1, 10), st.integers(1, 10))
def test_a_plan_that_does_not_multiply_out_is_refused(gpus, tp, pp):
    assume(gpus % (tp * pp))
    with pytest.raises(ConfigError, match="does not divide gpus"):
        job_of(BASE, gpus=gpus, tp=tp, pp=pp)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpu": "H100"}, "unknown accelerator `H100`\n  remedy: use `H100-SXM`"),
        ({"model": "llama3-9b"}, "no published shape `llama3-9b`\n  remedy: use `llama3-8b`"),
        ({"tokenz": 1}, "a job has no `tokenz`\n  remedy: use `tokens`"),
        ({"tokens": "300 GB"}, "tokens is `300 GB`\n  expected: a number, or one with k, M, B or T"),
        ({"tokens": -1}, "tokens is -1\n  expected: tokens >= 1"),
        ({"tokens": float("nan")}, "tokens is nan\n  expected: tokens >= 1"),
        ({"tokens": float("inf")}, "tokens is inf\n  expected: tokens >= 1"),
        ({"dollars_per_gpu_hour": -2}, "dollars_per_gpu_hour is -2\n  expected: dollars_per_gpu_hour > 0"),
        ({"loader_tokens_per_s": 0}, "loader_tokens_per_s is 0\n  expected: loader_tokens_per_s > 0"),
        ({"mixture_share": "0"}, "mixture_share is 0\n  expected: mixture_share > 0"),
        ({"batch": True}, "batch is True\n  expected: a number"),
        ({"recompute": "some"}, "recompute is some\n  expected: one of none, selective, full"),
        ({"precision": "fp32"}, "precision is fp32\n  expected: one of bf16, fp16, fp8"),
        ({"overlap": 2}, "overlap is 2\n  expected: 0 to 1"),
        (
            {"batch": 100},
            "batch (100) is no multiple of 64 ranks x 1 sequences"
            "\n  remedy: raise batch, lower micro_batch, or give GPUs to tp or pp",
        ),
        (
            {"pp": 8, "batch": 32},
            "a rank has 4 micro-batches for 8 pipeline stages"
            "\n  expected: micro-batches >= pp, or stages idle at all times\n  remedy: raise batch or lower pp",
        ),
        (
            {"efficiency": 1.05},
            "efficiency is 1.05 of the peak of H100-SXM\n  expected: 0 to 1"
            "\n  remedy: check the peak: dense, of this machine and precision, and every GPU counted",
        ),
    ],
)
def test_refusals(changes, says):
    with pytest.raises(ConfigError) as caught:
        job_of(BASE | changes)
    assert str(caught.value) == says


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        job_of({"model": "llama3-8b", "gpus": 8, "gpu": "H100-SXM"})
    assert str(caught.value) == "the job lacks tokens, batch"
    with pytest.raises(ConfigError, match="top_k is 9"):
        job_of(
            BASE
            | {
                "model": {
                    "vocab_size": 9,
                    "context": 8,
                    "layers": 1,
                    "width": 8,
                    "heads": 1,
                    "experts": 4,
                    "top_k": 9,
                }
            }
        )
    assert isinstance(job_of(BASE), Job)
