"""Reading a log that is still being written: only what was appended since the last look.

tail = Tail(Path("runs/mine/steps.jsonl"), step_of)
tail.read().records      # all whole lines; the next call returns only later ones
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.errors import RecordError
from llmkit.records import StepRecord, from_json

MARK = 64  # bytes before the last position that are compared, to notice that a log was rewritten in place


@dataclass(frozen=True)
class Read:
    """What one look brought."""

    records: list[Any]
    rewritten: bool = False  # the file is not the one that was read before: the reader must begin again


class Tail:
    """A position in an append-only log of JSON lines. A torn last line is left for the next look."""

    def __init__(self, path: Path, parse: Callable[[str], Any]):
        self.path, self.parse = path, parse
        self.rewind()

    def rewind(self) -> None:
        self.position, self.lines, self.mark = 0, 0, b""

    def read(self) -> Read:
        """Raises RecordError, naming file and line, for a whole line that cannot be read."""
        if not self.path.exists():
            return Read([], rewritten=self.position > 0)
        with open(self.path, "rb") as file:
            file.seek(self.position - len(self.mark))
            if file.read(len(self.mark)) != self.mark:
                return Read([], rewritten=True)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        records = []
        for line in whole.decode("utf-8", errors="replace").split("\n")[:-1]:
            self.lines += 1
            try:
                records.append(self.parse(line))
            except RecordError as error:
                message = f"{self.path}, line {self.lines}: {error.found}"
                raise RecordError(message, expected=error.expected, line=self.lines) from error
        self.position += len(whole)
        self.mark = (self.mark + whole)[-MARK:]
        return Read(records)


def step_of(line: str) -> StepRecord:
    """A StepRecord from any trainer's line: it must have `step` and `loss`; the rest may be missing.

    A missing gradient norm or learning rate becomes NaN: "not recorded", which no rule takes for a number.
    """
    try:
        return from_json(StepRecord, line)
    except RecordError:
        try:
            plain = json.loads(line)
        except ValueError:
            plain = None
        if not isinstance(plain, dict) or not {"step", "loss"} <= plain.keys():
            raise
        return from_json(StepRecord, json.dumps({"grad_norm": math.nan, "lr": math.nan} | plain))
