"""The allocator's film strip: segments and blocks over a step, and the holes that nobody can use.

strip = film_strip(record(run), scale=32)      # a slider in JupyterLab; print(strip) is its text twin
strip.turn(settings="expandable_segments:True", at=12)      # what a knob does
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.memory import CATEGORIES, Trace
from llmkit.memory.strip import Frame, film

SETTINGS = ("", "expandable_segments:True", "max_split_size_mb:20", "roundup_power2_divisions:8")


def film_strip(trace: Trace, *, scale: int = 1, **options: Any) -> FilmStrip:
    """The strip of a trace; options as of `llmkit.memory.strip.film`."""
    return FilmStrip(trace, scale=scale, **options)


class FilmStrip(anywidget.AnyWidget):
    """Two knobs, moment and settings. Frames are made when a setting is chosen; a moment then costs nothing.

    Attributes:
        frames: of the present settings, as `llmkit.memory.strip.film` made them.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    choices = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    at = traitlets.Int(0).tag(sync=True)

    def __init__(self, trace: Trace, **options: Any):
        super().__init__(choices={"settings": SETTINGS, "categories": CATEGORIES})
        self.trace, self.options = trace, options
        self.on_msg(lambda _, message, buffers: self.turn(**message))
        self.turn(settings="")
        self.turn(at=max(range(len(self.frames)), key=lambda i: self.frames[i].reserved))

    def turn(self, settings: str | None = None, at: int | None = None) -> None:
        """Choose allocator settings, or a moment by its place in `frames`; what is not given stays.

        Raises:
            ConfigError: settings that PyTorch would refuse.
        """
        if settings is not None:
            self.frames: list[Frame] = film(self.trace, settings, **self.options)
            frames = [asdict(frame) | {"says": frame.says()} for frame in self.frames]
            self.at, self.shown = min(self.at, len(frames) - 1), {"settings": settings, "frames": frames}
        if at is not None:
            self.at = max(0, min(at, len(self.frames) - 1))

    def __str__(self) -> str:
        return f"allocator `{self.shown['settings'] or 'default'}` (emulated)\n{self.frames[self.at]}"

    def __repr__(self) -> str:
        """Short, and the same at every setting: notebooks store it."""
        return f"<film strip of {len(self.trace.events)} events>"
