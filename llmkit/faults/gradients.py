"""Gradients that are summed, scaled, clipped or cleared in the wrong order, or not at all.

The one idea: the loop has no such mistake in it, so its order is changed at the parts it calls: the loss
scaler, which stands between backward and update, and `optimizer.zero_grad()`.

    with ClipBeforeUnscale(run, at=40):
        list(train(run))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from llmkit.errors import FaultError
from llmkit.faults.base import Fault, Wrapper
from llmkit.faults.optimizer import StepFault, micro_batches


class Postponed(Wrapper):
    """Does what the fault has put off, then calls the part."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.fault.catch_up()
        return self.inner(*args, **kwargs)


class ClipBeforeUnscale(Fault):
    """Gradients are measured and clipped while the loss scale is still in them, and divided by it afterwards.

    What is left of them is at most clip / scale long; the norm in the log is the true one times the scale.
    """

    name, lasts = "clip-before-unscale", math.inf

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        if not run.scaler.enabled:
            raise FaultError(
                f"`{self.name}` does not apply: the run computes in {run.precision.name} and scales no loss",
                remedy='train with precision="fp16"',
            )

    def install(self) -> None:
        self.wrap(self.run.scaler, "unscale_")
        self.wrap(self.run.optimizer, "step", Postponed)

    def call(self, inner: Any, grads: Sequence[tuple[str, Tensor]], correction: float = 1.0) -> Tensor:
        return inner(grads, correction * (self.run.scaler.current if self.active() else 1.0))

    def catch_up(self) -> None:
        if self.active():
            for _, grad in self.run.named_grads():
                grad.div_(self.run.scaler.current)


class StepOnOverflow(Fault):
    """Nobody asks whether gradients are finite before the update is made from them.

    The loop's own question stays, so the step is logged as skipped while the optimizer has made it.
    """

    name, lasts = "step-on-overflow", math.inf

    def install(self) -> None:
        self.wrap(self.run.scaler, "update")

    def call(self, inner: Any, overflowed: Sequence[str], **said: Any) -> None:
        if overflowed and self.active():
            self.run.optimizer.step()
        inner(overflowed, **said)


class SummedAccumulation(Fault):
    """Each micro-batch's mean loss counts in full: the gradient is as many times too large as there are."""

    name, lasts = "summed-accumulation", math.inf

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self.parts = micro_batches(run, self.name)

    def install(self) -> None:
        self.wrap(self.run.scaler, "scale")

    def call(self, inner: Any, loss: Tensor) -> Tensor:
        return inner(loss) * self.parts if self.active() else inner(loss)


class MissingZeroGrad(StepFault):
    """Gradients are not cleared: each step adds its own to what the step before left, clipped.

    What a step found is kept, so that the same step done again finds it again.
    """

    name = "missing-zero-grad"

    def install(self) -> None:
        self._left: tuple[int, list[Tensor | None]] = -1, []
        self.wrap(self.run.optimizer, "zero_grad")

    def instead(self, inner: Any) -> None:
        if self._left[0] != self.run.step:
            self._left = self.run.step, [copied(p.grad) for p in self.parameters]
        for p, grad in zip(self.parameters, self._left[1], strict=True):
            p.grad = copied(grad)


def copied(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.clone()
