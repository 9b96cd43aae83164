"""Verbs of the examiner: grade notebooks or a class; list, make, check exercises."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, columns, next_command, result, talk
from llmkit.errors import GradeError, LLMKitError

exercises = typer.Typer(help="List, check and make exercises.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Example: llmkit grade exercises/01_loss_scaler.ipynb; "
        "llmkit grade --class submitted --out grades.csv"
    )(grade)
    exercises.command("list", epilog="Example: llmkit exercises list")(list_)
    exercises.command(epilog="Example: llmkit exercises status")(status)
    exercises.command(epilog="Example: llmkit exercises check 01")(check)
    exercises.command(epilog="Example: llmkit exercises new 40_my_exercise")(new)
    app.add_typer(exercises, name="exercises")


# ------------------------------------------------------------------------------------------------------ grade


def grade(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Exercise notebooks.")] = None,
    class_: Annotated[
        Path | None,
        typer.Option("--class", help="A folder of submissions: <learner>/<exercise>/*.ipynb, or flat."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The class's CSV; journal and pages stand beside it.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time; 0: one a core.")] = 0,
    regrade: Annotated[bool, typer.Option(help="Also grade what is graded already.")] = False,
    require_sandbox: Annotated[bool, typer.Option(help="Refuse to grade without bubblewrap.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    as_json: Json = False,
) -> None:
    """Grade exercises: your notebook runs in a sandbox, the verdict is made outside it."""
    if class_ is not None:
        if notebooks or out is None:
            raise GradeError(
                "a class is graded from its folder into a file", expected="--class FOLDER --out grades.csv"
            )
        _grade_class(class_, out, jobs, regrade, require_sandbox, junit, as_json)
        return
    if out or jobs or regrade:
        raise GradeError("--out, --jobs and --regrade are for a class", remedy="add --class FOLDER")
    from llmkit.grade import exit_code, print_rich
    from llmkit.grade import grade as examine
    from llmkit.grade.progress import record

    reports = examine(notebooks or [], json=as_json, junit=junit, require_sandbox=require_sandbox)
    if not as_json:
        print_rich(reports)
    try:
        record(reports)
    except LLMKitError as error:
        talk(f"not kept in your progress: {error}")
    next_command("llmkit exercises status")
    raise typer.Exit(exit_code(reports))


def _grade_class(
    folder: Path,
    out: Path,
    jobs: int,
    regrade: bool,
    require_sandbox: bool,
    junit: Path | None,
    as_json: bool,
) -> None:
    from llmkit.grade import gradebook
    from llmkit.grade.classroom import grade_class
    from llmkit.grade.report import write_junit

    with _bar() as told:
        done = grade_class(
            folder, out, jobs=jobs, regrade=regrade, require_sandbox=require_sandbox, told=told
        )
    page = gradebook.write(done, out)
    if junit:
        write_junit([grade.report for grade in done.grades], junit)
    statistics = gradebook.statistics_of(done.grades)
    plain = {
        "csv": str(out), "page": str(page), "learners": len(done.roll.learners),
        "notebooks": len(done.grades), "graded_now": done.fresh, "interrupted": done.interrupted,
        "junk": list(map(vars, done.roll.junk)), "troubles": done.troubles,
        "tasks": list(map(vars, statistics)),
    }  # fmt: skip
    if as_json:
        result("", plain, True)
    else:
        head = ("exercise", "task", "passed", "what stopped most of the others")
        rows = [(s.exercise, s.task, f"{s.passed} of {s.papers}", s.often) for s in statistics]
        _table(head, rows)
    for item in done.roll.junk:
        talk(f"not graded: {item.path} {item.why}")
    for trouble in done.troubles:
        talk(f"not graded: {trouble}")
    if done.interrupted:
        talk("interrupted: what was graded is kept; the same command goes on from here")
    talk(f"{len(done.grades)} notebooks, {done.fresh} graded now; {out}, {page}")
    if done.interrupted or done.roll.junk or done.troubles:
        raise typer.Exit(1)


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar on a terminal, a line per grade elsewhere; yields what to call with each grade."""
    if not sys.stderr.isatty():
        yield lambda grade, done, total: talk(f"  {done} of {total}  {grade.learner}  {grade.exercise}")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shape = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*shape, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda grade, done, total: bar.update(
            task, completed=done, total=total, description=escape(f"{grade.learner} {grade.exercise}")
        )


# -------------------------------------------------------------------------------------------------- exercises


def list_(as_json: Json = False) -> None:
    """Every exercise: interview round, level, minutes, requirement rows, and whether you passed it."""
    from llmkit.grade.progress import standing

    lines = standing()
    head = ("", "exercise", "title", "round", "level", "min", "rows", "passed")
    rows = [
        (s.number, s.name, s.title, s.round, s.difficulty, s.minutes, " ".join(s.rows), s.word) for s in lines
    ]
    if as_json:
        result("", {"exercises": list(map(vars, lines))}, True)
    else:
        _table(head, rows)
        talk("level 1: recall; 2: several rules at once; 3: a design, or somebody else's bug")
    due = next((s.name for s in lines if not s.passed), "")
    next_command(f"llmkit lab exercises/{due}.ipynb" if due else "llmkit exercises status")


def status(as_json: Json = False) -> None:
    """How far you are, from the progress file."""
    from llmkit.grade.progress import progress_file, standing

    lines = standing()
    passed = sum(s.passed for s in lines)
    if as_json:
        plain = {
            "file": str(progress_file()),
            "passed": passed,
            "of": len(lines),
            "exercises": list(map(vars, lines)),
        }
        result("", plain, True)
        return
    rows = [(s.name, s.word, f"{s.tasks_passed} of {s.tasks}", s.graded) for s in lines if s.graded]
    if rows:
        _table(("exercise", "passed", "tasks", "graded last"), rows)
    print(f"{passed} of {len(lines)} exercises passed")
    talk(f"kept in {progress_file()}")


def check(
    exercise: Annotated[str, typer.Argument(help="Its number or its name.")],
    run: Annotated[bool, typer.Option(help="Also grade solution and stub through the real grader.")] = True,
    as_json: Json = False,
) -> None:
    """Try an exercise as its author: its judges on planted solutions, its notebooks against its text."""
    author = _author()
    name = author.find(exercise)
    trouble = author.check_exercise(name, run=run)
    text = "\n".join(f"  {line}" for line in trouble) or "  nothing to complain about"
    result(f"{name}\n{text}", {"exercise": name, "troubles": trouble}, as_json)
    if trouble:
        raise typer.Exit(1)


def new(
    name: Annotated[str, typer.Argument(help="NN_name, for example 40_my_exercise.")],
    as_json: Json = False,
) -> None:
    """A folder in exercises_src/ with a small exercise that works, to turn into your own."""
    folder = _author().make_exercise(name)
    files = sorted(str(path) for path in folder.iterdir() if path.is_file())
    result("\n".join(files), {"files": files}, as_json)
    next_command(f"python scripts/exercises.py {folder}; llmkit exercises check {name[:2]}")


def _author() -> ModuleType:
    """scripts/author.py, which needs the repository around the kit. Raises GradeError: there is none."""
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    if not (scripts / "author.py").is_file():
        raise GradeError("exercises are made in a clone of the repository", remedy="clone it, then make lab")
    sys.path.insert(0, str(scripts))
    return importlib.import_module("author")


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if not sys.stdout.isatty():
        print(columns(rows, head))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
