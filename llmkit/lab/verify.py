"""Do a run again and compare: every digest, every line of steps.jsonl, every bit of the final weights.

for check in verify("runs/mine"):
    print(check.what, check.same)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmkit.errors import IntegrityError, RecordError
from llmkit.faults import apply
from llmkit.folder import RunFolder
from llmkit.lab.flight import Flight, config_of, finish, open_data, prepare
from llmkit.records import to_json
from llmkit.train import Run, fingerprint
from llmkit.train.checkpoint import problems
from llmkit.train.fingerprint import differences


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    what: str
    then: str
    now: str

    @property
    def same(self) -> bool:
        return self.then == self.now


def verify(path: os.PathLike | str) -> list[Check]:
    """Re-run a folder's run.json in a temporary folder and compare it with what is in the folder.

    A run that was broken on purpose is broken again the same way, a supervised one is supervised again.

    Raises:
        RecordError: not a run folder, or one with no configuration or no steps.
    """
    folder = RunFolder.open(path)
    cfg, known, then = config_of(folder), folder.facts, folder.steps()
    if not then:
        raise RecordError(f"`{path}` has no steps to compare", remedy="verify a run that has run")
    dataset = open_data(cfg)
    checks = [
        Check("data digest", known["data"]["digest"][:16], dataset.digest[:16]),
        Check("tokenizer digest", known["data"]["tokenizer_digest"][:16], dataset.tokenizer_digest[:16]),
    ]
    if not all(check.same for check in checks):
        return checks
    with tempfile.TemporaryDirectory(prefix="llmkit-verify-") as scratch:
        again = prepare(cfg, Path(scratch) / "run", dataset=dataset)
        reasons = differences(known.get("fingerprint", {}), fingerprint(again.run))
        checks.append(Check("machine", "as then", "; ".join(reasons) or "as then"))
        repeat(again, known, steps=then[-1].step + 1)
        checks += compare_steps(then, again.folder.steps())
        checks += compare_checkpoints(folder, again.folder)
    return checks


def repeat(flight: Flight, known: dict[str, Any], steps: int) -> None:
    """Run `flight` as run.json says the first one was run, up to `steps`."""
    deaths = (ArithmeticError, RuntimeError, IntegrityError)  # a run that died then dies now
    with broken_as(known, flight.run), contextlib.suppress(*deaths):
        for record in finish(flight, supervised=known.get("supervised", False)):
            if record.step + 1 >= steps:
                flight.run.stop_asked = flight.run.stopped = True


def broken_as(known: dict[str, Any], run: Run) -> AbstractContextManager:
    """The fault that run.json says was in the run, if any, for a run that has not begun."""
    fault = known.get("fault")
    return apply(fault["name"], run, **fault["where"]) if fault else contextlib.nullcontext()


def compare_steps(then: list, now: list) -> list[Check]:
    """Line by line, as bytes; names the first line that differs."""
    for number, (a, b) in enumerate(itertools.zip_longest(then, now)):
        if a is None or b is None or to_json(a) != to_json(b):
            loss = [f"loss {r.loss!r}" if r else "no such line" for r in (a, b)]
            return [Check(f"steps.jsonl, line {number + 1}", *loss)] if loss[0] != loss[1] else [
                Check(f"steps.jsonl, line {number + 1}", "one line", "another line")
            ]  # fmt: skip
    return [Check(f"steps.jsonl, {len(then)} lines", "equal", "equal")]


def compare_checkpoints(then: RunFolder, now: RunFolder) -> list[Check]:
    """Weights of the checkpoints that both have, bit for bit; the newest says it for all before it."""
    common = {p.name for p in then.checkpoints.glob("step-*")} & {
        p.name for p in now.checkpoints.glob("step-*")
    }
    checks = []
    for name in sorted(common)[-1:]:
        if found := problems(then.checkpoints / name):
            return [Check(f"checkpoint {name}", "whole", found[0])]
        pair = [torch.load(f.checkpoints / name / "weights.pt", weights_only=True) for f in (then, now)]
        different = [key for key in pair[0] if not torch.equal(pair[0][key], pair[1][key])]
        checks.append(Check(f"weights, {name}", "equal", f"{different[0]} differs" if different else "equal"))
    return checks
