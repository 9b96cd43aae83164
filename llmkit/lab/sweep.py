"""Many short runs: every arm with every seed, in processes of their own, each kept as soon as it is done.

    plan = Sweep(tiny(steps=40), arms={"base": {}, "hot": {"lr": 0.1}}, seeds=range(300))
    for cell in plan.run("runs/hot.jsonl"):      # the cells that the file has not
        print(cell.arm, cell.seed)
    hot = plan.cells("runs/hot.jsonl")["hot"]    # those that it has, by arm, in the order of the seeds
    print(share(max(cell.outcome["losses"]) > 8 for cell in hot))

A cell is one run. An arm is a set of overrides for `vary`, and a seed sets `seed`; an arm may also set
`init_seed`, `data_seed` or `dropout_seed`. Arms with the same seed start from the same weights and see the
same batches, so they compare in pairs. What is kept of a run is what `measure(cfg, dataset)` returns: a flat
dict of JSON values. It must be a function of a module, for other processes to find it; the default is
`curves`.

The file is a cache, one line a cell:

    {"key": "16 hex digits", "arm": "hot", "seed": 7, "outcome": {"losses": [...], ...}}

The key is a digest of what decides the outcome: configuration, data, and the code of train/ and of the
measure's module, without comments, docstrings and layout. (Processor and version of torch are left out: they
move the last digits.) A cell whose key is there is not run again, by whatever name its arm goes; a line with
another key is ignored. So a file can be added to, used by several sweeps, and shipped with the kit: it is
stale when `missing` finds anything.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import llmkit.train
from llmkit.data import TokenDataset, open_dataset
from llmkit.errors import ConfigError, NonFiniteError
from llmkit.folder import storage, write_whole
from llmkit.records import read_jsonl, to_json
from llmkit.train import RunConfig, build, train, vary

Outcome = dict[str, Any]
Measure = Callable[[RunConfig, TokenDataset], Outcome]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    key: str
    arm: str
    seed: int
    outcome: Outcome = field(default_factory=dict)  # what the measure returned; empty: not run yet


def curves(cfg: RunConfig, dataset: TokenDataset) -> Outcome:
    """The default measure: `losses` (nats) and `grad_norms` (before clipping) of each step, five digits, and
    `died`, whether the run gave up on non-finite steps."""
    records, died = [], False
    try:
        records.extend(train(build(cfg, dataset=dataset)))
    except NonFiniteError:
        died = True
    losses, norms = ([float(f"{getattr(r, name):.5g}") for r in records] for name in ("loss", "grad_norm"))
    return {"losses": losses, "grad_norms": norms, "died": died}


@dataclass(frozen=True)
class Sweep:
    """Arms x seeds.

    Args:
        base: what all cells share. They run on one thread each, unless it says otherwise: processes are the
            better use of cores at this size, and bits depend on threads.
        arms: overrides by name; {} is the base itself.

    Raises:
        ConfigError: an arm that cannot run, or a measure that other processes could not import.
    """

    base: RunConfig
    arms: dict[str, dict[str, Any]]
    seeds: Sequence[int]
    measure: Measure = curves

    def __post_init__(self):
        module, name = self.measure.__module__, self.measure.__qualname__
        if module == "__main__" or "<" in name:
            raise ConfigError(
                f"measure `{name}` is not a function of a module",
                expected="one that other processes can import",
                remedy="put it into a .py file, or use `curves` and compute from its curves",
            )
        for arm in self.arms:
            self.config(arm, 0)

    def config(self, arm: str, seed: int) -> RunConfig:
        threads = self.base.threads or 1
        return vary(self.base, **{"threads": threads, "save_every": 0, "seed": seed} | self.arms[arm])

    @functools.cached_property
    def plan(self) -> tuple[Cell, ...]:
        """Every cell, without outcome; seed by seed, so that what is done of a sweep is a fair part of it."""
        code = code_digest(self.measure)
        found = []
        for seed in self.seeds:
            for arm in self.arms:
                cfg = self.config(arm, seed)
                decides = to_json([cfg.to_dict(), _data(cfg.data, cfg.model.vocab_size).digest, code])
                key = hashlib.sha256(decides.encode()).hexdigest()[:16]
                found.append(Cell(key=key, arm=arm, seed=seed))
        return tuple(found)

    def cells(self, file: os.PathLike | str) -> dict[str, list[Cell]]:
        """What the file has of this sweep, by arm, in the order of the seeds."""
        known = {cell.key: cell.outcome for cell in read_jsonl(Path(file), Cell)}
        done: dict[str, list[Cell]] = {arm: [] for arm in self.arms}
        for cell in self.plan:
            if cell.key in known:
                done[cell.arm].append(Cell(**vars(cell) | {"outcome": known[cell.key]}))
        return done

    def missing(self, file: os.PathLike | str) -> list[Cell]:
        known = {cell.key for cell in read_jsonl(Path(file), Cell)}
        return [cell for cell in self.plan if cell.key not in known]

    def run(self, file: os.PathLike | str, workers: int | None = None) -> Iterator[Cell]:
        """Run what is missing and yield each cell when it is in the file.

        Ctrl-C, or closing the iterator, ends when the cells under way are done and kept; nothing is lost, and
        the same call goes on. A SIGKILL loses the cells under way.

        Args:
            workers: processes; None: one a core. 1: this process, and Ctrl-C loses the cell under way.

        Raises:
            StorageError: the file cannot be written. LLMKitError: what a cell raised.
        """
        todo, append = self.missing(file), _appender(Path(file))
        workers = min(workers or os.cpu_count() or 1, len(todo))
        if workers <= 1:
            for cell in todo:
                yield append(cell, _outcome(self.measure, self.config(cell.arm, cell.seed)))
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_be_a_worker)
        under: dict[Future, Cell] = {}
        try:
            for cell in todo:
                under[pool.submit(_outcome, self.measure, self.config(cell.arm, cell.seed))] = cell
            for future in as_completed(tuple(under)):
                yield append(under.pop(future), future.result())
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the cells under way
            for future, cell in under.items():
                if not future.cancelled() and future.exception() is None:
                    append(cell, future.result())

    def tidy(self, file: os.PathLike | str) -> None:
        """Rewrite the file with this sweep's cells alone, in order: what is shipped."""
        lines = [to_json(cell) + "\n" for arm in self.cells(file).values() for cell in arm]
        write_whole(file, "".join(lines))


