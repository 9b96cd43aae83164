"""Protects `llmkit exercises`: the list is the catalog, a new exercise is sound from the start, a sick one is
complained about; and docs/graders.md is what the judges do.

pytest tests/cli/test_exercises.py
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.errors import GradeError
from llmkit.grade import exercise as house
from llmkit.grade.exercise import catalog, load, source

ROOT = Path(__file__).resolve().parents[2]
LIGHT = "24_young_daly"  # an exercise without torch


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def scripts(monkeypatch):
    """The modules `author` and `graders` of scripts/."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("author"), importlib.import_module("graders")


@pytest.fixture
def workshop(monkeypatch, tmp_path):
    """A catalog of its own: empty, to make exercises in."""
    sources = tmp_path / "exercises_src"
    sources.mkdir()
    real, known = house.catalog, {}

    def catalog_there():
        known.update({path.parent.name: path.parent for path in sorted(sources.glob("*/tasks.py"))})
        return known

    catalog_there.cache_clear = known.clear
    for module in [
        m for name, m in sys.modules.items() if name == "author" or name.startswith("llmkit.grade")
    ]:
        if getattr(module, "catalog", None) is real:
            monkeypatch.setattr(module, "catalog", catalog_there)
    yield sources
    for name in [name for name in sys.modules if name.startswith("llmkit_exercise_40")]:
        del sys.modules[name]


