"""A run that is broken in a moment, and a clock that only counts."""

from __future__ import annotations

import pytest

from llmkit.faults import FAULTS

SETTINGS = {  # what a run must have so that a fault applies to it, at its steps 1 to 6
    "fp16-overflow": {"precision": "fp16"},
    "clip-before-unscale": {"precision": "fp16"},
    "step-on-overflow": {"precision": "fp16", "loss_scale": 2.0**40},  # each step overflows
    "summed-accumulation": {"micro_batch": 4},
    "schedule-per-micro-batch": {"micro_batch": 4},
    "no-warmup": {"warmup": 8},
    "dropout-in-eval": {"model__dropout": 0.1},
    "router-collapse": {"model__experts": 4},
    "expert-imbalance": {"model__experts": 4},
    "dropped-tokens": {"model__experts": 4},
    "long-sequence": {"model__position": "rotary"},
}


class CountingClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.time, self.slept = 0.0, []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def tiny_run(tiny_run):
    """At the learning rate that the catalogue's harms were measured at."""
    return lambda **overrides: tiny_run(**{"lr": 3e-3, "min_lr": 3e-4} | overrides)


@pytest.fixture
def mixed_run(mixed):
    """As `tiny_run`, on two sources in five shards."""
    from llmkit.train import build, tiny

    return lambda **overrides: build(
        tiny(**{"lr": 3e-3, "min_lr": 3e-4, "steps": 20, "data": str(mixed.path)} | overrides), dataset=mixed
    )


@pytest.fixture
def victim(tiny_run, mixed_run):
    """victim("fp16-overflow", steps=9) is a run to which that fault applies, on a clock without waiting."""

    def make(name, **overrides):
        overrides = {"steps": 8} | SETTINGS.get(name, {}) | overrides
        shards_and_sources = "LK401" < FAULTS[name].code < "LK500"
        run = (mixed_run if shards_and_sources else tiny_run)(**overrides)
        run.clock = run.stopwatch.clock = CountingClock()
        return run

    return make