@functools.cache
def _data(name: str, vocab_size: int) -> TokenDataset:
    return open_dataset(name, vocab_size=vocab_size)


def _outcome(measure: Measure, cfg: RunConfig) -> Outcome:
    return measure(cfg, _data(cfg.data, cfg.model.vocab_size))


def _be_a_worker() -> None:
    """The parent alone hears Ctrl-C; a worker whose parent is gone, by a SIGKILL too, leaves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def leave() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _appender(file: Path) -> Callable[[Cell, Outcome], Cell]:
    """A function that adds a cell to the file; a last line that a SIGKILL tore is cut off first."""
    with storage(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab+") as stream:
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)

    def append(cell: Cell, outcome: Outcome) -> Cell:
        done = Cell(**vars(cell) | {"outcome": outcome})
        with storage(file), open(file, "ab") as stream:
            stream.write(to_json(done).encode() + b"\n")
        return done

    return append


# ----------------------------------------------------------------------------------------- what code says


def code_digest(measure: Measure) -> str:
    """Of train/ and of the module of `measure`: what they do, not how they are laid out or explained."""
    folder = Path(llmkit.train.__file__).parent
    files = [*sorted(folder.glob("*.py")), Path(sys.modules[measure.__module__].__file__)]
    shapes = [_shape(ast.parse(file.read_text())) for file in files]
    return hashlib.sha256(repr([measure.__qualname__, shapes]).encode()).hexdigest()[:16]


def _shape(node: Any) -> Any:
    """A syntax tree as tuples, without docstrings. `ast.dump` would differ between versions of Python."""
    if isinstance(node, list):
        return tuple(_shape(child) for child in node if not _is_text(child))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, _shape(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
    return type(node).__name__, *fields


def _is_text(node: Any) -> bool:
    """A docstring, of a field too: a statement that is a string and nothing else."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


# ---------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True)
class Share:
    """How many of how many, and the 95 % interval of the rate behind it."""

    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, which is right also near 0 and 1, and for few.

        Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22,
        1927.
        """
        z = 1.959964
        middle = self.count + z * z / 2
        half = z * math.sqrt(self.count * (1 - self.count / self.of) + z * z / 4)
        n = self.of + z * z
        return max(0.0, (middle - half) / n), min(1.0, (middle + half) / n)

    def minus(self, before: Share) -> tuple[float, float]:
        """95 % interval of this rate minus another's, of other runs.

        Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions",
        Statistics in Medicine 17, 1998, method 10: Wilson's intervals, combined.
        """
        (a, low, high), (b, b_low, b_high) = ((s.count / s.of, *s.interval) for s in (self, before))
        return a - b - math.hypot(a - low, b_high - b), a - b + math.hypot(high - a, b - b_low)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count / self.of:.1%} ({low:.1%} to {high:.1%}), {self.count} of {self.of}"


def share(happened: Iterable[bool]) -> Share:
    """The share of true ones.

    Raises:
        ConfigError: there are none to count.
    """
    seen = [bool(one) for one in happened]
    if not seen:
        raise ConfigError("no cells to take a share of", remedy="run the sweep first")
    return Share(sum(seen), len(seen))
