"""A run on disk: plain files, whole or not at all, complete after a SIGKILL. No torch here.

    run.json                 what was asked, with which data, code and machine
    steps.jsonl              one StepRecord a line: only what is a function of the inputs, so two runs compare
    equal times.jsonl              one StepTimes a line: wall clock and memory, never equal twice
    events.jsonl             one Event a line: scale changes, skips, alarms, checkpoints, rescues
    details.jsonl            one Detail a line: per layer, for the 64 steps before an alarm
    checkpoints/step-00002000/

docs/run-folder.md is the schema. Any trainer can write it:

    folder = RunFolder.create("runs/mine", {"config": {"precision": "fp16"}})
    folder.append("steps", StepRecord(step=0, loss=8.3, grad_norm=1.2, lr=1e-4))
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmkit.errors import RecordError, StorageError
from llmkit.records import Detail, Event, StepRecord, StepTimes, read_jsonl, to_json

SCHEMA = 1


@contextmanager
def storage(path: os.PathLike | str) -> Iterator[None]:
    """Dress the operating system's refusal (full disk, no permission) as a StorageError naming the path."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = (
            "free some space or choose another folder"
            if error.errno == errno.ENOSPC
            else "choose a folder you may write to"
        )
        raise StorageError(f"cannot write `{path}`: {reason}", remedy=remedy, path=str(path)) from error


def write_whole(path: os.PathLike | str, content: str | bytes) -> None:
    """Write a file under a temporary name, fsync, rename: a reader sees the old file or the new one.

    Raises:
        StorageError: full disk or unwritable folder; the old file, if any, still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: os.PathLike | str) -> None:
    """fsync a directory, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --------------------------------------------------------------------------------------------- the run folder

LOGS: dict[str, type] = {"steps": StepRecord, "times": StepTimes, "events": Event, "details": Detail}


class RunFolder:
    """A run on disk. Appending is one write and a flush: what a SIGKILL can tear is the last line only."""

    def __init__(self, path: os.PathLike | str):
        self.path = Path(path)
        self._open: dict[str, Any] = {}

    @classmethod
    def create(cls, path: os.PathLike | str, facts: dict[str, Any]) -> RunFolder:
        """A new folder with its run.json.

        Raises:
            RecordError: the folder already holds a run.
            StorageError: it cannot be written.
        """
        folder = cls(path)
        if (folder.path / "run.json").exists():
            raise RecordError(
                f"`{folder.path}` already holds a run", remedy="add --resume, or choose another folder"
            )
        with storage(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(
            folder.path / "run.json",
            json.dumps(json.loads(to_json({"schema": SCHEMA, **facts})), indent=1) + "\n",
        )
        return folder

    @classmethod
    def open(cls, path: os.PathLike | str) -> RunFolder:
        """An existing run folder.

        Raises:
            RecordError: no steps.jsonl and no run.json there.
        """
        folder = cls(path)
        if not any((folder.path / name).exists() for name in ("run.json", "steps.jsonl")):
            raise RecordError(
                f"`{path}` is not a run folder",
                expected="a folder with run.json and steps.jsonl",
                remedy="name the folder that `llmkit train --out FOLDER` wrote",
            )
        return folder

    @property
    def facts(self) -> dict[str, Any]:
        """run.json as a dict; empty when another trainer wrote only the logs."""
        path = self.path / "run.json"
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise RecordError(f"{path} is not JSON: {error}") from error

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[StepRecord]:
        return read_jsonl(self.path / "steps.jsonl", StepRecord)

    def times(self) -> list[StepTimes]:
        return read_jsonl(self.path / "times.jsonl", StepTimes)

    def events(self) -> list[Event]:
        return read_jsonl(self.path / "events.jsonl", Event)

    def append(self, log: str, *records: object) -> None:
        """Append lines to `steps`, `times`, `events` or `details`, flushed before this returns.

        Raises:
            StorageError: full disk or unwritable folder.
        """
        path = self.path / f"{log}.jsonl"
        with storage(path):
            if log not in self._open:
                drop_torn_line(path)
                self._open[log] = open(path, "ab", buffering=0)
            content = "".join(to_json(record) + "\n" for record in records).encode()
            file, end = self._open[log], path.stat().st_size
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, "no space left on device")
            except OSError:
                os.truncate(path, end)  # half a line is worse than none
                raise

    def truncate(self, log: str, step: int) -> None:
        """Keep only the lines of steps before `step`: a resumed run writes the rest again."""
        self.close()
        path = self.path / f"{log}.jsonl"
        if path.exists():
            kept = [r for r in read_jsonl(path, LOGS[log]) if r.step < step]
            write_whole(path, "".join(to_json(r) + "\n" for r in kept))

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


def drop_torn_line(path: Path) -> None:
    """Cut a log back to its last newline, so that the next append starts a line of its own."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
