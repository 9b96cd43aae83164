"""`train(run)` with a crew on board: the same records, and when the run falls ill, it is treated and goes on.

    for record in supervise(run, Checkpoints("runs/mine/checkpoints")):
        print(record.step, record.loss)

The watchdog says what is wrong, the policies (llmkit.rescue.policies) what can be done, and this file keeps
the history: what was tried in this case, what it cost, when the run is well again, when to give up. Every
treatment is an event of kind `rescue` with the work it lost. After a rollback the step numbers of the records
go back too.

Nothing is decided by the clock or by what only one rank knows, so all ranks treat the run alike. The
exception is memory: a rank that runs out while its peers wait in an all-reduce cannot be cured there, so
under several ranks that error passes through, the job ends, and `llmkit.rescue.keep_alive` or torchrun starts
it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llmkit.data import Skip
from llmkit.errors import NonFiniteError, RescueError
from llmkit.folder import RunFolder
from llmkit.observe import oom_event
from llmkit.records import Event, StepRecord
from llmkit.rescue.ledger import Ledger
from llmkit.rescue.policies import DEFAULT, Case, Policy, SkipStep, Trouble, phrase
from llmkit.rescue.updates import Updates
from llmkit.rescue.watchdog import Watchdog
from llmkit.train import Checkpoints, Run, train
from llmkit.train.loop import OneLife

CALM = 8  # healthy steps after which a case is closed: what follows is a new illness
OVERFLOWS = 3  # overflows in a row that the loss scaler may answer by itself


def supervise(
    run: Run,
    checkpoints: Checkpoints,
    *,
    watchdog: Watchdog | None = None,
    policies: Sequence[Policy] = DEFAULT,
    max_rescues: int = 8,
    folder: RunFolder | None = None,
) -> Supervisor:
    """Train `run` to its end, treating what goes wrong.

    A first checkpoint is written if there is none; later ones are the caller's business, best between two
    records while `in_trouble` of the iterator is False. Nothing is attached to the run between two records.

    Args:
        checkpoints: where rollbacks find their way back.
        watchdog: None makes one.
        policies: in the order in which they are tried.
        max_rescues: treatments in one case before giving up.
        folder: the run folder, the same object that the recorder writes to; a rollback cuts its logs back.

    Returns:
        An iterator of records like `train(run)`.

    Raises, while iterating:
        RescueError: no policy fits any more, or `max_rescues` did not help; says what was tried.
        CheckpointError: a rollback found no whole checkpoint.
        torch.OutOfMemoryError: under several ranks.
    """
    return Supervisor(run, checkpoints, watchdog or Watchdog(run), tuple(policies), max_rescues, folder)


class Supervisor:
    """The iterator that `supervise` returns, and what policies may use."""

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        watchdog: Watchdog,
        policies: tuple[Policy, ...],
        max_rescues: int,
        folder: RunFolder | None,
    ):
        self.run, self.checkpoints, self.watchdog = run, checkpoints, watchdog
        self.policies, self.max_rescues, self.folder = policies, max_rescues, folder
        self.ledger, self.updates = Ledger(), Updates(run.optimizer)
        self.case: Case | None = None
        self.held: set[int] = set()  # steps that are to be done without an update
        self.answered: set[int] = set()  # loader positions that a skipped step has dealt with
        self.overflows = 0  # in a row
        self._vetoes = any(isinstance(policy, SkipStep) for policy in policies)
        self._least_rows = run.micro_batch  # what memory was found to allow outlives a rollback
        self._steps = train(run)
        self._records = OneLife(self._treated())

    def __iter__(self) -> Supervisor:
        return self

    def __next__(self) -> StepRecord:
        return next(self._records)

    @property
    def in_trouble(self) -> bool:
        """Whether a case is open: not the moment for a checkpoint."""
        return self.case is not None

    # --------------------------------------------------------------------------------------------- the rounds

    def _treated(self) -> Iterator[StepRecord]:
        # one rank looks for all: by the time another looked, the first would be writing
        if self.run.parallel.gather(not self.checkpoints.steps())[0]:
            self.checkpoints.save(self.run)
        while True:
            record, trouble = self._one_step()
            if record is not None:
                trouble = self._examine(record)
            if trouble is not None:
                self._note(trouble)
            if record is not None:
                yield record
            if trouble is not None and not self.run.stopped:
                self._treat(trouble)
            elif record is None:
                return

    def _one_step(self) -> tuple[StepRecord | None, Trouble | None]:
        """One step, or what it died of; (None, None) at the end of the run."""
        run = self.run
        try:
            with self._on_board():
                record = next(self._steps, None)
            if record is not None:
                self.ledger.add(record, run.stopwatch.total)
                self.updates.expected += not record.skipped
            return record, None
        except NonFiniteError as error:
            step = error.fields.get("step", run.step)
            trouble = Trouble("nan", step, step, error.found, done=False)
        except torch.OutOfMemoryError as error:
            if run.parallel.world > 1:
                raise
            event = oom_event(run, error)
            self._tell(event)
            trouble = Trouble("oom", run.step, run.step, event.says, done=False, torn=self.updates.torn())
        # out here the exception is gone, and with its traceback the tensors of the step that died
        run.optimizer.zero_grad(set_to_none=True)
        run.batch = None
        self._steps = train(run)
        return None, trouble

    @contextmanager
    def _on_board(self) -> Iterator[None]:
        observers = self.run.observers
        with self.watchdog.attached():
            observers.insert(observers.index(self.watchdog) + 1, self)
            try:
                yield
            finally:
                observers.remove(self)

    def on_backward(self, run: Run) -> None:
        """Observer: no update from a spike, nor in a step that is held back."""
        if run.step in self.held:
            run.veto = "held back"
        elif self._vetoes and self.watchdog.verdict(run.step).kind == "spike":
            run.veto = "spike"

    def _examine(self, record: StepRecord) -> Trouble | None:
        """What is wrong with a finished step, and whether a case can be closed."""
        step, verdict = record.step, self.watchdog.verdict(record.step)
        if step in self.held:
            self.run.stuck = 0
            return None
        self.overflows = self.overflows + 1 if record.nonfinite == "grad" else 0
        if record.nonfinite == "loss" or (record.nonfinite and not self.run.scaler.enabled):
            return Trouble("nan", step, step, verdict.says)
        at_floor = record.nonfinite and self.run.stuck > 0
        # a run that starts from a large loss scale finds its level by overflowing: that is no trouble
        if at_floor or (self.overflows >= OVERFLOWS and not self.watchdog.detector.young):
            says = f"{self.overflows} overflows in a row, loss scale {self.run.scaler.current:g}"
            return Trouble("overflow", step, step - self.overflows + 1, says)
        if verdict.kind == "spike" and self._answered(step):
            self.run.stuck = 0
            return None
        if verdict.kind == "spike":
            return Trouble("spike", step, step - verdict.lead, verdict.says)
        if self.case is not None and not record.skipped and step >= self.case.last + CALM:
            self.case = None
        return None

    def _answered(self, step: int) -> bool:
        """Whether a spike is an old one, met again on the way back to the case at hand. It was vetoed again,
        and says nothing about the treatment that is being tried."""
        old = self.case is not None and step < self.case.since
        return old and self.run.loader.skip.cursor(step) in self.answered

    # ---------------------------------------------------------------------------------------------- treatment

    def _note(self, trouble: Trouble) -> None:
        """Open a case, or add to the open one."""
        self.case = self.case or Case(trouble.since, trouble.step)
        self.case.add(trouble)

    def _treat(self, trouble: Trouble) -> None:
        """Apply the first policy that fits, tell what it did and lost, or give up."""
        case = self.case
        policy = next((p for p in self.policies if p.fits(self, case, trouble)), None)
        if policy is None or len(case.tried) >= self.max_rescues:
            raise self._give_up(case, trouble)
        started = self.run.clock.now()
        spent = 0.0 if trouble.done else self.run.stopwatch.total
        data = {
            "policy": policy.name, "trouble": trouble.kind,
            "from_step": trouble.step, "to_step": trouble.step,
            "lost_steps": 0, "lost_tokens": 0, "seconds": 0.0, "skipped_batches": [],
        } | policy.apply(self, case, trouble)  # fmt: skip
        data |= {"scale": self.run.scaler.current, "micro_batch": self.at_once}
        data["seconds"] += spent + self.run.clock.now() - started
        case.tried.append(policy)
        case.story.append(phrase(data))
        says = f"{case.story[-1]}: {trouble.says}"
        self._tell(Event(kind="rescue", step=trouble.step, says=says, data=data))

    def _give_up(self, case: Case, trouble: Trouble) -> RescueError:
        tried = ", then ".join(case.story) or "nothing, since no policy fits"
        remedy = "ask `llmkit diagnose` for the cause"
        if trouble.kind == "oom":
            remedy = "shorten the context, set `model__checkpointing`, or shrink the model"
        return RescueError(
            f"step {trouble.step} is still sick ({trouble.says}); tried: {tried}",
            remedy=remedy, step=trouble.step, tried=list(case.story),
        )  # fmt: skip

    def _tell(self, event: Event) -> None:
        for sink in self.run.sinks:
            sink(event)

    # ---------------------------------------------------------------------------------- what policies may use

    @property
    def rows(self) -> int:
        """Sequences of a global batch that this rank has."""
        return self.run.config.batch // self.run.parallel.world

    @property
    def at_once(self) -> int:
        """Sequences that go through the model together."""
        return self.run.micro_batch or self.rows

    @at_once.setter
    def at_once(self, size: int) -> None:
        self.run.micro_batch = self._least_rows = size

    def checkpoint_before(self, step: int) -> int | None:
        """Step of the newest checkpoint that saw nothing of what showed at `step`: one of that step's very
        start already has the weights that made it sick, so it serves only where there is no older one."""
        known = self.checkpoints.steps()
        return max([s for s in known if s < step], default=step if step in known else None)

    def roll_back(self, step: int, skip_steps: Collection[int] = ()) -> dict[str, Any]:
        """Restore the checkpoint of `step` (or an older one, if damaged), as if what came after had not been.

        Args:
            skip_steps: whose batches, as served until now, are never served again.

        Returns:
            Data for the event: what was lost.
        """
        run, asked = self.run, self.run.stop_asked
        skip = run.loader.skip
        positions = {skip.cursor(s) for s in skip_steps}
        to = self.checkpoints.load(run, before=step)
        run.stop_asked = asked
        run.micro_batch = self._least_rows
        run.loader = run.loader.with_skip(Skip(skip.batches | positions, skip.documents))
        self._forget_after(to)
        self.updates = Updates(run.optimizer)
        self.overflows = 0
        self._steps = train(run)
        lost = self.ledger.discard(to)
        return {
            "to_step": to, "lost_steps": lost.steps, "lost_tokens": lost.tokens, "seconds": lost.seconds,
            "skipped_batches": sorted(positions), "records": list(lost.records),
        }  # fmt: skip

    def _forget_after(self, step: int) -> None:
        """Checkpoints and log lines of steps that are to be done again: a crash must not bring them back."""
        if self.run.parallel.is_first:
            for later in [s for s in self.checkpoints.steps() if s > step]:
                path = self.checkpoints.at(later)
                trash = path.with_name(f".{path.name}.trash")  # half a deletion is no checkpoint
                os.rename(path, trash)
                shutil.rmtree(trash)
            if self.folder is not None:
                for log in ("steps", "times", "details"):
                    self.folder.truncate(log, step)
        self.run.parallel.barrier()
