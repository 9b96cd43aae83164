"""What watching memory costs: step time under a budget, a trace and a watch; events a second of the allocator.

    python benchmarks/memory_overhead.py [--rounds 12] [--config laptop] [--json]

Each kind does the same step within a round, in an order that rotates, and each figure is the median over the
rounds of the ratio to the plain step, by CPU time of the process: what else the machine does hits all alike.
Goal at `laptop()`: 1.3 under a budget.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from contextlib import nullcontext

import torch

from llmkit.data import open_dataset
from llmkit.memory import CachingAllocator, budget, record, replay, watch
from llmkit.memory.trace import Recording
from llmkit.train import build, named, train

KINDS = {
    "plain": lambda run: nullcontext(),
    "budget": lambda run: budget("64 GiB", run),
    "trace": lambda run: Recording(math.inf, run.model, run.optimizer),
    "watch": watch,
    "watch, allocator": lambda run: watch(run, allocator=""),
}


def ratios(cfg, dataset, rounds: int) -> dict[str, float]:
    """Median over rounds of CPU seconds of a step over those of the plain one."""
    runs = {kind: build(cfg, dataset=dataset) for kind in KINDS}
    steps = {kind: train(run) for kind, run in runs.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    order = list(KINDS)
    for number in range(rounds + 2):
        for kind in order[number % len(order) :] + order[: number % len(order)]:
            with KINDS[kind](runs[kind]):
                start = time.process_time()
                next(steps[kind])
                if number > 1:  # caches, moments
                    seconds[kind].append(time.process_time() - start)
    plain = seconds["plain"]
    return {
        kind: statistics.median(a / b for a, b in zip(mine, plain, strict=True))
        for kind, mine in seconds.items()
    }


def events_per_second(cfg, dataset, settings: str) -> float:
    """Of the allocator on the trace of four steps, the best of five."""
    trace, best = record(build(cfg, dataset=dataset), steps=4), math.inf
    for _ in range(5):
        start = time.process_time()
        done = sum(1 for _ in replay(trace, CachingAllocator(settings)))
        best = min(best, (time.process_time() - start) / done)
    return 1 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cfg = named(options.config, steps=10**6, threads=1)
    dataset = open_dataset(cfg.data, vocab_size=cfg.model.vocab_size)
    found = {"step over plain": ratios(cfg, dataset, options.rounds)}
    confs = ("", "expandable_segments:True", "max_split_size_mb:20")
    found["allocator events/s"] = {c or "default": round(events_per_second(cfg, dataset, c)) for c in confs}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for title, row in found.items():
        print(title, *(f"  {name}: {value:,.4g}" for name, value in row.items()), sep="\n")


if __name__ == "__main__":
    main()
