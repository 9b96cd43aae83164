"""How large every gradient is, how far every weight moves, and how well Adam's second moment knew it.

The one idea: the update is known only by its result, so the weights are copied before the optimizer runs and
subtracted after. Gradient norms cost nothing: the loop has them.

    gradients = Gradients()
    run.observers.append(gradients)
    gradients.tensors["head.weight"]        # {"grad_norm": ..., "weight_norm": ..., "update_ratio": ...}
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from llmkit.records import StepRecord


class Gradients:
    """Per parameter: L2 norms of gradient and weights, the update/weight ratio ||dW|| / ||W||, and how stale
    the second moment is: root mean square of g / sqrt(v), v corrected for its start at 0.

    Adds `update_ratio_median` and `update_ratio_max`, over parameters, to the record of every update, and
    `staleness_max` to that of every `every`-th one. Staleness is StableAdamW's RMS_t (Wortsman et al., arXiv
    2304.13013), of the clipped gradient that the optimizer was given: 1 at the first update, about 1 while
    gradients stay as they were, at most sqrt(1 / (1 - beta2)) when they grow at once. No optimizer that keeps
    `exp_avg_sq`: no staleness.

    Cost: one more copy of the trained parameters in memory; two sweeps over them a step, four more on every
    `every`-th; one device sync. benchmarks/loop.py has the time.

    Attributes:
        tensors: parameter name -> `grad_norm` (unscaled, before clipping), `weight_norm` (before the update),
            `update_ratio` (0 on a skipped step; NaN where all weights are 0), of the last step.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.tensors: dict[str, dict[str, float]] = {}
        self._names: list[str] = []
        self._weights: list[Tensor] = []
        self._before: list[Tensor] = []
        self._weight_norms: list[Tensor] = []

    @torch.no_grad()
    def on_backward(self, run: Any) -> None:
        named = [(name, p.detach()) for name, p in run.model.named_parameters() if p.grad is not None]
        self._names, self._weights = [name for name, _ in named], [weight for _, weight in named]
        if not _alike(self._before, self._weights):
            self._before = [torch.empty_like(weight) for weight in self._weights]
        self._weight_norms = _change("copy_", self._before, self._weights)

    @torch.no_grad()
    def on_step(self, run: Any, record: StepRecord) -> None:
        weight_norms = torch.stack(self._weight_norms).float()
        if record.skipped:
            updates = torch.zeros_like(weight_norms)
        else:
            updates = torch.stack(_change("sub_", self._before, self._weights)).float()
        ratios = torch.where(weight_norms > 0, updates / weight_norms, math.nan)
        rows = torch.stack((run.found["norms"], weight_norms, ratios), dim=1).tolist()
        self.tensors = {
            name: {"grad_norm": grad_norm, "weight_norm": weight_norm, "update_ratio": ratio}
            for name, (grad_norm, weight_norm, ratio) in zip(self._names, rows, strict=True)
        }
        known = [row[2] for row in rows if math.isfinite(row[2])]
        if known and not record.skipped:
            record.stats["update_ratio_median"] = statistics.median(known)
            record.stats["update_ratio_max"] = max(known)
        if run.step % self.every == 0 and not record.skipped and (stale := staleness(run.optimizer)):
            record.stats["staleness_max"] = torch.stack(list(stale.values())).max().item()


def staleness(optimizer: torch.optim.Optimizer) -> dict[Tensor, Tensor]:
    """Right after an update: parameter -> root mean square of g / sqrt(v), 0-dim, on its device."""
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            if p.grad is None or "exp_avg_sq" not in state:
                continue
            start = group["betas"][1] ** state["step"] if group.get("beta2_schedule") != "power" else 0.0
            root = state["exp_avg_sq"].sqrt().clamp_(min=group["eps"])
            told = torch.linalg.vector_norm(torch.div(p.grad, root, out=root))
            found[p] = told * ((1 - start) / p.numel()) ** 0.5
    return found


def _alike(a: list[Tensor], b: list[Tensor]) -> bool:
    return [(t.shape, t.dtype, t.device) for t in a] == [(t.shape, t.dtype, t.device) for t in b]


def _change(operation: str, tensors: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """`tensor.copy_(other)` or `tensor.sub_(other)` for each, and the L2 norms of the results.

    On a GPU all at once, because launches cost; on a CPU one by one, so that the norm finds its tensor in the
    cache, which takes a third off the time. The dot product is the fastest sum of squares a CPU has.
    """
    if tensors and tensors[0].device.type != "cpu":
        getattr(torch, f"_foreach_{operation}")(tensors, others)
        return list(torch._foreach_norm(tensors))
    norms = []
    for tensor, other in zip(tensors, others, strict=True):
        flat = getattr(tensor, operation)(other).reshape(-1)
        fp32 = flat.dtype == torch.float32
        norms.append(torch.dot(flat, flat).sqrt() if fp32 else torch.linalg.vector_norm(flat))
    return norms
