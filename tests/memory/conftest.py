"""A small model, its optimizer and one step, plain PyTorch: the budget must not need a Run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from llmkit.train import GPT, ModelConfig


@dataclasses.dataclass
class Job:
    model: GPT
    optimizer: torch.optim.Optimizer
    x: torch.Tensor
    y: torch.Tensor

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model(self.x, self.y).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


@pytest.fixture
def job() -> Callable[..., Job]:
    """job(batch=8, adamw="fused", layers=2, ...): a fresh GPT of `tiny()` shape, always the same weights."""

    def make(batch: int = 8, adamw: str = "fused", **shape) -> Job:
        torch.set_num_threads(1)
        cfg = dataclasses.replace(ModelConfig(), **shape)
        model = GPT(cfg, generator=torch.Generator().manual_seed(0))
        kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}[adamw]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **kind)
        draw = torch.Generator().manual_seed(1)
        x, y = torch.randint(0, cfg.vocab_size, (2, batch, cfg.context), generator=draw)
        return Job(model, optimizer, x.clone(), y.clone())

    return make
