"""The loss-scale log: every change with its step, its reason and the steps skipped until then.

The one idea: the scaler knows which parameter overflowed, the tracer which module did it; both told the run's
events, so the log needs only to put them side by side.

    print(as_text(scale_log("runs/mine")))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.words import number, plural, power
from llmkit.folder import RunFolder

FIELDS = ("old", "new", "reason", "phase", "parameter", "largest")  # of the scaler's event


@dataclass(frozen=True, kw_only=True)
class LoggedChange:
    """One change of the loss scale. What was not recorded is empty, or None."""

    step: int
    old: float
    new: float
    skipped: int  # steps skipped so far, this one included
    reason: str = ""  # the scaler's own words
    phase: str = ""  # of the overflow: "forward" or "backward"
    parameter: str = ""  # the first whose gradient was not finite
    module: str = ""  # where the first non-finite number was made
    largest: float | None = (
        None  # finite |value|: of all gradients, unscaled; in forward, of `module`'s input
    )

    @property
    def says(self) -> str:
        """The reason in one phrase."""
        if not self.phase:
            return self.reason or "reason not recorded"
        backward = self.phase == "backward"
        where = f"`{self.module or self.parameter}`" + f" ({self.parameter})" * bool(self.module and backward)
        size = f"; largest finite {'gradient' if backward else 'input'} {number(self.largest or 0.0)}"
        return f"overflow in {self.phase}: {where}{size * (self.largest is not None)}"


def scale_log(run: RunFolder | os.PathLike | str) -> list[LoggedChange]:
    """From the events, or from the loss scale of consecutive steps where a log has no more.

    Raises:
        RecordError: not a run folder, or a log that cannot be read.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    events, found, skipped = folder.events(), [], 0
    for index, event in enumerate(events):
        skipped += event.kind == "skip"
        if event.kind == "scale":
            later = (e for e in events[index + 1 :] if e.kind in ("scale", "nonfinite"))
            site = next(later, event)  # the tracer speaks after the scaler, of the same step
            traced = site.data if (site.kind, site.step) == ("nonfinite", event.step) else {}
            known = {name: event.data[name] for name in FIELDS if name in event.data}
            if known.get("phase") == "forward":
                known["largest"] = traced.get("input_absmax")
            where = traced.get("module", "")
            found.append(LoggedChange(step=event.step, skipped=skipped, module=where, **known))
    if found:
        return found
    chart = Chart.open(folder)
    lost = [s.number for s in chart.steps if s.record.skipped]
    return [
        LoggedChange(step=c.step, old=c.old, new=c.new, skipped=sum(step <= c.step for step in lost))
        for c in chart.scale_changes()
    ]


def as_text(changes: Sequence[LoggedChange]) -> str:
    """One line a change, under a header."""
    if not changes:
        return "the loss scale never changed"
    first, last = changes[0], changes[-1]
    lines = [
        f"loss scale {power(first.old)} -> {power(last.new)} in {plural(len(changes), 'change')}; "
        f"{plural(last.skipped, 'step')} skipped until the last",
        f"{'step':>8}  {'scale':16} {'skipped':>7}  reason",
    ]
    for c in changes:
        lines.append(f"{c.step:>8}  {f'{power(c.old)} -> {power(c.new)}':16} {c.skipped:>7}  {c.says}")
    return "\n".join(lines)
