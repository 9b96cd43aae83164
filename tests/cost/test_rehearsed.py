"""Protects the memory of a plan against a count of every allocation: the rehearsal of the same step.

pytest tests/cost/test_rehearsed.py
"""

from __future__ import annotations

import pytest

from llmkit.cost import job_of, training_memory

rehearsal, presets = pytest.importorskip("llmkit.memory.rehearsal"), pytest.importorskip("llmkit.train.named")


@pytest.mark.parametrize(
    ("name", "micro_batch", "shape"),
    [
        ("gpt2", 4, {}),
        ("gpt2", 4, {"model__experts": 8, "model__top_k": 2}),
        pytest.param("llama3-8b", 1, {}, marks=pytest.mark.slow),
    ],
)
def test_a_rehearsed_step_of_two_micro_batches_lies_in_the_interval(name, micro_batch, shape):
    cfg = presets.named(name, batch=2 * micro_batch, micro_batch=micro_batch, precision="bf16", **shape)
    counted = rehearsal.rehearse(cfg, brief=True).peak.bytes
    (plan,) = training_memory(job_of({
        "model": vars(cfg.model), "tokens": 1e9, "gpus": 1, "gpu": "H100-SXM", "batch": 2 * micro_batch,
        "micro_batch": micro_batch, "zero": 0,
    }))  # fmt: skip
    low, high = plan.interval
    assert low <= counted <= high and high / low < 2.5
