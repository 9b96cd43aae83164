"""The child's side of a session: a run that takes commands between steps.

    python -m llmkit.lab.child < commands > replies

Commands and replies are JSON lines. The first line prepares the run; each later one is answered when it has
been carried out. When standard input ends, or the process has another parent than the first line says, the
parent is gone and the child leaves at once: no orphan, even after a SIGKILL of the parent. What anything
prints goes to standard error, so that nothing but replies is on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from llmkit.errors import LLMKitError
from llmkit.faults import apply
from llmkit.lab.flight import Flight, prepare
from llmkit.records import StepRecord
from llmkit.train import RunConfig

Say = Callable[..., None]


class Steered:
    """A run between commands.

    States: `paused`, `running`, `dead` (the run raised; the process lives), `finished`.
    """

    def __init__(self, flight: Flight, say: Say):
        self.flight, self.say = flight, say
        self.state, self.supervised = "paused", False
        self.steps: Iterator[StepRecord] | None = None
        self.faults = contextlib.ExitStack()
        self.until: tuple[int, int] | None = None  # (step to stop before, command to answer then)

    # ---------------------------------------------------------------------------------------------- commands

    def handle(self, command: dict[str, Any]) -> None:
        """Carry out one command; a refusal is a reply, not a crash."""
        number = command["id"]
        try:
            deferred = getattr(self, "do_" + command["do"])(number, **command.get("with", {}))
        except LLMKitError as error:
            self.reply(number, refusal(error))
        else:
            if not deferred:
                self.reply(number)
            self.answer_until()  # a pause, too, ends an `until`

    def reply(self, number: int, error: dict[str, str] | None = None) -> None:
        self.say(id=number, state=self.state, step=self.flight.run.step, error=error)

    def do_go(self, number: int) -> None:
        """Also a dead run may try its step again: whatever killed it may have been taken out."""
        if self.state in ("paused", "dead"):
            self.state = "running"

    def do_pause(self, number: int) -> None:
        if self.state == "running":
            self.state = "paused"

    def do_until(self, number: int, step: int) -> bool:
        """Run to `step`, then pause and answer; also answers when the run dies or ends before."""
        if self.state not in ("paused", "running") or self.flight.run.step >= step:
            return False
        self.until, self.state = (step, number), "running"
        return True

    def do_inject(self, number: int, fault: str, where: dict[str, Any]) -> None:
        self.faults.enter_context(apply(fault, self.flight.run, **where))

    def do_repair(self, number: int) -> None:
        """Take every fault out again; what it did to the weights stays done."""
        self.faults.close()

    def do_rescue(self, number: int, on: bool = True, go: bool = True) -> None:
        """Put the crew aboard (or send it off). A dead run tries its step again under their eyes."""
        self.supervised, self.steps = on, None
        if self.state == "dead" and on:
            self.flight.run.stuck = 0
            self.state = "running" if go else "paused"

    # ----------------------------------------------------------------------------------------------- running

    def advance(self) -> None:
        """One step; death is a state here."""
        if self.steps is None:
            self.steps = self.flight.steps(supervised=self.supervised)
        run = self.flight.run
        try:
            next(self.steps)
        except StopIteration:
            self.state = "finished"
            run.tell("end", f"finished at step {run.step}", finished=True)
        except (LLMKitError, torch.OutOfMemoryError, RuntimeError) as death:
            self.state, self.steps = "dead", None
            run.tell("died", f"{type(death).__name__}: {death}".splitlines()[0], error=type(death).__name__)
        self.answer_until()

    def answer_until(self) -> None:
        if self.until is None:
            return
        step, number = self.until
        run = self.flight.run
        if (
            self.state != "running" or step <= run.step < run.config.steps
        ):  # at the end: not before it is finished
            self.until = None
            if self.state == "running":
                self.state = "paused"
            self.reply(number)


def refusal(error: LLMKitError) -> dict[str, str]:
    """What the parent needs to raise it again."""
    return {
        "kind": type(error).__name__,
        "found": error.found,
        "expected": error.expected,
        "remedy": error.remedy,
    }


def listen(commands: queue.Queue) -> None:
    """Standard input into the queue; its end is the end of this process."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)


def stay_with(parent: int) -> None:
    """Standard input stays open when another process inherited its other end; the parent's number tells the
    truth."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")

    commands: queue.Queue = queue.Queue()
    threading.Thread(target=listen, args=(commands,), daemon=True).start()
    first = commands.get()
    threading.Thread(target=stay_with, args=(first["parent"],), daemon=True).start()
    try:
        cfg = RunConfig.from_dict(first["config"]) if first["config"] else None
        steered = Steered(prepare(cfg, first["folder"], resume=first["resume"]), say)
    except LLMKitError as error:
        say(id=first["id"], state="refused", step=0, error=refusal(error))
        return
    steered.reply(first["id"])
    shown = steered.state
    while True:
        with contextlib.suppress(queue.Empty):
            steered.handle(commands.get(block=steered.state != "running"))
        if steered.state == "running":
            steered.advance()
        if steered.state != shown:
            shown = steered.state
            steered.reply(0)


if __name__ == "__main__":
    main()
