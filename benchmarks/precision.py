"""What fp16 costs on a CPU: a step in fp32, in emulated bf16 and fp16, and one forward and backward in native fp16.

    python benchmarks/precision.py [--rounds 12] [--config laptop] [--no-native] [--json]

The kinds take turns within each round, in an order that rotates; each figure is the median over rounds of the
ratio to fp32 within the round, in CPU time. Goal at `laptop()`: emulated fp16 at most 1.25 of fp32. Native is
PyTorch's own CPU autocast in fp16 around the same model and optimizer, one step a round. Its price depends on the
processor: the environment variable ONEDNN_MAX_CPU_ISA=AVX2 shows one without fp16 instructions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from llmkit.data import open_dataset
from llmkit.train import build, named, train


def native(run):
    """The plain loop under CPU autocast in fp16, loss scale and all, with torch's own scaler."""
    scaler, step = torch.amp.GradScaler("cpu"), 0
    while True:
        batch = run.loader.batch(step)
        run.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = run.model(torch.from_numpy(batch.x), torch.from_numpy(batch.y)).mean()
        scaler.scale(loss).backward()
        scaler.step(run.optimizer)
        scaler.update()
        step += 1
        yield loss.item()


def measure(name: str, rounds: int, steps: int, with_native: bool = True) -> dict:
    """Interleaved rounds; medians of the ratios to fp32, their quartiles, and fp32's seconds a step."""
    base = named(name, steps=10**6, threads=torch.get_num_threads(), save_every=0)
    dataset = open_dataset(base.data, vocab_size=base.model.vocab_size)
    kinds = ("fp32", "bf16", "fp16", "native fp16")[: 4 if with_native else 3]
    cfgs = {kind: named(name, steps=10**6, precision=kind if kind in kinds[:3] else "fp32") for kind in kinds}
    runs = {kind: build(cfg, dataset=dataset) for kind, cfg in cfgs.items()}
    loops = {kind: native(run) if kind == "native fp16" else train(run) for kind, run in runs.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for number in range(rounds + 1):
        for kind in order:
            count, start = 1 if kind == "native fp16" else steps, time.process_time()
            for _ in range(count):
                next(loops[kind])
            if number:  # the first round warms up, and finds the loss scale
                seconds[kind].append((time.process_time() - start) / count)
        order = order[1:] + order[:1]
    ratios = {k: [a / b for a, b in zip(s, seconds["fp32"], strict=True)] for k, s in seconds.items()}
    return {
        "config": name, "threads": torch.get_num_threads(), "rounds": rounds, "clock": "CPU time",
        "fp32_s": round(statistics.median(seconds["fp32"]), 4),
        "ratio_to_fp32": {k: round(statistics.median(r), 3) for k, r in ratios.items()},
        "quartiles": {k: [round(q, 3) for q in statistics.quantiles(r, n=4)] for k, r in ratios.items()},
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--config", choices=("laptop", "tiny"), default="laptop")
    parser.add_argument("--native", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.config, chosen.rounds, chosen.steps, chosen.native)
    if chosen.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['config']}, {found['threads']} threads, {found['rounds']} rounds, fp32 {found['fp32_s']:.3f} s a step"
        )
        for kind, ratio in found["ratio_to_fp32"].items():
            print(f"  {kind:12s} {ratio:7.3f}  quartiles {found['quartiles'][kind]}")
