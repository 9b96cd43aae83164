"""Evaluation, outside the loop: the caller decides when, between two `next()`s.

loss = evaluate(run, batches=8)
"""

from __future__ import annotations

import torch

from llmkit.data import Loader
from llmkit.train.run import DeviceBatch, Run


@torch.no_grad()
def evaluate(run: Run, *, batches: int = 8, split: str = "val") -> float:
    """Mean loss over the first `batches` batches of `split`, in nats per target token; the same ones every
    time.

    The model's training mode is put back; no generator is touched, so the run goes on as if nobody had
    looked.
    """
    cfg, world = run.config, run.parallel
    loader = Loader(
        run.dataset,
        batch=cfg.batch,
        context=cfg.model.context,
        seed=0,
        split=split,
        rank=world.rank,
        world=world.world,
    )
    training = run.model.training
    run.model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=run.device)
    for index in range(batches):
        batch = DeviceBatch(loader.batch(index), run.device)
        with run.precision.forward():
            batch.losses.append(run.model(batch.x, batch.y))
        total += batch.sums().sum(0).double()
    run.model.train(training)
    loss, weight = world.total(total)
    return loss / max(weight, 1.0)
