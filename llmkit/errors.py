"""Everything llmkit can refuse to do, and why.

Errors, findings and verdicts are three things. An *error* is an exception from this file: you asked for
the impossible. A *finding* (`llmkit.records.Finding`) says the run is sick: it is data. A *verdict*
(`llmkit.grade`) says an answer is wrong: it is data too.

    LLMKitError
    ├── ConfigError         (ValueError)   a configuration that cannot run
    ├── DataError           (ValueError)   missing, empty or malformed data
    │   └── IntegrityError                 bytes on disk are not the bytes that were written
    ├── RecordError         (ValueError)   a run folder or log line that cannot be read
    ├── CheckpointError     (ValueError)   no checkpoint can be loaded, or it belongs to another run
    ├── StorageError        (OSError)      full disk, unwritable folder; nothing was half-written
    ├── NonFiniteError      (ArithmeticError)  the run cannot go on: every step is non-finite
    ├── DeadIteratorError   (RuntimeError) `next()` on a `train(run)` that already died
    ├── PeerError           (RuntimeError) another rank failed; this one stops with it
    ├── FaultError          (ValueError)   a fault that does not exist or does not apply here
    ├── RescueError         (RuntimeError) every recovery policy was tried and the run is still sick
    ├── GradeError          (ValueError)   a notebook that cannot be graded
    └── MissingDependency   (ImportError)  an optional package, with the command that installs it

Running out of memory is *not* here: it is `torch.OutOfMemoryError`, emulated or real, so that one
`except` serves both.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LLMKitError(Exception):
    """Found, expected, remedy, in that order.

    Args:
        found: the fact, lower case, no full stop. Names stand as the user typed them, in backticks.
        expected: what would have been right (optional).
        remedy: one thing to do, as an instruction (optional).
        fields: values a handler may want without parsing text, e.g. `step=12`; set as attributes.
    """

    def __init__(self, found: str, *, expected: str = "", remedy: str = "", **fields: object):
        self.found, self.expected, self.remedy, self.fields = found, expected, remedy, fields
        for name, value in fields.items():
            setattr(self, name, value)
        lines = [found]
        if expected:
            lines.append(f"  expected: {expected}")
        if remedy:
            lines.append(f"  remedy: {remedy}")
        super().__init__("\n".join(lines))

    def __reduce__(self):
        return _rebuild, (type(self), self.found, self.expected, self.remedy, self.fields)


def _rebuild(kind, found, expected, remedy, fields):
    return kind(found, expected=expected, remedy=remedy, **fields)


class ConfigError(LLMKitError, ValueError):
    """A configuration that cannot run."""


class DataError(LLMKitError, ValueError):
    """Missing, empty or malformed data."""


class IntegrityError(DataError):
    """Bytes on disk are not the bytes that were written."""


class RecordError(LLMKitError, ValueError):
    """A run folder or a log line that cannot be read."""


class CheckpointError(LLMKitError, ValueError):
    """No checkpoint can be loaded, or it belongs to another run."""


class StorageError(LLMKitError, OSError):
    """Full disk or unwritable folder. Nothing was half-written."""


class NonFiniteError(LLMKitError, ArithmeticError):
    """The run cannot go on: step after step is non-finite and nothing is left to back off."""


class DeadIteratorError(LLMKitError, RuntimeError):
    """`next()` on a `train(run)` iterator that already died."""


class PeerError(LLMKitError, RuntimeError):
    """Another rank failed; this one stops with it."""


class FaultError(LLMKitError, ValueError):
    """A fault that does not exist, or does not apply to this run."""


class RescueError(LLMKitError, RuntimeError):
    """Every recovery policy was tried and the run is still sick."""


class GradeError(LLMKitError, ValueError):
    """A notebook that cannot be graded."""


class MissingDependency(LLMKitError, ImportError):
    """An optional package is absent; the remedy is the command that installs it."""


def closest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, else the list.

    >>> closest("nan-divison", ["nan-division", "oom"])
    'use `nan-division`'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"use `{near[0]}`" if near else "use one of: " + ", ".join(f"`{k}`" for k in known)
