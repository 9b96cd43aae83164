"""Protects: the whole road on every exercise, through papermill and the sandbox: right is PASS, wrong is FAIL.

    pytest tests/grade/test_every_exercise.py -k 01_loss       # `-m "slow or not slow"`: every task wrong too

test_judges.py tries every planted solution on the judges in one process; here one per task takes the learner's
road, where answers travel as JSON and rooms of llmkit are missing.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

import llmkit.grade.grading as grading
from llmkit.grade.exercise import catalog, load, source
from llmkit.grade.verdict import FAIL, PASS

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    "compare",
    "exercise",
    "verdict",
)  # of llmkit/grade in the sandbox: the planted solutions import them

UNPACK = """
import base64, json, pathlib, tempfile, zlib
import llmkit.grade
root = pathlib.Path(tempfile.mkdtemp())
for name, text in json.loads(zlib.decompress(base64.b64decode({packed!r}))).items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
llmkit.grade.__path__.append(str(root / "grade"))  # its catalog() finds root / "exercises_src"
from llmkit.grade.exercise import source
planted = source({name!r}, "planted")
"""


def wrong_cells(name: str, chosen: dict[str, str]) -> list[str]:
    """Cells that define, for each task, the planted wrong solution of that name."""
    sources = {path: path.read_text() for path in catalog()[name].glob("*.py")}
    used = [other for other in catalog() if any(f'"{other}"' in text for text in sources.values())]
    sources |= {path: path.read_text() for other in used for path in catalog()[other].glob("*.py")}
    files = {f"exercises_src/{path.parent.name}/{path.name}": text for path, text in sources.items()}
    files |= {f"grade/{part}.py": (ROOT / "llmkit/grade" / f"{part}.py").read_text() for part in ABSENT}
    packed = base64.b64encode(zlib.compress(json.dumps(files).encode())).decode()
    given = [f"{task} = planted.WRONG[{task!r}][{wrong!r}][0]" for task, wrong in chosen.items()]
    return [UNPACK.format(packed=packed, name=name), "\n".join(given)]


def solution(name: str) -> list[str]:
    book = json.loads((ROOT / "solutions" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def graded(patient, make_notebook, tmp_path, monkeypatch):
    """graded(name, cells) -> the report. No room is hidden: a planted solution may be the library's, changed."""

    def grade(name: str, cells: list[str]):
        path = tmp_path / f"{name}.ipynb"
        path.write_text(json.dumps(make_notebook(*cells, metadata={"llmkit": {"exercise": name}})))
        exercise = load(name)
        monkeypatch.setattr(grading, "load", lambda name: replace(exercise, hides=()))
        return grading.grade_one(path, patient)

    return grade


def planted(name: str, task) -> tuple[str, str]:
    """The first planted wrong solution of a task that is refused by a property, and what that says."""
    wrong = source(name, "planted").WRONG[task.name]
    title, key = next((title, key) for title, (_, key) in wrong.items() if key)
    return title, task.properties[key].says


@pytest.mark.parametrize("name", catalog())
def test_right_answers_pass_and_a_wrong_one_to_the_last_task_fails_for_its_own_reason(name, graded):
    *others, last = load(name).tasks
    title, says = planted(name, last)
    report = graded(name, [*solution(name), *wrong_cells(name, {last.name: title})])
    assert {v.task: (v.status, v.failing) for v in report.verdicts} == {
        **{task.name: (PASS, "") for task in others},
        last.name: (FAIL, says),
    }, report


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog())
def test_the_solution_passes_every_task_and_nothing_is_noted(name, patient):
    report = grading.grade_one(ROOT / "solutions" / f"{name}.ipynb", patient)
    assert [v.status for v in report.verdicts] == [PASS] * len(load(name).tasks), report
    assert report.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog())
def test_a_wrong_answer_to_every_task_fails_each_for_its_own_reason(name, graded):
    chosen = {task.name: planted(name, task) for task in load(name).tasks}
    report = graded(name, wrong_cells(name, {task: title for task, (title, _) in chosen.items()}))
    assert {v.task: (v.status, v.failing) for v in report.verdicts} == {
        task: (FAIL, says) for task, (_, says) in chosen.items()
    }, report
