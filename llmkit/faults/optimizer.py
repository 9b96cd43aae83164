"""Updates that go wrong: another learning rate than the schedule's, other settings than the configured ones.

The one idea: whoever asks the schedule, or calls the optimizer, is answered by a wrapper; what the optimizer
is told is put back before the step ends, so the parts look healthy to everybody who looks between two steps.

    with LrGlitch(run, at=40, factor=30):
        list(train(run))
"""

from __future__ import annotations

import math
from typing import Any

import torch

from llmkit.errors import FaultError
from llmkit.faults.base import Fault, find_module


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


class LrTimesTen(LrGlitch):
    """The same for good: a unit slip, or a rate that was found for another batch or width.

    Args:
        factor: the multiple.
    """

    name, lasts = "lr-times-ten", math.inf

    def __init__(self, run: Any, factor: float = 10.0, **when: Any):
        super().__init__(run, factor=factor, **when)


class Misread(Fault):
    """The schedule is asked for another step than the one under way."""

    lasts = math.inf

    def install(self) -> None:
        self.wrap(self.run, "schedule")

    def call(self, inner: Any, step: int) -> float:
        return inner(self.instead(step) if self.active(step) else step)

    def instead(self, step: int) -> int:
        """The step that the schedule is asked for."""
        raise NotImplementedError


class NoWarmup(Misread):
    """The learning rate starts at its peak."""

    name = "no-warmup"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        if self.at >= run.config.warmup:
            raise FaultError(
                f"no warmup is left at step {self.at}: the run is configured with {run.config.warmup} steps",
                remedy="choose an earlier step, or a run with warmup",
            )

    def instead(self, step: int) -> int:
        return max(step, self.run.config.warmup)


class LrReset(Misread):
    """The schedule begins again at step `at`, as after a resume that did not restore it."""

    name = "lr-reset"

    def instead(self, step: int) -> int:
        return step - self.at


class SchedulePerMicroBatch(Misread):
    """The scheduler is stepped after every backward pass, so that its clock runs as many times too fast."""

    name = "schedule-per-micro-batch"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self.parts = micro_batches(run, self.name)

    def instead(self, step: int) -> int:
        return step * self.parts


def micro_batches(run: Any, name: str) -> int:
    """Backward passes of a step. Raises FaultError where there is only one: nothing is accumulated."""
    rows = run.config.batch // run.parallel.world
    if not run.micro_batch or run.micro_batch == rows:
        raise FaultError(
            f"`{name}` does not apply: a step of this run is one backward pass",
            expected="gradient accumulation",
            remedy=f"set micro_batch to a divisor of {rows}",
        )
    return rows // run.micro_batch


class StepFault(Fault):
    """Stands in front of `optimizer.step()`."""

    lasts = math.inf

    def install(self) -> None:
        self.wrap(self.run.optimizer, "step")

    def call(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        return self.instead(inner) if self.active() else inner(*args, **kwargs)

    def instead(self, inner: Any) -> Any:
        raise NotImplementedError

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.run.optimizer.param_groups for p in group["params"]]


class FrozenBlock(StepFault):
    """Some tensors never move: the optimizer passes them by, as one that was built over others does.

    Args:
        module: path of the module whose tensors it passes by. None: the middle block.
    """

    name = "frozen-block"

    def __init__(self, run: Any, module: str | None = None, **when: Any):
        super().__init__(run, **when)
        middle = f"blocks.{len(getattr(run.model, 'blocks', ())) // 2}"
        self.module, self._target = find_module(run, module, middle)

    def instead(self, inner: Any) -> Any:
        frozen = [(p, p.grad) for p in self._target.parameters()]
        for p, _ in frozen:
            p.grad = None
        try:
            return inner()
        finally:
            for p, grad in frozen:
                p.grad = grad


class OptimizerStateLost(StepFault):
    """Moments and step counts are gone at step `at`, as after a resume that loaded weights alone."""

    name, lasts = "optimizer-state-lost", 1

    def instead(self, inner: Any) -> Any:
        self.run.optimizer.state.clear()
        return inner()


class Bf16MasterWeights(StepFault):
    """Weights are rounded to bf16 after each update: what is under half a bf16 step of a weight is lost."""

    name = "bf16-master-weights"

    @torch.no_grad()
    def instead(self, inner: Any) -> Any:
        done = inner()
        for p in self.parameters:
            p.copy_(p.bfloat16())
        return done


class OtherSettings(StepFault):
    """The optimizer steps with other hyper-parameters than its groups have before and after."""

    def instead(self, inner: Any) -> Any:
        groups = self.run.optimizer.param_groups
        before = [dict(group) for group in groups]
        for group in groups:
            group.update(self.settings(group))
        try:
            return inner()
        finally:
            for group, kept in zip(groups, before, strict=True):
                group.update(kept)

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class DecayOnNorms(OtherSettings):
    """Weight decay pulls norm gains and biases to zero as it does matrices."""

    name = "decay-on-norms"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        if not run.config.weight_decay:
            raise FaultError("nothing decays in this run: weight_decay is 0", remedy="set weight_decay")

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return {"weight_decay": self.run.config.weight_decay}


class Beta2TooHigh(OtherSettings):
    """The second moment forgets too slowly to follow a shift.

    Args:
        beta2: its decay rate instead of the configured one; 0.999 remembers a thousand steps.
    """

    name = "beta2-too-high"

    def __init__(self, run: Any, beta2: float = 0.999, **when: Any):
        super().__init__(run, **when)
        configured, self.beta2 = run.config.betas[1], beta2
        if not configured < beta2 < 1 or run.config.beta2_schedule != "constant":
            raise FaultError(f"beta2 is {beta2:g}", expected=f"between a constant {configured:g} and 1")

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return {"betas": (group["betas"][0], self.beta2)}


class EpsTooLarge(OtherSettings):
    """AdamW's eps outweighs the root of v: tensors with small gradients hardly move.

    Args:
        eps: instead of the configured one.
    """

    name = "eps-too-large"

    def __init__(self, run: Any, eps: float = 1e-3, **when: Any):
        super().__init__(run, **when)
        if not eps > run.config.eps:
            raise FaultError(f"eps is {eps:g}", expected=f"more than the configured {run.config.eps:g}")
        self.eps = eps

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return {"eps": self.eps}
