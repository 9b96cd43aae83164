"""A whole class: every paper graded once, several at a time, each grade on disk before it is told.

The one idea: what was graded is a function of the journal and the folder. A paper whose bytes, exercise and
version of the exercise stand in the journal is not graded again; everything else is.

    done = grade_class(Path("submitted"), Path("grades.csv"), jobs=2)
    done.grades[0].report; done.roll.junk; done.interrupted
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmkit.errors import GradeError
from llmkit.grade import sandbox
from llmkit.grade.examiner import Examiner
from llmkit.grade.exercise import load
from llmkit.grade.grading import grade_one
from llmkit.grade.journal import Grade, Journal, now
from llmkit.grade.roll import Paper, Roll, call_the_roll

Told = Callable[[Grade, int, int], None]  # a grade, how many are done, how many there are


@dataclass
class ClassGrades:
    """What came of it: grades by learner and exercise, and what was not graded."""

    roll: Roll
    grades: list[Grade]
    fresh: int = 0  # graded now; the others stood in the journal
    interrupted: bool = False
    troubles: list[str] = field(default_factory=list)  # the grader's own, one a paper


def grade_class(
    folder: Path,
    out: Path,
    *,
    jobs: int = 0,
    regrade: bool = False,
    require_sandbox: bool = False,
    timeout: float = 60.0,
    told: Told | None = None,
) -> ClassGrades:
    """Grade the papers of a class folder that the journal beside `out` does not have.

    Args:
        out: the CSV file that `gradebook.write` will make; journal and secret stand beside it.
        jobs: worker processes, each with an examiner of its own; 0: one a core.
        regrade: grade everything again, on the same inputs.
        timeout: seconds a notebook may take.
        told: called with each grade once it is on disk.

    Raises:
        GradeError: no such folder, nothing in it, another grader at work, or a journal that cannot be read.
        MissingDependency: no sandbox although one is required.
        StorageError: the journal cannot be written.
    """
    if jobs < 0:
        raise GradeError(f"{jobs} jobs", expected="1 or more; 0: one a core")
    roll = call_the_roll(folder)
    isolation = sandbox.choose()
    if require_sandbox:
        sandbox.require(isolation)
    with Journal(out.with_suffix(".jsonl")) as journal:
        due = deque(paper for paper in roll.papers if regrade or not stands(paper, journal))
        total, found = len(due), ClassGrades(roll, [])
        room = Room(isolation, replace(sandbox.Limits(), wall=timeout), journal.seed, due)
        with _first_interrupt(due) as interrupted:
            for paper, grade, trouble in room.results(min(jobs or os.cpu_count() or 1, total)):
                if grade is None:
                    found.troubles.append(f"{paper.path}: {trouble}")
                    continue
                journal.append(grade)
                found.fresh += 1
                if told:
                    told(grade, found.fresh, total)
            found.troubles += [f"{paper.path}: no examiner was left to run it" for paper in due]
        found.interrupted = bool(interrupted)
        here = {(paper.learner, paper.exercise) for paper in roll.papers}
        found.grades = [journal.latest[key] for key in sorted(here & set(journal.latest))]
    return found


def stands(paper: Paper, journal: Journal) -> bool:
    """Is this very file graded already, by the exercise as it is now?"""
    old = journal.latest.get((paper.learner, paper.exercise))
    return bool(old) and (old.sha256, old.version) == (paper.sha256, load(paper.exercise).version)


@dataclass
class Room:
    """Threads that only wait: the work is in the worker process that each one's examiner holds."""

    isolation: sandbox.Isolation
    limits: sandbox.Limits
    seed: Callable[[str, str, str], bytes]
    due: deque[Paper]  # emptied from the left, by all threads
    _done: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)

    def results(self, jobs: int) -> Iterator[tuple[Paper, Grade | None, str]]:
        """(paper, grade, "") as they are ready; (paper, None, why) where the grader itself failed."""
        for paper in self.due:  # exercises are imported here, once, not by several threads
            load(paper.exercise)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            result = self._done.get()
            if result is None:
                left -= 1
            else:
                yield result

    def _work(self) -> None:
        try:
            with Examiner(self.isolation, self.limits) as examiner:
                while self.due:
                    try:
                        paper = self.due.popleft()
                    except IndexError:  # another thread was faster
                        return
                    self._done.put((paper, *self._grade(paper, examiner)))
        finally:
            self._done.put(None)

    def _grade(self, paper: Paper, examiner: Examiner) -> tuple[Grade | None, str]:
        seed = self.seed(paper.learner, paper.exercise, paper.sha256)
        try:
            report = grade_one(paper.path, examiner, seed=seed, expected=paper.exercise)
        except Exception as error:  # one paper's trouble is not the class's
            return None, f"{type(error).__name__}: {error}"
        report = replace(report, path=f"{paper.learner}/{paper.exercise}/{paper.path.name}")
        facts = {name: getattr(paper, name) for name in ("learner", "exercise", "sha256", "timestamp")}
        version = load(paper.exercise).version
        return Grade(**facts, version=version, seed=seed.hex(), graded=now(), report=report), ""


@contextmanager
def _first_interrupt(due: deque[Paper]) -> Iterator[list[int]]:
    """Ctrl-C once: nothing new is begun, what runs is finished and kept. Twice: stop at once."""
    seen: list[int] = []

    def stop(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        due.clear()

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield seen
    finally:
        due.clear()
        signal.signal(signal.SIGINT, before)
