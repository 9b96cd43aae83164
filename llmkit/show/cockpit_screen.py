"""What the cockpit shows, as plain values: the same for the panel, for its text twin and for the tests.

The one idea: news from the run's folder goes in, dictionaries come out. No widget, no thread, no clock, no
process.

    screen = Screen("tiny", steps=500)
    screen.take(session.news())
    print(as_text(screen.shown()))
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from llmkit.diagnose import as_text as diagnosis_text
from llmkit.diagnose.words import listing, number
from llmkit.lab.session import News
from llmkit.records import Diagnosis
from llmkit.show.cockpit_curves import Axis, Curve

# name -> (what stands above the curve, unit, axis)
CURVES = {
    "loss": ("loss", "nats per token", "linear"),
    "grad_norm": ("gradient norm", "before clipping", "log10"),
    "loss_scale": ("loss scale", "", "log2"),
    "throughput": ("throughput", "tokens/s", "linear"),
}

# Events with a mark on the curves, and what they are: colour is never the only sign, each tone has a glyph.
MARKED = {
    "fault": "broken", "nonfinite": "broken", "oom": "broken", "died": "broken", "kill": "broken",
    "alarm": "warning", "floor": "warning",
    "rescue": "mended", "resume": "mended", "repair": "mended", "crew": "mended",
}  # fmt: skip
GLYPHS = {"broken": "✕", "warning": "!", "mended": "✓", "note": "·"}
STATES = {
    "starting": "…",
    "running": "▶",
    "paused": "❚❚",
    "dead": "✕",
    "killed": "✕",
    "finished": "✓",
    "closed": "■",
}
LOG, MARKS, FINDINGS = 80, 40, 6  # what is kept for the screen; the folder has all


@dataclass(frozen=True)
class Entry:
    """A line of the event log."""

    step: int
    kind: str
    says: str
    tone: str = "note"
    mark: int = 0  # its number on the curves; 0: none
    name: str = ""  # what stands beside that number


@dataclass
class Status:
    """Where the run is, and who is aboard."""

    state: str = "starting"
    step: int = 0
    of: int = 0
    crew: bool = False
    faults: list[str] = field(default_factory=list)
    reason: str = ""  # why it is dead
    busy: str = ""  # the command under way

    def allowed(self) -> dict[str, bool]:
        """Which buttons make sense now."""
        lives, waits = self.state in ("running", "paused"), not self.busy
        return {
            "go": waits and self.state in ("paused", "dead"),
            "pause": waits and self.state == "running",
            "step": waits and self.state == "paused",
            "inject": waits and lives,
            "repair": waits and bool(self.faults) and (lives or self.state == "dead"),
            "rescue": waits and (self.state == "dead" or (lives and not self.crew)),
            "dismiss": waits and lives and self.crew,
            "kill": waits and (lives or self.state == "dead"),
            "bring_back": waits and self.state == "killed",
        }

    def where(self) -> str:
        """`step 40 of 500, no crew aboard, no fault in`"""
        crew = "crew aboard" if self.crew else "no crew aboard"
        faults = f"{listing(self.faults)} in" if self.faults else "no fault in"
        return f"step {self.step:,} of {self.of:,}, {crew}, {faults}"

    def shown(self) -> dict[str, Any]:
        says = f"{self.state}: {self.reason}" if self.reason else self.state
        more = {"says": says, "where": self.where(), "glyph": STATES[self.state], "allowed": self.allowed()}
        return asdict(self) | more


class Screen:
    """Curves, axes, marks, log, readouts and the doctor's findings of one run."""

    def __init__(self, name: str, steps: int):
        self.name, self.status = name, Status(of=steps)
        self.curves = {name: Curve() for name in CURVES}
        self.axes = {name: Axis(kind) for name, (_, _, kind) in CURVES.items()}
        self.axes["loss"].least = self.axes["throughput"].low = self.axes["throughput"].least = 0.0
        self.axes["throughput"].high = 1024.0
        self.axes["step"] = Axis(low=0.0, high=min(64.0, float(steps)), least=0.0, most=float(steps))
        self.log: deque[Entry] = deque(maxlen=LOG)
        self.marks: deque[Entry] = deque(maxlen=MARKS)
        self.diagnosis = Diagnosis()
        self._back_to = math.inf  # where the last resume set the run back to
        self._numbers, self._seen = 0, {}  # marks so far; (kind, words) -> step

    # ----------------------------------------------------------------------------------------- what comes in

    def take(self, news: News) -> list[Entry]:
        """New records and events; returns the new lines of the log."""
        steps = news.steps
        self._back_to = min((e.step for e in news.events if e.kind == "resume"), default=self._back_to)
        if news.rewound:
            cut = self._branching(news)
            for name, curve in self.curves.items():
                curve.rewind(cut, branch=name != "throughput")  # speed is of the machine, not of the branch
            steps = [record for record in steps if record.step >= cut]
        for record in steps:
            for name in ("loss", "grad_norm", "loss_scale"):
                self._point(name, record.step, getattr(record, name))
        for times in news.times:
            curve = self.curves["throughput"]
            if curve.last and times.step <= curve.last[0]:
                curve.rewind(times.step, branch=False)
            self._point("throughput", times.step, times.tokens_per_s)
        return [self._enter(event.kind, event.step, event.says or event.kind) for event in news.events]

    def _branching(self, news: News) -> int:
        """The step from which a log that was cut back goes on: an event told it, now or a look earlier."""
        end = news.steps[-1].step + 1 if news.steps else 0
        cut, self._back_to = min(end, self._back_to), math.inf
        return int(cut)

    def act(self, kind: str, says: str, step: int, name: str = "") -> Entry:
        """Something a person did to the run: it is on the screen and not in the folder."""
        return self._enter(kind, step, says, name)

    def _point(self, name: str, step: int, value: float) -> None:
        self.curves[name].add(step, value)
        self.axes[name].take(value)
        self.axes["step"].take(step)

    def _enter(self, kind: str, step: int, says: str, name: str = "") -> Entry:
        # the same on the step before: one mark is enough
        again = 0 <= step - self._seen.get((kind, says), -2) <= 1
        self._seen[kind, says] = step
        marked = kind in MARKED and not again
        self._numbers += marked
        entry = Entry(
            step, kind, says, MARKED.get(kind, "note"), self._numbers if marked else 0, name or kind
        )
        if kind == "checkpoint" and self.log and self.log[-1].kind == kind:
            self.log.pop()  # hundreds of them would push out what matters
        self.log.append(entry)
        if marked:
            self.marks.append(entry)
        return entry

    # ---------------------------------------------------------------------------------------- what comes out

    def shown(self) -> dict[str, Any]:
        """Everything but the curves, as plain values: the widget's traits."""
        return {
            "status": self.status.shown(),
            "readouts": {name: self._readout(name) for name in CURVES},
            "axes": {name: axis.limits() for name, axis in self.axes.items()},
            "marks": [asdict(entry) for entry in self.marks],
            "events": [asdict(entry) for entry in self.log],
            "doctor": self._doctor(),
        }

    def _readout(self, name: str) -> str:
        last = self.curves[name].last
        return number(last[1]) if last else "–"

    def _doctor(self) -> dict[str, Any]:
        found = sorted(self.diagnosis.findings, key=lambda f: -f.step)[:FINDINGS]  # the newest on top
        headline, _, _ = diagnosis_text(self.diagnosis).partition("\n")
        return {"headline": headline, "findings": [asdict(finding) for finding in found]}

    def patches(self, *, everything: bool = False) -> dict[str, Any]:
        """What changed on each curve since it was last asked."""
        changed = {name: c.everything() if everything else c.patch() for name, c in self.curves.items()}
        return {name: patch for name, patch in changed.items() if patch}


def as_text(shown: dict[str, Any]) -> str:
    """The panel in plain text: the same values, for terminals, screen readers and previews."""
    readouts = "   ".join(f"{title} {shown['readouts'][name]}" for name, (title, _, _) in CURVES.items())
    lines = [f"{shown['status']['says']}, {shown['status']['where']}", readouts]
    for entry in shown["events"]:
        mark = f"[{entry['mark']}]" if entry["mark"] else ""
        lines.append(f"{mark:>5} {GLYPHS[entry['tone']]} step {entry['step']}: {entry['says']}")
    lines.append(f"doctor: {shown['doctor']['headline']}")
    for finding in shown["doctor"]["findings"]:
        lines.append(
            f"  {finding['code']} {finding['title']} (step {finding['step']}, {finding['confidence']})"
        )
        lines.append(f"  {finding['says']}")
    return "\n".join(lines)
