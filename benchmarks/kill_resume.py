"""Kill a run at random instants, resume it each time, and compare the end with a run that was left alone.

    python benchmarks/kill_resume.py [--kills 200] [--ranks 1] [--seed 0] [--json]

The run saves every other step, so that about half of its time is spent writing, renaming and rotating
checkpoints; how often a kill fell into a save or a deletion is counted by what it left lying about. Fork
starts each child in milliseconds. Compared bit for bit: weights and moments of the last checkpoint, and
steps.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from llmkit.data import TokenDataset, generated
from llmkit.folder import RunFolder
from llmkit.lab.flight import fly
from llmkit.train import RunConfig, tiny
from llmkit.train.checkpoint import problems


@dataclass
class Outcome:
    """What the kills did."""

    kills: int = 0
    mid_save: int = 0  # a temporary folder was left
    mid_rotation: int = 0  # a half-deleted folder was left
    chains: int = 0  # runs brought to their end
    bits_different: int = 0  # in weights and moments, over all chains
    logs_different: int = 0  # chains whose steps.jsonl differs
    seconds: float = 0.0


def config() -> RunConfig:
    return tiny(
        steps=40, save_every=2, precision="fp16", loss_scale=2.0**22, growth_interval=5, model__dropout=0.1,
        model__width=32,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(path: Path, dataset: TokenDataset, ranks: int) -> list[int]:
    """Fork one child a rank; each flies the run to its end, resuming what the folder holds."""
    children, port = [], free_port() if ranks > 1 else 0
    for rank in range(ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            if ranks > 1:
                where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                os.environ.update({k: str(v) for k, v in where.items()}, MASTER_ADDR="127.0.0.1")
                quiet = os.open(os.devnull, os.O_WRONLY)  # the survivor of a kill complains, rightly
                os.dup2(quiet, 2)
            resume = (path / "run.json").exists()
            for _ in fly(None if resume else config(), path, resume=resume, dataset=dataset):
                pass
            code = 0
        finally:
            os._exit(code)
    return children


def wait(children: list[int]) -> bool:
    """Whether all of them finished well."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return not any(codes)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    newest = sorted(RunFolder.open(path).checkpoints.glob("step-*"))[-1]
    assert not problems(newest), problems(newest)
    found = dict(torch.load(newest / "weights.pt", weights_only=True))
    optimizer = torch.load(newest / "optimizer.pt", weights_only=True)
    for index, state in optimizer["state"].items():
        found |= {f"{index}.{name}": value for name, value in state.items()}
    return found


def bits_apart(a: Path, b: Path) -> int:
    """Bits in which the final weights and moments differ."""
    one, two = tensors(a), tensors(b)
    assert one.keys() == two.keys()
    raw = [
        (one[k].numpy().reshape(-1).view(np.uint8), two[k].numpy().reshape(-1).view(np.uint8)) for k in one
    ]
    return sum(int(np.unpackbits(x ^ y).sum()) for x, y in raw)


def wait_for_a_moment(dice: random.Random, path: Path, whole: float) -> None:
    """Any instant; or, two times in three, one in the middle of a save or of a deletion, some saves from now."""
    aim = dice.choice(("anything", "tmp", "trash"))
    until = time.monotonic() + dice.uniform(0.0, whole * 0.7)
    while time.monotonic() < until or (aim != "anything" and time.monotonic() < until + whole):
        if time.monotonic() >= until and any(path.glob(f"checkpoints/.step-*.{aim}")):
            return
        time.sleep(0.0002)


def prove(kills: int, ranks: int, seed: int, scratch: Path) -> Outcome:
    """Kill `kills` times; chains that reach their end are compared with an uninterrupted run."""
    torch.set_num_threads(1)
    dataset, dice, outcome, began = (
        generated(vocab_size=512),
        random.Random(seed),
        Outcome(),
        time.monotonic(),
    )
    reference = scratch / "reference"
    at_start = time.monotonic()
    assert wait(start(reference, dataset, ranks))
    whole = time.monotonic() - at_start  # seconds of an uninterrupted run: kills are drawn over this span
    while outcome.kills < kills:
        path = scratch / f"chain-{outcome.chains}"
        while True:
            children = start(path, dataset, ranks)
            if outcome.kills < kills:
                wait_for_a_moment(dice, path, whole)
                victims = children if ranks == 1 or dice.random() < 0.5 else [dice.choice(children)]
                for child in victims:
                    os.kill(child, signal.SIGKILL)
            if wait(children):
                break  # it had finished already, or nobody kills any more
            outcome.kills += 1
            outcome.mid_save += bool(list(path.glob("checkpoints/.step-*.tmp")))
            outcome.mid_rotation += bool(list(path.glob("checkpoints/.step-*.trash")))
            if not (path / "run.json").exists():
                shutil.rmtree(path, ignore_errors=True)  # killed before there was a run
        outcome.chains += 1
        outcome.bits_different += bits_apart(reference, path)
        logs = [(p / "steps.jsonl").read_bytes() for p in (reference, path)]
        outcome.logs_different += logs[0] != logs[1]
        shutil.rmtree(path)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the forks
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmkit-kill-") as folder:
        proved = prove(asked.kills, asked.ranks, asked.seed, Path(folder))
    print(
        json.dumps(asdict(proved))
        if asked.json
        else "\n".join(f"{k:15s} {v}" for k, v in asdict(proved).items())
    )
