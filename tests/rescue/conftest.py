"""Troubles planted by hand, at the doors where real ones enter, and a run folder around them."""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from llmkit.train import Checkpoints

SMALL = {
    "model__width": 32,
    "model__layers": 1,
    "model__heads": 2,
    "model__context": 32,
    "lr": 1e-3,
    "min_lr": 1e-4,
}


class FakeClock:
    """Time that passes only when somebody says so."""

    def __init__(self):
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Ticking:
    """Observer: each step takes as long as `seconds(step)`, on the run's fake clock."""

    def __init__(self, seconds=lambda step: 0.1):
        self.seconds = seconds

    def on_batch(self, run):
        run.clock.sleep(self.seconds(run.step))


def weights(run) -> list[torch.Tensor]:
    return [p.detach().clone() for p in run.model.parameters()]


def moments(run) -> dict:
    return copy.deepcopy(run.optimizer.state_dict()["state"])


def bits(run) -> str:
    """A digest of everything that must be equal between two runs."""
    digest = hashlib.sha256()
    for tensor in weights(run) + [t for state in moments(run).values() for t in state.values()]:
        digest.update(tensor.numpy().tobytes())
    parts = {name: part.state_dict() for name, part in run.parts.items()}
    digest.update(repr((run.scaler.state_dict(), parts)).encode())
    return digest.hexdigest()


def spoil(run, when, factor: float) -> None:
    """The loss of every target times `factor` while `when(run)`: 3 is a spike, NaN a division by zero."""

    def hook(module, args, losses):
        return losses * factor if run.model.training and when(run) else losses

    run.model.register_forward_hook(hook)


def exhaust(run, when) -> None:
    """Out of memory in a block's forward while `when(run, rows)`."""

    def hook(module, args):
        if when(run, len(args[0])):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    run.model.blocks[0].register_forward_pre_hook(hook)


@pytest.fixture
def small_run(tiny_run):
    """small_run(steps=40) is a run of 33,000 parameters, some 3 ms a step, with `events` and a fake clock."""

    def make(**overrides):
        run = tiny_run(**{"steps": 40, **SMALL, **overrides})
        run.clock = FakeClock()
        run.stopwatch.clock = run.clock
        run.observers.append(Ticking())
        run.events = []
        run.sinks.append(run.events.append)
        return run

    return make


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep_last=8)


def noise(seed: int, steps: int, kind: str) -> Iterator[tuple[float, float, list[float]]]:
    """(loss, gradient norm, losses of 8 sequences) of a healthy run: a falling curve, warmup, correlated and
    heavy-tailed noise, gradient spikes that mean nothing. `kind`: normal, correlated, heavy (t5) or
    skewed."""
    rng = random.Random(f"{kind}/{seed}")
    start = math.log(rng.choice([512, 4096, 50257]))
    end, tau, power = start * rng.uniform(0.3, 0.6), rng.uniform(8, 80), rng.uniform(0.5, 1.2)
    warmup, spread = rng.choice([0, 10, 20, 50]), rng.uniform(0.02, 0.15)
    memory = 0.0 if kind == "normal" else rng.choice([0.0, 0.3, 0.6])
    norm, norm_spread, drift = rng.uniform(0.3, 3), rng.uniform(0.05, 0.3), rng.uniform(-0.004, 0.004)
    error = log_norm = 0.0
    for step in range(steps):
        mean = end + (start - end) * (1 + max(0.0, step - warmup / 2) / tau) ** -power
        quiet = min(
            1.0, 0.15 + (start - mean) / (start - end)
        )  # a fresh model is equally wrong on everything
        error = memory * error + math.sqrt(1 - memory**2) * _draw(rng, kind)
        log_norm = 0.7 * log_norm + 0.7 * rng.gauss(0, 1)
        burst = rng.expovariate(1) if rng.random() < 0.03 else 0.0
        loss = mean + spread * quiet * error
        rows = [rng.gauss(0, 1) * spread * quiet * math.sqrt(8) for _ in range(8)]
        shift = loss - sum(rows) / 8
        yield (
            loss,
            norm * math.exp(norm_spread * log_norm + drift * step + burst),
            [row + shift for row in rows],
        )


def _draw(rng: random.Random, kind: str) -> float:
    """One draw of mean 0 and variance 1."""
    if kind == "heavy":
        return rng.gauss(0, 1) / math.sqrt(rng.gammavariate(2.5, 2) / 5) * math.sqrt(0.6)
    if kind == "skewed":
        return rng.gammavariate(4, 1) / 2 - 2
    return rng.gauss(0, 1)


@pytest.fixture(scope="session")
def plant():
    """The functions of this file, which tests cannot import."""
    return SimpleNamespace(
        spoil=spoil, exhaust=exhaust, bits=bits, weights=weights, moments=moments, noise=noise,
        FakeClock=FakeClock, Ticking=Ticking,
    )  # fmt: skip
