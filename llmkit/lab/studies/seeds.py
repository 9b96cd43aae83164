"""Whose luck is a validation loss? Initial weights, data order and dropout masks, each seed with each.

Two sweeps over one small recipe (0.14M parameters, 256 tokens a step): `seeds` crosses 6 initial weights, 5
orders and 5 sets of dropout masks; `recipes` draws all three at once, 16 times, and changes the recipe. Read
them with llmkit.lab.luck.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from llmkit.data import Loader, TokenDataset
from llmkit.lab.sweep import Outcome, Sweep
from llmkit.train import Run, RunConfig, build, tiny, train
from llmkit.train.run import DeviceBatch

INITS, ORDERS, DROPOUTS = 6, 5, 5
DRAWS = 16  # runs of each recipe
PIECES = 24  # of validation text, `batch` windows each: what generated text has without repeating

LONGER = {f"{times} x longer": {"steps": 80 * times} for times in (2, 4, 8)}
RECIPES = {"base": {}, "no decay": {"min_lr": 3e-3}} | LONGER


def crossed_sweep() -> Sweep:
    """An arm is an order with a set of masks; the sweep's own seed is left to the initial weights."""
    arms = {
        f"order {order}, dropout {dropout}": {"data_seed": order, "dropout_seed": dropout}
        for order in range(ORDERS)
        for dropout in range(DROPOUTS)
    }
    return Sweep(base(), arms, range(INITS), measure=outcome)


def recipes_sweep() -> Sweep:
    """The sweep's seed sets all three; none of the crossed sweep's is used again."""
    return Sweep(base(), RECIPES, range(100, 100 + DRAWS), measure=outcome)


def base() -> RunConfig:
    recipe = {"batch": 4, "steps": 80, "lr": 3e-3, "min_lr": 3e-4, "warmup": 10, "model__dropout": 0.1}
    return tiny(data="generated", device="cpu", **recipe)


def outcome(cfg: RunConfig, dataset: TokenDataset) -> Outcome:
    """Of one run: `val`, the loss of each piece of validation text at the end (nats, six digits), and
    `averaged`, the same with the mean of the weights over the last quarter of the steps."""
    run = build(cfg, dataset=dataset)
    sums: Iterable[Tensor | float] = [0.0] * len(list(run.model.parameters()))
    last = cfg.steps // 4
    for record in train(run):
        if record.step >= cfg.steps - last:
            sums = [total + p.detach() for total, p in zip(sums, run.model.parameters(), strict=True)]
    val = pieces(run)
    with torch.no_grad():
        for p, total in zip(run.model.parameters(), sums, strict=True):
            p.copy_(total / last)
    return {"val": val, "averaged": pieces(run)}


@torch.no_grad()
def pieces(run: Run) -> list[float]:
    """Mean loss of each of the first PIECES batches of validation text, the same for every run."""
    cfg = run.config
    loader = Loader(run.dataset, batch=cfg.batch, context=cfg.model.context, seed=0, split="val")
    run.model.eval()
    batches = (DeviceBatch(loader.batch(index), run.device) for index in range(PIECES))
    losses = [run.model(batch.x, batch.y).mean().item() for batch in batches]
    run.model.train()
    return [float(f"{loss:.6g}") for loss in losses]
