"""From a notebook file to a report: run, rerun what one bad cell took down, kill everything, then judge.

The one idea: one task never costs another. A cell that hangs or kills the kernel is left out of the next run;
a task that does so is asked no more. Only when nothing of the learner's is alive does the reference work out
an answer.

    reports = grade(["exercises/01_loss_scaler.ipynb"])
    print_plain(reports); raise SystemExit(exit_code(reports))
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import llmkit.grade.sandbox as sandbox
from llmkit.errors import GradeError
from llmkit.grade.examiner import Examiner, Run
from llmkit.grade.exercise import Case, Exercise, Task, load
from llmkit.grade.protocol import (
    FIRST_COLLECT,
    Submission,
    build,
    definitions,
    names_used,
    read_bundle,
    read_submission,
)
from llmkit.grade.report import print_json, write_junit
from llmkit.grade.verdict import (
    DIED,
    ERROR,
    MALFORMED,
    MEMORY,
    NOT_ATTEMPTED,
    TIMEOUT,
    Report,
    Verdict,
    judge,
)

MAX_RUNS = 4  # of one notebook: the first, and one per cell or task that took a kernel down
ENDINGS = {  # how a run ended -> status, and what happened, said after the name of the cell
    "died": (DIED, "ended the kernel"),
    "hung": (TIMEOUT, "ran past its time limit and could not be interrupted"),
    "wall": (TIMEOUT, "was running when the notebook's time was up"),
    "memory": (MEMORY, "took more memory than the limit"),
    "processes": (ERROR, "started more processes than the limit"),
    "disk": (ERROR, "wrote more to disk than the limit"),
    "flood": (ERROR, "printed more than the limit"),
    "garbled": (MALFORMED, "made the kernel send messages that cannot be read"),
    "start": (DIED, "did not get a kernel"),
    "lost": (DIED, "was running when the worker was lost"),
}


def grade(
    paths: Sequence[os.PathLike | str],
    *,
    json: bool = False,
    junit: os.PathLike | str | None = None,
    timeout: float = 60.0,
    require_sandbox: bool = False,
    limits: sandbox.Limits | None = None,
    seed: bytes | None = None,
    told: Callable[[Report], None] | None = None,
) -> list[Report]:
    """Grade notebooks, each in kernels of its own; verdicts are made outside them.

    Args:
        paths: notebook files, in the order of the reports.
        json: print one JSON object on standard output.
        junit: write a JUnit XML file here.
        timeout: wall-clock seconds per notebook, kernel starts included.
        require_sandbox: refuse to run on resource limits alone.
        limits: other limits than the usual ones; `timeout` is its `wall`.
        seed: makes the hidden inputs repeatable (tests, regrading); otherwise they are new each time.
        told: called with each report as it is ready.

    Raises:
        GradeError: a path that is not there, or no paths at all (exit code 2).
        MissingDependency: no sandbox although one is required (exit code 3).
        StorageError: the JUnit file cannot be written.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise GradeError(
            "no notebook to grade", remedy="name at least one, e.g. `exercises/01_loss_scaler.ipynb`"
        )
    for path in found:
        if not path.is_file():
            raise GradeError(f"no notebook at `{path}`", remedy="name a notebook in `exercises/`")
    isolation = sandbox.choose()
    if require_sandbox:
        sandbox.require(isolation)
    reports = []
    with Examiner(isolation, replace(limits or sandbox.Limits(), wall=timeout)) as examiner:
        for path in found:
            reports.append(grade_one(path, examiner, seed=seed))
            if told:
                told(reports[-1])
    if junit is not None:
        write_junit(reports, Path(junit))
    if json:
        print_json(reports)
    return reports


def exit_code(reports: Sequence[Report]) -> int:
    """0 when every task of every notebook is PASS, else 1."""
    return 0 if reports and all(report.passed for report in reports) else 1


