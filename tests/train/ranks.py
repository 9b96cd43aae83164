"""The job that test_parallel.py runs under torchrun: scenarios by name, one JSON line a rank."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

from llmkit.data import generated
from llmkit.train import Checkpoints, build, tiny, train
from llmkit.train.parallel import join

OUT = Path(sys.argv[1])


class Ragged:
    """Rows with very unequal numbers of targets, a function of the global row: the ranks' shares differ."""

    def __init__(self, loader, share, rank):
        self.loader, self.rows = loader, np.array([64, 1, 3, 64, 7, 2, 64, 30])[rank * share :][:share]

    def batch(self, step):
        batch = self.loader.batch(step)
        keep = np.arange(64)[None, :] < self.rows[:, None]
        return dataclasses.replace(batch, weight=keep.astype(np.float32))


def digest(run):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in run.model.parameters())).hexdigest()


def make(world, **overrides):
    run = build(tiny(**{"steps": 6, **overrides}), dataset=generated(vocab_size=512), parallel=world)
    return run


def ragged(world, **overrides):
    run = make(world, micro_batch=2, **overrides)
    run.loader = Ragged(run.loader, 8 // world.world, world.rank)
    records = list(train(run))
    return {
        "loss": [r.loss for r in records],
        "norm": [r.grad_norm for r in records],
        "tokens": records[0].tokens,
    }


def mixture(world):
    """More experts than most steps use: those without a token on a rank must be reduced all the same."""
    return ragged(world, model__experts=32, model__z_loss=0.1, model__balance_loss=0.1)


def nan_on_the_last_rank(world):
    run = make(world)
    last = world.rank == world.world - 1
    run.model.blocks[0].register_forward_hook(
        lambda m, a, out: out * math.nan if last and run.step == 2 else out
    )
    return {"skipped": [r.step for r in train(run) if r.skipped]}


def stop_on_the_last_rank(world):
    run = make(world)
    done = []
    for record in train(run):
        done.append(record.step)
        run.stop_asked = world.rank == world.world - 1 and record.step == 1
    return {"done": done}


def saved_and_resumed(world):
    settings = {"precision": "fp16", "loss_scale": 2.0**22, "model__dropout": 0.1}
    straight = make(world, **settings)
    records = repr(list(train(straight)))
    first = make(world, **settings)
    steps = train(first)
    before = [next(steps) for _ in range(3)]
    checkpoints = Checkpoints(OUT / "checkpoints")
    checkpoints.save(first)
    resumed = make(world, **settings)
    step = checkpoints.load(resumed)
    same = repr(before + list(train(resumed))) == records and digest(resumed) == digest(straight)
    return {"step": step, "same": same, "files": sorted(p.name for p in checkpoints.at(3).iterdir())}


def die_on_the_last_rank(world):
    run = make(world)
    if world.rank == world.world - 1:

        def die(module, args):
            if run.step == 2:
                raise RuntimeError("planted on the last rank")

        run.model.blocks[0].register_forward_pre_hook(die)
    return {"done": [r.step for r in train(run)]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join("cpu", timeout_s=60)
    for name in sys.argv[2:]:
        answer = globals()[name](ranks) | {"rank": ranks.rank}
        (OUT / f"{name}.{ranks.rank}.json").write_text(json.dumps(answer))
    ranks.close()
