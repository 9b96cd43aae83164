"""Which exercises are passed: one readable file, in LLMKIT_HOME or the user's data folder.

The one idea: passed once is passed, for the version of the exercise that was passed; a later attempt changes
the tasks that are shown, not that.

    record(reports)                      # after `grade_me()` and `llmkit grade`
    passed_exercises()                   # ["05_bpe"]
    standing()[0].word                   # "", "yes", "yes, another version"
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.errors import GradeError
from llmkit.folder import storage, write_whole
from llmkit.grade.exercise import catalog, load
from llmkit.grade.journal import now
from llmkit.grade.predict import predictions_file
from llmkit.grade.verdict import Report

SCHEMA = 1


def progress_file() -> Path:
    """`progress.json`, beside the predictions."""
    return predictions_file().with_name("progress.json")


def record(reports: Sequence[Report]) -> None:
    """Keep what these reports say, except of the kit's own solutions. Atomic; two kernels do not mix.

    Raises:
        GradeError: the file there is not a progress file.
        StorageError: it cannot be written.
    """
    told = [r for r in reports if r.exercise and Path(r.path).resolve().parent.name != "solutions"]
    if not told:
        return
    path = progress_file()
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = read()
        for report in told:
            old = kept.get(report.exercise, {})
            made = {
                "tasks": {verdict.task: verdict.status for verdict in report.verdicts},
                "graded": now(),
                "passed_version": old.get("passed_version", 0),
            }
            if report.passed:
                made["passed_version"] = load(report.exercise).version
            kept[report.exercise] = made
        content = {"schema": SCHEMA, "exercises": dict(sorted(kept.items()))}
        write_whole(path, json.dumps(content, indent=1) + "\n")


def read() -> dict[str, dict[str, Any]]:
    """Exercise -> {"tasks": {name: status}, "graded": UTC, "passed_version": 0 when it was never passed}.

    Raises:
        GradeError: the file is not a progress file.
    """
    path = progress_file()
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        if not all({"tasks", "graded", "passed_version"} <= set(entry) for entry in kept.values()):
            raise KeyError("tasks, graded, passed_version")
        return kept
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise GradeError(f"`{path}` is not a progress file: {error}", remedy="move it away") from error


def passed_exercises() -> list[str]:
    """Names of the exercises that were passed. Raises GradeError: a progress file that cannot be read."""
    return [name for name, entry in read().items() if entry["passed_version"]]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One exercise of the catalog, and how you stand with it."""

    number: str
    name: str
    title: str
    round: str
    difficulty: int
    minutes: int
    rows: tuple[str, ...]
    tasks: int
    tasks_passed: int
    passed: bool
    word: str  # "" for not yet, "yes", "yes, another version"
    graded: str  # UTC of the last attempt; "" for none


def standing() -> list[Standing]:
    """Every exercise of the catalog, in order. Raises GradeError: a progress file that cannot be read."""
    kept = read()
    found = []
    for name in catalog():
        exercise, entry = load(name), kept.get(name, {})
        passed = entry.get("passed_version", 0)
        facts = {key: getattr(exercise, key) for key in ("title", "round", "difficulty", "minutes", "rows")}
        found.append(
            Standing(
                **facts,
                number=name[:2],
                name=name,
                tasks=len(exercise.tasks),
                tasks_passed=list(entry.get("tasks", {}).values()).count("PASS"),
                passed=bool(passed),
                word="" if not passed else "yes" if passed == exercise.version else "yes, another version",
                graded=entry.get("graded", ""),
            )
        )
    return found