def grade_one(path: Path, examiner: Examiner, *, seed: bytes | None = None, expected: str = "") -> Report:
    """One notebook; a file that cannot be graded is a report too, so that the rest of a class goes on.

    Args:
        expected: the exercise it was handed in for; a notebook of another one is MALFORMED.
    """
    try:
        submission = read_submission(path)
        if expected not in ("", submission.exercise):
            raise GradeError(f"`{path.name}` is exercise `{submission.exercise}`", expected=f"`{expected}`")
    except GradeError as error:
        verdict = Verdict(task="notebook", status=MALFORMED, says=str(error).replace("\n ", ";"))
        isolation = examiner.isolation.name
        return Report(path=str(path), exercise=expected, isolation=isolation, verdicts=(verdict,))
    exercise = load(submission.exercise)
    rng = random.Random(seed or secrets.token_bytes(16))
    cases = {task.name: [*task.public, *task.hidden(rng)] for task in exercise.tasks}
    sitting = Sitting(submission, exercise)
    sitting.hold(examiner, cases)
    # Every process of the learner's is dead. From here on right answers exist.
    verdicts = tuple(sitting.verdict(task, cases[task.name]) for task in exercise.tasks)
    return Report(
        path=str(path),
        exercise=exercise.name,
        isolation=examiner.isolation.name,
        verdicts=verdicts,
        seconds=round(sitting.seconds, 2),
        peak_mib=round(sitting.peak_bytes / 2**20, 1),
        notes=tuple(sitting.notes(examiner)),
    )


