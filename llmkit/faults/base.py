"""What a fault is: a context manager that wraps one part of a run and takes the wrapper off again.

The one idea: a fault never changes a part, it stands in front of it. Each wrapper knows its fault and what
it hides, so faults can be put on and taken off in any order, and whatever else was done to the part
meanwhile stays done. A fault depends on `run.step` alone: whoever does that step again meets it again. It
tells the run's events nothing.

    with FAULTS["lr-glitch"](run, at=40) as fault:
        list(train(run))
"""

from __future__ import annotations

import copy
import importlib
import math
from dataclasses import dataclass
from typing import Any

from llmkit.errors import FaultError, closest


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One thing that can be chosen about a fault."""

    name: str
    default: Any  # None: what `says` says
    kind: type  # what the command line converts to
    says: str


def _when(name: str, kind: type, says: str) -> Parameter:
    return Parameter(name=name, default=None, kind=kind, says=says)


AT = _when("at", int, "first step that goes wrong (none: the next one)")
ONE = _when("until", float, "first step that is well again (none: one step only)")
EVER = _when("until", float, "first step that is well again (none: it stays)")


@dataclass(frozen=True, kw_only=True)
class FaultSpec:
    """An entry of the catalogue. Call it with a run to get the context manager."""

    name: str
    door: str  # the part of the run it enters by
    symptom: str  # what a person at the curves sees
    wild: str  # where it happens in real runs
    emulated: bool
    truth: str  # one sentence: what is real about it and what is not
    code: str  # the finding it must lead to
    harm: str  # its size, as measured
    parameters: tuple[Parameter, ...]
    factory: str  # "module:class", imported when the fault is used, so that a list of faults needs no torch

    def __call__(self, run: Any, **where: Any) -> Fault:
        """The fault, not yet in force: enter it with `with`.

        Raises:
            FaultError: an unknown parameter, or the fault does not apply to this run.
        """
        known = [parameter.name for parameter in self.parameters]
        for name in where:
            if name not in known:
                raise FaultError(f"`{self.name}` has no parameter `{name}`", remedy=closest(name, known))
        module, _, name = self.factory.partition(":")
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        return getattr(importlib.import_module(module), name)(run, **(defaults | where))

    def parse(self, pairs: list[str]) -> dict[str, Any]:
        """`["at=40", "factor=10"]`, as typed on a command line, as keyword arguments.

        Raises:
            FaultError: no `=`, an unknown parameter, or a value that does not read as its kind.
        """
        kinds, where = {parameter.name: parameter.kind for parameter in self.parameters}, {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals:
                raise FaultError(f"`{pair}` sets nothing", expected="NAME=VALUE, for example `at=40`")
            if name not in kinds:
                raise FaultError(f"`{self.name}` has no parameter `{name}`", remedy=closest(name, kinds))
            try:
                where[name] = kinds[name](value)
            except ValueError:
                raise FaultError(
                    f"`{pair}` cannot be read", expected=f"{name} as {kinds[name].__name__}"
                ) from None
        return where


class Wrapper:
    """Stands in front of a callable part. Everything but the call is the part's own."""

    def __init__(self, fault: Fault, inner: Any, was_set: bool):
        self.fault, self.inner, self.was_set = fault, inner, was_set

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fault.call(self.inner, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if "inner" not in vars(self):  # copy and pickle ask before there is one
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __deepcopy__(self, memo: dict) -> Wrapper:
        """A copied model or run meets the same fault, and not a copy of the run behind it."""
        return type(self)(self.fault, copy.deepcopy(self.inner, memo), self.was_set)


class LoaderWrapper(Wrapper):
    """Stands in front of a loader; a loader made from it with another skip list meets the fault too."""

    def batch(self, step: int) -> Any:
        return self.fault.call(self.inner, step)

    def with_skip(self, skip: Any) -> LoaderWrapper:
        return type(self)(self.fault, self.inner.with_skip(skip), self.was_set)

    @property
    def skip(self) -> Any:
        return self.inner.skip

    @skip.setter
    def skip(self, skip: Any) -> None:
        self.inner.skip = skip


class Fault:
    """A context manager that makes one thing go wrong from step `at` until before step `until`.

    Subclasses say in `install` which parts they wrap, and in `call` what the wrapped part does instead.

    Args:
        run: the run to break; anything with the parts of `llmkit.train.Run` that the fault touches.
        at: first step that goes wrong. None: the next one.
        until: first step that is well again. None: the step after `at`; `inf`: never.
    """

    name = ""
    lasts = 1  # steps, when `until` is not given

    def __init__(self, run: Any, at: int | None = None, until: float | None = None):
        self.run, self.on = run, False
        self.at = run.step if at is None else at
        self.until = self.at + self.lasts if until is None else until
        self._wrapped: list[tuple[Any, str]] = []
        if self.at < run.step:
            raise FaultError(
                f"step {self.at} is over: the run is at step {run.step}", remedy="choose a later step"
            )
        if self.at >= run.config.steps:
            raise FaultError(
                f"step {self.at} is never reached: the run has {run.config.steps} steps, "
                f"0 to {run.config.steps - 1}",
                remedy="choose an earlier step",
            )
        if not self.until > self.at:
            raise FaultError(f"`{self.name}` ends at step {self.until:g}, before it starts at {self.at}")

    def install(self) -> None:
        """Wrap the parts."""
        raise NotImplementedError

    def call(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        """What a wrapped part does; `inner` is the part."""
        raise NotImplementedError

    def active(self, step: int | None = None) -> bool:
        """Whether `step` (the run's present one) goes wrong."""
        return self.on and self.at <= (self.run.step if step is None else step) < self.until

    def wrap(self, holder: Any, attribute: str, kind: type[Wrapper] = Wrapper) -> None:
        """Put a wrapper in front of `holder.attribute` until the fault ends."""
        setattr(holder, attribute, kind(self, getattr(holder, attribute), attribute in vars(holder)))
        self._wrapped.append((holder, attribute))

    def __enter__(self) -> Fault:
        self.on = True
        try:
            self.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.on = False
        while self._wrapped:
            _unwrap(self, *self._wrapped.pop())

    def __repr__(self) -> str:
        until = "on" if self.until == math.inf else f"to {self.until - 1:g}"
        return f"<{self.name} at step {self.at} {until}>"


def _unwrap(fault: Fault, holder: Any, attribute: str) -> None:
    """Take this fault's wrapper out of the chain at `holder.attribute`, wherever in the chain it now is."""
    outer, current = None, getattr(holder, attribute)
    while isinstance(current, Wrapper) and current.fault is not fault:
        outer, current = current, current.inner
    if not isinstance(current, Wrapper):
        return  # somebody has put another part in this place: it is not ours to undo
    if outer is not None:
        outer.inner, outer.was_set = current.inner, current.was_set
    elif current.was_set:
        setattr(holder, attribute, current.inner)
    else:
        delattr(holder, attribute)  # a method of the class had been hidden


def find_module(run: Any, name: str | None, default: str) -> tuple[str, Any]:
    """A module of the run's model by its path.

    Raises:
        FaultError: there is none of that name.
    """
    modules = dict(run.model.named_modules())
    name = default if name is None else name
    if name not in modules or not name:
        raise FaultError(f"no module `{name}` in this model", remedy=closest(name, [m for m in modules if m]))
    return name, modules[name]
