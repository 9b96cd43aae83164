"""Protects per-parameter norms, update/weight ratios and staleness: equal to a slow and obvious computation.

pytest tests/observe/test_gradients.py
"""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from llmkit.observe import Gradients
from llmkit.observe.gradients import staleness
from llmkit.train import train


class Slow:
    """The same numbers in double precision, from whole copies."""

    def __init__(self):
        self.steps = []

    def on_backward(self, run):
        self.before = {n: p.detach().double().clone() for n, p in run.model.named_parameters()}
        self.grads = {n: p.grad.double().clone() for n, p in run.model.named_parameters()}

    def on_step(self, run, record):
        rows = {}
        for name, p in run.model.named_parameters():
            weight = self.before[name].norm().item()
            update = (p.detach().double() - self.before[name]).norm().item()
            rows[name] = {
                "grad_norm": self.grads[name].norm().item(), "weight_norm": weight,
                "update_ratio": update / weight if weight else math.nan,
            }  # fmt: skip
        self.steps.append(rows)


def watch(run):
    """(per step what Gradients found, per step the slow truth, records)."""
    gradients, slow, found = Gradients(), Slow(), []
    run.observers += [slow, gradients]
    records = []
    for record in train(run):
        records.append(record)
        found.append(gradients.tensors)
    return found, slow.steps, records


@pytest.mark.parametrize(
    "options", [{}, {"micro_batch": 1, "precision": "fp16"}, {"model__tied": False, "model__bias": True}]
)
def test_the_numbers_are_those_of_a_slow_computation(small_run, options):
    found, truth, _ = watch(small_run(**options))
    assert len(found) == 4
    for fast, slow in zip(found, truth, strict=True):
        assert fast.keys() == slow.keys()
        for name in slow:
            assert fast[name] == pytest.approx(slow[name], rel=1e-4, nan_ok=True), name


def test_a_tied_table_is_one_parameter(small_run):
    found, _, _ = watch(small_run())
    assert "embed.weight" in found[0] and "head.weight" not in found[0]


def test_median_and_maximum_go_into_the_record(small_run):
    found, _, records = watch(small_run())
    for tensors, record in zip(found, records, strict=True):
        ratios = [row["update_ratio"] for row in tensors.values()]
        assert record.stats.pop("staleness_max", None) is None or record.step == 0
        assert record.stats == {
            "update_ratio_median": statistics.median(ratios), "update_ratio_max": max(ratios),
        }  # fmt: skip


def test_weights_that_are_all_zero_have_no_ratio_and_do_not_count(small_run):
    found, _, records = watch(small_run(model__bias=True))
    assert math.isnan(found[0]["blocks.0.mlp.up.bias"]["update_ratio"])
    assert math.isfinite(records[0].stats["update_ratio_max"])
    assert math.isfinite(found[1]["blocks.0.mlp.up.bias"]["update_ratio"])  # it moved


def test_a_skipped_step_moved_nothing_and_says_nothing(small_run, bug):
    run = small_run()
    bug(run, "blocks.1.mlp", 2)
    found, _, records = watch(run)
    assert records[2].skipped and records[2].stats == {}
    assert {row["update_ratio"] for row in found[2].values()} == {0.0}
    assert all(math.isnan(row["grad_norm"]) for row in found[2].values())
    assert records[3].stats["update_ratio_max"] > 0


def test_weights_changed_between_steps_are_not_taken_for_an_update(small_run):
    """A rollback writes weights after the yield; the next step's ratio is of its own update alone."""
    run = small_run()
    gradients = Gradients()
    run.observers.append(gradients)
    steps = train(run)
    next(steps)
    with torch.no_grad():
        for p in run.model.parameters():
            p.data.mul_(2.0)
    record = next(steps)
    assert record.stats["update_ratio_max"] < 0.5


def test_a_parameter_that_is_frozen_later_leaves_the_table(small_run):
    run = small_run()
    gradients = Gradients()
    run.observers.append(gradients)
    steps = train(run)
    next(steps)
    run.model.position.weight.requires_grad_(False)
    next(steps)
    assert "position.weight" not in gradients.tensors and len(gradients.tensors) == 14


class SlowMoment:
    """Every gradient that a parameter's optimizer was given, kept; v as their weighted mean of squares."""

    def __init__(self, beta2):
        self.beta2, self.given, self.found = beta2, {}, []

    def on_step(self, run, record):
        worst = 0.0
        for name, p in run.model.named_parameters():
            self.given.setdefault(name, []).append(p.grad.double().square())
            weights = [self.beta2**age for age in reversed(range(len(self.given[name])))]
            v = sum(w * g for w, g in zip(weights, self.given[name], strict=True)) / sum(weights)
            worst = max(worst, (self.given[name][-1] / v.clamp(min=1e-16)).mean().sqrt().item())
        self.found.append(worst)


@pytest.mark.parametrize("chosen", [{}, {"bias_correction": "none"}])
def test_staleness_is_that_of_a_slow_computation_and_1_at_the_first_update(small_run, chosen):
    run, slow = small_run(**chosen), SlowMoment(0.95)
    run.observers += [Gradients(every=1), slow]
    stats = [record.stats["staleness_max"] for record in train(run)]
    assert stats[0] == pytest.approx(1, abs=1e-3)
    assert stats == pytest.approx(slow.found, rel=1e-3)


def test_staleness_rises_when_gradients_grow_at_once_and_no_further_than_its_bound():
    weight = torch.nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.AdamW([weight], betas=(0.9, 0.95))
    seen = []
    for size in [1e-3] * 50 + [1.0]:
        weight.grad = torch.full_like(weight, size)
        optimizer.step()
        seen.append(staleness(optimizer)[weight].item())
    assert seen[:50] == pytest.approx([1.0] * 50, rel=1e-3)
    # (1 - beta2^t) / (1 - beta2) at most, t = 51
    assert seen[50] == pytest.approx(math.sqrt((1 - 0.95**51) / 0.05), rel=1e-3)


def test_an_optimizer_without_a_second_moment_has_no_staleness(small_run):
    run = small_run()
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    run.observers.append(Gradients(every=1))
    assert all("staleness_max" not in record.stats for record in train(run))
