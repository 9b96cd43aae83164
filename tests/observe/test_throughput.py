"""Protects the summary of times: sums and shares worked out by hand.

pytest tests/observe/test_throughput.py
"""

from __future__ import annotations

import pytest

from llmkit.observe import throughput
from llmkit.records import StepTimes


def step(number, total, data=0.0, memory=0):
    return StepTimes(
        step=number, data_s=data, forward_s=0.1, backward_s=0.2, optimizer_s=0.05, total_s=total,
        tokens_per_s=1000 / total, memory_bytes=memory,
    )  # fmt: skip


def test_a_window_by_hand():
    found = throughput(
        [step(0, 9.0), step(1, 0.5, memory=7), step(2, 0.5, memory=5), step(3, 1.0, data=0.5)], last=3
    )
    assert (found.steps, found.step_s, found.slowest_step, found.slowest_s, found.memory_bytes) == (
        3,
        0.5,
        3,
        1.0,
        7,
    )
    assert found.tokens_per_s == pytest.approx(3000 / 2.0)
    assert found.shares == pytest.approx(
        {"data": 0.25, "forward": 0.15, "backward": 0.3, "optimizer": 0.075, "rest": 0.225}
    )
    assert str(found) == (
        "1,500 tokens/s, 0.500 s a step: data 25 %, forward 15 %, backward 30 %, optimizer 8 %, rest 22 %"
    )


def test_no_steps():
    found = throughput([])
    assert (found.steps, found.tokens_per_s, found.slowest_step, str(found)) == (0, 0.0, -1, "no steps")


def test_shares_add_up_to_one():
    times = [step(n, 0.4 + n / 10, data=n / 100) for n in range(5)]
    assert sum(throughput(times).shares.values()) == pytest.approx(1.0)
