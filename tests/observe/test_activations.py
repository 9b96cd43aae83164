"""Protects what is said of activations and attention: equal to slow computations, free between samples.

pytest tests/observe/test_activations.py
"""

from __future__ import annotations

import math

import pytest
import torch

from llmkit.observe import Activations, activations
from llmkit.observe.activations import attention_of
from llmkit.train import train

STATS = {"activation_rms_max", "activation_absmax", "attention_score_max", "attention_entropy_min"}


def slow_attention(q, k, window=100):
    """Scores position by position, entropy by its definition: q (H, T, D), k (K, T, D), double precision."""
    largest, entropies = 0.0, []
    for h in range(q.shape[0]):
        key = k[h // (q.shape[0] // k.shape[0])]
        rows = []
        for t in range(q.shape[1]):
            scores = [
                float(q[h, t] @ key[s]) / math.sqrt(q.shape[2]) for s in range(max(0, t + 1 - window), t + 1)
            ]
            largest = max(largest, *map(abs, scores))
            weights = [math.exp(s - max(scores)) for s in scores]
            rows.append(-sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights))
        entropies.append(sum(rows) / len(rows))
    return {"score_max": largest, "entropy": sum(entropies) / len(entropies), "entropy_min": min(entropies)}


class Slow:
    """Keeps what every block and every qkv of step 0 gave, by hooks of its own."""

    def __init__(self, run):
        self.blocks, self.scores = {}, {}
        for index, block in enumerate(run.model.blocks):
            block.register_forward_hook(
                lambda m, a, out, i=index: self.blocks.setdefault(f"blocks.{i}", out.detach())
            )
            attention = block.attention
            attention.qkv.register_forward_hook(
                lambda m, a, out, i=index, attention=attention: self.see(
                    f"blocks.{i}.attention", attention, out.detach()
                )
            )

    def see(self, name, attention, qkv):
        with torch.no_grad():
            q, k, _ = attention.heads(qkv)
        self.scores.setdefault(name, (q[0].double(), k[0].double()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"micro_batch": 2, "model__dropout": 0.1},
        {"model__heads": 4, "model__kv_heads": 2, "model__position": "rotary"},
        {"model__qk_norm": True, "model__norm": "rmsnorm"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_the_numbers_are_those_of_a_slow_computation(small_run, options):
    run = small_run(steps=1, **options)
    slow, fast = Slow(run), Activations(every=1)
    run.observers.append(fast)
    (record,) = train(run)
    assert set(fast.modules) == set(slow.blocks) | set(slow.scores)
    for name, out in slow.blocks.items():  # the first call is the first micro-batch
        expected = {"rms": out.double().pow(2).mean().sqrt().item(), "absmax": out.abs().max().item()}
        assert fast.modules[name] == pytest.approx(expected, rel=1e-5)
    for name, (q, k) in slow.scores.items():
        assert fast.modules[name] == pytest.approx(slow_attention(q, k), rel=1e-4)
    assert set(record.stats) == STATS
    assert record.stats["activation_absmax"] == max(
        m["absmax"] for n, m in fast.modules.items() if n in slow.blocks
    )
    assert record.stats["attention_entropy_min"] == min(fast.modules[n]["entropy"] for n in slow.scores)


@pytest.mark.parametrize("window", [1, 3, 9, 10, 64])
def test_a_score_outside_the_window_does_not_count(window):
    q, k = (3 * torch.randn(1, 2, 10, 8, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    found = {key: value.item() for key, value in attention_of(q, k, window).items()}
    assert found == pytest.approx(slow_attention(q[0].double(), k[0].double(), window), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_each_head_is_scored_against_its_own_keys(heads):
    """Sharp attention, so that a head paired with another's keys gives other numbers."""
    generator = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(1, h, 10, 8, generator=generator) for h in heads)
    found = {key: value.item() for key, value in attention_of(q, k).items()}
    assert found == pytest.approx(slow_attention(q[0].double(), k[0].double()), rel=1e-4)


def test_attention_that_looks_everywhere_has_the_entropy_of_a_uniform_choice():
    q = torch.zeros(1, 2, 8, 4)
    found = attention_of(q, torch.ones(1, 2, 8, 4))
    expected = sum(math.log(t + 1) for t in range(8)) / 8
    assert found["score_max"].item() == 0.0
    assert found["entropy"].item() == found["entropy_min"].item() == pytest.approx(expected)


def test_attention_that_looks_at_one_place_has_none():
    q, k = torch.ones(1, 1, 8, 4), torch.zeros(1, 1, 8, 4)
    k[0, 0, 0] = 1000.0
    found = attention_of(q, k)
    assert (found["entropy"].item(), found["score_max"].item()) == (0.0, 2000.0)


def test_what_is_masked_is_not_looked_at():
    """The last key is huge, and only the last query may see it."""
    q, k = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    k[0, 0, 3] = 1e6
    q[0, 0, 3] = 0.0
    assert attention_of(q, k)["score_max"].item() == 0.0


def test_of_a_long_sequence_some_evenly_spaced_queries_are_scored(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 512, 8, generator=generator) for _ in range(2))
    monkeypatch.setattr(activations, "QUERIES", 512)
    everything = attention_of(q, k)
    monkeypatch.setattr(activations, "QUERIES", 64)
    some = attention_of(q, k)
    assert some["entropy"].item() == pytest.approx(everything["entropy"].item(), rel=0.02)
    assert some["score_max"] <= everything["score_max"]


# --------------------------------------------------------------------------------------------------- sampling


def hooked(run):
    return sum(len(m._forward_hooks) for m in run.model.modules())


def test_every_third_step_is_looked_at_and_no_hook_outlives_its_step(small_run):
    run, fast = small_run(steps=7), Activations(every=3)
    run.observers.append(fast)
    seen = {}
    for record in train(run):
        seen[record.step] = (bool(fast.modules), set(record.stats) == STATS, hooked(run))
    assert seen == {step: (step % 3 == 0, step % 3 == 0, 0) for step in range(7)}


def test_a_step_looked_at_because_of_an_alarm_leaves_its_record_alone(small_run):
    run, fast = small_run(steps=3), Activations(every=100)
    run.observers.append(fast)
    steps = train(run)
    next(steps)
    fast.wanted = True
    record = next(steps)
    assert set(fast.modules) == {"blocks.0", "blocks.1", "blocks.0.attention", "blocks.1.attention"}
    assert record.stats == {}
    next(steps)
    assert fast.modules == {}


def test_hooks_of_a_step_that_died_are_taken_off(small_run):
    run, fast = small_run(), Activations(every=1)
    run.observers.append(fast)
    dying = run.model.blocks[1].register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(train(run))
    assert hooked(run) > 0  # those behind the place where it died
    fast.close()
    assert hooked(run) == 0
    with pytest.raises(ZeroDivisionError):
        next(train(run))
    dying.remove()
    list(train(run))  # or at the next step
    assert hooked(run) == 0


def test_a_nan_is_not_hidden_by_a_maximum(small_run, bug):
    run, fast = small_run(), Activations(every=1)
    run.observers.append(fast)
    bug(run, "blocks.1.mlp", 2)
    records = list(train(run))
    assert math.isnan(records[2].stats["activation_absmax"]) and math.isnan(
        records[2].stats["activation_rms_max"]
    )
    assert math.isfinite(records[2].stats["attention_score_max"])


def test_a_model_of_other_people_is_looked_at_as_far_as_it_is_understood():
    """Blocks that return tuples in a ModuleList, no `qkv`: sizes of blocks, nothing of attention."""

    class Block(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    class Foreign:
        model = torch.nn.Module()
        step = 0

    Foreign.model.layers = torch.nn.ModuleList(Block(4, 4) for _ in range(2))
    fast = Activations(every=1)
    fast.on_batch(Foreign)
    x = torch.ones(2, 4)
    for layer in Foreign.model.layers:
        x, _ = layer(x)
    fast.on_step(Foreign, record := type("Record", (), {"stats": {}})())
    assert set(fast.modules) == {"layers.0", "layers.1"}
    assert set(record.stats) == {"activation_rms_max", "activation_absmax"}
