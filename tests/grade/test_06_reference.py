"""Protects: exercise 06's loss and its gradient are torch's, wherever torch has a value.

pytest tests/grade/test_06_reference.py
"""

from __future__ import annotations

import random

import pytest
import torch

from llmkit.grade.collect import pack, unpack
from llmkit.grade.exercise import load


@pytest.mark.parametrize("seed", range(10))
def test_the_reference_loss_and_gradient_are_cross_entropys(seed):
    task = load("06_packing").task("masked_loss")
    for case in [*task.public, *task.hidden(random.Random(seed))]:
        logits, targets = (unpack(pack(value), torch) for value in case.inputs.values())
        if (targets == -100).all():
            continue
        logits.requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits.double(), targets)
        loss.backward()
        found = task.reference(**case.inputs).value
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert found["gradient"].values == pytest.approx(logits.grad.flatten().tolist(), abs=1e-6)
