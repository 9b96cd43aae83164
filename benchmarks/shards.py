"""What it costs to use shards: verifying them, asking whether they drifted, loading from them.

python benchmarks/shards.py [verify drift loader] [--megabytes 1000] [--rounds 5] [--json]

verify   `llmkit data verify` of --megabytes of shards over `hashlib` alone on the same files and cores,
         taking turns, with the projection to 200 GB. Goal: at least 0.9 of its speed
drift    the statistical layer of `llmkit data drift` on shards of a million tokens each, from the sketch in
         the manifest's folder, with the verb's own 1,999 permutations: seconds a shard. Goal: at most 2
loader   tokens a second of the loader over those that training consumes (--consumption, or measured
         with benchmarks/loop.py in its fastest configuration). Goal: at least 5
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from llmkit.data import build, embedded, verify
from llmkit.data.docstrings import docstrings

sys.path.insert(0, str(Path(__file__).parent))
from data import MB, documents


def shards_of(folder: Path, megabytes: int) -> Path:
    """A data set of one-document shards of 2 MiB, `megabytes` in all: random tokens, every file in place."""
    from llmkit.data.corpus import MANIFEST
    from llmkit.data.manifest import read_manifest
    from llmkit.data.shards import ShardWriter, write_file

    built = build(documents(2 * MB), folder / "set", vocab_size=512, name="verify", sources={}, val_share=0)
    manifest, draw = read_manifest(built.path), np.random.default_rng(0)
    size, number = 2**20, megabytes * MB // 2**21 + 1
    for shard in manifest.shards:
        (built.path / shard.name).unlink()
    with ShardWriter(built.path, "train", np.dtype(np.uint16), size, 512) as writer:
        for i in range(number):
            writer.add(np.array([i]), [draw.integers(0, 512, size, dtype=np.uint16)])
        shards = writer.finish()
    index = np.stack([np.zeros(number), np.arange(number) * size, np.full(number, size)], 1).astype("<i8")
    train = manifest.splits["train"].model_copy(update={"documents": number, "tokens": number * size})
    changes = {
        "documents": number,
        "splits": manifest.splits | {"train": train},
        "shards": shards,
        "index": write_file(built.path, "documents.i64", index.tobytes()),
        "names": write_file(built.path, "documents.jsonl", b'"random"\n' * number),
        "hashes": write_file(built.path, "documents.sha256", bytes(32 * number)),
        "leaves": write_file(built.path, "leaves.sha256", b"".join(writer.leaves)),
    }
    manifest = manifest.model_copy(update=changes)
    manifest = manifest.model_copy(update={"digest": manifest.recompute()})
    (built.path / MANIFEST).write_text(manifest.model_dump_json())
    return built.path


def verified(folder: Path, chosen: argparse.Namespace) -> dict:
    """Wall time of whole passes over files that the page cache holds; CPU time beside it, less noisy."""
    path = shards_of(folder, chosen.megabytes)
    files = sorted(path.iterdir())
    megabytes = sum(file.stat().st_size for file in files) / MB

    def digest(file: Path) -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def alone():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            assert len(list(pool.map(digest, files))) == len(files)

    def ours():
        assert verify(path) == []

    seconds = {"hashlib": [], "verify": []}
    cpu = {"hashlib": [], "verify": []}
    for number in range(chosen.rounds + 1):
        for kind, work in [("hashlib", alone), ("verify", ours)][:: 1 if number % 2 else -1]:
            start, used = time.perf_counter(), time.process_time()
            work()
            if number:  # the first round fills the page cache
                seconds[kind].append(time.perf_counter() - start)
                cpu[kind].append(time.process_time() - used)
    wall, spent = (
        [a / b for a, b in zip(times["hashlib"], times["verify"], strict=True)] for times in (seconds, cpu)
    )
    speed = {kind: round(megabytes / statistics.median(s)) for kind, s in seconds.items()}
    return {
        "megabytes": round(megabytes),
        "files": len(files),
        "cores": os.cpu_count(),
        "mb_per_s": speed,
        "of_hashlib": round(statistics.median(wall), 3),
        "range": [round(min(wall), 3), round(max(wall), 3)],
        "of_hashlib_by_cpu": round(statistics.median(spent), 3),
        "seconds_for_200_gb": {kind: round(200_000 / rate) for kind, rate in speed.items()},
        "goal": statistics.median(wall) >= 0.9,
    }


def loader(folder: Path, chosen: argparse.Namespace) -> dict:
    from llmkit.data import Loader
    from llmkit.train import named

    consumed = chosen.consumption
    if not consumed:
        sys.path.insert(0, str(Path(__file__).parent))
        from loop import measure

        consumed = max(max(measure(c, 5, 2)["tokens_per_s"].values()) for c in ("laptop", "tiny"))
    cfg = named("laptop")
    batch, context = 8, 256
    loads = Loader(embedded(cfg.model.vocab_size), batch=batch, context=context, seed=0)
    steps, start = 2000, time.perf_counter()
    for step in range(steps):
        loads.batch(step)
    served = steps * batch * context / (time.perf_counter() - start)
    return {
        "loader_tokens_per_s": round(served),
        "training_tokens_per_s": round(consumed),
        "ratio": round(served / consumed, 1),
        "goal": served >= 5 * consumed,
    }


def drift(folder: Path, chosen: argparse.Namespace) -> dict:
    """From the file of the sketch to the verdict; the sketch was made by the build."""
    from llmkit.data.compare import compare
    from llmkit.data.drift import stored_sketch

    shuffled = docstrings()[0]
    random.Random(0).shuffle(shuffled)
    built = build(shuffled, folder / "set", name="drift", sources={}, shard_tokens=MB, vocab_size=4096)
    rows, seconds, cpu = 0, [], []
    for seed in range(chosen.rounds):
        start, used = time.perf_counter(), time.process_time()
        sketch = stored_sketch(built)
        found = compare(sketch, seed=seed)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
        rows = len(sketch.shard)
    shards = len(found.shards)
    return {
        "tokens": {s.name: s.tokens for s in built.manifest.shards},
        "documents": built.manifest.documents,
        "rows_of_the_sketch": rows,
        "verdict": found.verdict,
        "shards": shards,
        "seconds_a_shard": round(statistics.median(seconds) / shards, 2),
        "cpu_s_a_shard": round(statistics.median(cpu) / shards, 2),
        "goal": statistics.median(seconds) / shards <= 2,
    }


PARTS = {"verify": verified, "drift": drift, "loader": loader}


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + " (default: all)")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--consumption", type=float, default=0, help="tokens/s of training")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    for part in chosen.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="llmkit-bench-") as folder:
            found = {"part": part, **PARTS[part](Path(folder), chosen)}
        text = json.dumps(found) if chosen.json else "\n".join(f"{k:22s} {v}" for k, v in found.items())
        print(text, flush=True)


if __name__ == "__main__":
    main()
