"""Protects: what a learner reads in the notebook, word for word; and that it never says the solution unasked.

pytest tests/grade/test_check.py
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmkit.errors import GradeError
from llmkit.grade import open_exercise
from llmkit.grade.exercise import load


@pytest.fixture
def desk():
    return open_exercise("01_loss_scaler")


def keeps_counting(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, good_steps
    return (scale * growth, 0) if good_steps + 1 == interval else (scale, good_steps + 1)


keeps_counting.__name__ = "update"


def test_a_stub_is_not_attempted_yet(desk, capsys):
    def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000): ...

    desk.check(update)
    assert capsys.readouterr().out == "not attempted yet: fill in about 6 lines in update\n"


def test_a_wrong_answer_gets_the_smallest_counter_example_and_one_question(desk, capsys):
    desk.check(keeps_counting)
    assert capsys.readouterr().out == (
        "FAIL  update: does not hold: an overflow restarts the count of good steps\n"
        "  input     pattern=[False, True, False], scale=8.0, growth=2.0, backoff=0.5, interval=2\n"
        "  yours     returns [[8.0, 1], [4.0, 1], [8.0, 0]]\n"
        "  expected  returns [[8.0, 1], [4.0, 0], [4.0, 1]]\n"
        "  ask yourself: must the good steps before a growth come in a row?\n"
        "  for a hint: hint(update, 1)\n"
    )


def test_an_exception_is_shown_with_the_input_that_raised_it(desk, capsys):
    def unscale(grads, scale):
        for grad in grads:
            grad.div_(scale)
        return False

    desk.check(unscale)
    assert capsys.readouterr().out == (
        "ERROR  unscale: raised AttributeError: 'NoneType' object has no attribute 'div_'\n"
        "  input     grads=[tensor([4.0, -2.0]), None, tensor([1.0])], scale=2.0\n"
        "  yours     AttributeError: 'NoneType' object has no attribute 'div_'\n"
        "  expected  returns False; grads afterwards: [tensor([2.0, -1.0]), None, tensor([0.5])]\n"
        "  for a hint: hint(unscale, 1)\n"
    )


def test_hints_come_in_three_strengths_and_a_fourth_is_refused(desk, capsys):
    desk.hint(keeps_counting, 1)
    assert capsys.readouterr().out == (
        "update, hint 1 of 3: Three cases: overflow; a good step that completes the interval; "
        "any other good step. Decide them in that order.\n"
    )
    desk.hint(keeps_counting)
    assert capsys.readouterr().out.startswith("update, hint 1 of 3")
    with pytest.raises(GradeError) as caught:
        desk.hint(keeps_counting, 4)
    assert str(caught.value) == "no hint of strength `4`\n  expected: 1, 2 or 3; 3 says most"


def test_a_function_of_another_name_is_refused_with_the_nearest_one(desk):
    def updat(): ...

    with pytest.raises(GradeError) as caught:
        desk.check(updat)
    assert str(caught.value) == "exercise `01_loss_scaler` has no task `updat`\n  remedy: use `update`"


def test_an_unknown_exercise_is_refused_with_the_nearest_one():
    with pytest.raises(GradeError) as caught:
        open_exercise("01_los_scaler")
    assert str(caught.value) == "unknown exercise `01_los_scaler`\n  remedy: use `01_loss_scaler`"


@pytest.mark.parametrize(
    "guess, said",
    [
        (None, "no prediction recorded: replace None by a number and run this cell again"),
        (166, "you said 166, it is 166: exactly"),
        (100, "you said 100, it is 166: within a factor of 2"),
        (16, "you said 16, it is 166: further off than a factor of 2"),
        (-3, "you said -3, it is 166: further off than a factor of 2"),
    ],
)
def test_a_prediction_is_recorded_before_the_reveal(desk, capsys, guess, said):
    desk.predict("overflows until zero", guess)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == said
    assert ("2**-149" in out) == (guess is not None)


def test_no_property_or_question_gives_the_solution_away():
    for task in load("01_loss_scaler").tasks:
        for held in task.properties.values():
            assert "good_steps + 1" not in held.says + held.asks
            assert "isfinite" not in held.says + held.asks
            assert not held.asks or held.asks.endswith("?")


def test_in_the_examiners_kernel_the_desk_rests_and_reads_no_reference():
    code = (
        "import sys\nfrom llmkit.grade import open_exercise\n"
        "check, hint, predict = open_exercise('01_loss_scaler')\n"
        "check(print); hint(print, 3); predict('x', 1)\n"
        "print(sorted(m for m in sys.modules if m.startswith('llmkit.grade')))\n"
        "print(any(m in sys.modules for m in ('torch', 'papermill', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LLMKIT_GRADING": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "['llmkit.grade', 'llmkit.grade.check']\nFalse\n", done.stderr
