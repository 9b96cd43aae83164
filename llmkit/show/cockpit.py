"""The cockpit: a live run in a notebook cell, with buttons that break it and mend it.

    from llmkit.show.cockpit import cockpit
    panel = cockpit(tiny(steps=2000, precision="fp16"))
    panel                       # a panel in JupyterLab; print(panel) is its text twin
    panel.play([("until", 40), ("inject", "nan-division"), ("until", 60)])      # the same without a front end

The one idea: the run is a child process, and the panel is a window on its folder. A thread of the kernel
looks at the folder three times a second and sends the browser the values that are new; commands go to the
child between two steps.
"""

from __future__ import annotations

import queue
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.errors import ConfigError, LLMKitError, closest
from llmkit.faults import FAULTS
from llmkit.show.cockpit_desk import Desk
from llmkit.show.cockpit_screen import as_text
from llmkit.show.cockpit_script import Transcript, perform
from llmkit.train import RunConfig, tiny

LOOK = 0.3  # seconds between looks at the folder
BUSY = {"bring_back": "bringing back", "inject": "putting it in", "kill": "killing", "step": "stepping"}

_flying: weakref.ref[Cockpit] | None = None  # the cockpit of this kernel


def cockpit(
    cfg: RunConfig | None = None, folder: str | Path | None = None, *, faults: Sequence[str] = tuple(FAULTS)
) -> Cockpit:
    """A panel on a run that is paused at its first step. The kernel's previous cockpit is closed.

    Args:
        cfg: what to run; None goes on with the run in `folder`, or without a folder flies `taste()`.
        folder: where the run's records go. None: a temporary folder that lasts as long as the kernel.
        faults: which can be chosen to break it.

    Raises:
        ConfigError: an unknown fault.
        LLMKitError: the configuration, the data or the folder was refused.
    """
    global _flying
    for name in faults:
        if name not in FAULTS:
            raise ConfigError(f"unknown fault `{name}`", remedy=closest(name, FAULTS))
    if _flying is not None and (previous := _flying()) is not None:
        previous.end()
    panel = Cockpit(Desk(taste() if cfg is None and folder is None else cfg, folder), faults)
    _flying = weakref.ref(panel)
    return panel


def taste() -> RunConfig:
    """What flies when nothing is asked for: a small GPT on real text in fp16, for some two minutes."""
    return tiny(precision="fp16", steps=5000)


class Cockpit(anywidget.AnyWidget):
    """The panel: a desk's screen as traits, a thread that looks, a thread-safe queue of what was pressed.

    Attributes:
        desk: session, screen and doctor; `desk.press("go")` is the Go button.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    title = traitlets.Unicode().tag(sync=True)
    faults = traitlets.List().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    readouts = traitlets.Dict().tag(sync=True)
    axes = traitlets.Dict().tag(sync=True)
    marks = traitlets.List().tag(sync=True)
    events = traitlets.List().tag(sync=True)
    doctor = traitlets.Dict().tag(sync=True)

    def __init__(self, desk: Desk, faults: Sequence[str]):
        self.desk, self._handled = desk, 0
        doors = dict.fromkeys(FAULTS[name].door for name in faults)
        offered = [(d, [(n, FAULTS[n].symptom) for n in faults if FAULTS[n].door == d]) for d in doors]
        super().__init__(title=desk.screen.name, faults=offered, **self._shown())
        self._pressed: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.on_msg(lambda _, message, buffers: self._pressed.put(message))
        self._thread = threading.Thread(target=self._serve, name="cockpit", daemon=True)
        self._thread.start()

    # --------------------------------------------------------------------------------------- for the browser

    def _shown(self) -> dict[str, Any]:
        shown = self.desk.screen.shown()
        shown["status"]["handled"] = self._handled
        return shown

    def show(self, *, everything: bool = False) -> None:
        """Send what is new, in one message for the traits and one for the curves; nothing when nothing is."""
        with self.desk.lock:
            with self.hold_sync():
                for name, value in self._shown().items():
                    setattr(self, name, value)
            if curves := self.desk.screen.patches(everything=everything):
                self.send({"curves": curves})

    def _serve(self) -> None:
        """The thread: what was pressed, in order; else a look every LOOK seconds."""
        while True:
            try:
                message = self._pressed.get(timeout=LOOK)
            except queue.Empty:
                message = {"press": "look"}
            if message is None:
                return
            self.handle(message)

    def handle(self, message: dict[str, Any]) -> None:
        """What the browser sent, as in `{"press": "inject", "fault": "oom"}`. A refusal goes into the log."""
        command = message.get("press", "")
        if command not in ("look", "hello"):
            self._handled += 1
            self.desk.screen.status.busy = BUSY.get(command, "")
            self.show()
        try:
            if command in ("look", "hello"):
                self.desk.look()
            else:
                self.desk.press(
                    command, **{k: v for k, v in message.items() if k != "press" and v is not None}
                )
        except LLMKitError as refusal:
            self.desk.refuse(str(refusal))
        self.desk.screen.status.busy = ""
        self.show(everything=command == "hello")

    # ----------------------------------------------------------------------------------------- for everybody

    def play(self, script: Sequence[tuple[Any, ...]]) -> Transcript:
        """Fly by a script instead of by hand, and tell what happened: the same words on every machine.

        A line is a command and what it takes: `("until", 40)`, `("inject", "oom", {"phase": "backward"})`,
        `("repair",)`, `("rescue",)`, `("dismiss",)`, `("kill",)`, `("bring_back",)`, `("step", 3)`.

        Raises:
            ConfigError: an unknown command, or one whose outcome depends on the clock.
        """
        told = perform(self.desk, script)
        self.show()
        return told

    def text(self) -> str:
        """The panel as plain text, with the numbers that are on it."""
        return as_text(self._shown())

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        """Short, and the same at every moment: notebooks store it."""
        return f"<cockpit: {self.title}, {self.desk.screen.status.of} steps>"

    def end(self) -> None:
        """End the run's process. The panel stays and says so; the folder stays if it was named."""
        self._pressed.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.desk.end()
        self.show()

    def close(self) -> None:
        """End, and take the panel off the page."""
        if not sys.is_finalizing():  # called by `__del__` then, when no thread runs that could be joined
            self.end()
            super().close()
