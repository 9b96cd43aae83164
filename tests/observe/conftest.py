"""Small worlds for the instruments: a narrow model that steps in a few milliseconds, and ways to spoil it."""

from __future__ import annotations

import pytest
import torch

SMALL = {"batch": 4, "steps": 4, "model__width": 16, "model__heads": 2, "model__context": 16}


@pytest.fixture
def small_run(tiny_run):
    """small_run(**overrides) is a fresh run of two narrow layers, four sequences of sixteen tokens a step."""
    return lambda **overrides: tiny_run(**(SMALL | overrides))


class SpoilGradient(torch.autograd.Function):
    """x forward, 0/0 backward, in the given rows or in all."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.rows = rows
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[ctx.rows] *= float("nan")
        return grad, None


class Bug:
    """Wraps a module's forward so that it goes wrong inside it, as a bug in its code would.

    Args:
        at: the step, or the steps.
        phase: `forward` (0/0 in the output) or `backward` (0/0 in its gradient).
        rows: rows of the micro-batch that it spoils.
        calls: which calls of the step go wrong, counted from 0; None: all, replays included.
    """

    def __init__(self, run, name, at, phase="forward", rows=slice(None), calls=None):
        self.at = {at} if isinstance(at, int) else set(at)
        self.run, self.phase, self.rows, self.calls = run, phase, rows, calls
        self.module, self.count = run.model.get_submodule(name), 0
        self.inner, self.module.forward = self.module.forward, self

    def __call__(self, *args):
        out = self.inner(*args)
        if self.run.step not in self.at:
            return out
        self.count += 1
        if self.calls is not None and self.count - 1 not in self.calls:
            return out
        rows = self.rows(self.count - 1) if callable(self.rows) else self.rows
        if self.phase == "backward":
            return SpoilGradient.apply(out, rows)
        zero = torch.ones_like(out)
        zero[rows] = 0
        return out * (zero / zero)


@pytest.fixture
def bug():
    return Bug


@pytest.fixture
def told():
    """told(run) is the list that the run's events are put into."""

    def listen(run):
        events = []
        run.sinks.append(events.append)
        return events

    return listen
