"""The job that test_ranks.py runs under torchrun: a run with or without a recorder, one JSON line a rank."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from llmkit.data import generated
from llmkit.folder import RunFolder
from llmkit.observe import Recorder
from llmkit.train import build, tiny, train
from llmkit.train.parallel import join

OUT = Path(sys.argv[1])


class Spoil(torch.autograd.Function):
    """x forward; NaN backward for row 1."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[1] *= float("nan")
        return grad


def spoilt(world):
    """Row 1 of the last rank's share goes bad: forward in one module at step 1, backward in one at step 3."""
    run = build(tiny(steps=5, model__dropout=0.1), dataset=generated(vocab_size=512), parallel=world)
    if world.rank == world.world - 1:
        mlp, up = run.model.blocks[1].mlp, run.model.blocks[0].mlp.up
        of_mlp, of_up = mlp.forward, up.forward
        row = torch.arange(len(run.loader.batch(0).x))[:, None, None] == 1

        def forward(x):
            out = of_mlp(x)
            return torch.where(row, float("nan"), out) if run.step == 1 else out

        mlp.forward = forward
        up.forward = lambda x: Spoil.apply(of_up(x)) if run.step == 3 else of_up(x)
    return run


def digest(run):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in run.model.parameters())).hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join("cpu", timeout_s=60)
    alone = spoilt(ranks)
    list(train(alone))
    run = spoilt(ranks)
    recorder = Recorder(RunFolder(OUT / "run"), every=2)
    if ranks.is_first:
        RunFolder.create(OUT / "run", {})
    with recorder.attached(run):
        records = list(train(run))
    sites = [(step, site.data) for step, site in recorder.tracer.sites]
    served = run.loader.batch(1).documents[1].tolist(), run.loader.batch(3).documents[1].tolist()
    answer = {"sites": sites, "same": digest(run) == digest(alone), "steps": len(records), "served": served}
    (OUT / f"{ranks.rank}.json").write_text(json.dumps(answer))
    ranks.close()
