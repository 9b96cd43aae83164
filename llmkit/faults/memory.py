"""Memory that is not there: a budget a little too small for the step.

The one idea: the step is rehearsed once on a copy, so the limit can be put where the wanted phase dies:
below what forward needs, or between what forward and backward need. Nothing is faked: the budget counts and
refuses.

    with Oom(run, at=40, phase="backward"):
        list(train(run))        # torch.OutOfMemoryError at step 40
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from llmkit.errors import FaultError, closest
from llmkit.faults.base import Fault
from llmkit.memory import Budget, measure, parse_size

PHASES = ("forward", "backward", "optimizer")


class CrowdedBudget(Budget):
    """No limit until the first operation on a gradient after backward: then a neighbour has the rest."""

    def fits(self, size: int, args: tuple) -> bool:
        if self.limit == math.inf and self.phase == "optimizer" and self.owner_of(args):
            self.limit = self.live
        return super().fits(size, args)


class Oom(Fault):
    """Too little memory for the step.

    In forward and backward the limit is constant, and half the micro-batch fits under it. The optimizer
    needs less memory than backward does, so there it takes a neighbour on the same device that grows as
    backward ends: no smaller micro-batch helps against that.

    Args:
        phase: where it dies: `forward`, `backward` or `optimizer`.
        limit: bytes or a size such as "24 MiB", instead of a limit that makes it die in `phase`.
    """

    name = "oom"

    def __init__(self, run: Any, phase: str = "forward", limit: int | str | None = None, **when: Any):
        self.lasts = 1 if phase == "optimizer" else math.inf  # a card does not grow; a neighbour leaves
        super().__init__(run, **when)
        if phase not in PHASES:
            raise FaultError(f"no phase `{phase}`", remedy=closest(phase, PHASES))
        if phase == "optimizer" and limit is None and run.device.type == "cuda":
            raise FaultError(
                "the limit of a CUDA device cannot be lowered within a step",
                remedy="choose phase `forward` or `backward`",
            )
        self.phase, self.limit = phase, None if limit is None else parse_size(limit)

    def install(self) -> None:
        if self.limit is None:
            self.limit = math.inf if self.phase == "optimizer" else self._limit()
        self.wrap(self.run, "guard")

    def _limit(self) -> int:
        """Four fifths of the way up to forward's peak, or a quarter of the way from there to backward's."""
        peak = measure(self.run, steps=1 if self.at == self.run.step else 2, as_stored=True)
        forward, backward = peak.by_phase["forward"], peak.by_phase["backward"]
        if self.phase == "forward":
            resident = sum(peak.by_category[kept] for kept in ("parameters", "optimizer state"))
            return int(resident + 0.8 * (forward - resident))
        if backward <= forward:
            raise FaultError(
                f"backward needs no more memory than forward does ({backward:,} of {forward:,} bytes)",
                remedy="choose phase `forward`, or set `limit`",
            )
        return forward + (backward - forward) // 4

    def call(self, inner: Any) -> AbstractContextManager:
        return self._under_budget(inner) if self.active() else inner()

    @contextmanager
    def _under_budget(self, inner: Any):
        kind = CrowdedBudget if self.limit == math.inf else Budget
        with ExitStack() as stack:
            stack.enter_context(inner())
            stack.enter_context(kind(self.limit, self.run.model, self.run.optimizer))
            yield
