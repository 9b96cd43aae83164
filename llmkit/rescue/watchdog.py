"""A thread that listens to a run: are its numbers healthy, does it move, does it keep its pace?

The one idea: the training thread sends a beat at each moment of a step and goes on; the watchdog's thread
judges, and keeps the time. What decides anything (NaN, spike) is a function of the loss and the gradient norm
alone, and the training thread waits for that verdict, so a watched run has the same bits as an unwatched one.
What depends on the clock (hang, slow step) is only reported.

    watchdog = Watchdog(run)
    for record in watchdog.watch(train(run)):
        ...

Alarms are events: `Event("alarm", data={"kind": "nan" | "spike" | "slow" | "hang", ...})`. A hang is told by
the watchdog's own thread, with the stacks of all others; with `exit_on_hang` the process then ends with code
75, at which `llmkit.rescue.keep_alive` starts it again. Code that holds the interpreter's lock (a C extension
in an endless loop) stops this thread too: `keep_alive(hang_s=...)` watches the folder from outside and
catches that.
"""

from __future__ import annotations

import dataclasses
import math
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmkit.records import Event, StepRecord
from llmkit.rescue.detector import Detector, Verdict
from llmkit.rescue.pace import Pace, Slow

HANG_EXIT = 75  # EX_TEMPFAIL of sysexits.h: try again
LEAST_HANG_S = 30.0
HANG_STEPS = 20  # a hang is 20 usual steps without a sign of life
FIRST_HANG_S = 600.0  # before any step has been timed: compilation, cold file systems
AFTER = {
    "start": "waiting for the batch",
    "batch": "in forward or backward",
    "backward": "in the update",
    "step": "between steps",
}


