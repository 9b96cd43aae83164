"""Protects `grade_me()`: it grades what is saved, says so, and refuses when something else ran; progress stays.

pytest tests/grade/test_grade_me.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from llmkit.errors import GradeError
from llmkit.grade import passed_exercises, standing
from llmkit.grade.card import Card
from llmkit.grade.desk import find_notebook, graded, ran_since, refuse_unsaved
from llmkit.grade.exercise import catalog, load
from llmkit.grade.progress import progress_file, read, record
from llmkit.grade.verdict import FAIL, NOT_ATTEMPTED, PASS, Example, Report, Verdict

ROOT = Path(__file__).resolve().parents[2]
LIGHT = "24_young_daly"  # an exercise without torch


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def a_report(*statuses: str, exercise: str = LIGHT, path: str = "x.ipynb") -> Report:
    tasks = [task.name for task in load(exercise).tasks]
    example = Example(input="x=<b>", yours="returns 1", expected="returns 2")
    verdicts = [
        Verdict(task=task, status=status, says=f"says {status}", example=example if status == FAIL else None)
        for task, status in zip(tasks, statuses, strict=True)
    ]
    return Report(path=path, exercise=exercise, isolation="bubblewrap", verdicts=tuple(verdicts))


# ------------------------------------------------------------------------------------------ saved, then ran?

NOW = "grade_me()"


@pytest.mark.parametrize(
    ("history", "saved", "late"),
    [
        (["", "a", "b", NOW], [(1, "a"), (2, "b"), (None, NOW)], []),
        (["", "a", "b", NOW], [(1, "a"), (None, "b")], []),  # b ran after the save, as it was saved
        (["", "a", "b2", NOW], [(1, "a"), (None, "b")], [2]),  # b was edited and run, not saved
        (["", "a", "b1", "b2", NOW], [(1, "a"), (3, "b2")], []),  # b was edited before the save
        (["", "a", "b2", "c", NOW], [(1, "a"), (None, "b"), (None, "c")], [2]),
        (["", "a", "x", NOW], [(7, "a"), (9, "b")], [2]),  # counts of a kernel that is no more
        (["", "a", "x", "c", NOW], [(1, "a"), (3, "c")], []),  # x was deleted before the save
        (["", "a", "x", NOW, NOW], [(1, "a"), (3, NOW)], []),  # saved after the first refusal
        (["", "a\n", "  ", NOW], [(None, "a")], []),
        (["", "b", NOW], [], [1]),
        (["", "b", "b2", NOW], [(True, "b"), ("2", "b2")], []),
        (["", "a", NOW, NOW], [(1, "a")], []),  # asked twice in a cell that was never saved
        (["", "def f(): 1\n" + NOW, NOW], [], [1]),
        (["", NOW], [], []),
    ],
)
def test_what_ran_after_the_save_is_known_from_counts_and_texts(history, saved, late):
    assert ran_since(history, saved) == late


def test_a_refusal_names_the_cell_and_the_time(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["a"], "execution_count": 1}]}))
    refuse_unsaved(path, ["", "a", NOW])
    with pytest.raises(GradeError) as caught:
        refuse_unsaved(path, ["", "a", "def goodput():\n    return 1", "y", NOW])
    assert caught.value.found.startswith("2 cells ran after `x.ipynb` was saved at ")
    assert caught.value.found.endswith(": [2] `def goodput():`")
    assert caught.value.remedy == "save the notebook (Ctrl-S), then run this cell again"


def test_the_notebook_is_found_where_vs_code_or_jupyter_says_or_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("code.ipynb", "lab.ipynb", f"{LIGHT}.ipynb"):
        Path(name).write_text("{}")
    said = {"JPY_SESSION_NAME": str(tmp_path / "lab.ipynb")}
    assert find_notebook({"__vsc_ipynb_file__": "code.ipynb"}, said, LIGHT) == Path("code.ipynb")
    assert find_notebook({}, said, LIGHT) == tmp_path / "lab.ipynb"
    assert find_notebook({}, {"JPY_SESSION_NAME": "gone.ipynb"}, LIGHT) == Path(f"{LIGHT}.ipynb")
    assert find_notebook({}, {"JPY_SESSION_NAME": "a-uuid"}, LIGHT) == Path(f"{LIGHT}.ipynb")
    with pytest.raises(GradeError) as caught:
        find_notebook({}, {}, "05_bpe")
    assert caught.value.remedy == 'name the file: grade_me("01_loss_scaler.ipynb")'


def test_a_grader_that_says_no_is_an_error_in_its_own_words(tmp_path):
    with pytest.raises(GradeError, match=r"the grader gave no verdict: no notebook at `.*gone.ipynb`"):
        graded(tmp_path / "gone.ipynb")


# ----------------------------------------------------------------------------------------------------- the card


def test_the_card_and_its_plain_twin_say_the_same_and_hints_come_one_by_one():
    card = Card(a_report(PASS, FAIL, NOT_ATTEMPTED), "x.ipynb, saved at 14:03:22")
    shown = "".join(child.value for child in card.children if hasattr(child, "value"))
    for words in (
        "says PASS",
        "says FAIL",
        "says NOT ATTEMPTED",
        "x.ipynb, saved at 14:03:22",
        "1 of 3 tasks",
    ):
        assert words in shown and words in str(card)
    assert "<b>" not in shown.replace("<b>1 of 3", "").replace("<b style", "") and "x=&lt;b&gt;" in shown
    buttons = [child.children for child in card.children if hasattr(child, "children")]
    assert len(buttons) == 2  # none at the task that is passed
    task = load(LIGHT).tasks[1]
    for strength in (1, 2, 3, 3):
        buttons[0][0].click()
        said = f"{task.name}, hint {strength} of 3: {task.hints[strength - 1]}"
        assert said in str(card)
    assert task.hints[0] not in str(card)


def test_a_card_of_a_file_that_is_no_exercise_has_no_hints():
    broken = Verdict(task="notebook", status="MALFORMED", says="x")
    card = Card(Report(path="p", exercise="", isolation="rlimits", verdicts=(broken,), notes=("n",)), "s")
    assert [hasattr(child, "children") for child in card.children] == [False] * 3


# ----------------------------------------------------------------------------------------------------- progress


def test_passed_once_is_passed_and_the_last_attempt_is_shown(home):
    assert [line.word for line in standing()] == [""] * len(catalog())
    assert passed_exercises() == [] and not home.exists()
    record([a_report(PASS, PASS, PASS)])
    record([a_report(PASS, FAIL, PASS)])
    assert passed_exercises() == [LIGHT]
    (line,) = [line for line in standing() if line.graded]
    assert (line.name, line.word, line.tasks_passed, line.tasks) == (LIGHT, "yes", 2, 3)
    kept = json.loads(progress_file().read_text())
    kept["exercises"][LIGHT]["passed_version"] = load(LIGHT).version + 1
    progress_file().write_text(json.dumps(kept))
    assert [line.word for line in standing() if line.passed] == ["yes, another version"]


def test_solutions_and_files_of_no_exercise_leave_no_trace(home):
    record([a_report(PASS, PASS, PASS, path="solutions/24_young_daly.ipynb")])
    record([Report(path="x", exercise="", isolation="rlimits", verdicts=())])
    assert read() == {} and not home.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"exercises": {"05_bpe": {}}}', '{"exercises": []}', "\xff"]
)
def test_another_file_in_its_place_is_refused_and_left_as_it_is(home, content):
    home.mkdir()
    progress_file().write_text(content, encoding="latin-1")
    with pytest.raises(GradeError, match="is not a progress file"):
        record([a_report(PASS, PASS, PASS)])
    assert progress_file().read_text(encoding="latin-1") == content


# ------------------------------------------------------------------------------------------- in a real kernel


def execute(folder: Path, saved: dict, cells: list[str]) -> list[str]:
    """Run `cells` in a kernel in `folder`, where `saved` lies; what each of them printed or raised."""
    (folder / f"{LIGHT}.ipynb").write_text(json.dumps(saved))
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    client = NotebookClient(
        node, km=kernel, timeout=120, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(cleanup_kc=True)
    told = [[o.get("text") or o.get("evalue") or "" for o in cell.outputs] for cell in node.cells]
    return ["".join(texts) for texts in told]


@pytest.mark.sandbox
def test_in_a_kernel_the_saved_notebook_is_graded_and_an_unsaved_change_refused(
    sandboxed, tmp_path, home, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the kernel's sockets lie in the folder that both stand in
    saved = json.loads((ROOT / "solutions" / f"{LIGHT}.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in saved["cells"] if cell["cell_type"] == "code"]
    for cell in saved["cells"]:
        cell.pop("outputs", None)
    ask = "from llmkit.grade import grade_me\nprint(grade_me())"
    told = execute(tmp_path, saved, [*cells, ask, "def goodput():\n    return 1", ask])
    assert "3 of 3 tasks passed in 1 notebook" in told[-3]
    assert f"{LIGHT}.ipynb, saved at " in told[-3]
    assert told[-1].startswith(f"1 cell ran after `{LIGHT}.ipynb` was saved at ")
    assert [line.name for line in standing() if line.passed] == [LIGHT]


def test_in_the_examiners_kernel_it_rests():
    code = "import sys\nfrom llmkit.grade import grade_me\nprint(grade_me(), 'ipywidgets' in sys.modules)"
    environment = {"LLMKIT_GRADING": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "None False\n", done.stderr
