"""For the author of an exercise: a folder to start from, and everything that can be wrong with one.

folder = make_exercise("40_my_exercise")      # works as it is: turn it into your own, step by step
check_exercise("40_my_exercise")              # [] or one line per trouble
kill_counts("05_bpe")                         # the table of docs/graders.md

`llmkit exercises new` and `check` call these.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exercises
from llmkit.errors import GradeError, closest
from llmkit.folder import storage, write_whole
from llmkit.grade.exercise import Task, catalog, load, source
from llmkit.grade.verdict import ERROR, FAIL, NOT_ATTEMPTED, PASS, Verdict, judge

ROOT = Path(__file__).resolve().parent.parent
WRONG, RIGHT = 8, 3  # planted solutions that a task has at least


def find(given: str) -> str:
    """The exercise that a number or a name means. Raises GradeError: none."""
    for name in catalog():
        if given in (name, name[:2], f"{name}.ipynb") or given.zfill(2) == name[:2]:
            return name
    raise GradeError(f"unknown exercise `{given}`", remedy=closest(given, catalog()))


def make_exercise(name: str, sources: Path | None = None) -> Path:
    """A new folder in `exercises_src/`: tasks.py, text.py, planted.py, with one small task that works.

    Args:
        sources: another folder to make it in.

    Raises:
        GradeError: not a name of the form NN_name, or a number that is taken.
        StorageError: it cannot be written.
    """
    if not re.fullmatch(r"[0-9]{2}_[a-z][a-z0-9_]*", name):
        raise GradeError(
            f"`{name}` names no exercise", expected="two digits, _, small letters: 40_my_exercise"
        )
    if taken := [known for known in catalog() if known[:2] == name[:2]]:
        raise GradeError(f"number {name[:2]} is taken by `{taken[0]}`", remedy="choose another number")
    sources = sources or ROOT / "exercises_src"
    values = {"NAME": name, "NUMBER": name[:2], "TITLE": name[3:].replace("_", " ").capitalize()}
    with storage(sources / name):
        (sources / name).mkdir()
        for template in sorted((ROOT / "exercises_src" / "template").glob("*.txt")):
            text = re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], template.read_text())
            write_whole(sources / name / template.stem, text)
    catalog.cache_clear()
    return sources / name


# ------------------------------------------------------------------------------------------------- the judges


@dataclass(frozen=True, kw_only=True)
class Kills:
    """One task: planted wrong solutions and how many were refused, right ones and how many were accepted."""

    exercise: str
    task: str
    wrong: int
    refused: int  # those that are no PASS
    named: int  # refused for the very property that was planted
    right: int
    accepted: int


def kill_counts(name: str, seed: int = 0) -> list[Kills]:
    """The judges of an exercise, tried on its planted solutions with public and hidden inputs."""
    planted, found = source(name, "planted"), []
    for task in load(name).tasks:
        wrong = [(tried(task, f, seed), key) for f, key in planted.WRONG.get(task.name, {}).values()]
        right = [tried(task, function, seed) for function in planted.RIGHT.get(task.name, [])]
        found.append(
            Kills(
                exercise=name,
                task=task.name,
                wrong=len(wrong),
                refused=sum(verdict.status != PASS for verdict, _ in wrong),
                named=sum(_as_planted(task, verdict, key) for verdict, key in wrong),
                right=len(right),
                accepted=sum(verdict.status == PASS for verdict in right),
            )
        )
    return found


def tried(task: Task, function: Callable[..., Any], seed: int) -> Verdict:
    """The verdict on one function, in this process."""
    cases = [*task.public, *task.hidden(random.Random(seed))]
    return judge(task, cases, task.call(function, cases))


def _as_planted(task: Task, verdict: Verdict, key: str) -> bool:
    if not key:
        return verdict.status == ERROR
    return verdict.status == FAIL and verdict.failing == task.properties[key].says


# -------------------------------------------------------------------------------------------------- the check


def check_exercise(name: str, *, run: bool = True) -> list[str]:
    """What is wrong with an exercise, a line each.

    Args:
        run: also execute the solution and grade solution and exercise through the real grader (10 to 20 s).
    """
    parts = ("planted.py", "text.py")
    if missing := [f"{part} is missing" for part in parts if not (catalog()[name] / part).is_file()]:
        return missing
    return [*_judges(name), *_notebooks(name, run), *(_through_the_grader(name) if run else [])]


def _judges(name: str) -> list[str]:
    found = []
    for kills in kill_counts(name):
        where, task = f"planted.py, {kills.task}:", load(name).task(kills.task)
        reached = {key for _, key in source(name, "planted").WRONG.get(kills.task, {}).values() if key}
        faults = {
            f"{kills.wrong} wrong solutions, at least {WRONG} are needed": kills.wrong < WRONG,
            f"{kills.right} right solutions, at least {RIGHT} are needed": kills.right < RIGHT,
            f"{kills.wrong - kills.refused} wrong solutions are accepted": kills.refused < kills.wrong,
            f"{kills.refused - kills.named} are refused for another reason": kills.named < kills.refused,
            f"{kills.right - kills.accepted} right solutions are refused": kills.accepted < kills.right,
        }
        found += [f"{where} {says}" for says, holds in faults.items() if holds]
        missed = sorted(set(task.properties) - reached)
        found += [f"{where} no wrong solution fails by `{key}`" for key in missed]
    return found


def _notebooks(name: str, run: bool) -> list[str]:
    """The committed notebooks against the text they are made from."""
    text = (catalog()[name] / "text.py").read_text(encoding="utf-8")
    exercise, solution = exercises.notebooks(text, name, load(name).version)
    made = {"exercises": exercise} | ({"solutions": exercises.execute(solution, ROOT)} if run else {})
    remedy = f"python scripts/exercises.py exercises_src/{name}"
    stale = []
    for folder, notebook in made.items():
        path = ROOT / folder / f"{name}.ipynb"
        if not path.is_file() or path.read_text(encoding="utf-8") != exercises.as_text(notebook):
            stale.append(f"{folder}/{path.name} is not what text.py says: {remedy}")
    return stale


def _through_the_grader(name: str) -> list[str]:
    from llmkit.grade.grading import grade

    paths = {folder: ROOT / folder / f"{name}.ipynb" for folder in ("solutions", "exercises")}
    there = [folder for folder, path in paths.items() if path.is_file()]
    wanted = {"solutions": PASS, "exercises": NOT_ATTEMPTED}
    return [
        f"{folder}/{name}.ipynb, {verdict.task}: {verdict.status} {verdict.says}, not {wanted[folder]}"
        for folder, report in zip(there, grade([paths[f] for f in there]) if there else [], strict=True)
        for verdict in report.verdicts
        if verdict.status != wanted[folder]
    ]
