"""An exercise is data: tasks, inputs, references, judges, hints. Its text is `exercises_src/NN_name.py`.

The one idea: a task's reference and input generators live in `llmkit/grade/exercises/`, which does not exist
inside the sandbox, and run only when every process of the learner's is dead.

    loss_scaler = load("01_loss_scaler")
    loss_scaler.task("update").public[0].inputs
"""

from __future__ import annotations

import importlib
import inspect
import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmkit.errors import GradeError, closest
from llmkit.grade.collect import driver, pack

CATALOG = {"01_loss_scaler": "loss_scaler"}  # exercise -> module in llmkit/grade/exercises/


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


def load(name: str) -> Exercise:
    """The exercise of that name, with its references.

    Raises:
        GradeError: there is none.
    """
    if name not in CATALOG:
        raise GradeError(f"unknown exercise `{name}`", remedy=closest(name, CATALOG))
    return importlib.import_module(f"llmkit.grade.exercises.{CATALOG[name]}").EXERCISE
