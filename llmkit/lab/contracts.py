"""What each module takes, gives and refuses, read from the code: signature and docstring sections.

for contract in contracts("train"):
    print(contract.text)
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmkit.errors import ConfigError, closest

PIPELINE = (
    "data",
    "train",
    "observe",
    "memory",
    "rescue",
    "diagnose",
    "cost",
    "faults",
    "lab",
    "grade",
    "show",
)
SECTIONS = ("Contract", "Args", "Attributes", "Returns", "Yields", "Raises")
HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):\s*$")


@dataclass(frozen=True)
class Contract:
    """The contract of one public name."""

    name: str
    signature: str
    purpose: str
    sections: dict[str, str]

    @property
    def text(self) -> str:
        body = "".join(f"\n  {title.lower()}\n{_indent(text)}" for title, text in self.sections.items())
        return f"{self.name}{self.signature}\n  {self.purpose}{body}"


def contracts(module: str = "") -> list[Contract]:
    """Contracts of the public names of a room (`train`), a module (`train.loop`), or of every room.

    Raises:
        ConfigError: there is no such module.
    """
    if not module:
        return [contract for room in PIPELINE for contract in contracts(room)]
    name = module.removeprefix("llmkit.")
    try:
        loaded = importlib.import_module(f"llmkit.{name}")
    except ModuleNotFoundError:
        raise ConfigError(f"no module `{module}`", remedy=closest(name, PIPELINE)) from None
    return list(_of(loaded, name))


def _of(module: Any, name: str) -> Iterator[Contract]:
    public = getattr(module, "__all__", None) or [
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
    ]
    for attribute in public:
        value = getattr(module, attribute)
        if inspect.isclass(value):
            yield _read(f"{name}.{attribute}", value)
            for method, function in vars(value).items():
                if not method.startswith("_") and inspect.isfunction(function) and _sections(function):
                    yield _read(f"{name}.{attribute}.{method}", function)
        elif callable(value):
            yield _read(f"{name}.{attribute}", value)


def _read(name: str, thing: Any) -> Contract:
    doc = inspect.getdoc(thing) or ""
    try:
        signature = str(inspect.signature(thing)).replace("'", "")
    except (TypeError, ValueError):
        signature = "(...)"
    return Contract(name, signature, doc.partition("\n")[0], _sections(thing))


def _sections(thing: Any) -> dict[str, str]:
    """Docstring sections by title."""
    found: dict[str, list[str]] = {}
    title = None
    for line in (inspect.getdoc(thing) or "").splitlines():
        if heading := HEADING.match(line):
            title = heading[1]
            found[title] = []
        elif line and not line.startswith(" "):
            title = None
        elif title:
            found[title].append(line)
    return {title: "\n".join(lines).strip("\n") for title, lines in found.items()}


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
