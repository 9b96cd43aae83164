"""Protects the price of lost work, and the count of updates that tells half an update from none.

pytest tests/rescue/test_ledger.py
"""

from __future__ import annotations

import torch

from llmkit.records import StepRecord
from llmkit.rescue.ledger import TOLD, Ledger
from llmkit.rescue.updates import Updates


def record(step):
    return StepRecord(step=step, loss=3.0, grad_norm=1.0, lr=1e-3, tokens=100 + step)


def filled(steps):
    ledger = Ledger()
    for step in range(steps):
        ledger.add(record(step), seconds=step / 4)
    return ledger


def test_what_is_thrown_away_is_the_sum_of_its_steps():
    for steps in range(8):
        for back in range(steps + 1):
            lost = filled(steps).discard(back)
            assert lost.steps == steps - back
            assert lost.seconds == sum(step / 4 for step in range(back, steps))
            assert lost.tokens == sum(100 + step for step in range(back, steps))
            assert [told["step"] for told in lost.records] == list(range(back, steps))


def test_what_was_thrown_away_once_is_not_lost_again():
    ledger = filled(10)
    ledger.discard(6)
    ledger.add(record(6), seconds=1.0)
    assert (ledger.discard(4).steps, ledger.discard(0).steps) == (3, 4)


def test_an_event_carries_the_last_64_records():
    lost = filled(200).discard(0)
    assert (lost.steps, len(lost.records), lost.records[-1]["step"]) == (200, TOLD, 199)


def test_a_step_that_never_ended_cost_nothing():
    assert filled(3).cost(2) == (0.5, 102)
    assert filled(3).cost(3) == (0.0, 0)


def optimizer():
    layer = torch.nn.Linear(2, 2)
    adamw = torch.optim.AdamW([{"params": [p]} for p in layer.parameters()])
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    return adamw


def test_an_update_of_some_parameters_is_torn():
    adamw = optimizer()
    adamw.step()
    updates = Updates(adamw)
    assert not updates.torn()
    groups, adamw.param_groups = adamw.param_groups, adamw.param_groups[:1]
    adamw.step()
    adamw.param_groups = groups
    assert updates.torn()


def test_a_whole_update_that_was_not_counted_is_torn():
    """Memory ran out after the update, in an observer: doing the step again would do the update twice."""
    adamw = optimizer()
    updates = Updates(adamw)
    adamw.step()
    assert updates.torn()
    updates.expected += 1
    assert not updates.torn()


def test_an_optimizer_that_does_not_count_is_believed():
    layer = torch.nn.Linear(2, 2)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    sgd.step()
    updates = Updates(sgd)
    updates.expected = 7
    assert not updates.torn()
    assert sgd.state
