"""How much memory something needs, when and where, without a limit in the way.

The one idea: a run is measured on a copy of itself, by the loop that will train it, so nothing has to be put
back.

    measure(run)                            # the next step of a run, which stays as it is
    measure(step, model, optimizer).bytes   # any callable, which does what it does
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from llmkit.memory.budget import Budget, parts_of
from llmkit.memory.facts import Peak
from llmkit.train import Run, train


def measure(
    work: Run | Callable[[], object],
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    steps: int = 1,
    as_stored: bool = False,
) -> Peak:
    """The most memory that was live at once while `work` was done.

    The first AdamW step makes the moments: a fresh run shows what every later step needs in its second.

    Args:
        work: a callable; or a Run, of which a copy without observers does the next `steps` steps. Under
            torchrun every rank calls this, and DDP's buckets are not counted.
        model, optimizer: what is counted from the start, when `work` is a callable.
        as_stored: as in `budget`.

    Raises:
        ConfigError: an emulated precision without `as_stored`.
    """
    model, optimizer, step = prepared(work, model, optimizer, as_stored)
    with Budget(math.inf, model, optimizer) as counted:
        for _ in range(steps):
            step()
    return counted.peak


def prepared(work: Any, model: Any, optimizer: Any, as_stored: bool) -> tuple[Any, Any, Callable[[], object]]:
    """Model, optimizer and one step of what `measure` was given. Raises ConfigError as `measure` does."""
    if not isinstance(work, Run):
        return model, optimizer, work
    parts_of(work, None, as_stored)
    run = shadow(work)
    return run.model, run.optimizer, functools.partial(next, train(run))


def shadow(run: Run) -> Run:
    """A copy that trains as `run` would, unseen: same data, clock, schedule; own weights, moments, scaler."""
    with _without_hooks(run.model):
        model, optimizer = copy.deepcopy((run.model, run.optimizer))
    return dataclasses.replace(
        run, model=model, replica=model, optimizer=optimizer, scaler=copy.copy(run.scaler), observers=[],
        parts={}, sinks=[], guard=nullcontext, batch=None, found={}, stopped=False,
    )  # fmt: skip


HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


@contextmanager
def _without_hooks(model: torch.nn.Module) -> Iterator[None]:
    """Hooks belong to whoever attached them: a copy of the model must not write into an observer's notes."""
    kept: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    for module in model.modules():
        kept.append((module, {name: getattr(module, name) for name in HOOKS}))
        vars(module).update({name: type(hooks)() for name, hooks in kept[-1][1].items()})
    try:
        yield
    finally:
        for module, hooks in kept:
            vars(module).update(hooks)
