"""A run's records as questions: everything the rules know, and the only thing they know.

A chart holds what the recorder, the scaler, the watchdog and the rescuers wrote: steps, times, events and
run.json. What is said of a `fault` put in on purpose, as an event or in run.json, is dropped on the way in:
whoever broke the run must not be the one who names the cause.

    chart = Chart.open("runs/mine")
    chart.first_nonfinite(), chart.precision, chart.events_of("scale")
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.diagnose.tail import Tail, step_of
from llmkit.diagnose.timeline import Step, Timeline, finite
from llmkit.folder import RunFolder
from llmkit.records import Event, StepRecord, StepTimes, from_json, to_json

CONTEXT = 96  # steps of the main timeline that an abandoned one is read against


@dataclass(frozen=True)
class ScaleChange:
    """One change of the loss scale."""

    step: int
    old: float
    new: float
    reason: str = ""
    phase: str = "backward"  # "forward": the loss itself was not finite, and no scale could have helped

    @property
    def fell(self) -> bool:
        return self.new < self.old


class Chart:
    """A patient's chart."""

    def __init__(self, facts: dict[str, Any] | None = None):
        self.facts = {key: value for key, value in (facts or {}).items() if key != "fault"}
        self.tails: dict[str, Tail] = {}
        self.has_events = self.has_times = False
        self._clear()

    def _clear(self) -> None:
        self.main = Timeline()
        self.abandoned: list[Timeline] = []
        self.times: list[StepTimes] = []
        self.events: list[Event] = []
        self._told: list[Timeline] | None = None  # lives kept in alarms; None: to be read again

    @classmethod
    def of(
        cls,
        steps: Iterable[StepRecord],
        times: Iterable[StepTimes] | None = None,
        events: Iterable[Event] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Chart:
        """A chart of records in memory. None: that log was not kept; empty: nothing happened."""
        chart = cls(facts)
        chart.has_times, chart.has_events = times is not None, events is not None
        chart._take(steps, times or (), events or ())
        return chart

    @classmethod
    def open(cls, folder: RunFolder | os.PathLike | str) -> Chart:
        """A chart of a run folder.

        Raises:
            RecordError: not a run folder, or a log line that cannot be read (file and line are named).
        """
        opened = folder if isinstance(folder, RunFolder) else RunFolder.open(folder)
        chart = cls(opened.facts)
        chart.tails = {
            "steps": Tail(opened.path / "steps.jsonl", step_of),
            "times": Tail(opened.path / "times.jsonl", lambda line: from_json(StepTimes, line)),
            "events": Tail(opened.path / "events.jsonl", lambda line: from_json(Event, line)),
        }
        chart.refresh()
        return chart

    def refresh(self) -> bool:
        """Read what was appended since; when a log was rewritten (a resume truncates it), everything again.

        Returns:
            Whether anything changed.
        """
        reads = {name: tail.read() for name, tail in self.tails.items()}
        rewritten = any(read.rewritten for read in reads.values())
        if rewritten:
            self._clear()
            for tail in self.tails.values():
                tail.rewind()
            reads = {name: tail.read() for name, tail in self.tails.items()}
        self.has_times, self.has_events = (self.tails[name].path.exists() for name in ("times", "events"))
        self._take(*(reads[name].records for name in ("steps", "times", "events")))
        return rewritten or any(read.records for read in reads.values())

    def _take(self, steps: Iterable[StepRecord], times: Iterable[StepTimes], events: Iterable[Event]) -> None:
        for record in steps:
            last = self.main.steps[-1].number if self.main.steps else -1
            if record.step < last:
                self._rewind(record.step)
            if record.step != last:  # several ranks writing one log repeat a step: the first line counts
                self.main.extend([record])
        self._told = None
        self.times.extend(times)
        self.events.extend(event for event in events if event.kind != "fault")

    def _rewind(self, step: int) -> None:
        """The log goes back to `step`: what it holds from there on was another life."""
        records = [s.record for s in self.main.steps]
        cut = bisect.bisect_left([r.step for r in records], step)
        life = Timeline(before=records[max(0, cut - CONTEXT) : cut])
        life.extend(records[cut:])
        self.abandoned.append(life)
        self.main = Timeline()
        self.main.extend(records[:cut])

    # --------------------------------------------------------------------------------------- questions: steps

    @property
    def steps(self) -> list[Step]:
        return self.main.steps

    def timelines(self) -> list[Timeline]:
        """The life that counts, then every life that a rollback threw away."""
        if self._told is None:
            self._told = self._lives_in_alarms()
        return [self.main, *self.abandoned, *self._told]

    def _lives_in_alarms(self) -> list[Timeline]:
        lives = []
        for event in self.events_of("alarm", "rescue"):
            told = event.data.get("records") or ()
            records = [from_json(StepRecord, to_json(plain)) for plain in told if isinstance(plain, dict)]
            lost = [r for r in records if (now := self.at(r.step)) is None or repr(now.record) != repr(r)]
            if lost:
                cut = bisect.bisect_left([s.number for s in self.steps], lost[0].step)
                life = Timeline(before=[s.record for s in self.steps[max(0, cut - CONTEXT) : cut]])
                life.extend(lost)
                lives.append(life)
        return lives

    def at(self, step: int) -> Step | None:
        """The main timeline's step of that number."""
        index = bisect.bisect_left(self.steps, step, key=lambda s: s.number)
        return self.steps[index] if index < len(self.steps) and self.steps[index].number == step else None

    def first_nonfinite(self) -> StepRecord | None:
        """The first step whose loss or gradient norm was not finite, in any life."""
        sick = (s.record for life in self.timelines() for s in life.own if not finite(s.record))
        return min(sick, key=lambda record: record.step, default=None)

    def records(self, field: str) -> bool:
        """Whether any step recorded `field` (a number that is not NaN, or a tuple that is not empty)."""
        values = (getattr(s.record, field) for s in self.steps[:256])
        return any(bool(v) if isinstance(v, tuple) else v == v for v in values)

    # ------------------------------------------------------------------------------- questions: events, facts

    def events_of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    @property
    def config(self) -> dict[str, Any]:
        config = self.facts.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def data(self) -> dict[str, Any]:
        """What run.json says of the data set; empty when it says nothing."""
        data = self.facts.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def precision(self) -> str:
        """`fp32`, `bf16`, `fp16`, or empty when nothing says; a loss scale other than 1 says fp16."""
        told = self.config.get("precision") or next(
            (e.data["precision"] for e in self.events_of("nonfinite") if e.data.get("precision")), ""
        )
        if told or not any(s.record.loss_scale != 1 for s in self.steps[:256]):
            return str(told)
        return "fp16"

    def scale_changes(self) -> list[ScaleChange]:
        """From the scaler's events, or from the loss scale of consecutive steps where there are none."""
        told = [e for e in self.events_of("scale") if {"old", "new"} <= e.data.keys()]
        if told:
            return [
                ScaleChange(
                    e.step,
                    e.data["old"],
                    e.data["new"],
                    str(e.data.get("reason", "")),
                    e.data.get("phase", ""),
                )
                for e in told
            ]
        pairs = ((a.record, b.record) for a, b in zip(self.steps, self.steps[1:], strict=False))
        return [
            ScaleChange(
                a.step, a.loss_scale, b.loss_scale, phase="forward" if a.nonfinite == "loss" else "backward"
            )
            for a, b in pairs
            if a.loss_scale != b.loss_scale
        ]

    def first_settled(self) -> int:
        """The first of 16 updates in a row: until there, a loss scaler is still looking for its scale."""
        run: list[int] = []
        for step in self.steps:
            run = [*run, step.number] if not step.record.skipped else []
            if len(run) == 16:
                return run[0]
        return run[0] if run else (self.steps[-1].number + 1 if self.steps else 0)

    def document_rows(self) -> Iterable[tuple[Step, int, Sequence[int]]]:
        """(step, row, ids of the documents in it) of every recorded sequence, in every life."""
        for life in self.timelines():
            for step in life.own:
                for row, documents in enumerate(step.record.documents):
                    yield step, row, documents
