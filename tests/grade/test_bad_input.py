"""Protects: whatever is handed in, a verdict or an error in words comes back, and the other tasks are graded.

pytest tests/grade/test_bad_input.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmkit.grade.examiner import Examiner
from llmkit.grade.grading import grade_one
from llmkit.grade.sandbox import Isolation, Limits
from llmkit.grade.verdict import ERROR, FAIL, MALFORMED, PASS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def unused():
    """An examiner that is asked nothing: these files are refused before a kernel is started."""
    with Examiner(Isolation("rlimits", "not asked"), Limits()) as examiner:
        yield examiner
        assert examiner._server is None


def refused(path: Path, examiner: Examiner, expected: str = "") -> str:
    report = grade_one(path, examiner, expected=expected)
    (verdict,) = report.verdicts
    assert (verdict.task, verdict.status, report.passed) == ("notebook", MALFORMED, False)
    return verdict.says


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"",
            "`01_x.ipynb` is not a notebook: Expecting value: line 1 column 1 (char 0); expected: a notebook",
        ),
        (b"import torch\n", "`01_x.ipynb` is not a notebook: Expecting value"),
        (b"PK\x03\x04\x14\x00", "`01_x.ipynb` is not a notebook"),
        (
            b'{"worksheets": []}',
            "`01_x.ipynb` is not a notebook: no list of cells; expected: a notebook of format 4",
        ),
        (b'{"cells": [], "cells": []}', "`01_x.ipynb` is not a notebook: a key stands twice"),
        ("{}".encode("utf-16"), "`01_x.ipynb` is not UTF-8 text; expected: a notebook saved by Jupyter"),
        ('{"cells": ["\xe9"]}'.encode("latin-1"), "`01_x.ipynb` is not UTF-8 text"),
    ],
    ids=["empty", "a script", "a zip", "format 3", "twice", "UTF-16", "latin-1"],
)
def test_a_file_that_is_no_notebook_is_malformed_in_words(tmp_path, unused, content, says):
    path = tmp_path / "01_x.ipynb"
    path.write_bytes(content)
    assert refused(path, unused).startswith(says)


@pytest.mark.parametrize("where", ["language_info", "kernelspec"])
def test_another_languages_kernel_is_named(make_notebook, tmp_path, unused, where):
    key = {"language_info": "name", "kernelspec": "language"}[where]
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps(make_notebook("x", metadata={where: {key: "julia"}})))
    assert refused(path, unused) == (
        "`01_x.ipynb` is a julia notebook; expected: a Python notebook; remedy: choose the Python 3 kernel"
    )


def test_a_hundred_megabytes_are_refused_unread(tmp_path, unused):
    path = tmp_path / "01_x.ipynb"
    with open(path, "wb") as file:
        file.truncate(100 * 2**20)
    assert refused(path, unused) == (
        "`01_x.ipynb` has 100.0 MiB; expected: at most 5 MiB; remedy: clear its outputs and save it again"
    )


def test_the_notebook_of_another_exercise_is_not_graded_as_this_one(written, unused):
    path = written("x = 1")
    assert refused(path, unused, expected="05_bpe") == (
        "`01_loss_scaler.ipynb` is exercise `01_loss_scaler`; expected: `05_bpe`"
    )


def test_a_notebook_of_no_exercise_says_how_it_could_be_one(tmp_path, unused):
    path = Path(shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", tmp_path / "essay.ipynb"))
    says = refused(path, unused)
    assert says.startswith(
        "`essay.ipynb` is no exercise of llmkit; expected: a notebook made from `exercises/`"
    )


def test_a_folder_in_a_notebooks_place_is_refused(tmp_path, unused):
    (tmp_path / "01_x.ipynb").mkdir()
    assert refused(tmp_path / "01_x.ipynb", unused).endswith("is a directory")


WRONG_TYPES = """
import torch
class Strange: pass
def unscale(grads, scale): return Strange()
def update_with_floor(scale, good_steps, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):
    return torch.zeros(2, 3), {"good": 1}
"""


@pytest.mark.sandbox
def test_missing_functions_wrong_types_and_syntax_errors_are_verdicts_and_cost_no_other_task(
    patient, written, right_cells
):
    def verdicts(*cells):
        report = grade_one(written(right_cells["setup"], *cells), patient)
        return {verdict.task: verdict for verdict in report.verdicts}

    broken = "def clip_after_unscale(grads, scale, max_norm):\n    return (1"
    found = verdicts(right_cells["update"], WRONG_TYPES, broken)
    assert found["update"].status == PASS
    assert (found["unscale"].status, found["unscale"].failing) == (FAIL, "the function returns True or False")
    assert found["unscale"].example.yours.startswith("returns an object of type Strange")
    assert found["update_with_floor"].status == FAIL
    assert "tensor([[0.0, 0.0, 0.0]" in found["update_with_floor"].example.yours
    assert found["clip_after_unscale"].status == ERROR
    assert found["clip_after_unscale"].says.startswith(
        "code cell 4, which defines `clip_after_unscale`, raised SyntaxError: "
    )
    reshaped = (
        "def unscale(grads, scale):\n    grads[:] = [g.reshape(1, -1) for g in grads if g is not None]\n"
    )
    found = verdicts("import torch", reshaped + "    return False", "update = 3", right_cells["update"] * 0)
    assert (found["unscale"].status, found["unscale"].failing) == (
        FAIL, "the gradients stay the same tensors, changed in place",
    )  # fmt: skip
    assert found["update"].says == "no function `update` in the notebook"
    assert found["clip_after_unscale"].status == ERROR
