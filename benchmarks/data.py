"""What it costs to make shards: checking and building in bounded memory, encoding, deduplication.

    python benchmarks/data.py [check build ratio near] [--megabytes 1000] [--rounds 5] [--json]

    check    `llmkit data check` of a .jsonl of --megabytes, its peak memory against the bound
    build    a build of --megabytes of text that comes from an iterator, its peak memory against the bound
    ratio    a build with exact deduplication over `encode_batch` of the `tokenizers` library on the same text
             and cores, taking turns; --sample megabytes. Goal: at most 1.3, the tokenizer being given as
             it is to `encode_batch`; with the training of one beside it
    near     megabytes a second of exact and of near deduplication alone, on the sample

The text is that of the embedded data set, its lines dealt anew, so that no two documents are equal.
Peak memory is the largest resident set (VmHWM) of a process of its own: Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmkit.data import Document, build, embedded
from llmkit.data.docstrings import docstrings
from llmkit.data.preprocess import DropDuplicates, DropNearDuplicates
from llmkit.data.tokenizer import load_tokenizer

CHECK_BOUND, BUILD_BOUND = 256, 640  # MiB of resident memory, whatever the size of the text
MB = 10**6


def texts(size: int, seed: int = 0) -> Iterator[str]:
    """Documents of about 2 KB, `size` bytes in all: runs of lines of real documents, in random order."""
    lines = [line for document in docstrings()[0] for line in document.text.split("\n") if line.strip()]
    draw, made = random.Random(seed), 0
    while made < size:
        parts = [f"document {seed}-{made}"]
        for _ in range(draw.randint(1, 10)):
            start = draw.randrange(len(lines) - 10)
            parts += lines[start : start + draw.randint(1, 10)]
        text = "\n".join(parts)
        made += len(text.encode())
        yield text


def documents(size: int, seed: int = 0) -> Iterator[Document]:
    return (Document(i, f"made:{i}", text) for i, text in enumerate(texts(size, seed)))


def peak_of(*words: str) -> dict:
    """Run this file as a process of its own; what it prints, with its peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(task: str, path: str, size: int) -> dict:
    """What the process of its own does."""
    start, cpu = time.perf_counter(), time.process_time()
    if task == "check":
        from llmkit.data.schema import Check

        found = sum(1 for _ in Check([path]))
    else:
        found = build(
            documents(size),
            path,
            name="bench",
            sources={},
            steps=[DropDuplicates()],
            tokenizer=None if task == "build" else load_tokenizer(embedded().path / "tokenizer.json"),
        ).n_tokens("train")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text().split("\n")
    (peak,) = [int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")]
    return {"found": found, "seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "peak_mib": peak}


def check(folder: Path, chosen: argparse.Namespace) -> dict:
    path = folder / "text.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i, text in enumerate(texts(chosen.megabytes * MB)):
            row = {
                "id": i,
                "text": text,
                "source": f"made:{i}",
                "licence": "BSD-3-Clause",
                "length": len(text),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    megabytes = path.stat().st_size / MB
    found = peak_of("check", str(path), "0")
    path.unlink()
    speed = {"megabytes": round(megabytes), "mb_per_cpu_s": round(megabytes / found["cpu_s"], 1)}
    return {**found, **speed, "bound_mib": CHECK_BOUND, "goal": found["peak_mib"] <= CHECK_BOUND}


def bounded_build(folder: Path, chosen: argparse.Namespace) -> dict:
    found = peak_of("build", str(folder / "built"), str(chosen.megabytes * MB))
    held = shutil.rmtree(folder / "built")
    del held
    larger = chosen.megabytes * MB / 2**20 > BUILD_BOUND
    goal = found["peak_mib"] <= BUILD_BOUND
    return {
        **found,
        "megabytes": chosen.megabytes,
        "bound_mib": BUILD_BOUND,
        "larger_than_bound": larger,
        "goal": goal,
    }


def ratio(folder: Path, chosen: argparse.Namespace) -> dict:
    """Wall time on the same cores: the library's threads are part of what it offers."""
    sample = list(texts(chosen.sample * MB))
    whole = [Document(i, f"made:{i}", text) for i, text in enumerate(sample)]
    tokenizer = embedded().tokenizer
    library = tokenizer._library

    def encode():
        for start in range(0, len(sample), 1000):
            library.encode_batch(sample[start : start + 1000], add_special_tokens=False)

    def built(**options):
        built = build(whole, folder / "a", name="a", sources={}, steps=[DropDuplicates()], **options)
        shutil.rmtree(built.path)

    kinds = {
        "encode_batch": encode,
        "build": lambda: built(tokenizer=tokenizer),
        "build with training": lambda: built(vocab_size=4096),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for _ in range(chosen.rounds):
        for kind in order:
            start = time.perf_counter()
            kinds[kind]()
            seconds[kind].append(time.perf_counter() - start)
        order = order[1:] + order[:1]
    ratios = {
        kind: [b / a for a, b in zip(seconds["encode_batch"], seconds[kind], strict=True)] for kind in kinds
    }
    median = {kind: round(statistics.median(r), 3) for kind, r in ratios.items()}
    speed = {kind: round(chosen.sample / statistics.median(s), 2) for kind, s in seconds.items()}
    spread = {kind: [round(min(r), 3), round(max(r), 3)] for kind, r in ratios.items()}
    threads = os.environ.get("RAYON_NUM_THREADS", os.cpu_count())
    return {
        "megabytes": chosen.sample,
        "threads": threads,
        "mb_per_s": speed,
        "ratio": median,
        "range": spread,
        "goal": median["build"] <= 1.3,
    }


def near(folder: Path, chosen: argparse.Namespace) -> dict:
    sample = list(documents(chosen.sample * MB))
    found = {}
    for name, step in (("exact", DropDuplicates()), ("near", DropNearDuplicates())):
        start = time.process_time()
        left = sum(1 for _ in step.run(iter(sample)))
        seconds = time.process_time() - start
        found[name] = {
            "documents": len(sample),
            "left": left,
            "mb_per_cpu_s": round(chosen.sample / seconds, 1),
            "ms_per_document": round(1000 * seconds / len(sample), 3),
        }
    return found


PARTS = {
    "check": check,
    "build": bounded_build,
    "ratio": ratio,
    "near": near,
}


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + " (default: all)")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        task, path, size = chosen.child
        print(json.dumps(child(task, path, int(size))))
        return
    for part in chosen.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="llmkit-bench-") as folder:
            found = {"part": part, **PARTS[part](Path(folder), chosen)}
        print(
            json.dumps(found) if chosen.json else "\n".join(f"{k:22s} {v}" for k, v in found.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
