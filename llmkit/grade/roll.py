"""Who handed in what: a class folder in nbgrader's layout or a flat one, and what in it is no submission.

The one idea: nothing in a class folder stops the class. A thing that cannot be graded is listed with the
reason, and the rest goes on.

    roll = call_the_roll(Path("submitted"))
    roll.papers[0].learner, roll.papers[0].exercise, roll.junk

Layouts, also mixed; a folder `submitted/` inside the class folder is entered:

    submitted/<learner>/<exercise>/*.ipynb      nbgrader's, `timestamp.txt` beside the notebook
    <learner>/NN_name.ipynb                     a folder a learner
    <learner>.ipynb                             one notebook a learner; it says which exercise it is
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from llmkit.errors import GradeError
from llmkit.grade.exercise import catalog
from llmkit.grade.protocol import by_file_name, read_submission
from llmkit.grade.report import legal

QUIET = ("timestamp.txt", "feedback", "desktop.ini", "Thumbs.db", "__MACOSX")  # companions of submissions


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One learner's notebook for one exercise."""

    learner: str
    exercise: str  # by its folder; else by what the notebook says it is
    path: Path
    sha256: str
    timestamp: str = ""  # of the submission: the first line of nbgrader's timestamp.txt


@dataclass(frozen=True)
class Junk:
    """Something that is not graded, and why not. `path` is relative to the class folder."""

    path: str
    why: str


@dataclass
class Roll:
    """A class: its learners, the papers in order, and what is no paper."""

    folder: Path
    learners: set[str] = field(default_factory=set)
    papers: list[Paper] = field(default_factory=list)
    junk: list[Junk] = field(default_factory=list)


def call_the_roll(folder: Path) -> Roll:
    """The papers in a class folder, sorted by learner and exercise.

    Raises:
        GradeError: no such folder, or no paper in it.
    """
    if not folder.is_dir():
        raise GradeError(
            f"no class folder at `{folder}`", remedy="name the folder that holds the submissions"
        )
    root = folder / "submitted" if (folder / "submitted").is_dir() else folder
    roll = Roll(root)
    for entry in _entries(roll, root):
        if _is_folder(entry):
            roll.learners.add(_legal(entry.name))
            for inner in _entries(roll, entry):
                for path in _entries(roll, inner) if _is_folder(inner) else [inner]:
                    _take(roll, path, _legal(entry.name), _exercise_of(inner.name))
        else:
            _take(roll, entry, _legal(entry.stem), "")
    roll.papers = _one_each(roll)
    if not roll.papers:
        raise GradeError(
            f"no submission in `{folder}`"
            + (f": {roll.junk[0].path} {roll.junk[0].why}" if roll.junk else ""),
            expected="<learner>/<exercise>/*.ipynb, <learner>/NN_name.ipynb or <learner>.ipynb",
        )
    return roll


def _take(roll: Roll, path: Path, learner: str, exercise: str) -> None:
    """Add one file to the papers or to the junk."""
    why, digest = "", ""
    if path.is_symlink() or not path.is_file():
        why = "is a link, a folder or no regular file"
    elif path.suffix != ".ipynb":
        why = "is no .ipynb file"
    elif not exercise:
        try:
            exercise = read_submission(path).exercise
        except GradeError as error:
            exercise = by_file_name(path)
            why = "" if exercise else error.found
    if not why:
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            why = f"cannot be read: {(error.strerror or str(error)).lower()}"
    if path.suffix == ".ipynb":
        roll.learners.add(learner)
    if why:
        return _refuse(roll, path, why)
    stamp = path.with_name("timestamp.txt")
    said = stamp.read_text(errors="replace")[:100] if stamp.is_file() and not stamp.is_symlink() else ""
    roll.papers.append(
        Paper(
            learner=learner,
            exercise=exercise,
            path=path,
            sha256=digest,
            timestamp=legal(said.partition("\n")[0].strip()),
        )
    )


def _one_each(roll: Roll) -> list[Paper]:
    """The newest notebook where a learner has several for one exercise; the others are named as junk."""
    newest: dict[tuple[str, str], Paper] = {}
    for paper in sorted(roll.papers, key=lambda p: (p.path.stat().st_mtime_ns, str(p.path))):
        if old := newest.get((paper.learner, paper.exercise)):
            why = f"is older than {paper.path.name}, another notebook for {paper.exercise}"
            _refuse(roll, old.path, why)
        newest[paper.learner, paper.exercise] = paper
    return [newest[key] for key in sorted(newest)]


def _exercise_of(folder: str) -> str:
    return folder if folder in catalog() else ""


def _refuse(roll: Roll, path: Path, why: str) -> None:
    roll.junk.append(Junk(_legal(str(path.relative_to(roll.folder))), why))


def _entries(roll: Roll, folder: Path) -> list[Path]:
    try:
        return [p for p in sorted(folder.iterdir()) if p.name not in QUIET and not p.name.startswith(".")]
    except OSError as error:
        _refuse(roll, folder, f"cannot be read: {(error.strerror or str(error)).lower()}")
        return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _legal(name: str) -> str:
    """A file's name as text that any file can hold: names need not be UTF-8."""
    return legal(os.fsencode(name).decode("utf-8", "replace"))
