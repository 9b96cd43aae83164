"""What the loop costs: tokens per second of a bare PyTorch loop, of `train()`, and of `train()` with the
recorder.

    python benchmarks/loop.py [--rounds 40] [--config laptop] [--json]

The three take turns within each round, in an order that rotates, and each figure is the median over rounds of
the ratio within the round: what else the machine does hits all three alike. Goals at `laptop()`: 0.98 without
observers, 0.95 with the default recorder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import torch

from llmkit.data import open_dataset
from llmkit.folder import RunFolder
from llmkit.observe import Recorder
from llmkit.train import build, named, train


def bare(run):
    """The loop one would write by hand: same model, same data, same optimizer, nothing else."""
    model, optimizer, clip, step = run.model, run.optimizer, run.config.clip, 0
    while True:
        batch = run.loader.batch(step)
        x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
        optimizer.zero_grad(set_to_none=True)
        loss = model(x, y).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = run.schedule(step)
        optimizer.step()
        step += 1
        yield loss.item()


def recorded(run):
    folder = RunFolder.create(tempfile.mkdtemp(prefix="llmkit-bench-") + "/run", {})
    recorder = Recorder(folder)
    run.observers.append(recorder)
    run.sinks.append(recorder.sink)
    return train(run)


def measure(name: str, rounds: int, steps: int) -> dict:
    """Interleaved rounds; returns median ratios and tokens per second."""
    cfg = named(name, steps=10**6, threads=torch.get_num_threads())
    dataset = open_dataset(cfg.data, vocab_size=cfg.model.vocab_size)
    makers = {"bare": bare, "train": train, "recorded": recorded}
    loops = {kind: make(build(cfg, dataset=dataset)) for kind, make in makers.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in loops}
    order = list(loops)
    for number in range(rounds + 2):
        for kind in order:
            start = time.perf_counter()
            for _ in range(steps):
                next(loops[kind])
            if number >= 2:  # the first two rounds warm up
                seconds[kind].append(time.perf_counter() - start)
        order = order[1:] + order[:1]
    ratios = {
        k: [b / s for b, s in zip(seconds["bare"], seconds[k], strict=True)] for k in ("train", "recorded")
    }
    tokens = cfg.tokens_per_step * steps
    return {
        "config": name,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "tokens_per_s": {k: round(tokens / statistics.median(s)) for k, s in seconds.items()},
        "ratio_to_bare": {k: round(statistics.median(r), 4) for k, r in ratios.items()},
        "quartiles": {k: [round(q, 3) for q in statistics.quantiles(r, n=4)] for k, r in ratios.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--config", choices=("laptop", "tiny"), action="append")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    results = [
        measure(c, chosen.rounds, 20 if c == "tiny" else 2) for c in chosen.config or ["laptop", "tiny"]
    ]
    for found in results:
        if chosen.json:
            print(json.dumps(found))
        else:
            print(f"{found['config']}, {found['threads']} threads, {found['rounds']} rounds")
            for kind, rate in found["tokens_per_s"].items():
                ratio = found["ratio_to_bare"].get(kind, 1.0)
                print(f"  {kind:9s} {rate:8d} tokens/s  {ratio:.3f} of bare")
