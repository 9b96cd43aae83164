"""Who gets the tokens of a mixture of experts: how uneven the routers are, and what does not fit.

The one idea: shares are counts over a whole step, all micro-batches of this rank, so two runs can be compared
with `cmp` and a layer's worst expert is not hidden by an average.

    routing = Routing()
    run.observers.append(routing)
    routing.modules["blocks.0.mlp"]     # {"load_max": ..., "load_min": ..., "unused": ..., ...}
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from llmkit.observe.base import aside
from llmkit.records import StepRecord

WORST = {
    "load_max": max,
    "load_min": min,
    "unused": max,
    "dropped": max,
    "room": min,
    "balance": max,
    "z": max,
}


class Routing:
    """Adds to each record of a run with routers, over its layers: `router_load_max` and `router_load_min`,
    tokens of the fullest and the emptiest expert over an even share (1: even); `router_unused`, share of
    experts without a token; `router_dropped`, share of choices beyond capacity; `router_balance` and
    `router_z`, the two losses without their weights; `router_room`, places of an expert over an even share;
    each the worst layer's. `router_layer` is the layer of
    `router_load_max`, counted from 0. Nothing for a dense model.

    A block that is recomputed in backward is counted twice, which changes no share. Cost: a few numbers an
    expert for each layer, one device sync a step.

    Attributes:
        modules: mixture -> the same of the last step, without `router_`.
    """

    def __init__(self):
        self.modules: dict[str, dict[str, float]] = {}
        self._handles: list[Any] = []
        self._sums: dict[str, torch.Tensor] = {}

    def on_batch(self, run: Any) -> None:
        self.close()
        self.modules, self._sums = {}, {}
        for name, module in run.model.named_modules():
            if hasattr(module, "capacity_factor"):
                hook = functools.partial(self._look, name)
                self._handles.append(module.register_forward_hook(hook))

    def on_step(self, run: Any, record: StepRecord) -> None:
        self.close()
        if not self._sums:
            return
        for name, sums in zip(self._sums, torch.stack([*self._sums.values()]).tolist(), strict=True):
            *counts, dropped, room, balance, z, choices = sums
            even = choices / len(counts)
            self.modules[name] = {
                "load_max": max(counts) / even, "load_min": min(counts) / even,
                "unused": counts.count(0.0) / len(counts), "dropped": dropped / choices,
                "room": room / even, "balance": balance / choices, "z": z / choices,
            }  # fmt: skip
        layers = list(self.modules.values())
        for key, worst in WORST.items():
            record.stats[f"router_{key}"] = worst(layer[key] for layer in layers)
        loads = [layer["load_max"] for layer in layers]
        record.stats["router_layer"] = float(loads.index(max(loads)))

    def close(self) -> None:
        """Take off the hooks of the step under way."""
        while self._handles:
            self._handles.pop().remove()

    def _look(self, name: str, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        _, route = args
        with aside(output.device):
            choices = route.chosen.numel()
            counts = (route.load.detach() * choices).round()
            room = torch.as_tensor(float(module.capacity(choices)), device=counts.device)
            losses = [choices * loss.detach() for loss in (route.balance, route.z)]
            rest = ((counts - room).clamp(min=0).sum(), room, *losses, counts.sum())
            row = torch.cat((counts, torch.stack(rest)))
            self._sums[name] = row + self._sums.get(name, 0.0)