@dataclass
class Sitting:
    """One learner, one exercise: the runs it took and what they brought."""

    submission: Submission
    exercise: Exercise
    answers: dict[str, list[dict[str, Any]] | None] = field(default_factory=dict)  # None: no such function
    troubles: dict[str, tuple[str, str]] = field(default_factory=dict)  # task -> status, what happened
    left_out: dict[int, tuple[str, str]] = field(default_factory=dict)  # cell -> status, what happened
    errors: dict[int, str] = field(default_factory=dict)  # learner's cell -> error it raised
    last: tuple[str, str] = TIMEOUT, "was not reached before the time was up"  # of tasks without an answer
    seconds: float = 0.0
    peak_bytes: int = 0

    def hold(self, examiner: Examiner, cases: dict[str, list[Case]]) -> None:
        """Run until every task has answers or a trouble of its own, or the time is up."""
        until = time.monotonic() + examiner.limits.wall
        pending = [task.name for task in self.exercise.tasks]
        apart = {task.name for task in self.exercise.tasks if task.apart}
        for _ in range(MAX_RUNS + bool(apart)):
            cells = {i: cell for i, cell in enumerate(self.submission.cells) if i not in self.left_out}
            asked = [name for name in pending if name not in apart] or pending
            jobs = {name: self.exercise.task(name).job(cases[name]) for name in asked}
            nonce = secrets.token_hex(16)
            notebook, parameters = build(cells, jobs, nonce)
            wall = max(1.0, until - time.monotonic())
            run = examiner.run(notebook, parameters, hides=self.exercise.hides, wall=wall)
            self._take(run, list(cells), asked, nonce)
            pending = [name for name in pending if name not in self.answers and name not in self.troubles]
            if not pending or time.monotonic() >= until:
                break
        for name in pending:
            self.troubles[name] = next(iter(self.left_out.values()), self.last)

    def _take(self, run: Run, cells: list[int], pending: list[str], nonce: str) -> None:
        """Sort what a run brought: answers and troubles by task, errors and killers by cell."""
        self.seconds += run.seconds
        self.peak_bytes = max(self.peak_bytes, run.peak_bytes)
        first = len(cells) + FIRST_COLLECT
        for cell in run.cells:
            position, status = cell["position"], cell["status"]
            if position < len(cells):
                if status != "ok":
                    self.errors[cells[position]] = _said(cell)
            elif 0 <= position - first < len(pending):
                self._collect(pending[position - first], cell, run.bundles.get(str(position), []), nonce)
        if run.ended == "done":
            return
        status, happened = ENDINGS[run.ended]
        if run.position < 0:  # nobody's fault: run again
            self.last = DIED, f"no cell was reached: {run.because or happened}"
        elif run.position < len(cells):
            number = cells[run.position]
            self.left_out[number] = status, f"code cell {number + 1} {happened}"
        elif 0 <= run.position - first < len(pending):
            name = pending[run.position - first]
            if name not in self.answers:
                self.troubles.setdefault(name, (status, f"`{name}` {happened}"))
        else:
            for name in pending:
                self.troubles.setdefault(name, (status, f"code that the notebook hooked in {happened}"))

    def _collect(self, name: str, cell: dict[str, Any], texts: list[Any], nonce: str) -> None:
        """The answers of one task, or why there are none."""
        if cell["status"] == "timeout":
            self.troubles[name] = TIMEOUT, f"`{name}` ran past its time limit"
        elif cell["ename"] == "MemoryError":
            self.troubles[name] = MEMORY, f"`{name}` took more memory than the limit"
        elif len(texts) != 1:
            raised = f"; their cell raised {cell['ename']}: {cell['evalue']}" if cell["ename"] else ""
            came = f"{len(texts) or 'no'} bundles of answers came back, expected one{raised}"
            self.troubles[name] = MALFORMED, came
        else:
            try:
                self.answers[name] = read_bundle(texts[0], nonce, name)
            except (ValueError, RecursionError) as error:
                self.troubles[name] = MALFORMED, str(error)

    # --------------------------------------------------------------------------------------------- judging

    def verdict(self, task: Task, cases: list[Case]) -> Verdict:
        """The verdict on one task. The reference runs here."""
        if task.name in self.troubles:
            status, happened = self.troubles[task.name]
            return Verdict(task=task.name, status=status, says=happened)
        answers = self.answers.get(task.name)
        defined = definitions(self.submission.cells, task.name)
        if answers is None:
            return self._absent(task, defined)
        if defined and defined[-1][1] and all(_says_nothing(answer) for answer in answers):
            size = f"fill in about {task.lines} lines"
            return Verdict(task=task.name, status=NOT_ATTEMPTED, says=size, hint=f"hint({task.name}, 1)")
        return judge(task, cases, answers)

    def _absent(self, task: Task, defined: list[tuple[int, bool]]) -> Verdict:
        """No function of that name was there to ask: what became of the cell that defines it."""
        parsed = [number for number, _ in reversed(defined)]
        unparsed = [number for number, cell in enumerate(self.submission.cells) if f"def {task.name}" in cell]
        for number in [*parsed, *unparsed]:
            if number in self.left_out:
                status, happened = self.left_out[number]
                return Verdict(task=task.name, status=status, says=happened)
            if number in self.errors:
                says = f"code cell {number + 1}, which defines `{task.name}`, {self.errors[number]}"
                status = MEMORY if "MemoryError" in says else TIMEOUT if "time limit" in says else ERROR
                return Verdict(task=task.name, status=status, says=says)
        return Verdict(task=task.name, status=ERROR, says=f"no function `{task.name}` in the notebook")

    def notes(self, examiner: Examiner) -> list[str]:
        """Facts beside the verdicts."""
        notes = [examiner.isolation.note] if examiner.isolation.note else []
        if self.submission.version not in (0, self.exercise.version):
            made, now = self.submission.version, self.exercise.version
            notes.append(f"the notebook was made for version {made} of the exercise; graded by version {now}")
        notes += [happened for _, happened in self.left_out.values()]
        kept = sorted(set(self.errors) - set(self.left_out))
        notes += [f"code cell {number + 1} {self.errors[number]}" for number in kept]
        used = sorted(names_used(self.submission.cells) & set(self.exercise.shortcuts))
        return notes + [f"uses `{name}`, which the exercise asks you to write" for name in used]


def _said(cell: dict[str, Any]) -> str:
    if cell["status"] == "timeout":
        return "ran past its time limit"
    if cell["status"] == "lost":
        return "lost its output"
    return f"raised {cell['ename']}: {cell['evalue']}".rstrip(": ")


def _says_nothing(answer: dict[str, Any]) -> bool:
    """A stub's answer: None, or the NotImplementedError that some write instead of `...`."""
    nothing = "value" in answer and answer["value"] is None
    return nothing or str(answer.get("error", "")).startswith("NotImplementedError")
