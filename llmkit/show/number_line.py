"""The number-line explorer: one number in fp32, bf16, fp16 and two fp8 formats, side by side.

line = number_line()        # sliders in JupyterLab; print(line) is its text twin
line.turn(power=-25)        # what a slider does: 1.0 x 2^-25
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.lab.number_line import FORMATS, Format, facts, place

POWERS = (-45, 40)


def number_line() -> NumberLine:
    """The explorer, at 1.0."""
    return NumberLine()


class NumberLine(anywidget.AnyWidget):
    """Two knobs, power and mantissa. `board` has each format's limits, `shown` where the number falls."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_name("scale_lab.css")
    board = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self):
        super().__init__(board={"powers": POWERS, "formats": [band(name, facts(name)) for name in FORMATS]})
        self.on_msg(lambda _, message, buffers: self.turn(**message))
        self.turn(power=0, mantissa=1.0)

    def turn(self, **knobs: Any) -> None:
        """Set `power` (whole) or `mantissa` (1 up to 2); the other stays."""
        kept = {key: self.shown.get(key) for key in ("power", "mantissa")} | knobs
        value = math.ldexp(kept["mantissa"], kept["power"])
        says = [where(name, value) for name in FORMATS]
        self.shown = kept | {
            "headline": f"{kept['mantissa']:g} x 2^{kept['power']} = {value:.9g}",
            "says": says,
        }

    def __str__(self) -> str:
        rows = zip(self.board["formats"], self.shown["says"], strict=True)
        lines = [f"{band['name']:8}  {says}\n{'':8}  {band['says']}" for band, says in rows]
        return "\n".join([self.shown["headline"], *lines])

    def __repr__(self) -> str:
        return f"<number line: {', '.join(FORMATS)}>"


def band(name: str, known: Format) -> dict[str, Any]:
    """A format's range: logarithms to base 2 of its limits, and a line of text."""
    limits = {key: math.log2(value) for key, value in asdict(known).items() if key != "digits"}
    says = f"2^{limits['tiniest']:.0f} to {known.largest:.6g}, "
    says += f"{known.digits} binary digits from 2^{limits['smallest']:.0f}"
    return limits | {"name": name, "says": says}


def where(name: str, value: float) -> str:
    """What became of the number, and how far away the next one is."""
    at = place(name, value)
    if at.verdict.startswith("becomes"):
        return at.verdict
    lost = "" if at.verdict == "exact" else f"{at.stored:.9g}, relative error {at.error(value):.1e}, "
    return f"{at.verdict}: {lost}next below {at.below:.9g}, above {at.above:.9g}"
