"""What an observer is: any object with one of three methods. It looks and never touches.

    class Printer:
        def on_step(self, run, record):
            print(record.step, record.loss)

    run.observers.append(Printer())

The law, tested for every observer of this room: with it or without it, a run has the same records, the same
weights and the same random numbers, bit for bit. So an observer draws nothing from a global generator, writes
to no tensor of the run, removes every hook it set, and puts nothing into `record.stats` that is not a
function of the run's inputs (a wall-clock time is not). `StorageError` may pass through: a run that cannot be
recorded should stop.

What the loop offers to read, beside the parts of the run itself:

    run.step        the step under way
    run.batch       x, y, weight (b, T) on the device, `.numpy` as it was served, `.documents` per sequence
    run.found       from on_backward on: loss, grad_norm, norms (n,) of `run.named_grads()`, nonfinite
    run.stopwatch   laps in seconds: data, forward, backward, optimizer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from llmkit.records import StepRecord


class Observer(Protocol):
    """The three moments of a step. An observer has those it needs; the loop skips the others."""

    def on_batch(self, run: Any) -> None:
        """The batch is on the device. Nothing was computed; hooks for this step are set here."""

    def on_backward(self, run: Any) -> None:
        """Gradients are in `p.grad`, unscaled and unclipped; the weights are those that gave them."""

    def on_step(self, run: Any, record: StepRecord) -> None:
        """The update was made or skipped. `record.stats` takes numbers; `run.step` is still this step."""


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Compute beside the run: no graph, no autocast, no emulated rounding."""
    with torch.no_grad(), torch._C.DisableTorchFunction(), torch.autocast(device.type, enabled=False):
        yield
