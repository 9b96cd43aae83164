"""In the learner's notebook: instant feedback on public examples, hints on request, a prediction to make.

The one idea: this is help, not a grade. It runs in the learner's kernel, on inputs anyone may see; the
verdict that counts is `llmkit grade`, made elsewhere on inputs nobody has seen. In the examiner's sandbox it
rests.

    check, hint, predict = open_exercise("01_loss_scaler")
    grade_me()                         # the real grader, on the notebook as it was saved
    check(unscale); hint(unscale, 1); predict("overflows until zero", 40)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from llmkit.errors import GradeError, closest

_OPEN: list[str] = []  # exercises opened in this kernel, the last one last


class Desk(NamedTuple):
    """The three things on a learner's desk."""

    check: Callable[[Callable[..., Any]], None]
    hint: Callable[..., None]
    predict: Callable[[str, float | None], None]


def open_exercise(name: str) -> Desk:
    """check(function), hint(function, 1..3) and predict(question, number) for one exercise.

    Raises:
        GradeError: no such exercise.
    """
    if os.environ.get("LLMKIT_GRADING"):
        return Desk(_rest, _rest, _rest)
    from llmkit.grade.exercise import load

    found = load(name)
    _OPEN.append(name)
    return Desk(
        lambda function: _check(found, function),
        lambda function, strength=1: _hint(found, function, strength),
        lambda question, guess=None: _predict(found, question, guess),
    )


def grade_me(notebook: os.PathLike | str | None = None) -> Any:
    """The verdict of `llmkit grade` on this notebook, as saved: a widget, with `print` its plain twin.

    Args:
        notebook: its file, where the kernel does not say which it is.

    Raises:
        GradeError: no notebook found, cells ran after it was saved, or the grader gave no verdict.
    """
    if os.environ.get("LLMKIT_GRADING"):
        return None
    from llmkit.grade import desk

    return desk.grade_me(notebook, _OPEN[-1] if _OPEN else "")


def _rest(*_: Any) -> None:
    """Being graded: references and hints are not on this side."""


def _check(found: Any, function: Callable[..., Any]) -> None:
    from llmkit.grade.report import details
    from llmkit.grade.verdict import NOT_ATTEMPTED, PASS

    task = found.task(_name(function))
    if not task.public:
        print(f"{task.name} has no public example: `llmkit grade exercises/{found.name}.ipynb` judges it")
        return
    verdict = check_public(task, function)
    if verdict.status == PASS:
        print(f"PASS  {verdict.task}: {verdict.says}")
    elif verdict.status == NOT_ATTEMPTED:
        print(f"not attempted yet: {verdict.says} in {verdict.task}")
    else:
        print(
            "\n".join(
                [f"{verdict.status}  {verdict.task}: {verdict.says}", *(f"  {x}" for x in details(verdict))]
            )
        )


def check_public(task: Any, function: Callable[..., Any]) -> Any:
    """The verdict of one function on the task's public examples."""
    from llmkit.grade.verdict import NOT_ATTEMPTED, Verdict, judge

    cases = list(task.public)
    answers = task.call(function, cases)
    if all(answer.get("value", 0) is None for answer in answers):
        return Verdict(task=task.name, status=NOT_ATTEMPTED, says=f"fill in about {task.lines} lines")
    return judge(task, cases, answers)


def _hint(found: Any, function: Callable[..., Any], strength: int) -> None:
    task = found.task(_name(function))
    if strength not in (1, 2, 3):
        raise GradeError(f"no hint of strength `{strength}`", expected="1, 2 or 3; 3 says most")
    print(f"{task.name}, hint {strength} of 3: {task.hints[strength - 1]}")


def _predict(found: Any, question: str, guess: float | None) -> None:
    if question not in found.predictions:
        raise GradeError(f"unknown question `{question}`", remedy=closest(question, found.predictions))
    known = found.predictions[question]
    if guess is None:
        print("no prediction recorded: replace None by a number and run this cell again")
        return
    low, high = sorted((float(guess), known.answer))
    near = (
        "exactly"
        if low == high
        else "within a factor of 2"
        if low > 0 and high <= 2 * low
        else "further off than a factor of 2"
    )
    print(f"you said {guess:g}, it is {known.answer:g}: {near}")
    print(known.because)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
