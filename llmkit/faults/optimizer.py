"""Updates that go wrong: a learning rate that is not the schedule's.

with LrGlitch(run, at=40, factor=30):
    list(train(run))
"""

from __future__ import annotations

from typing import Any

from llmkit.errors import FaultError
from llmkit.faults.base import Fault


class LrGlitch(Fault):
    """The schedule answers with a multiple of the learning rate, for one step.

    Args:
        factor: the multiple.
    """

    name = "lr-glitch"

    def __init__(self, run: Any, factor: float = 30.0, **when: Any):
        super().__init__(run, **when)
        if not factor > 0 or factor == 1:
            raise FaultError(f"factor is {factor:g}", expected="a positive factor other than 1")
        self.factor = factor

    def install(self) -> None:
        self.wrap(self.run, "schedule")

    def call(self, inner: Any, step: int) -> float:
        return inner(step) * self.factor if self.active(step) else inner(step)
