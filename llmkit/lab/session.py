"""A run in a child process, steered from here.

    with Session(tiny(steps=500), "runs/live") as session:
        session.until(40)
        session.inject("nan-division", module="blocks.1.mlp", at=45)
        session.until(60)
        print(session.state)            # dead
        session.rescue()

The run lives in its own process because a screen that redraws in the training process costs a quarter of its
speed, because a child can be killed with SIGKILL and seen to come back, and because it can then be watched
through its folder alone, as a run on a cluster is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llmkit import errors
from llmkit.diagnose.tail import Tail
from llmkit.errors import RecordError
from llmkit.folder import RunFolder, storage
from llmkit.records import Event, StepRecord, StepTimes, from_json
from llmkit.train import RunConfig


@dataclass
class News:
    """What the folder says that it did not say before."""

    steps: list[StepRecord] = field(default_factory=list)
    times: list[StepTimes] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    rewound: bool = False  # steps.jsonl was cut back: `steps` holds all of it


class Session:
    """Commands to a child, answers from it, news from its folder.

    Args:
        cfg: what to run; None with `resume` takes it from run.json.
        folder: the run folder.
        resume: go on in an existing folder.

    Raises:
        LLMKitError: the child refused the configuration, the data or the folder.
    """

    def __init__(self, cfg: RunConfig | None, folder: os.PathLike | str, *, resume: bool = False):
        self.folder = Path(folder)
        self.at = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed, self._writing = threading.Condition(), threading.Lock()
        self._numbers = iter(range(1, sys.maxsize))
        self.look_again()
        self._start(cfg, resume)

    def _start(self, cfg: RunConfig | None, resume: bool) -> None:
        self.state, made = "starting", not self.folder.exists()
        with storage(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "child.log", "ab") as log:  # what the child says beside its replies
            self._child = subprocess.Popen(
                [sys.executable, "-m", "llmkit.lab.child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
                process_group=0,  # an interrupt of the kernel, or Ctrl-C, is not meant for the run
            )  # fmt: skip
        # the finalizer closes the child's input when this session is collected or the interpreter ends
        self._finalizer = weakref.finalize(self, _end, self._child)
        self._reader = threading.Thread(target=_read, args=(weakref.ref(self), self._child), daemon=True)
        self._reader.start()
        first = {
            "config": cfg and cfg.to_dict(),
            "folder": str(self.folder),
            "resume": resume,
            "parent": os.getpid(),
        }
        try:
            self._ask(first)
        except errors.LLMKitError:
            refused = self.state == "refused"  # and not dead, with something to tell in its log
            self.close()
            if made and refused:
                self._leave_nothing()
            raise

    def _leave_nothing(self) -> None:
        """A refused run has no folder, unless something in it tells more than the refusal does."""
        log = self.folder / "child.log"
        if [*self.folder.iterdir()] == [log] and not log.stat().st_size:
            log.unlink()
            self.folder.rmdir()

    # ---------------------------------------------------------------------------------------------- commands

    def go(self) -> None:
        """Run until told otherwise."""
        self._ask({"do": "go"})

    def pause(self) -> None:
        self._ask({"do": "pause"})

    def until(self, step: int) -> str:
        """Run to `step` and pause there; returns the state, which is `dead` if it did not get there."""
        return self._ask({"do": "until", "with": {"step": step}})["state"]

    def step(self, count: int = 1) -> str:
        return self.until(self.at + count)

    def inject(self, fault: str, **where: Any) -> None:
        """Apply a fault. Raises FaultError when there is no such fault or it does not apply here."""
        self._ask({"do": "inject", "with": {"fault": fault, "where": where}})

    def repair(self) -> None:
        """Take all faults out."""
        self._ask({"do": "repair"})

    def rescue(self, on: bool = True, *, go: bool = True) -> None:
        """Put the crew aboard; a dead run is tried again under their eyes, at once or (`go=False`) when told
        to go."""
        self._ask({"do": "rescue", "with": {"on": on, "go": go}})

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()
        self._reader.join()

    def bring_back(self) -> int:
        """Start a new child that resumes from the newest good checkpoint; returns its step."""
        self.close()
        self._start(None, resume=True)
        return self.at

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        """End the child; the folder keeps everything."""
        self._finalizer()
        self._reader.join()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------- news

    def look_again(self) -> None:
        """Let the next `news()` start from the beginning of the logs."""
        logs = {"steps": StepRecord, "times": StepTimes, "events": Event}
        self._tails = {
            name: Tail(self.folder / f"{name}.jsonl", partial(from_json, kind)) for name, kind in logs.items()
        }

    def news(self) -> News:
        """What was written since the last call."""
        found, rewound = {}, False
        for name, tail in self._tails.items():
            read = tail.read()
            if read.rewritten:
                tail.rewind()
                read, rewound = tail.read(), rewound or name == "steps"
            found[name] = read.records
        return News(**found, rewound=rewound)

    def run_folder(self) -> RunFolder:
        return RunFolder.open(self.folder)

    # ---------------------------------------------------------------------------------------------- plumbing

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        try:
            with self._writing:
                self._child.stdin.write(json.dumps({"id": number, **command}) + "\n")
        except (BrokenPipeError, ValueError):
            raise self._gone() from None
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self.state == "gone")
            answer = self._answers.pop(number, None)
        if answer is None:
            raise self._gone()
        if answer["error"]:
            refusal = answer["error"]
            raise getattr(errors, refusal.pop("kind"))(**refusal)  # in the child's own words
        return answer

    def _gone(self) -> RecordError:
        self._reader.join()
        return RecordError(
            f"the run's process is gone (exit code {self._child.returncode})",
            remedy=f"use bring_back() to resume it; `{self.folder / 'child.log'}` has its last words",
        )

    def _hear(self, message: dict[str, Any] | None) -> None:
        with self._changed:
            if message is None:
                self.state = "gone"
            else:
                self.state, self.at = message["state"], message["step"]
                if message["id"]:
                    self._answers[message["id"]] = message
            self._changed.notify_all()


def _read(session: weakref.ref, child: subprocess.Popen) -> None:
    """The child's replies, until it is gone. Holds the session weakly, so that a forgotten one can be
    collected."""
    with child.stdout:
        for line in child.stdout:
            if (owner := session()) is not None:
                owner._hear(json.loads(line))
            del owner
    child.wait()
    if (owner := session()) is not None:
        owner._hear(None)


def _end(child: subprocess.Popen) -> None:
    """Close the child's input: it leaves at once; SIGKILL if it cannot."""
    try:
        child.stdin.close()
        child.wait(timeout=5)
    except (BrokenPipeError, subprocess.TimeoutExpired):
        child.kill()
        child.wait()
