"""Measure the band of losses that healthy runs of a configuration show, and write it to
llmkit/lab/bands.json.

    python benchmarks/bands.py [--seeds 16] [--check]

A band is the range over the seeds, widened on both sides by half of itself and at least 0.1 nat: other
machines round differently, and sixteen seeds do not show the extremes. --check measures and compares, and
writes nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llmkit.data import open_dataset
from llmkit.folder import write_whole
from llmkit.lab.expected import band_key, measured
from llmkit.train import RunConfig, build, tiny, train

FILE = Path(__file__).parents[1] / "llmkit/lab/bands.json"
CONFIGS = (tiny(steps=120), tiny(steps=120, precision="fp16"), tiny())


def milestones(steps: int) -> list[int]:
    return sorted({s for s in (20, 50, 100, 150) if s < steps} | {steps - 1})


def measure(cfg: RunConfig, seeds: int) -> tuple[str, dict]:
    """(key, entry of bands.json)."""
    dataset = open_dataset(cfg.data, vocab_size=cfg.model.vocab_size)
    losses: dict[int, list[float]] = {step: [] for step in milestones(cfg.steps)}
    for seed in range(seeds):
        run = build(RunConfig.from_dict(cfg.to_dict() | {"seed": seed}), dataset=dataset)
        for record in train(run):
            if record.step in losses:
                losses[record.step].append(record.loss)
    bands = []
    for step, seen in losses.items():
        margin = max(0.1, 0.5 * (max(seen) - min(seen)))
        bands.append([step, round(min(seen) - margin, 3), round(max(seen) + margin, 3)])
    entry = {
        "config": cfg.name,
        "steps": cfg.steps,
        "precision": cfg.precision,
        "seeds": seeds,
        "bands": bands,
    }
    return band_key(cfg, dataset.digest), entry


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    found = dict(measure(cfg, asked.seeds) for cfg in CONFIGS)
    for key, entry in found.items():
        known = measured().get(key, {}).get("bands")
        print(key, json.dumps(entry), "as known" if known == entry["bands"] else f"known: {known}")
    if not asked.check:
        write_whole(FILE, json.dumps(found, indent=1) + "\n")
