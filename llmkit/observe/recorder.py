"""The flight recorder: everything a run knows, in its folder, line by line as it happens.

    recorder = Recorder(RunFolder.create("runs/mine", facts(run)))
    with recorder.attached(run):
        list(train(run))

steps.jsonl holds only what is a function of the inputs, so that two runs can be compared with `cmp`; the
clock's part goes to times.jsonl. The per-parameter and per-module detail of each step is kept in a ring of 64
and written to details.jsonl when something goes wrong: a non-finite step, or an event of kind `alarm`, `oom`
or `floor`. What led up to it is then on disk, and healthy steps cost no space.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from llmkit.folder import RunFolder
from llmkit.observe.activations import Activations
from llmkit.observe.gradients import Gradients
from llmkit.observe.nonfinite import Tracer
from llmkit.observe.postmortem import oom_event
from llmkit.observe.routing import Routing
from llmkit.observe.tokens import Tokens
from llmkit.records import Detail, Event, StepRecord, StepTimes

ALARMS = ("alarm", "oom", "floor")


class Recorder:
    """Observer and event sink that writes a run folder.

    It should be the last observer of a run, so that the times it writes include the others and the record it
    writes has what they added. Under several ranks each has one and rank 0 writes.

    Cost: that of `Gradients` and `Routing` every step and of `Activations` every `every`-th, two short lines
    appended; together under 5 % of a `laptop()` step (benchmarks/loop.py). A non-finite step is traced, which
    takes some six steps' time.

    Args:
        folder: where to write. A caller that truncates a log on a rollback must do it through this same
            object.
        every: steps between looks at the activations. A step that follows an alarm is looked at as well.
        ring: steps of detail kept in memory.
        rank: None reads torchrun's RANK.
    """

    def __init__(self, folder: RunFolder, *, every: int = 10, ring: int = 64, rank: int | None = None):
        self.folder = folder
        self.writes = (int(os.environ.get("RANK", 0)) if rank is None else rank) == 0
        self.gradients, self.activations, self.tracer = Gradients(every), Activations(every), Tracer()
        self.tokens, self.routing = Tokens(), Routing()
        self.ring: deque[Detail] = deque(maxlen=ring)
        self._alarmed = False  # the step under way belongs to an alarm: its detail goes to disk too
        self._oom_at = -1  # step of the last event of kind "oom"
        self._lock = threading.RLock()  # a watchdog reports from a thread of its own
        self._process = psutil.Process()

    @contextmanager
    def attached(self, run: Any) -> Iterator[Recorder]:
        """Watch `run` inside the `with`, and note on the way out that memory ran out, if it did.

        Afterwards the run has one observer and one sink less, no hook is left and the files are closed.
        """
        run.observers.append(self)
        run.sinks.append(self.sink)
        try:
            yield self
        except torch.OutOfMemoryError as error:
            if self._oom_at != run.step:  # nobody below has told of it
                event = oom_event(run, error)
                for sink in run.sinks:
                    sink(event)
            raise
        finally:
            run.observers.remove(self)
            run.sinks.remove(self.sink)
            self.close()

    def close(self) -> None:
        """Take off hooks and close files. A recorder can be used again after it."""
        self.activations.close()
        self.routing.close()
        self.folder.close()

    # ------------------------------------------------------------------------------------ observer and sink

    def on_batch(self, run: Any) -> None:
        if self.writes:
            self.activations.on_batch(run)
            self.routing.on_batch(run)

    def on_backward(self, run: Any) -> None:
        if self.writes:
            self.gradients.on_backward(run)

    def on_step(self, run: Any, record: StepRecord) -> None:
        """Raises StorageError when the folder cannot be written: a run that leaves no record should stop."""
        self.tracer.on_step(run, record)  # on every rank: they agree on one site
        if not self.writes:
            return
        self.tokens.on_step(run, record)
        self.gradients.on_step(run, record)
        self.activations.on_step(run, record)
        self.routing.on_step(run, record)
        modules = self.activations.modules | self.routing.modules
        detail = Detail(step=record.step, tensors=self.gradients.tensors, modules=modules)
        with self._lock:
            self._oom_at = -1
            self.ring.append(detail)
            if record.nonfinite or self._alarmed:
                self._write_ring()
                self._alarmed = False
            self.folder.append("steps", record)
            self.folder.append("times", self._times(run, record))

    def sink(self, event: Event) -> None:
        """Write an event; on an alarm, the ring as well, at once: the process may not outlive the step."""
        if not self.writes:
            return
        with self._lock:
            self.folder.append("events", event)
            if event.kind == "oom":
                self._oom_at = event.step
            if event.kind in ALARMS:
                self._write_ring()
                self._alarmed = True

    # ------------------------------------------------------------------------------------------- the folder

    def _write_ring(self) -> None:
        """Each step's detail is written once, however many alarms follow one another."""
        if self.ring:
            self.folder.append("details", *self.ring)
            self.ring.clear()
        self.activations.wanted = True

    def _times(self, run: Any, record: StepRecord) -> StepTimes:
        laps, total = run.stopwatch.laps, run.stopwatch.total
        return StepTimes(
            step=record.step, data_s=laps.get("data", 0.0), forward_s=laps.get("forward", 0.0),
            backward_s=laps.get("backward", 0.0), optimizer_s=laps.get("optimizer", 0.0), total_s=total,
            tokens_per_s=record.tokens / total if total > 0 else 0.0, memory_bytes=self._memory(run),
            at=time.time(),
        )  # fmt: skip

    def _memory(self, run: Any) -> int:
        """CUDA: peak bytes allocated since the last call. CPU: resident set size, about 20 us."""
        if run.device.type != "cuda":
            return self._process.memory_info().rss
        peak = torch.cuda.max_memory_allocated(run.device)
        torch.cuda.reset_peak_memory_stats(run.device)
        return peak
