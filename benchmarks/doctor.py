"""How many of the faults does the doctor name, by the log alone and with probes, and how often is it wrong?

    python benchmarks/doctor.py [--seeds 3] [--healthy 40] [--at 40] [--json]

Every fault of the catalogue is put into `tiny()` runs of 80 steps on the generated corpus, at one step and with
several seeds; those of sources and shards into a corpus of two languages in five shards. A run counts as named when
the diagnosis holds the fault's own code; `beside` counts runs with another code as well. The healthy runs are of
fp32, bf16, fp16, fp32 with accumulation and dropout and a mixture of experts, in turns. Rates have Wilson's 95 % interval; runs of one
fault are not independent draws of "a fault", so the interval speaks of these faults at other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from llmkit.data import Document, build, generated
from llmkit.data.synthetic import synthetic
from llmkit.diagnose import diagnose
from llmkit.errors import IntegrityError, NonFiniteError
from llmkit.faults import FAULTS, apply
from llmkit.faults.catalog_memory import LATE_MEMORY
from llmkit.lab import finish, prepare
from llmkit.lab.sweep import Share
from llmkit.memory import watch
from llmkit.observe import probe
from llmkit.train import tiny

MIXTURE = {"model__experts": 8, "model__top_k": 2, "model__expert_hidden": 128}
NEEDS = {  # settings without which a fault does not apply
    "fp16-overflow": {"precision": "fp16"},
    "clip-before-unscale": {"precision": "fp16"},
    "step-on-overflow": {"precision": "fp16", "loss_scale": 2.0**40},
    "summed-accumulation": {"micro_batch": 2},
    "schedule-per-micro-batch": {"micro_batch": 2},
    "dropout-in-eval": {"model__dropout": 0.1},
    "long-sequence": {"model__position": "rotary"},
    "router-collapse": MIXTURE,
    "expert-imbalance": MIXTURE,
    "dropped-tokens": MIXTURE,
}
FIRST = ("step-on-overflow", "no-warmup", "varying-lengths")  # must be there from step 0
WHERE = {"stalled-loader": {"seconds": 0.6}, "evaluation-kept": {"every": 3}}
HEALTHY = ({}, {"precision": "bf16"}, {"precision": "fp16", "loss_scale": 2.0**24},
           {"micro_batch": 2, "model__dropout": 0.1}, MIXTURE)  # fmt: skip
DEATHS = (NonFiniteError, IntegrityError, torch.OutOfMemoryError)


def mixed(folder: Path):
    """Two made-up languages in five training shards."""
    texts = [("north", d.text) for d in synthetic(300, seed=0)] + [
        ("south", d.text) for d in synthetic(150, seed=1)
    ]
    documents = [Document(i, f"{source}/{i:04d}", text) for i, (source, text) in enumerate(texts)]
    return build(
        documents, folder, vocab_size=512, name="mixed", sources={}, val_share=0.1, shard_tokens=2**14
    )


def codes(folder) -> set[str]:
    return {finding.code for finding in diagnose(folder).findings}


def fly(folder: Path, dataset, settings: dict, fault: str = "", at: int = 0) -> tuple[set[str], set[str]]:
    """Codes found by the log alone, and once every probe was made."""
    late = fault in LATE_MEMORY
    settings = (
        {"steps": 80, "save_every": 0, "data": str(dataset.path)} | ({"batch": 2} if late else {}) | settings
    )
    flight = prepare(tiny(**settings), folder, dataset=dataset)
    watched = watch(flight.run, float("inf"), allocator="", scale=512) if late else nullcontext()
    with watched, apply(fault, flight.run, at=at, **WHERE.get(fault, {})) if fault else nullcontext():
        try:
            list(finish(flight))
        except DEATHS:
            assert fault
        alone = codes(flight.folder)
        if not late:
            probe(flight.run)
            flight.folder.close()
    return alone, codes(flight.folder)


def survey(seeds: int, healthy: int, at: int, only: str = "") -> dict:
    """Per fault: in how many runs it is named alone, with probes, and with another code beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        worlds = {False: generated(vocab_size=512), True: mixed(root / "mixed")}
        rows = {}
        for name, spec in FAULTS.items():
            if only not in name:
                continue
            rows[name] = {"code": spec.code, "runs": seeds, "alone": 0, "probed": 0, "beside": 0}
            for seed in range(seeds):
                world = worlds["LK401" < spec.code < "LK500"]
                where = 0 if name in FIRST else at
                found = fly(root / f"{name}-{seed}", world, {"seed": seed} | NEEDS.get(name, {}), name, where)
                for key, seen in zip(("alone", "probed"), found, strict=True):
                    rows[name][key] += spec.code in seen
                rows[name]["beside"] += bool(found[1] - {spec.code})
            print(name, rows[name], file=sys.stderr, flush=True)
        alarms = [
            fly(root / f"healthy-{n}", worlds[False], {"seed": n, "steps": 120} | HEALTHY[n % len(HEALTHY)])
            for n in range(healthy)
        ]
    return {"faults": rows, "healthy": healthy, "false alone": sum(map(bool, (a for a, _ in alarms))),
            "false probed": sum(map(bool, (b for _, b in alarms)))}  # fmt: skip


def rate(count: int, of: int) -> str:
    low, high = Share(count, of).interval
    return f"{count} of {of} ({100 * low:.0f} to {100 * high:.0f} %)"


def table(found: dict) -> str:
    """Markdown: a row per family, one for all, one for the healthy runs."""
    families = {
        "LK1": "numerics",
        "LK2": "memory",
        "LK3": "optimizer",
        "LK4": "data",
        "LK5": "throughput",
        "LK": "all",
    }
    lines = ["| family | faults | runs named by the log alone | with probes | another finding beside it |",
             "|---|---|---|---|---|"]  # fmt: skip
    for code, family in families.items():
        rows = [row for row in found["faults"].values() if row["code"].startswith(code)]
        if rows:
            runs, *counts = (sum(row[key] for row in rows) for key in ("runs", "alone", "probed", "beside"))
            lines.append(
                f"| {family} | {len(rows)} | " + " | ".join(rate(count, runs) for count in counts) + " |"
            )
    alarms = (rate(found[key], found["healthy"]) for key in ("false alone", "false probed"))
    return "\n".join([*lines, "| healthy runs with a finding | | " + " | ".join(alarms) + " | |"])


def by_fault(found: dict) -> str:
    """Markdown: a row per fault."""
    lines = [
        "| fault | code | by the log alone | with probes | another finding beside it |",
        "|---|---|---|---|---|",
    ]
    for name, row in sorted(found["faults"].items(), key=lambda item: item[1]["code"]):
        counts = " | ".join(f"{row[key]} of {row['runs']}" for key in ("alone", "probed", "beside"))
        lines.append(f"| `{name}` | {row['code']} | {counts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--healthy", type=int, default=40)
    parser.add_argument("--at", type=int, default=40)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = survey(asked.seeds, asked.healthy, asked.at, asked.only)
    print(json.dumps(result) if asked.json else f"{table(result)}\n\n{by_fault(result)}")
