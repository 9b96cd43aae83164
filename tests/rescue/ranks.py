"""The job that test_ranks.py runs under torchrun: one rank falls ill, all are treated. One JSON file each."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path

import torch

from llmkit.data import generated
from llmkit.folder import RunFolder
from llmkit.observe import Recorder
from llmkit.rescue import supervise
from llmkit.train import Checkpoints, build, tiny
from llmkit.train.parallel import join

OUT = Path(sys.argv[1])


def ill_on_the_last_rank(world):
    """A spike at step 20, and NaN at steps 33 to 35 of the first life."""
    cfg = tiny(steps=44, model__width=32, model__layers=1, model__context=32, lr=1e-3, min_lr=1e-4)
    run = build(cfg, dataset=generated(vocab_size=512), parallel=world)
    left = {33, 34, 35}

    def spoil(module, args, losses):
        if world.rank < world.world - 1:
            return losses
        if run.step in left:
            left.discard(run.step)
            return losses * math.nan
        return losses * 6 if run.step == 20 else losses

    run.model.register_forward_hook(spoil)
    events = []
    run.sinks.append(events.append)
    if world.is_first:
        RunFolder.create(OUT / "run", {})
    world.barrier()
    folder = RunFolder.open(OUT / "run")
    checkpoints = Checkpoints(folder.checkpoints, keep_last=8)
    with Recorder(folder).attached(run):
        for _ in supervise(run, checkpoints, folder=folder):
            if run.step % 10 == 0:
                checkpoints.save(run)
    weights = b"".join(p.detach().numpy().tobytes() for p in run.model.parameters())
    return {
        "alarms": [
            (e.step, e.data["kind"]) for e in events if e.kind == "alarm" and e.data["kind"] != "slow"
        ],
        "rescues": [(e.step, e.data["policy"], e.data["to_step"]) for e in events if e.kind == "rescue"],
        "detector": run.parts["detector"].state_dict(),
        "weights": hashlib.sha256(weights).hexdigest(),
        "observers": len(run.observers),
    }


def out_of_memory_on_the_last_rank(world):
    run = build(tiny(steps=6), dataset=generated(vocab_size=512), parallel=world)

    def exhaust(module, args):
        if run.step == 2 and world.rank == world.world - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    run.model.blocks[0].register_forward_pre_hook(exhaust)
    return {"done": [r.step for r in supervise(run, Checkpoints(OUT / "oom"))]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join("cpu", timeout_s=60)
    for name in sys.argv[2:]:
        answer = globals()[name](ranks)
        (OUT / f"{name}.{ranks.rank}.json").write_text(json.dumps(answer))
    ranks.close()
