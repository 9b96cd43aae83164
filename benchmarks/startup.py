"""How long a person waits for `import llmkit` and `llmkit --help`: limits 0.2 s and 0.5 s.

    python benchmarks/startup.py [--rounds 15]

Interleaved medians in fresh interpreters. The bare interpreter is shown beside them: it is part of both.
"""

from __future__ import annotations

import argparse
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


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first round warms the disk cache
        for name, (arguments, _limit) in COMMANDS.items():
            measured[name].append(seconds(arguments))
    late = 0
    print(f"{'':18}  median s   slowest s   limit s")
    for name, (_, limit) in COMMANDS.items():
        middle, worst = statistics.median(measured[name][1:]), max(measured[name][1:])
        late += limit is not None and middle > limit
        print(f"{name:18}  {middle:8.3f}   {worst:9.3f}   {limit or '-':>7}")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
