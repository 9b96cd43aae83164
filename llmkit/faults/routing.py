"""Routers of a mixture of experts that go wrong: a balance loss that pulls the other way, an expert that is
preferred, room for too few tokens.

with RouterCollapse(run, at=40):
    list(train(run))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmkit.errors import FaultError
from llmkit.faults.base import Fault


class RouterFault(Fault):
    """Wraps one callable in every block: `attribute` of the router, of its scores, or of the experts.

    Raises:
        FaultError: the model has no routers.
    """

    lasts, attribute = math.inf, "forward"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self._blocks = [m for m in run.model.modules() if hasattr(m, "router")]
        if not self._blocks:
            raise FaultError("this model has no routers", remedy="set model__experts=8 and model__top_k=2")

    def holder(self, block: Any) -> Any:
        return block.router

    def install(self) -> None:
        for block in self._blocks:
            self.wrap(self.holder(block), self.attribute)

    def call(self, inner: Any, given: Any) -> Any:
        return self.instead(inner, given) if self.active() else inner(given)

    def instead(self, inner: Any, given: Any) -> Any:
        raise NotImplementedError


class RouterCollapse(RouterFault):
    """The balance loss counts `weight` times: at -1 it rewards what it should punish, at 0 it is not there.

    Args:
        weight: below 1.
    """

    name = "router-collapse"

    def __init__(self, run: Any, weight: float = -1.0, **when: Any):
        super().__init__(run, **when)
        if not weight < 1:
            raise FaultError(f"weight is {weight:g}: the routers would balance", expected="a weight below 1")
        self.weight = weight

    def instead(self, inner: Any, x: Tensor) -> Any:
        route, router = inner(x), inner.__self__
        return route._replace(
            penalty=self.weight * router.balance_loss * route.balance + router.z_loss * route.z
        )


class ExpertImbalance(RouterFault):
    """One expert's scores are raised in every layer, as by a bias for balancing that went stale.

    Args:
        expert: which one.
        bias: added to its logit.
    """

    name = "expert-imbalance"

    def __init__(self, run: Any, expert: int = 0, bias: float = 2.0, **when: Any):
        super().__init__(run, **when)
        experts = run.config.model.experts
        if not (0 <= expert < experts and bias > 0):
            raise FaultError(
                f"expert {expert} cannot be preferred by {bias:g}",
                expected=f"an expert from 0 to {experts - 1}, and a bias above 0",
            )
        self.expert, self.bias = expert, bias

    def holder(self, block: Any) -> Any:
        return block.router.score

    def instead(self, inner: Any, x: Tensor) -> Tensor:
        logits = inner(x)
        chosen = torch.arange(logits.shape[-1], device=logits.device) == self.expert
        return logits + self.bias * chosen


class DroppedTokens(RouterFault):
    """Experts have room for `factor` times their even share of the tokens.

    Args:
        factor: the capacity factor in force, below 1.
    """

    name, attribute = "dropped-tokens", "capacity"

    def __init__(self, run: Any, factor: float = 0.5, **when: Any):
        super().__init__(run, **when)
        if not 0 < factor < 1:
            raise FaultError(f"factor is {factor:g}", expected="a factor between 0 and 1")
        self.factor = factor

    def holder(self, block: Any) -> Any:
        return block.mlp

    def instead(self, inner: Any, choices: int) -> int:
        return math.ceil(self.factor * choices / len(inner.__self__.up))
