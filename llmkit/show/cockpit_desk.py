"""The cockpit without its window: a session, a screen, a doctor, and what each button does, as plain
functions.

desk = Desk(tiny(steps=500), "runs/mine")
desk.press("go")
desk.look()                 # read what is new in the folder
desk.press("inject", fault="lr-glitch")
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from llmkit.diagnose import Doctor
from llmkit.errors import ConfigError, closest
from llmkit.lab.flight import config_of
from llmkit.lab.session import Session
from llmkit.records import Event
from llmkit.show.cockpit_screen import Screen
from llmkit.train import RunConfig

REST = 1.0  # seconds between two looks of the doctor, or
SHARE = 0.03  # of the time may go into them, whichever is longer
CALLS_DOCTOR = {
    "nonfinite",
    "oom",
    "alarm",
    "died",
    "rescue",
    "floor",
    "end",
}  # events that make it look at once

# A bug stays until it is mended: what lasts one step by itself is made to last. A glitch is a glitch.
LASTING = {"nan-division", "fp16-overflow", "stalled-loader"}


class Desk:
    """Who presses what, and what is to be seen. Safe to use from two threads.

    Args:
        cfg: what to run; None goes on with the run in `folder`.
        folder: the run folder; None: a temporary one that lasts as long as this process.

    Raises:
        LLMKitError: the child refused the configuration, the data or the folder.
    """

    def __init__(self, cfg: RunConfig | None, folder: Path | str | None = None):
        self._temporary = tempfile.TemporaryDirectory(prefix="llmkit-") if folder is None else None
        self.session = Session(cfg, folder or f"{self._temporary.name}/run", resume=cfg is None)
        cfg = cfg or config_of(self.session.run_folder())
        self.screen = Screen(cfg.name, cfg.steps)
        self.doctor, self._doctor_rests_until = Doctor(self.session.run_folder()), 0.0
        self.heard: list[Event] | None = None  # what was told while somebody listened
        self.lock, self._ended = threading.RLock(), False
        self.look()

    # -------------------------------------------------------------------------------------------- to be seen

    def look(self, *, examine: bool = False) -> None:
        """Take in what is new in the folder; `examine`: let the doctor look whatever it costs."""
        with self.lock:
            state = self.session.state  # before the news: what led to a state is then among them
            news = self.session.news()
            self.screen.take(news)
            if self.heard is not None:
                self.heard += news.events
            self._place(state, news.events)
            called = any(event.kind in CALLS_DOCTOR for event in news.events)
            if examine or called or time.monotonic() >= self._doctor_rests_until:
                self._examine()

    def _place(self, state: str, events: list[Event]) -> None:
        status, last = self.screen.status, self.screen.curves["loss"].last
        status.state = "closed" if self._ended else "killed" if state == "gone" else state
        status.step = (
            last[0] + 1 if last and status.state in ("running", "killed", "closed") else self.session.at
        )
        for event in events:
            if event.kind == "died":
                status.reason = event.data.get("error", "")
        if status.state != "dead":
            status.reason = ""

    def _examine(self) -> None:
        before = time.monotonic()
        self.screen.diagnosis = self.doctor.look()
        took = time.monotonic() - before
        self._doctor_rests_until = before + max(REST, took / SHARE)

    # ----------------------------------------------------------------------------------------- to be pressed

    def press(self, command: str, **given: Any) -> None:
        """Carry out a command: a button of the panel or a line of a script.

        Raises:
            ConfigError: no such command.
            LLMKitError: the child refused, or its process is gone.
        """
        commands = {name.removeprefix("_do_"): name for name in dir(self) if name.startswith("_do_")}
        if command not in commands:
            raise ConfigError(f"unknown command `{command}`", remedy=closest(command, commands))
        self.look()  # what was before the command comes before it in the log
        try:
            getattr(self, commands[command])(**given)
        finally:
            self.look()

    def _act(self, kind: str, says: str, step: int | None = None, name: str = "") -> None:
        with self.lock:
            self.screen.act(kind, says, self.session.at if step is None else step, name)

    def _do_go(self) -> None:
        self.session.go()

    def _do_pause(self) -> None:
        self.session.pause()

    def _do_step(self, count: int = 1) -> None:
        self.session.step(count)

    def _do_until(self, step: int) -> None:
        self.session.until(step)

    def _do_inject(self, fault: str, **where: Any) -> None:
        lasts = {"until": math.inf} if fault in LASTING else {}
        where = lasts | {name: value for name, value in where.items() if value is not None}
        self.session.inject(fault, **where)
        at = where.get("at", self.session.at)
        place = "".join(f", {name} {value}" for name, value in where.items() if name not in ("at", "until"))
        self._act("fault", f"{fault} put in{place}", step=at, name=fault)
        self.screen.status.faults.append(fault)

    def _do_repair(self) -> None:
        self.session.repair()
        self._act("repair", "the fault is taken out; what it did stays done")
        self.screen.status.faults.clear()

    def _do_rescue(self, go: bool = True) -> None:
        self._act("crew", "the crew comes aboard")
        self.session.rescue(go=go)
        self.screen.status.crew = True

    def _do_dismiss(self) -> None:
        self.session.rescue(False)
        self._act("crew", "the crew goes off board")
        self.screen.status.crew = False

    def _do_kill(self) -> None:
        self.session.kill()
        self.look()
        self._act("kill", "SIGKILL: the process is gone, nothing was tidied up", step=self.screen.status.step)

    def _do_bring_back(self) -> None:
        self.session.bring_back()
        self.look()
        status = self.screen.status
        lost = " Neither the crew nor the fault came along." if status.crew or status.faults else ""
        self._act("note", f"a new process is at step {self.session.at}.{lost}")
        status.crew = False
        status.faults.clear()

    def refuse(self, says: str) -> None:
        """Something was asked for that cannot be had: a line of the log, not an exception nobody sees."""
        says = says.replace("\n  ", "; ")
        if not self.screen.log or self.screen.log[-1].says != says:
            self._act("refused", says)

    # ----------------------------------------------------------------------------------------------- the end

    def end(self) -> None:
        """End the child and stop looking; the folder stays unless it was a temporary one."""
        with self.lock:
            if self._ended:
                return
            self._ended = True
        try:
            self.session.close()
            self.look()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
