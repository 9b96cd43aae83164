"""A run with everything it needs around it: folder, recorder, checkpoints, and a crew if wanted.

    for record in fly(tiny(steps=200), "runs/mine"):
        print(record.step, record.loss)
    for record in fly(None, "runs/mine", resume=True):      # the configuration is in run.json
        ...

`llmkit train`, `llmkit break`, the cockpit's child process and `verify` all run through here.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmkit.data import TokenDataset, open_dataset
from llmkit.errors import IntegrityError, RecordError
from llmkit.folder import RunFolder
from llmkit.lab.data_check import check_files
from llmkit.observe import Recorder, oom_event
from llmkit.records import StepRecord
from llmkit.rescue import Watchdog, supervise
from llmkit.train import Checkpoints, Run, RunConfig, build, facts, train


@dataclass
class Flight:
    """A run and what surrounds it."""

    run: Run
    folder: RunFolder
    recorder: Recorder
    checkpoints: Checkpoints
    watchdog: Watchdog

    def steps(self, *, supervised: bool) -> Iterator[StepRecord]:
        """Train, with or without the crew; a checkpoint every `save_every` steps, unless the run is in
        trouble.

        Without the crew the watchdog still barks: its alarms are in the log, and nobody acts on them.
        """
        run, every = self.run, self.run.config.save_every
        crew = None
        if supervised:
            crew = supervise(run, self.checkpoints, watchdog=self.watchdog, folder=self.folder)
        try:
            for record in crew or self.watchdog.watch(train(run)):
                if every and run.step % every == 0 and not (crew and crew.in_trouble):
                    self.checkpoints.save(run)
                yield record
        except IntegrityError:
            check_files(run, died=True)
            raise
        except torch.OutOfMemoryError as error:
            for sink in run.sinks:
                sink(oom_event(run, error))
            raise


def prepare(
    cfg: RunConfig | None,
    path: os.PathLike | str,
    *,
    resume: bool = False,
    dataset: TokenDataset | None = None,
    extra: dict[str, Any] | None = None,
) -> Flight:
    """A run in its folder, at step 0 or where the newest good checkpoint stands.

    Args:
        cfg: what to run; None with `resume` takes it from run.json.
        resume: go on in an existing folder.
        extra: more facts for run.json, e.g. {"fault": {...}}.

    Raises:
        RecordError: the folder holds a run already, or with `resume` holds none.
        IntegrityError: the data set is not the one the run was started with.
        ConfigError, DataError, StorageError: as `build` and `RunFolder.create` do.
    """
    if resume:
        folder = RunFolder.open(path)
        cfg = cfg or config_of(folder)
    run = build(cfg, dataset=dataset or open_data(cfg))
    if resume:
        check_data(folder, run)
    elif run.parallel.is_first:
        folder = RunFolder.create(path, facts(run) | (extra or {}))
    run.parallel.barrier()
    folder = RunFolder.open(path)
    recorder = Recorder(folder)
    run.observers.append(recorder)
    run.sinks.append(recorder.sink)
    checkpoints = Checkpoints(folder.checkpoints, keep_last=cfg.keep_last, keep_every=cfg.keep_every)
    # the watchdog comes before loading: its detector is one of the parts a checkpoint restores
    flight = Flight(run, folder, recorder, checkpoints, Watchdog(run))
    if resume and checkpoints.steps():
        checkpoints.load(run)
    elif cfg.save_every:
        checkpoints.save(run)  # there is always something to roll back to
    if resume and run.parallel.is_first:
        folder.truncate("steps", run.step)
    run.parallel.barrier()
    return flight


def fresh(path: os.PathLike | str) -> Path:
    """A path for a run that a notebook makes anew each time: the run it made there last time is deleted.

    Raises:
        RecordError: there is something at `path` that is not a run folder.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir()):
        if not (path / "run.json").exists():
            raise RecordError(f"`{path}` holds files that are not a run", remedy="choose another folder")
        shutil.rmtree(path)
    return path


def config_of(folder: RunFolder) -> RunConfig:
    """The configuration a run was started with. Raises RecordError where another trainer wrote the folder."""
    known = folder.facts.get("config")
    if known is None:
        raise RecordError(
            f"`{folder.path / 'run.json'}` has no configuration", expected="a run started by llmkit"
        )
    return RunConfig.from_dict(known)


def open_data(cfg: RunConfig) -> TokenDataset:
    return open_dataset(cfg.data, vocab_size=cfg.model.vocab_size)


def check_data(folder: RunFolder, run: Run) -> None:
    """Refuse to go on with other bytes than the run was started with."""
    then = folder.facts.get("data", {}).get("digest")
    if then is not None and then != run.dataset.digest:
        raise IntegrityError(
            f"data set `{run.dataset.name}` has digest {run.dataset.digest[:12]}, the run in `{folder.path}` "
            f"was started with {then[:12]}",
            remedy="rebuild the data as it was, or start a new run",
        )


@contextmanager
def interruptible(run: Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM finish the step under way; a second Ctrl-C does not wait."""

    def ask(number: int, frame: object) -> None:
        if run.stop_asked:
            raise KeyboardInterrupt
        run.stop_asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fly(
    cfg: RunConfig | None,
    path: os.PathLike | str,
    *,
    resume: bool = False,
    supervised: bool = False,
    dataset: TokenDataset | None = None,
    extra: dict[str, Any] | None = None,
) -> Iterator[StepRecord]:
    """Run to the end, or until somebody sets `run.stop_asked`; what was done is in the folder whatever
    happens."""
    flight = prepare(cfg, path, resume=resume, dataset=dataset, extra=extra)
    yield from finish(flight, supervised=supervised)


def finish(flight: Flight, *, supervised: bool = False) -> Iterator[StepRecord]:
    """The rest of a prepared run; a stopped one is saved where it stands."""
    run = flight.run
    try:
        yield from flight.steps(supervised=supervised)
        if run.config.save_every and run.step not in flight.checkpoints.steps():
            flight.checkpoints.save(run)
        check_files(run)
        done = run.step >= run.config.steps
        run.tell("end", f"{'finished' if done else 'stopped'} at step {run.step}", finished=done)
    except BaseException as death:
        run.tell("died", f"{type(death).__name__}: {death}".splitlines()[0], error=type(death).__name__)
        raise
    finally:
        flight.folder.close()
