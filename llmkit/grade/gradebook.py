"""A class's grades as others read them: nbgrader's CSV, a page per learner, a page for the class.

The one idea: everything here is made again from the grades each time, so a grader that was killed leaves no
half table.

    write(done, Path("grades.csv"))     # also grades/index.html and grades/<learner>.html
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from llmkit.folder import storage, write_whole
from llmkit.grade.classroom import ClassGrades
from llmkit.grade.exercise import load
from llmkit.grade.journal import Grade
from llmkit.grade.verdict import FAIL, NOT_ATTEMPTED, Verdict

# The columns of `nbgrader export`: nbgrader/plugins/export.py, version 0.9.
COLUMNS = ("assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
           "raw_score", "late_submission_penalty", "score", "max_score")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TaskStatistics:
    """One task, over the class."""

    exercise: str
    task: str
    papers: int
    passed: int
    attempted: int
    often: str = ""  # the property, or the kind of trouble, that most of the others met
    times: int = 0


def write(done: ClassGrades, out: Path) -> Path:
    """Write the CSV and the pages; returns the class's page.

    Raises:
        StorageError: a file cannot be written.
    """
    write_whole(out, as_csv(done))
    pages = out.with_suffix("")
    with storage(pages):
        pages.mkdir(exist_ok=True)
    template, statistics = _template(), statistics_of(done.grades)
    links = {learner: file_name(learner) for learner in sorted(done.roll.learners)}
    for learner, name in links.items():
        own = [grade for grade in done.grades if grade.learner == learner]
        junk = [item for item in done.roll.junk if item.path.startswith((f"{learner}/", f"{learner}.ipynb"))]
        write_whole(pages / name, template.render(learner=learner, grades=own, junk=junk))
    grid = {(grade.learner, grade.exercise): score(grade) for grade in done.grades}
    exercises = sorted({grade.exercise for grade in done.grades})
    index = template.render(
        learner="", done=done, statistics=statistics, links=links, grid=grid, exercises=exercises
    )
    write_whole(pages / "index.html", index)
    return pages / "index.html"


def score(grade: Grade) -> tuple[int, int]:
    """(tasks passed, tasks of the exercise); nothing passed where the notebook could not be run."""
    return sum(v.passed for v in grade.report.verdicts), len(load(grade.exercise).tasks)


def as_csv(done: ClassGrades) -> str:
    """A row per learner and exercise; one that is missing has no timestamp and no points, as in nbgrader."""
    made = io.StringIO()
    rows = csv.DictWriter(made, COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    grades = {grade.key: grade for grade in done.grades}
    for exercise in sorted({grade.exercise for grade in done.grades}):
        for learner in sorted(done.roll.learners):
            grade = grades.get((learner, exercise))
            points, most = score(grade) if grade else (0, len(load(exercise).tasks))
            numbers = {"raw_score": float(points), "score": float(points), "max_score": float(most)}
            stamp = grade.timestamp if grade else ""
            name = {"assignment": exercise, "student_id": learner, "timestamp": stamp}
            rows.writerow(name | numbers | {"late_submission_penalty": 0.0})
    return made.getvalue()


def statistics_of(grades: list[Grade]) -> list[TaskStatistics]:
    """Per exercise and task: how many passed, and what stopped most of the others.

    A notebook that could not be graded at all counts as a paper that attempted no task.
    """
    found = []
    for exercise in sorted({grade.exercise for grade in grades}):
        papers = [grade.report for grade in grades if grade.exercise == exercise]
        for task in load(exercise).tasks:
            verdicts = [v for report in papers for v in report.verdicts if v.task == task.name]
            stopped = Counter(_stopped_by(v) for v in verdicts if v.status != NOT_ATTEMPTED and not v.passed)
            often, times = min(stopped.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
            found.append(
                TaskStatistics(
                    exercise=exercise,
                    task=task.name,
                    papers=len(papers),
                    passed=sum(v.passed for v in verdicts),
                    attempted=sum(v.status != NOT_ATTEMPTED for v in verdicts),
                    often=often,
                    times=times,
                )
            )
    return found


def _stopped_by(verdict: Verdict) -> str:
    return verdict.failing if verdict.status == FAIL else verdict.status


def file_name(learner: str) -> str:
    """A page's name: the learner's, with a mark where it had to be changed; never one outside the folder."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", learner)[:60]
    kept = plain == learner and learner not in ("", "index")
    mark = "" if kept else "-" + hashlib.sha256(learner.encode()).hexdigest()[:8]
    return f"{plain}{mark}.html"


def _template():
    import jinja2

    loader = jinja2.PackageLoader("llmkit.grade", ".")
    page = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return page.get_template("gradebook.html.j2")
