"""THE EXAMINER: papermill in a sandbox, hidden inputs, a verdict made outside the learner's kernel.

The one idea: a PASS needs right values for inputs that did not exist before the run, and nothing that knows
them lies within reach while the learner's code runs.

    from llmkit.grade import open_exercise, grade_me  # in the learner's notebook
    from llmkit.grade import grade, print_plain  # outside: print_plain(grade(["exercises/01_..."]))
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from llmkit.grade.check import grade_me, open_exercise

# The sandbox has only `check` and `collect` of this room, so everything else is looked up when asked for.
_LATER = {
    "Report": "verdict",
    "Verdict": "verdict",
    "grade_class": "classroom",
    "standing": "progress",
    "passed_exercises": "progress",
    "exit_code": "grading",
    "grade": "grading",
    "print_json": "report",
    "print_plain": "report",
    "print_rich": "report",
}

__all__ = [
    "Report",
    "Verdict",
    "exit_code",
    "grade",
    "grade_class",
    "grade_me",
    "open_exercise",
    "passed_exercises",
    "print_json",
    "print_plain",
    "print_rich",
    "standing",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llmkit.grade.{_LATER[name]}"), name)
