"""What grading costs: one exercise with torch, and a class of submissions on all cores.

python benchmarks/grading.py [--learners 30] [--exercise 24_young_daly] [--json]

one      seconds of `llmkit grade` on a solution that needs torch, process start included. Goal: at most 10
class    `--learners` copies of one solution, a worker process for each core: wall time a submission over
         that of the same call with one worker, in one run. Goal: at most 0.6
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmkit.grade.classroom import grade_class

ROOT = Path(__file__).resolve().parent.parent


def one(exercise: str = "01_loss_scaler") -> dict:
    """The command as it is typed."""
    start = time.perf_counter()
    solution = ROOT / "solutions" / f"{exercise}.ipynb"
    subprocess.run([sys.executable, "-m", "llmkit", "grade", str(solution)], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return {"part": "one", "exercise": exercise, "seconds": round(seconds, 1), "goal": seconds <= 10}


def classroom(folder: Path, exercise: str, learners: int) -> dict:
    solution = (ROOT / "solutions" / f"{exercise}.ipynb").read_bytes()
    for number in range(learners):
        place = folder / "submitted" / f"learner{number:03d}" / exercise
        place.mkdir(parents=True)
        (place / f"{exercise}.ipynb").write_bytes(solution)
    seconds = {}
    for jobs in (1, os.cpu_count() or 1):
        out = folder / f"graded-by-{jobs}" / "grades.csv"  # with a journal of its own
        out.parent.mkdir()
        start = time.perf_counter()
        grade_class(folder / "submitted", out, jobs=jobs)
        seconds[jobs] = (time.perf_counter() - start) / learners
    serial, parallel = seconds.values()
    return {
        "part": "class",
        "exercise": exercise,
        "learners": learners,
        "seconds_a_submission": {f"{jobs} workers": round(s, 2) for jobs, s in seconds.items()},
        "ratio": round(parallel / serial, 2),
        "goal": parallel / serial <= 0.6,
    }


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--learners", type=int, default=30)
    parser.add_argument("--exercise", default="24_young_daly", help="what the class handed in")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmkit-bench-") as folder:
        found = [one(), classroom(Path(folder), chosen.exercise, chosen.learners)]
    for part in found:
        print(json.dumps(part) if chosen.json else "\n".join(f"{k:22s} {v}" for k, v in part.items()))


if __name__ == "__main__":
    main()
