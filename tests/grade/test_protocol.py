"""Protects: a file is reduced to its code or refused in words; what comes back is read strictly.

pytest tests/grade/test_protocol.py
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.errors import GradeError
from llmkit.grade.collect import Other, Tensor, pack, unpack
from llmkit.grade.protocol import (
    FIRST_COLLECT,
    MAX_BUNDLE,
    build,
    definitions,
    names_used,
    read_bundle,
    read_submission,
    strict_json,
)

# ------------------------------------------------------------------------------------------------ the file


def test_only_code_cells_with_something_in_them_are_kept(make_notebook, tmp_path):
    book = make_notebook("x = 1", "  \n", "y = 2")
    book["cells"].insert(1, {"cell_type": "markdown", "source": "z = 3", "metadata": {}})
    book["cells"].append({"cell_type": "code", "source": ["a = 1\n", "b = 2"], "metadata": {}})
    book["cells"] += [7, {"cell_type": "code"}, {"cell_type": "code", "source": 5}]
    path = tmp_path / "01_loss_scaler.ipynb"
    path.write_text(json.dumps(book))
    found = read_submission(path)
    assert found.cells == ("x = 1", "y = 2", "a = 1\nb = 2")
    assert (found.exercise, found.version) == ("01_loss_scaler", 1)


@pytest.mark.parametrize("name", ["01_loss_scaler.ipynb", "01_loss_scaler_alice.ipynb", "01_mine.ipynb"])
def test_without_metadata_the_file_name_says_which_exercise(name, make_notebook, tmp_path):
    book = make_notebook("x = 1")
    book["metadata"] = {}
    (tmp_path / name).write_text(json.dumps(book))
    found = read_submission(tmp_path / name)
    assert (found.exercise, found.version) == ("01_loss_scaler", 0)


def refusal(path) -> str:
    with pytest.raises(GradeError) as caught:
        read_submission(path)
    return str(caught.value)


def test_a_notebook_of_no_exercise_is_refused_in_words(make_notebook, tmp_path):
    book = make_notebook("x = 1")
    book["metadata"] = {"llmkit": {"exercise": "../../etc/passwd", "version": 1}}
    path = tmp_path / "holiday.ipynb"
    path.write_text(json.dumps(book))
    assert refusal(path) == (
        "`holiday.ipynb` is no exercise of llmkit\n"
        "  expected: a notebook made from `exercises/`\n"
        "  remedy: keep the start of its file name, such as `01_loss_scaler`"
    )


@pytest.mark.parametrize(
    "content, words",
    [
        (b"hello", "`01_x.ipynb` is not a notebook: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe{}", "`01_x.ipynb` is not UTF-8 text"),
        (b"{}", "`01_x.ipynb` is not a notebook: no list of cells"),
        (b"[1]", "`01_x.ipynb` is not a notebook: no list of cells"),
        (b'{"cells": {}}', "`01_x.ipynb` is not a notebook: no list of cells"),
        (b"[" * 100_000, "`01_x.ipynb` is not a notebook: nested more than 200 deep"),
        (b'{"cells": [], "cells": []}', "`01_x.ipynb` is not a notebook: a key stands twice"),
        (b" " * 6 * 2**20, "`01_x.ipynb` has 6.0 MiB"),
        (b'"' + b'\\"' * 2**21, "`01_x.ipynb` is not a notebook: Unterminated string starting at:"),
    ],
    ids=["text", "bytes", "empty", "list", "cells", "deep", "twice", "large", "unterminated"],
)
def test_what_is_no_notebook_is_refused_in_words(content, words, tmp_path):
    path = tmp_path / "01_x.ipynb"
    path.write_bytes(content)
    assert refusal(path).startswith(words)


def test_a_folder_a_missing_file_and_another_language_are_refused(tmp_path, make_notebook):
    assert refusal(tmp_path) == f"cannot read `{tmp_path}`: is a directory"
    missing = tmp_path / "no.ipynb"
    assert refusal(missing) == f"cannot read `{missing}`: no such file or directory"
    path = tmp_path / "01_r.ipynb"
    path.write_text(json.dumps(make_notebook("x <- 1", metadata={"language_info": {"name": "R"}})))
    assert refusal(path) == (
        "`01_r.ipynb` is a R notebook\n  expected: a Python notebook\n  remedy: choose the Python 3 kernel"
    )


def test_a_notebook_full_of_data_in_its_code_is_refused(written):
    path = written("x = [" + "1," * 150_000 + "]")
    assert refusal(path).startswith("`01_loss_scaler.ipynb` has 292 KiB of code")


# -------------------------------------------------------------------------------------- what the code says


def test_a_stub_is_a_body_that_does_nothing():
    stubs = (
        "...",
        "pass",
        '"""Doc."""',
        '"""Doc."""\n    ...  # about 5 lines',
        "raise NotImplementedError('x')",
    )
    for body in stubs:
        assert definitions((f"%matplotlib inline\ndef f(x):\n    {body}",), "f") == [(0, True)]
    assert definitions(("def f(x):\n    return None",), "f") == [(0, False)]
    assert definitions(("def f(x): ...", "def g(): ...", "def f(x): return x"), "f") == [
        (0, True),
        (2, False),
    ]
    assert definitions(("def f(:", "class A:\n    def f(self): ..."), "f") == []


@pytest.mark.parametrize("cell", ["(" * 5000, "-" * 50_000 + "1", "x" + ".a" * 50_000, "\x00", "if x:"])
def test_code_that_defeats_the_parser_is_passed_over(cell):
    assert definitions((cell, "def f(): ..."), "f") == [(1, True)]


def test_names_that_are_used_are_seen_however_they_come_in():
    cells = (
        "from torch.amp import GradScaler as G",
        "torch.nn.utils.clip_grad_norm_(x, 1)",
        "!pip install y",
    )
    assert {"GradScaler", "clip_grad_norm_", "torch", "x"} <= names_used(cells)


# -------------------------------------------------------------------------------------------- what is run


def test_the_inputs_come_into_the_world_after_the_learners_cells():
    text, parameters = build(
        {0: "a", 4: "b"}, {"update": {"cases": [1.5]}, "unscale": {"cases": []}}, "n0nce"
    )
    cells = json.loads(text)["cells"]
    assert [cell["metadata"]["llmkit"] for cell in cells] == [
        ["learner", 0],
        ["learner", 4],
        ["prepare", 0],
        ["parameters", 0],
        ["collect", "update"],
        ["collect", "unscale"],
    ]
    assert FIRST_COLLECT == 2 + 1  # ours before the collect cells, and the one papermill injects
    assert "1.5" not in text
    assert "n0nce" not in text
    assert parameters["llmkit_nonce"] == "n0nce"
    assert all(type(value) is str for value in parameters.values())  # papermill turns tuples into strings


# --------------------------------------------------------------------------------------- what comes back


def bundle(**changed) -> str:
    return json.dumps({"nonce": "n", "task": "update", "answers": [{"value": 1, "args": {}}]} | changed)


def test_the_bundle_of_this_run_and_task_is_read():
    assert read_bundle(bundle(), "n", "update") == [{"value": 1, "args": {}}]
    assert read_bundle(bundle(missing=True), "n", "update") is None


@pytest.mark.parametrize(
    "text, words",
    [
        (bundle(nonce="other"), "answers without the mark of this run"),
        (bundle(task="unscale"), "answers without the mark of this run"),
        ("7", "answers without the mark of this run"),
        (bundle(answers="PASS"), "no list of answers"),
        (bundle(answers=[1, 2]), "no list of answers"),
        (bundle(missing=1, answers=None), "no list of answers"),
        ("[" * 900 + "]" * 900, "nested more than 24 deep"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1e999}', "a number beyond float64"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of more than 20 digits"),
        ('{"nonce": "n", "nonce": "n"}', "a key stands twice"),
        (" " * (MAX_BUNDLE + 1), "answers larger than 512 KiB"),
        (None, "answers that are not text"),
        ({"nonce": "n"}, "answers that are not text"),
    ],
)
def test_anything_else_is_refused_in_words(text, words):
    with pytest.raises(ValueError) as caught:
        read_bundle(text, "n", "update")
    assert str(caught.value) == words


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=12,
    )
)
def test_plain_values_survive_the_journey(value):
    wire = json.dumps(pack(value), allow_nan=False)
    assert repr(unpack(strict_json(wire))) == repr(value)


@given(st.lists(st.floats(width=32), max_size=6))
def test_tensors_survive_the_journey(values):
    import torch

    tensor = unpack(pack(Tensor(tuple(values), (len(values), 1))), torch)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (len(values), 1))
    assert repr(unpack(strict_json(json.dumps(pack(tensor), allow_nan=False)))) == repr(
        Tensor(tuple(values), (len(values), 1))
    )


def test_subclasses_arrive_as_the_numbers_they_hold_and_objects_as_their_names():
    class Yes(int):
        def __eq__(self, other):
            return True

        __hash__ = None

    class Sly(str):
        def __str__(self):
            return "PASS"

    itself = []
    itself.append(itself)
    assert repr(pack(Yes(3))) == "3"
    assert pack(Sly("no")) == "no"
    assert unpack(pack([object(), {1: {2}}, 2**70])) == [
        Other("object"),
        {1: Other("set")},
        Other("int of more than 64 bits"),
    ]
    assert "list" in json.dumps(pack(itself))


@pytest.mark.parametrize(
    "wire",
    [
        {"tensor": [1.0], "shape": [2], "dtype": "float32"},
        {"tensor": [[1.0]], "shape": [1], "dtype": "float32"},
        {"tensor": ["1"], "shape": [1], "dtype": "float32"},
        {"tensor": 1, "shape": [1], "dtype": "float32"},
        {"tensor": [1.0], "shape": ["x"], "dtype": "float32"},
        {"float": "seven"},
        {},
    ],
)
def test_a_forged_value_is_an_error_not_a_crash(wire):
    with pytest.raises((KeyError, TypeError, ValueError)):
        unpack(wire)
