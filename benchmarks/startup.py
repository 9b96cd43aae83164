"""How long a person waits for `import llmkit` and `llmkit --help`: limits 0.2 s and 0.5 s.

    python benchmarks/startup.py [--rounds 15]

Interleaved medians in fresh interpreters. The bare interpreter is shown beside them: it is part of both. On a
busy machine the limits are missed for want of a core; the CPU seconds say what the code itself asks for.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "bare interpreter": (["-c", "pass"], None),
    "import llmkit": (["-c", "import llmkit"], 0.2),
    "llmkit --help": (
        ["-c", "import sys; sys.argv = ['llmkit', '--help']; from llmkit.cli import main; main()"],
        0.5,
    ),
}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one fresh interpreter."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first round warms the disk cache
        for name, (arguments, _limit) in COMMANDS.items():
            measured[name].append(seconds(arguments))
    late = 0
    print(f"{'':18}  median s   slowest s   CPU s   limit s")
    for name, (_, limit) in COMMANDS.items():
        walls, cpus = zip(*measured[name][1:], strict=True)
        middle = statistics.median(walls)
        late += limit is not None and middle > limit
        cpu = statistics.median(cpus)
        print(f"{name:18}  {middle:8.3f}   {max(walls):9.3f}   {cpu:5.3f}   {limit or '-':>7}")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
