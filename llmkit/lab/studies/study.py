"""What all shipped studies have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmkit.errors import ConfigError
from llmkit.lab.sweep import Cell, Sweep


@dataclass(frozen=True)
class Study:
    """A sweep whose cells ship with the kit, in `<name>.jsonl` beside this file."""

    name: str
    plan: Callable[[], Sweep]

    @property
    def file(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.jsonl")

    def cells(self) -> dict[str, list[Cell]]:
        """By arm. Empty lists where the study is stale: `llmkit sweep --study NAME` runs it again."""
        return self.plan().cells(self.file)

    def whole(self) -> dict[str, list[Cell]]:
        """The same, of a study that is not stale.

        Raises:
            ConfigError: cells are missing.
        """
        plan, found = self.plan(), self.cells()
        missing = sum(len(plan.seeds) - len(cells) for cells in found.values())
        if missing:
            raise ConfigError(
                f"study `{self.name}` is stale: {missing} of {len(plan.plan)} cells are of other code",
                remedy=f"run `llmkit sweep --study {self.name}`",
            )
        return found
