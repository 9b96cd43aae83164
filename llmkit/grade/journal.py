"""Grades on disk: a line per grade, appended and fsynced, and the secret that a class's inputs come from.

The one idea: a grade that was told is on the disk already. A grader killed at any moment loses at most the
notebooks it was running, and starts again where the journal ends.

    with Journal(Path("grades.jsonl")) as journal:
        journal.seed("ada", "05_bpe", digest)       # 32 bytes, the same whenever this file is regraded
        journal.append(Grade(...)); journal.latest  # {("ada", "05_bpe"): Grade(...)}
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmkit.errors import GradeError
from llmkit.folder import drop_torn_line, storage, sync_folder
from llmkit.grade.report import from_dict, to_dict
from llmkit.grade.verdict import Report


@dataclass(frozen=True, kw_only=True)
class Grade:
    """One learner's paper, graded: what was graded, by which version, from which inputs, with what result."""

    learner: str
    exercise: str
    sha256: str  # of the notebook file
    version: int  # of the exercise that graded it
    seed: str  # hex: hidden inputs are a function of it
    graded: str  # UTC, ISO 8601
    report: Report
    timestamp: str = ""  # of the submission, where nbgrader wrote one

    @property
    def key(self) -> tuple[str, str]:
        return self.learner, self.exercise


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal:
    """`grades.jsonl`, mode 600, and `grades.secret` beside it. One grader at a time holds it.

    Raises:
        GradeError: another grader holds it, or a line before the last cannot be read.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path):
        self.path, self.latest = path, {}
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise GradeError(
                f"another grader is writing `{path}`", remedy="wait for it, or name another --out"
            ) from None
        try:
            with storage(path):
                drop_torn_line(path)
                self.secret = _secret(path.with_suffix(".secret"))
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                grade = _read(line, f"`{path}`, line {number}")
                self.latest[grade.key] = grade
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._file)

    def seed(self, learner: str, exercise: str, sha256: str) -> bytes:
        """32 bytes: HMAC-SHA-256 (RFC 2104) of learner, exercise and file under the class's secret.

        Of the file too: whoever smuggles inputs out in an error message meets others in the next submission.
        """
        return hmac.digest(self.secret, json.dumps([learner, exercise, sha256]).encode(), "sha256")

    def append(self, grade: Grade) -> None:
        """Write one line and fsync it. Raises StorageError: the disk refused, and no half line stays."""
        plain = dataclasses.asdict(grade) | {"report": to_dict([grade.report])["reports"][0]}
        line = json.dumps(plain, ensure_ascii=True).encode() + b"\n"
        with storage(self.path):
            end = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError("the line was cut short")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, end)
                raise
        self.latest[grade.key] = grade


def _read(line: bytes, where: str) -> Grade:
    try:
        plain: dict[str, Any] = json.loads(line)
        return Grade(**plain | {"report": from_dict(plain["report"])})
    except (KeyError, TypeError, ValueError) as error:
        raise GradeError(
            f"{where}: no grade: {error}", remedy="delete that line; the notebook is then graded again"
        ) from error


def _secret(path: Path) -> bytes:
    """32 random bytes, made once, readable by their owner alone."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(made, secrets.token_hex(32).encode() + b"\n")
        os.fsync(made)
        os.close(made)
        os.replace(temporary, path)
        sync_folder(path.parent)
    return hashlib.sha256(path.read_bytes().strip()).digest()
