"""The memory lab in JupyterLab: drag a knob and the stack of bytes follows; a button rehearses what it shows.

    lab = memory_lab(model="gpt-7b")        # print(lab) is its text twin
    lab.turn(sequence=8192)                 # what a slider does
    lab.rehearse()                          # what the button does

All numbers come from `llmkit.memory.lab`, as they are printed; the front end measures lengths and no more.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.cost.labs import as_text
from llmkit.memory.lab import LAB, rehearsed
from llmkit.memory.sizes import parse_size

HERE = Path(__file__)


def memory_lab(**setting: Any) -> MemoryLab:
    """The lab at a setting of its knobs. Raises ConfigError on a knob or value that it has not."""
    return MemoryLab(setting)


class MemoryLab(anywidget.AnyWidget):
    """Knobs out, a screen in.

    Attributes:
        setting: value of every knob.
    """

    _esm = HERE.with_suffix(".js")
    _css = HERE.with_name("cost_lab.css").read_text() + HERE.with_suffix(".css").read_text()
    knobs = traitlets.List().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, setting: dict[str, Any]):
        super().__init__(knobs=[asdict(knob) for knob in LAB.knobs])
        self.setting = LAB.start()
        self.on_msg(lambda _, message, buffers: self.handle(message))
        self.turn(**setting)

    def turn(self, **knobs: Any) -> None:
        """Set knobs, keep the others. Raises ConfigError on a knob or a value that it has not."""
        screen = LAB.screen(self.setting | knobs)
        self.setting = self.setting | knobs
        limit = parse_size(self.setting["card"])
        self.shown = {
            "title": LAB.title,
            "setting": self.setting,
            "limit": limit,
            "rehearsed": "",
            **asdict(screen),
        }

    def rehearse(self) -> None:
        """Say beside the formula what two rehearsed steps of this setting need. About a second."""
        self.shown = self.shown | {"rehearsed": rehearsed(self.setting)}

    def handle(self, message: dict[str, Any]) -> None:
        """What the browser sent: `{"rehearse": true}`, or knobs."""
        self.rehearse() if message.get("rehearse") else self.turn(**message)

    def __str__(self) -> str:
        said = self.shown["rehearsed"]
        return as_text(LAB.screen(self.setting)) + (f"\n{said}" if said else "")

    def __repr__(self) -> str:
        """Short, and the same at every setting: notebooks store it."""
        return f"<memory lab: {len(self.knobs)} knobs>"
