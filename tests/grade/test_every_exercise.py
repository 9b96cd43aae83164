"""Protects: the whole road on every exercise, through papermill and the sandbox: right is PASS, wrong is FAIL.

    pytest tests/grade/test_every_exercise.py -k 01_loss

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


@pytest.mark.parametrize("name", catalog())
def test_the_solution_passes_every_task(name, patient):
    report = grading.grade_one(ROOT / "solutions" / f"{name}.ipynb", patient)
    assert [(v.task, v.status) for v in report.verdicts] == [
        (task.name, PASS) for task in load(name).tasks
    ], report
    assert report.notes == ()


@pytest.mark.parametrize("name", catalog())
def test_a_wrong_answer_to_every_task_fails_each_for_its_own_reason(
    name, patient, make_notebook, tmp_path, monkeypatch
):
    exercise, wrong = load(name), source(name, "planted").WRONG
    chosen = {
        task.name: next(title for title, (_, key) in wrong[task.name].items() if key)
        for task in exercise.tasks
    }
    book = make_notebook(*wrong_cells(name, chosen), metadata={"llmkit": {"exercise": name}})
    path = tmp_path / f"{name}.ipynb"
    path.write_text(json.dumps(book))
    # A wrong solution may be the library's own with one thing changed, so here no room is hidden.
    monkeypatch.setattr(grading, "load", lambda name: replace(exercise, hides=()))
    report = grading.grade_one(path, patient)
    reasons = {
        task.name: task.properties[wrong[task.name][chosen[task.name]][1]].says for task in exercise.tasks
    }
    assert {v.task: (v.status, v.failing) for v in report.verdicts} == {
        task: (FAIL, says) for task, says in reasons.items()
    }, report
