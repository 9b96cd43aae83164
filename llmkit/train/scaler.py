"""The dynamic loss scaler, written out.

fp16 gradients below 2^-25 vanish and above 65504 are infinite. Multiply the loss by a scale before backward,
divide the gradients by it afterwards, and search for the largest scale that does not overflow: halve on
overflow (the step is skipped, not repaired), double after `growth_interval` good steps in a row.

    scaler.scale(loss).backward()
    found = scaler.unscale_(named_grads)        # names of parameters with a non-finite gradient
    if not found: optimizer.step()
    scaler.update(found)

Equal to `torch.amp.GradScaler` step by step, with one addition: a floor. torch's scale can fall to 0, at
which every gradient is 0, passes the finite check, is divided by 0 and turns the weights into NaN.

What other trainers do differently is in `scale_policies.py`: each of them is a `next_scale` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LARGEST = 2.0**127  # the largest power of two in fp32, where torch.amp stops growing too


class LossScaler:
    """State: the scale and the count of good steps since it last changed.

    Args:
        scale: initial loss scale; 65536 is torch.amp's default.
        growth_interval: good steps in a row before the scale doubles; 2000 is torch.amp's default.
        floor: the scale never goes below this.
        enabled: False under fp32 and bf16, whose range needs no scaling: the scale is then 1 and stays there.
        tell: called as tell(kind, says, **data) with `scale` on every change and `floor` on reaching the
        floor.
    """

    growth_factor = 2.0
    backoff_factor = 0.5
    ceiling = LARGEST
    counters = ("good_steps",)  # what the state is, beside the scale

    def __init__(
        self,
        scale: float = 65536.0,
        *,
        growth_interval: int = 2000,
        floor: float = 1.0,
        enabled: bool = True,
        tell: Callable[..., None] | None = None,
    ):
        self.enabled = enabled
        self.current = float(scale) if enabled else 1.0
        self.growth_interval, self.floor = growth_interval, floor
        self.good_steps = 0
        self.tell = tell or (lambda kind, says, **data: None)

    @property
    def can_back_off(self) -> bool:
        """Whether an overflow can still be answered by a smaller scale."""
        return self.enabled and self.current > self.floor

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.current if self.enabled else loss

    def unscale_(self, named_grads: Sequence[tuple[str, Tensor]], correction: float = 1.0) -> Tensor:
        """Divide the gradients by the scale, in place.

        Args:
            named_grads: (parameter name, gradient) pairs.
            correction: a factor applied in the same multiplication (the loop's token count).

        Returns:
            The L2 norm of each unscaled gradient, shape (n,), float32. A norm that is not finite is an
            overflow.
        """
        grads = [grad for _, grad in named_grads]
        factor = correction / self.current if self.current else math.inf
        if factor != 1.0:
            torch._foreach_mul_(grads, factor)
        return torch.stack([norm.float() for norm in torch._foreach_norm(grads)])

    def update(
        self, overflowed: Sequence[str], *, phase: str = "backward", largest: float | None = None
    ) -> None:
        """After every step, skipped or not: back off, grow, or count; a change is told with its reason.

        Args:
            overflowed: names of the parameters whose gradient was not finite; empty after a good step.
            phase: `forward` when the loss itself was not finite, for the log.
            largest: largest finite |gradient element| of that step, unscaled, for the log.
        """
        if not self.enabled:
            return
        reason, why = f"{self.growth_interval} good steps in a row", {"parameter": "", "phase": ""}
        if overflowed:
            more = f" and {len(overflowed) - 1} more" if len(overflowed) > 1 else ""
            reason, why = f"overflow in {phase}: {overflowed[0]}{more}", {"parameter": overflowed[0]}
            why |= {"phase": phase} | ({} if largest is None else {"largest": largest})
        self._change(self.next_scale(bool(overflowed)), reason, **why)

    def next_scale(self, overflowed: bool) -> float:
        """The policy: counts this step and returns the scale of the next one, before the floor."""
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            return self.current * self.backoff_factor
        if self.good_steps < self.growth_interval:
            return self.current
        self.good_steps = 0
        return min(self.current * self.growth_factor, self.ceiling)

    def lower(self, scale: float, reason: str) -> None:
        """Set the scale by hand (a rescuer does); logged like any other change."""
        self.good_steps = 0
        self._change(scale, reason, parameter="", phase="")

    def _change(self, scale: float, reason: str, **why: str | float) -> None:
        old, self.current = self.current, max(scale, self.floor)
        if self.current != old:
            says = f"loss scale {old:g} -> {self.current:g}: {reason}"
            self.tell("scale", says, old=old, new=self.current, reason=reason, **why)
        if scale < self.floor:
            says = f"loss scale is at its floor {self.floor:g} and a step still overflowed: {reason}"
            self.tell("floor", says, scale=self.current, reason=reason, **why)

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.current} | {name: getattr(self, name) for name in self.counters}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.current = float(state["scale"])
        for name in self.counters:
            setattr(self, name, int(state[name]))
