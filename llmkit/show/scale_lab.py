"""The loss-scale lab: drag the scale over the exponents of real gradients, then watch the policies chase it.

    run.observers.append(exponents := Exponents())          # a run in bf16, which loses nothing to range
    list(train(run))
    lab = scale_lab(exponents.looks)                # a slider in JupyterLab; print(lab) is its text twin
    lab.turn(power=20, policy="megatron")           # what slider and menu do

The window is what fp16 holds, 2^-24 to 65504; a scale of 2^k moves it k to the left. It is emulated: the
numbers are those of a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from llmkit.errors import ConfigError, closest
from llmkit.lab.scale_lab import Trace, compare
from llmkit.observe.exponents import BIAS, OVERFLOWS, Look
from llmkit.train.scale_policies import POLICIES

POWERS = (-8, 32)  # of the slider
CHASE = {"scale": 2.0**16, "growth_interval": 10}  # at the trainers' intervals nothing would be seen to grow


def scale_lab(looks: Sequence[Look]) -> ScaleLab:
    """The lab on every look of a run; the layers drawn are those of the last."""
    return ScaleLab(looks)


class ScaleLab(anywidget.AnyWidget):
    """Two knobs. `board` stays: per layer the share of each exponent. `shown` follows the knobs."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    board = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, looks: Sequence[Look]):
        self.look, self.trace = looks[-1], Trace.recorded(looks)
        self.replays = compare(self.trace, **CHASE)
        super().__init__(board=board(self.look) | {"powers": POWERS, "policies": list(POLICIES)})
        self.on_msg(lambda _, message, buffers: self.turn(**message))
        self.turn(power=0, policy="torch.amp")

    def turn(self, **knobs: Any) -> None:
        """Set `power` of the scale or `policy`; the other stays. Raises ConfigError: no such policy."""
        power, policy = ({k: self.shown.get(k) for k in ("power", "policy")} | knobs).values()
        if policy not in POLICIES:
            raise ConfigError(f"no policy `{policy}`", remedy=closest(policy, POLICIES))
        done = self.replays[policy]
        self.shown = {
            "power": power, "policy": policy, "headline": losses(self.look, power),
            "rows": [losses(self.look, power, name) for name in self.look.layers],
            "limits": [math.log2(OVERFLOWS / largest) if largest else None for largest in self.trace.largest],
            "chase": [math.log2(scale) if scale else None for scale in done.scales],
            "skipped": done.skipped,
            "outcome": f"{policy}: {sum(done.skipped)} of {len(done.skipped)} steps skipped, "
            f"{done.lost:.2%} of the numbers became 0" + f"; {done.ended}" * bool(done.ended),
        }  # fmt: skip

    def __str__(self) -> str:
        shown, width = self.shown, max(map(len, self.look.layers))
        rows = zip(self.look.layers, shown["rows"], strict=True)
        lines = [f"loss scale 2^{shown['power']}: {shown['headline']}"]
        return "\n".join([*lines, *(f"  {name:{width}}  {says}" for name, says in rows), shown["outcome"]])

    def __repr__(self) -> str:
        return f"<loss-scale lab: {len(self.look.layers)} layers, {len(self.trace.largest)} steps>"


def board(look: Look) -> dict[str, Any]:
    """First and last exponent that occur, and per layer the share of its non-zero numbers at each of them."""
    known = np.flatnonzero(look.counts[1:255]) + 1
    first, last = int(known[0]), int(known[-1])
    shares = {name: n[first : last + 1] / max(1, n[1:].sum()) for name, n in look.layers.items()}
    rows = [{"name": name, "shares": row.round(5).tolist()} for name, row in shares.items()]
    return {"first": first - BIAS, "last": last - BIAS, "step": look.step, "rows": rows}


def losses(look: Look, power: int, layer: str | None = None) -> str:
    """What fp16 loses at this scale."""
    low, high = look.underflow(2.0**power, layer), look.overflow(2.0**power, layer)
    return f"{low:.2%} become 0, {high:.2%} infinite"
