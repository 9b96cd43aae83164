"""A mixture of experts: a router sends each token to a few of many MLPs, so a token pays for those alone.

N tokens (B x T of one forward pass), C width, E experts, k experts a token visits, F hidden width of one.

    router, experts = Router(cfg), Experts(cfg)
    route = router(h)               # h (B, T, C)
    y = experts(h, route)           # (B, T, C); `route.penalty` is added to the loss

What is chosen here where papers differ:
    gates       scores in the run's precision, softmax over all experts in fp32, then the k largest divided by
                their sum (Mixtral, arXiv 2401.04088). With k = 1 that would be 1 whatever the router says,
                and the loss could not teach it: there the probability itself is the gate (Switch, arXiv
                2101.03961).
    balance     of one forward pass of one rank, a micro-batch, before anything is dropped.
    capacity    ceil(capacity_factor N k / E) tokens an expert in one forward pass; all first choices come
                before any second (GShard, arXiv 2006.16668). A token beyond it passes by the residual.
    experts     have no biases.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.train.config import ModelConfig


class Route(NamedTuple):
    """Where the tokens of a forward pass go, and what the router is told for it."""

    gates: Tensor  # (N, k) float32, what each chosen expert's output is multiplied by
    chosen: Tensor  # (N, k) int64, the first choice first
    load: Tensor  # (E,) float32, share of the N k choices that fell on each expert; sums to 1
    chance: Tensor  # (E,) float32, mean probability of each expert; sums to 1
    balance: Tensor  # () Switch's load-balance loss: 1 when even, E / k when k experts have all
    z: Tensor  # () ST-MoE's router z-loss
    penalty: Tensor  # () float32, both by their weights


class Router(nn.Module):
    """Scores the experts for each token: softmax(x W)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.score = nn.Linear(cfg.width, cfg.experts, bias=False)
        self.top_k, self.balance_loss, self.z_loss = cfg.top_k, cfg.balance_loss, cfg.z_loss

    def forward(self, x: Tensor) -> Route:
        logits = self.score(x).flatten(0, -2).float()  # (N, E)
        probabilities = logits.softmax(-1)
        gates, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.top_k > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        experts = torch.arange(logits.shape[-1], device=x.device)
        load = (chosen[..., None] == experts).float().mean((0, 1))  # counted: no gradient
        chance = probabilities.mean(0)
        balance = len(experts) * (load * chance).sum()  # Fedus et al. 2021 (arXiv 2101.03961), eq. 4
        z = logits.logsumexp(-1).square().mean()  # Zoph et al. 2022 (arXiv 2202.08906), eq. 5
        penalty = self.balance_loss * balance + self.z_loss * z
        return Route(gates, chosen, load, chance, balance, z, penalty)


class Experts(nn.Module):
    """E MLPs of one shape, held in one tensor a matrix: an expert that no token visits has gradient 0 and not
    none, so ranks that route differently still reduce the same tensors (no `find_unused_parameters`)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        count, hidden = cfg.experts, cfg.expert_hidden or cfg.hidden
        self.up = nn.Parameter(torch.empty(count, hidden, cfg.width))
        self.gate = nn.Parameter(torch.empty_like(self.up)) if cfg.activation == "swiglu" else None
        self.down = nn.Parameter(torch.empty(count, cfg.width, hidden))
        self.capacity_factor = cfg.capacity_factor

    def capacity(self, choices: int) -> int:
        """Places of one expert, when a forward pass has `choices` = N k of them to give."""
        count = len(self.up)
        return choices if self.capacity_factor is None else math.ceil(self.capacity_factor * choices / count)

    def shares(self, sorted_experts: Tensor) -> list[int]:
        """How often each expert was chosen, from the choices in order; a rehearsal, which has no numbers,
        deals them out evenly."""
        edges = torch.arange(len(self.up) + 1, device=sorted_experts.device)
        return torch.searchsorted(sorted_experts, edges).diff().tolist()

    def forward(self, x: Tensor, route: Route) -> Tensor:
        tokens = x.flatten(0, -2)  # (N, C)
        sorted_experts, places = route.chosen.T.flatten().sort(stable=True)  # of (k N): first choices first
        room = self.capacity(len(places))
        kept = [rows[:room] for rows in places.split(self.shares(sorted_experts))]
        up, down = self.up.unbind(), self.down.unbind()
        gate = [None] * len(up) if self.gate is None else self.gate.unbind()
        parts = zip(kept, up, gate, down, strict=True)
        y = torch.cat([expert(tokens[rows % len(tokens)], *weights) for rows, *weights in parts])
        y = y.new_zeros(len(places), y.shape[-1]).index_copy(0, torch.cat(kept), y)  # 0 where dropped
        return (y.view(-1, *tokens.shape) * route.gates.T[..., None]).sum(0).view(x.shape)


def expert(x: Tensor, up: Tensor, gate: Tensor | None, down: Tensor) -> Tensor:
    """(n, C) tokens through one MLP: `llmkit.train.model.MLP` with its weights given."""
    if gate is None:
        return F.linear(F.gelu(F.linear(x, up), approximate="tanh"), down)
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