def call(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["exercises", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


# -------------------------------------------------------------------------------------------- list and status


def test_the_list_is_the_catalog_with_its_tags():
    plain = json.loads(call("list", "--json").stdout)["exercises"]
    assert [line["name"] for line in plain] == list(catalog())
    for line in plain:
        made = load(line["name"])
        facts = ("title", "round", "difficulty", "minutes")
        assert [line[key] for key in facts] == [getattr(made, key) for key in facts]
        assert (line["rows"], line["passed"], line["graded"]) == (list(made.rows), False, "")
    said = call("list")
    assert all(name in said.stdout for name in catalog())
    assert f"next: llmkit lab exercises/{next(iter(catalog()))}.ipynb" in said.stderr


def test_the_status_is_the_progress_file(home):
    assert call("status").stdout == f"0 of {len(catalog())} exercises passed\n"
    entry = {"tasks": {"a": "PASS", "b": "FAIL"}, "graded": "2026-11-28T09:00:00+00:00", "passed_version": 0}
    done = entry | {"passed_version": load(LIGHT).version}
    home.mkdir()
    (home / "progress.json").write_text(json.dumps({"exercises": {LIGHT: done, "05_bpe": entry}}))
    said = call("status").stdout
    assert said.splitlines()[1].split() == ["05_bpe", "1", "of", "3", "2026-11-28T09:00:00+00:00"]
    assert said.endswith(f"1 of {len(catalog())} exercises passed\n")
    plain = json.loads(call("status", "--json").stdout)
    assert (plain["passed"], plain["file"]) == (1, str(home / "progress.json"))
    assert "yes" in next(line for line in call("list").stdout.splitlines() if LIGHT in line)


# ----------------------------------------------------------------------------------------------- new and check


def test_a_new_exercise_is_sound_from_the_start_and_says_which_notebooks_it_lacks(scripts, workshop):
    author, _ = scripts
    folder = author.make_exercise("40_my_own", workshop)
    assert sorted(path.name for path in folder.iterdir()) == ["planted.py", "tasks.py", "text.py"]
    assert "@" not in (folder / "text.py").read_text() + (folder / "tasks.py").read_text()
    assert load("40_my_own").title == "My own"
    (kills,) = author.kill_counts("40_my_own")
    assert (kills.wrong, kills.refused, kills.named, kills.right, kills.accepted) == (10, 10, 10, 3, 3)
    remedy = "python scripts/exercises.py exercises_src/40_my_own"
    assert author.check_exercise("40_my_own", run=False) == [
        f"exercises/40_my_own.ipynb is not what text.py says: {remedy}"
    ]
    with pytest.raises(GradeError, match="number 40 is taken by `40_my_own`"):
        author.make_exercise("40_other", workshop)


def test_its_text_makes_a_notebook_that_the_solution_passes(scripts, workshop):
    author, _ = scripts
    folder = author.make_exercise("40_my_own", workshop)
    exercise, solution = author.exercises.notebooks((folder / "text.py").read_text(), "40_my_own", 1)
    cells = ["".join(cell["source"]) for cell in solution["cells"] if cell["cell_type"] == "code"]
    stub = ["".join(cell["source"]) for cell in exercise["cells"] if cell["cell_type"] == "code"]
    names: dict = {"check": lambda function: None}
    exec(cells[-1], names)
    task = load("40_my_own").tasks[0]
    assert author.tried(task, names["clamp"], seed=1).passed
    assert f"...  # about {task.lines} lines" in stub[-1] and "min(" not in stub[-1]


@pytest.mark.parametrize("name", ["x", "4_x", "40_", "40_Big", "40_a/../b", "40-a", "../40_a"])
def test_other_names_are_refused(scripts, workshop, name):
    with pytest.raises(GradeError, match="names no exercise"):
        scripts[0].make_exercise(name, workshop)
    assert list(workshop.iterdir()) == []


def test_a_sick_exercise_is_complained_about_line_by_line(scripts, workshop, monkeypatch):
    author, _ = scripts
    author.make_exercise("40_my_own", workshop)
    planted = source("40_my_own", "planted")
    right, wrong = planted.RIGHT["clamp"][0], planted.WRONG["clamp"]
    monkeypatch.setitem(planted.RIGHT, "clamp", [right, wrong["low only"][0]])
    few = {name: wrong[name] for name in ("high only", "leaves all alone", "ends exchanged", "returns text")}
    few |= {"is right": (right, "low"), "another reason": (wrong["low only"][0], "low")}
    monkeypatch.setitem(planted.WRONG, "clamp", few)
    assert author.check_exercise("40_my_own", run=False)[:-1] == [
        "planted.py, clamp: 6 wrong solutions, at least 8 are needed",
        "planted.py, clamp: 2 right solutions, at least 3 are needed",
        "planted.py, clamp: 1 wrong solutions are accepted",
        "planted.py, clamp: 1 are refused for another reason",
        "planted.py, clamp: 1 right solutions are refused",
        "planted.py, clamp: no wrong solution fails by `high`",
    ]


def test_an_exercise_that_is_not_finished_says_what_is_missing(scripts, workshop):
    author, _ = scripts
    folder = author.make_exercise("40_my_own", workshop)
    for name in ("text.py", "planted.py"):
        (folder / name).unlink()
    assert author.check_exercise("40_my_own") == ["planted.py is missing", "text.py is missing"]


@pytest.mark.sandbox
def test_check_tries_judges_notebooks_and_the_real_grader(monkeypatch, scripts):
    done = call("check", "24")
    assert done.stdout == f"{LIGHT}\n  nothing to complain about\n"
    monkeypatch.setattr(scripts[0], "check_exercise", lambda name, run: [f"{name} is sick"])
    assert json.loads(call("check", LIGHT, "--json", code=1).stdout)["troubles"] == [f"{LIGHT} is sick"]


def test_an_exercise_is_named_by_number_or_name(scripts):
    author, _ = scripts
    assert [author.find(given) for given in ("5", "05", "05_bpe", "05_bpe.ipynb")] == ["05_bpe"] * 4
    with pytest.raises(GradeError, match="unknown exercise `99`"):
        author.find("99")


# -------------------------------------------------------------------------------------------- the kill table


def test_the_kill_table_is_up_to_date_and_large_enough(scripts):
    """Every planted solution in it is really tried, on several draws, by tests/grade/test_judges.py."""
    author, graders = scripts
    rows = []
    for name in catalog():
        planted = source(name, "planted")
        for task in load(name).tasks:
            wrong, right = len(planted.WRONG[task.name]), len(planted.RIGHT[task.name])
            numbers = {"wrong": wrong, "refused": wrong, "named": wrong, "right": right, "accepted": right}
            rows.append(author.Kills(exercise=name, task=task.name, **numbers))
    assert graders.page(rows) == graders.PAGE.read_text(encoding="utf-8"), "run scripts/graders.py"
    assert sum(row.wrong for row in rows) >= 200
    assert sum(row.right for row in rows) >= 75


def test_the_kill_table_counts_what_the_judges_say(scripts):
    author, graders = scripts
    rows = author.kill_counts(LIGHT)
    assert all(row.wrong == row.refused == row.named >= 8 and row.right == row.accepted >= 3 for row in rows)
    sick = author.Kills(exercise="x", task="y", wrong=9, refused=8, named=7, right=3, accepted=2)
    said = graders.page([sick])
    assert "**8 of 9 wrong solutions refused, 1 accepted; 2 of 3 right ones accepted, 1 refused**" in said
    assert said.endswith(
        "| x | `y` | 9 | 8 | 7 | 3 | 2 |\n| **all** |  | **9** | **8** | **7** | **3** | **2** |\n"
    )
