"""Protects the learning-rate glitch: the rate leads, the loss follows one step later, in every sequence.

Run it: python -m pytest tests/faults/test_optimizer.py -q
"""

from __future__ import annotations

from itertools import islice

import pytest

from llmkit.errors import FaultError
from llmkit.faults import apply
from llmkit.train import train


def records(run, steps):
    return list(islice(train(run), steps))


def test_the_rate_jumps_for_one_step_and_the_loss_one_step_later(tiny_run):
    healthy = records(tiny_run(steps=60), 40)
    run = tiny_run(steps=60)
    with apply("lr-glitch", run, at=30):
        broken = records(run, 40)
    assert broken[30].lr == pytest.approx(30 * healthy[30].lr)
    assert [r.lr for r in broken[31:]] == [r.lr for r in healthy[31:]]
    assert broken[30].loss == healthy[30].loss and broken[30].grad_norm == healthy[30].grad_norm
    assert min(broken[31].sequence_losses) > max(healthy[31].sequence_losses) + 1
    assert broken[31].loss > healthy[31].loss + 2
    assert broken[39].loss < broken[31].loss - 2  # and it comes back by itself


def test_the_factor_is_a_parameter(tiny_run):
    run = tiny_run()
    with apply("lr-glitch", run, at=1, until=3, factor=0.5):
        assert [run.schedule(s) / 0.00015 for s in range(4)] == pytest.approx([1, 1, 1.5, 4])


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.0])
def test_a_factor_that_is_no_glitch_is_refused(tiny_run, factor):
    with pytest.raises(FaultError) as error:
        apply("lr-glitch", tiny_run(), factor=factor)
    assert str(error.value) == f"factor is {factor:g}\n  expected: a positive factor other than 1"
