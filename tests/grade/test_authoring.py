"""Protects: exercises and solutions are what their source says, byte for byte; no exercise holds a solution.

pytest tests/grade/test_authoring.py
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from llmkit.errors import GradeError
from llmkit.grade.exercise import catalog, load

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(catalog())

spec = importlib.util.spec_from_file_location("llmkit_authoring", ROOT / "scripts" / "exercises.py")
author = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # a dataclass looks itself up there
spec.loader.exec_module(author)


def source(name: str) -> str:
    return (ROOT / "exercises_src" / name / "text.py").read_text(encoding="utf-8")


def committed(folder: str, name: str) -> dict:
    return json.loads((ROOT / folder / f"{name}.ipynb").read_text(encoding="utf-8"))


def code(notebook: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(notebook: dict) -> str:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def test_every_source_is_in_the_catalog_and_every_exercise_has_its_three_files():
    assert sorted(path.name for path in (ROOT / "exercises_src").glob("*_*")) == NAMES
    for folder in ("exercises", "solutions"):
        assert sorted(path.stem for path in (ROOT / folder).glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_regenerating_gives_the_committed_exercise_byte_for_byte(name):
    exercise, _ = author.notebooks(source(name), name, load(name).version)
    assert author.as_text(exercise) == (ROOT / "exercises" / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_regenerating_gives_the_committed_solution_but_for_its_outputs(name):
    _, solution = author.notebooks(source(name), name, load(name).version)
    stored = committed("solutions", name)
    for cell in stored["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    assert stored == solution


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_regenerating_gives_the_committed_solution_with_its_outputs(name):
    _, solution = author.notebooks(source(name), name, load(name).version)
    run = author.as_text(author.execute(solution, ROOT))
    assert run == (ROOT / "solutions" / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_a_solution_stands_in_the_exercise(name):
    inside, secret = False, set()
    for line in source(name).splitlines():
        inside = (inside or bool(author.BEGIN.match(line))) and not author.END.match(line)
        if inside and not author.BEGIN.match(line) and len(line.strip()) >= 12:
            secret.add(line.strip())
    shown = {line.strip() for cell in code(committed("exercises", name)) for line in cell.splitlines()}
    assert secret
    assert not secret & shown


@pytest.mark.parametrize("name", NAMES)
def test_the_size_hint_in_the_stub_is_the_tasks_and_the_length_of_the_solution(name):
    cells = code(committed("exercises", name))
    trees = [ast.parse(cell) for cell in code(committed("solutions", name))]
    functions = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}
    for task in load(name).tasks:
        cell = next(cell for cell in cells if f"def {task.name}(" in cell)
        assert f"...  # about {task.lines} lines" in cell
        body = functions[task.name].body
        assert body[-1].end_lineno - body[0].lineno + 1 == pytest.approx(task.lines, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_exercise_runs_from_top_to_bottom_and_attempts_nothing(name):
    run = author.execute(committed("exercises", name), ROOT)
    said = printed(run)
    assert said.count("not attempted yet") == len(load(name).tasks)
    assert "no prediction recorded" in said
    assert not any(word in said for word in ("PASS", "FAIL", "Error"))


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_was_run_in_order_and_every_check_passed(name):
    solution = committed("solutions", name)
    counts = [cell["execution_count"] for cell in solution["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    said = printed(solution)
    assert said.count("PASS  ") == len(load(name).tasks)


TWO_WAYS = """# %% [markdown]
# Prose.
#
# More.

# %%
def f():
    # BEGIN SOLUTION: about 1 line
    return 1
    # END SOLUTION

# %%
x = 1
# BEGIN SOLUTION
x = 2
# END SOLUTION

# %% tags=["solution"]
print(x)
"""


def test_a_size_makes_a_stub_and_without_one_the_solution_leaves_nothing():
    exercise, solution = author.notebooks(TWO_WAYS, "00_x", 3)
    assert code(exercise) == ["def f():\n    ...  # about 1 line", "x = 1"]
    assert code(solution) == ["def f():\n    return 1", "x = 1\nx = 2", "print(x)"]
    assert "".join(exercise["cells"][0]["source"]) == "Prose.\n\nMore."
    assert [cell["id"] for cell in solution["cells"]] == ["00-x-00", "00-x-01", "00-x-02", "00-x-03"]
    assert exercise["metadata"]["llmkit"] == {"exercise": "00_x", "version": 3}


@pytest.mark.parametrize(
    "text, words",
    [
        ("# %%\n# END SOLUTION\n", "`s`, line 2: solution marks do not pair"),
        ("# %%\n# BEGIN SOLUTION\n# BEGIN SOLUTION\n", "`s`, line 3: solution marks do not pair"),
        ("# %%\n# BEGIN SOLUTION\n# %%\n# END SOLUTION\n", "`s`, line 3: solution marks do not pair"),
        ("# %%\n# BEGIN SOLUTION\nx = 1\n", "`s`, line 2: # BEGIN SOLUTION without # END SOLUTION"),
        ("x = 1\n", "`s` has no cells"),
    ],
)
def test_marks_that_do_not_pair_are_refused_with_the_line(text, words):
    with pytest.raises(GradeError) as caught:
        author.parse(text, "s")
    assert caught.value.found == words


def test_a_source_that_is_no_exercise_writes_nothing(tmp_path):
    folder = tmp_path / "99_unknown"
    folder.mkdir()
    (folder / "text.py").write_text("# %%\nx = 1\n")
    with pytest.raises(GradeError):
        author.write(folder, tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
