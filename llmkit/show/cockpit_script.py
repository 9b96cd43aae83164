"""A flight by script, told in words that are the same on every machine: for notebooks that run without a
front end.

    print(perform(desk, [("until", 40), ("inject", "nan-division"), ("until", 60)]))

The one idea: every line of a script ends with the run at rest, so what has happened by then is a function
of the inputs. What depends on the clock (slow steps, hangs, seconds) is left out, and a loss is told as a
band of half a nat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llmkit.diagnose.words import number
from llmkit.errors import ConfigError, LLMKitError, closest
from llmkit.records import Diagnosis, Event
from llmkit.show.cockpit_desk import Desk

# What each command takes after its name: positional arguments, then perhaps a dictionary.
TAKES: dict[str, tuple[str, ...]] = {
    "until": ("step",), "step": ("count",), "inject": ("fault",), "pause": (),
    "repair": (), "rescue": (), "dismiss": (), "kill": (), "bring_back": (),
}  # fmt: skip

# An event in words, from its data alone; "" is not told. Kinds that are not here are not told either.
WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "nonfinite": lambda d: f"{d['kind']} in {d['module']}, {d['phase']}",
    "skip": lambda d: "update skipped",
    "scale": lambda d: f"loss scale {number(d['old'])} to {number(d['new'])}",
    "floor": lambda d: "loss scale at its floor",
    "oom": lambda d: f"out of memory in {d['module']}, {d['phase']}",
    "alarm": lambda d: f"alarm: {d['kind']}" if d["kind"] in ("nan", "spike") else "",
    "rescue": lambda d: f"rescue: {d['policy']}",
    "resume": lambda d: "resumed here, " + ("bit for bit" if d.get("exact") else "not exactly"),
    "died": lambda d: f"died of {d['error']}",
    "end": lambda d: "finished",
}


class Transcript(str):
    """Text that shows itself as it is, as the last value of a cell too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def perform(desk: Desk, script: Sequence[tuple[Any, ...]]) -> Transcript:
    """Carry out a script line by line.

    Returns:
        Per line of the script: what was done, what happened at which step, where the run stands, and what the
        doctor says that is new.

    Raises:
        ConfigError: a command that is unknown, or that leaves the run going.
    """
    told: list[str] = []
    for command, *rest in script:
        given = arguments(command, rest)
        before, desk.heard = desk.screen.diagnosis, []
        try:
            desk.press(command, **({"go": False} if command == "rescue" else {}), **given)
            refusal = ""
        except LLMKitError as error:
            refusal = error.found
        desk.look(examine=True)
        told.append(" ".join([command, *(str(item) for item in given.values() if item != "")]))
        told += [f"  refused: {refusal}"] if refusal else []
        told += happened(desk.heard)
        desk.heard = None
        told.append(f"  {standing(desk)}")
        told += examined(before, desk.screen.diagnosis)
    return Transcript("\n".join(told))


def arguments(command: str, rest: Sequence[Any]) -> dict[str, Any]:
    """`["nan-division", {"at": 45}]` as `{"fault": "nan-division", "at": 45}`."""
    if command == "go":
        raise ConfigError("`go` leaves the run going", remedy='say how far: ("until", STEP)')
    if command not in TAKES:
        raise ConfigError(f"unknown command `{command}`", remedy=closest(command, TAKES))
    named = rest[-1] if rest and isinstance(rest[-1], dict) else {}
    plain = list(rest[:-1] if named else rest)
    if len(plain) > len(TAKES[command]) or (command in ("until", "inject") and not plain):
        raise ConfigError(f"`{command}` was given {plain}", expected=", ".join(TAKES[command]) or "nothing")
    return dict(zip(TAKES[command], plain, strict=False)) | named


def happened(events: Sequence[Event]) -> list[str]:
    """One line a step."""
    lines: list[tuple[int, list[str]]] = []
    for event in events:
        says = WORDS[event.kind](event.data) if event.kind in WORDS else ""
        if says and lines and lines[-1][0] == event.step:
            lines[-1][1].append(says)
        elif says:
            lines.append((event.step, [says]))
    return [f"  step {step}: {'; '.join(dict.fromkeys(says))}" for step, says in lines]


def standing(desk: Desk) -> str:
    """`paused at step 40, no crew aboard, loss 4.5 to 5.0`"""
    status, last = desk.screen.status, desk.screen.curves["loss"].last
    crew = "crew aboard" if status.crew else "no crew aboard"
    loss = f", loss {band(last[1])}" if last else ""
    return f"{status.state} at step {status.step}, {crew}{loss}"


def band(loss: float) -> str:
    """Half a nat wide.

    >>> band(4.71), band(float("nan"))
    ('4.5 to 5.0', 'NaN')
    """
    if not math.isfinite(loss):
        return number(loss)
    low = math.floor(2 * loss) / 2
    return f"{low:.1f} to {low + 0.5:.1f}"


def examined(before: Diagnosis, after: Diagnosis) -> list[str]:
    """Findings that are new."""
    known = {(f.code, f.cause) for f in before.findings}
    new = [f for f in after.findings if (f.code, f.cause) not in known]
    return [
        f"  doctor: {f.code} {f.title}: {f.cause}" if f.cause else f"  doctor: {f.code} {f.title}"
        for f in new
    ]
