"""An exercise is data: tasks, inputs, references, judges, hints, in a folder of `exercises_src/`.

The one idea: a folder holds one exercise whole. `text.py` is what the learner reads; `tasks.py` has
references, judges and input generators; `planted.py` wrong and right solutions that the judges are tried on.
None of it is inside the sandbox, and a reference runs only when every process of the learner's is dead.

    loss_scaler = load("01_loss_scaler")
    loss_scaler.task("update").public[0].inputs
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from llmkit.errors import GradeError, closest
from llmkit.grade.collect import driver, pack

ROUNDS = ("phone screen", "coding", "system design", "deep dive", "debrief")  # of an interview: row S24


@dataclass(frozen=True, init=False)
class Case:
    """One set of inputs, by parameter name, in the order of the parameters. Tensors are `collect.Tensor`."""

    inputs: dict[str, Any]

    def __init__(self, **inputs: Any):
        object.__setattr__(self, "inputs", inputs)

    def packed(self) -> dict[str, Any]:
        return {name: pack(value) for name, value in self.inputs.items()}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a function gave back: its value, the watched arguments afterwards, or the error it raised."""

    value: Any = None
    args: dict[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True)
class Property:
    """One thing that must hold, said to the learner when it does not."""

    says: str  # "an overflow restarts the count of good steps"
    asks: str = ""  # one question that leads there, never the answer


@dataclass(frozen=True, kw_only=True)
class Task:
    """One function to write.

    `judge(inputs, got, want)` returns "" or the key of the property that does not hold. `drive(function,
    **inputs)`, when given, replaces the plain call; its source travels to the kernel, so it must know no
    answer.
    """

    name: str
    lines: int  # size hint: lines a plain solution takes
    reference: Callable[..., Answer]
    judge: Callable[[dict[str, Any], Answer, Answer], str]
    properties: dict[str, Property]
    public: tuple[Case, ...]  # smallest first: the first that fails is shown
    hidden: Callable[[random.Random], list[Case]]
    hints: tuple[str, str, str]
    watch: tuple[str, ...] = ()
    drive: Callable[..., Any] | None = None
    apart: bool = False  # asked in a kernel of its own: its inputs would answer another task

    @property
    def drive_source(self) -> str:
        return textwrap.dedent(inspect.getsource(self.drive)) if self.drive else ""

    def job(self, cases: list[Case]) -> dict[str, Any]:
        """What the kernel is told: inputs and how to call, nothing about answers."""
        return {
            "watch": list(self.watch),
            "drive": self.drive_source,
            "cases": [case.packed() for case in cases],
        }

    def call(self, function: Callable[..., Any], cases: list[Case]) -> list[dict[str, Any]]:
        """The packed answers of a function in this process, by the very code that runs in the kernel."""
        from llmkit.grade.collect import answer

        drive = driver(self.drive_source)
        return [answer(function, case.packed(), list(self.watch), drive) for case in cases]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A number to commit to before the reveal."""

    answer: float
    because: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A notebook's worth of tasks."""

    name: str
    version: int  # raised when a task's contract changes; an older notebook is graded and told so
    title: str
    minutes: int
    round: str  # of the interview it is asked in, one of ROUNDS
    difficulty: int  # 1: recall; 2: several rules at once; 3: a design, or somebody else's bug
    rows: tuple[str, ...]  # requirement rows it serves, "S5"
    tasks: tuple[Task, ...]
    predictions: dict[str, Prediction]
    hides: tuple[str, ...] = ()  # rooms of llmkit that hold the answer: absent from the sandbox
    shortcuts: tuple[str, ...] = ()  # names whose use is reported beside the verdict, e.g. "GradScaler"

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            GradeError: there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise GradeError(
            f"exercise `{self.name}` has no task `{name}`",
            remedy=closest(name, [task.name for task in self.tasks]),
        )


@cache
def catalog() -> dict[str, Path]:
    """Exercise -> its folder, in order: beside the package in a checkout; a bare wheel has none."""
    package = Path(__file__).resolve().parents[1]
    for sources in (package.parent / "exercises_src", package / "exercises_src"):
        if sources.is_dir():
            found = sorted(path.parent for path in sources.glob("[0-9][0-9]_*/tasks.py"))
            return {folder.name: folder for folder in found}
    return {}


def source(name: str, part: str) -> ModuleType:
    """`tasks` or `planted` of an exercise: the folder is a package, so its files may import one another.

    Raises:
        GradeError: no such exercise.
    """
    if name not in catalog():
        raise GradeError(f"unknown exercise `{name}`", remedy=closest(name, catalog()))
    package = f"llmkit_exercise_{re.sub(r'[^0-9a-z_]', '_', name)}"
    if package not in sys.modules:
        made = sys.modules[package] = ModuleType(package)
        made.__path__ = [str(catalog()[name])]
    return importlib.import_module(f"{package}.{part}")


def load(name: str) -> Exercise:
    """The exercise of that name, with its references.

    Raises:
        GradeError: there is none.
    """
    return source(name, "tasks").EXERCISE
