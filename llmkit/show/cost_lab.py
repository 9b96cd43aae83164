"""The cost labs in JupyterLab: knobs, bars, verdict lights, and the roofline with its point.

    lab = cost_lab("scaling")               # or mixture, checkpointing, serving
    lab.turn(gpus=1024)                     # what a slider does; print(lab) is its text twin

All numbers come from `llmkit.cost.labs`, as they are printed; the front end measures lengths and no more.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.cost.labs import LABS, as_text
from llmkit.errors import ConfigError, closest


def cost_lab(name: str = "scaling", **setting: Any) -> CostLab:
    """A lab by name, at a setting of its knobs. Raises ConfigError on an unknown one."""
    if name not in LABS:
        raise ConfigError(f"no lab `{name}`", remedy=closest(name, LABS))
    return CostLab(name, setting)


class CostLab(anywidget.AnyWidget):
    """Knobs out, a screen in.

    Attributes:
        setting: value of every knob.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    knobs = traitlets.List().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, name: str, setting: dict[str, Any]):
        self.lab, self.setting = LABS[name], LABS[name].start()
        super().__init__(knobs=[asdict(knob) for knob in self.lab.knobs])
        self.on_msg(lambda _, message, buffers: self.turn(**message))
        self.turn(**setting)

    def turn(self, **knobs: Any) -> None:
        """Set knobs, keep the others. Raises ConfigError on a knob or a value that it has not."""
        screen = self.lab.screen(self.setting | knobs)
        self.setting = self.setting | knobs
        self.shown = {"title": self.lab.title, "setting": self.setting, **asdict(screen)}

    def __str__(self) -> str:
        return as_text(self.lab.screen(self.setting))

    def __repr__(self) -> str:
        """Short, and the same at every setting: notebooks store it."""
        return f"<cost lab: {self.lab.title}>"