class Watchdog:
    """Observer, and the thread behind it.

    The detector is registered as `run.parts["detector"]`, so that checkpoints keep it; build the watchdog
    before loading one. Under several ranks each has a watchdog, and all come to the same verdicts.

    Args:
        detector: None takes the one the run has, or a new one.
        pace: None is `Pace()`.
        hang_s: seconds without a sign of life that are a hang. None: 20 usual steps, at least 30 s; 600 s
            before the first step has been timed. There are three signs a step, so it must exceed the longest
            phase of one.
        on_hang: called in the watchdog's thread with the data of the alarm.
        exit_on_hang: end the process with code 75 once the hang is on disk.
        poll_s: seconds between looks at the clock while no beat comes.

    `hang_s` is measured with `run.clock`, whatever that is.
    """

    def __init__(
        self,
        run: Any,
        *,
        detector: Detector | None = None,
        pace: Pace | None = None,
        hang_s: float | None = None,
        on_hang: Callable[[dict[str, Any]], None] | None = None,
        exit_on_hang: bool = False,
        poll_s: float = 0.25,
    ):
        self.run, self.pace = run, pace or Pace()
        self.detector = detector or run.parts.get("detector") or Detector()
        run.parts["detector"] = self.detector
        self.hang_s, self.on_hang, self.exit_on_hang, self.poll_s = hang_s, on_hang, exit_on_hang, poll_s
        self._beats: queue.Queue = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._judged: dict[int, Verdict] = {}
        self._rows: list[float] = []
        self._slow: Slow | None = None
        self._last, self._after, self._watching = 0.0, "step", False

    # ---------------------------------------------------------------------------------------------- attaching

    @contextmanager
    def attached(self) -> Iterator[Watchdog]:
        """Listen inside the `with`; afterwards there is one observer and one thread less. Inside another,
        nothing."""
        if self._thread is not None:
            yield self
            return
        self._thread = threading.Thread(target=self._listen, name="llmkit-watchdog", daemon=True)
        self._thread.start()
        self.run.observers.insert(0, self)  # a recorder stands last, and what it costs is no part of the step
        self._beat("start")
        try:
            yield self
        finally:
            self.run.observers.remove(self)
            self._beats.put(None)
            self._thread.join()
            self._thread = None

    def watch(self, steps: Iterator[StepRecord]) -> Iterator[StepRecord]:
        """The same records. Between two of them nothing is watched: the caller may take all day."""
        while True:
            with self.attached():
                record = next(steps, None)
            if record is None:
                return
            yield record

    # ----------------------------------------------------------------------- observer: in the training thread

    def on_batch(self, run: Any) -> None:
        self._beat("batch")

    def on_backward(self, run: Any) -> None:
        found = run.found
        curable = found["nonfinite"] == "grad" and run.scaler.can_back_off
        self._rows = _rows(run)
        self._beat("backward", self._judge, run.step, found["loss"], found["grad_norm"], curable)
        verdict = self.verdict(run.step)
        if verdict.sick:
            self._alarm(f"step {run.step}: {verdict.says}", {
                "kind": verdict.kind, "z": verdict.z, "norm_z": verdict.norm_z, "loss": found["loss"],
                "grad_norm": found["grad_norm"], "expected": verdict.expected,
                "since": run.step - verdict.lead,
            })  # fmt: skip

    def on_step(self, run: Any, record: StepRecord) -> None:
        watch = run.stopwatch
        self._beat("step", self._learn, record, dict(watch.laps), watch.total)
        self._settle()
        if (slow := self._slow) is not None:
            says = f"step {record.step} took {slow.seconds:.3g} s where {slow.usual_s:.3g} s is usual"
            says += f"; the excess is in {slow.phase}"
            self._alarm(says, {"kind": "slow", **dataclasses.asdict(slow)})

    def _alarm(self, says: str, data: dict[str, Any]) -> None:
        event = Event(kind="alarm", step=self.run.step, says=says, data=data)
        for sink in self.run.sinks:
            sink(event)

    def verdict(self, step: int) -> Verdict:
        """Of a step that got as far as its gradients; waits until the thread has judged it. At most 64 are
        kept."""
        self._settle()
        return self._judged[step]

    def _beat(self, name: str, work: Callable[..., None] | None = None, *args: Any) -> None:
        self._beats.put((self.run.clock.now(), name, work, args))

    def _settle(self) -> None:
        """Wait for the thread; what went wrong there goes wrong here."""
        self._beats.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # ------------------------------------------------------------------------------ the watchdog's own thread

    def _listen(self) -> None:
        while True:
            try:
                beat = self._beats.get(timeout=self.poll_s)
            except queue.Empty:
                self._guarded(self._look_at_the_clock)
                continue
            try:
                if beat is None:
                    return
                self._last, self._after, work, args = beat
                self._watching = self._after != "step"
                if work is not None:
                    self._guarded(work, *args)
            finally:
                self._beats.task_done()

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except BaseException as failure:  # raised again in the training thread, by `_settle`
            self._failure = failure

    def _judge(self, step: int, loss: float, grad_norm: float, curable: bool) -> None:
        if curable:
            verdict = Verdict("ok", says="an overflow, which the loss scaler answers")
        else:
            verdict = self.detector.judge(loss, grad_norm, self._rows)
        self._judged[step] = verdict
        while len(self._judged) > 64:
            del self._judged[next(iter(self._judged))]

    def _learn(self, record: StepRecord, laps: dict[str, float], total: float) -> None:
        self._slow = None
        if not record.skipped:  # a skipped step leaves the detector as it was, bit for bit
            verdict = self._judged[record.step]
            self.detector.learn(record.loss, record.grad_norm, verdict, self._rows)
            self._slow = self.pace.see(laps, total)

    @property
    def hang_limit(self) -> float:
        """Seconds without a beat that are a hang."""
        if self.hang_s is not None:
            return self.hang_s
        usual = self.pace.usual
        return FIRST_HANG_S if math.isnan(usual) else max(LEAST_HANG_S, HANG_STEPS * usual)

    def _look_at_the_clock(self) -> None:
        silent = self.run.clock.now() - self._last
        if not self._watching or silent <= self.hang_limit:
            return
        self._watching = False  # one alarm a hang: the next beat watches again
        data = {
            "kind": "hang", "seconds": silent, "limit_s": self.hang_limit, "phase": AFTER[self._after],
            "stacks": stacks(but=threading.get_ident()),
        }  # fmt: skip
        says = f"no sign of life for {silent:.3g} s at step {self.run.step}, {AFTER[self._after]}"
        self._alarm(says, data)
        if self.on_hang is not None:
            self.on_hang(data)
        if self.exit_on_hang:
            os._exit(HANG_EXIT)  # the training thread cannot be interrupted: no cleanup would end


def _rows(run: Any) -> list[float]:
    """Loss of each sequence with a target that counts; nothing under several ranks, where they are not all
    here."""
    if run.parallel.world > 1:
        return []
    return [total / weight for total, weight in run.batch.sums().tolist() if weight > 0]


def stacks(but: int | None = None) -> dict[str, list[str]]:
    """Where every thread stands, innermost call last; `but` is the identifier of one to leave out."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = {}
    for ident, frame in sys._current_frames().items():
        if ident != but:
            calls = traceback.extract_stack(frame)[-24:]
            found[names.get(ident, str(ident))] = [
                f"{'/'.join(Path(c.filename).parts[-2:])}:{c.lineno} {c.name}" for c in calls
            ]
    return found
