"""The stability map: final loss by learning rate and warmup, diverged cells marked, every cell's curves kept.

    seen = stability_map()
    print(seen.at(lr=0.016, warmup=0).verdict)

A run **diverged** if, at its end, it predicts hardly better than the frequencies of tokens do: the mean loss
of its last ten steps is not finite, or less than 0.1 nats below the unigram entropy of its data. It
**exploded** if its loss was ever a nat above the lowest before it (llmkit.lab.explosions). The two are marked
apart: a run can explode and come back, and one can sink to the frequencies without a jump to be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median

from llmkit.data import open_dataset
from llmkit.errors import ConfigError
from llmkit.lab.explosions import RISE, rise
from llmkit.lab.studies import STUDIES
from llmkit.lab.studies.stability import LRS, WARMUPS, arm

LAST = 10  # steps that the final loss is the mean of; which batches they are moves it by some 0.03 nats
MARGIN = 0.1  # nats


@dataclass(frozen=True)
class MapCell:
    """One recipe, with a curve for each seed."""

    lr: float
    warmup: int  # steps
    curves: tuple[tuple[float, ...], ...]  # nats, of each seed; shorter where the run gave up
    unigram: float  # entropy of the data, nats

    @property
    def finals(self) -> tuple[float, ...]:
        """Mean loss of the last ten steps, of each seed; infinity where it is not finite."""
        means = (fmean(curve[-LAST:]) for curve in self.curves)
        return tuple(mean if math.isfinite(mean) else math.inf for mean in means)

    @property
    def final(self) -> float:
        """The median of `finals`."""
        return median(self.finals)

    @property
    def diverged(self) -> int:
        """Seeds that ended hardly better than token frequencies."""
        return sum(final > self.unigram - MARGIN for final in self.finals)

    @property
    def exploded(self) -> int:
        """Seeds whose loss rose a nat above its lowest."""
        return sum(rise(curve) >= RISE for curve in self.curves)

    @property
    def verdict(self) -> str:
        """In words, for every window alike."""
        n = len(self.curves)
        said = [
            f"{count} of {n} {what}" for what in ("diverged", "exploded") if (count := getattr(self, what))
        ]
        return ", ".join(said) or "stable"


@dataclass(frozen=True)
class StabilityMap:
    """Cells by row (warmup) and column (learning rate), both ascending."""

    lrs: tuple[float, ...]
    warmups: tuple[int, ...]
    cells: tuple[tuple[MapCell, ...], ...]

    def at(self, lr: float, warmup: int) -> MapCell:
        """Raises ConfigError if there is no such cell."""
        if lr not in self.lrs or warmup not in self.warmups:
            rates = ", ".join(f"{known:g}" for known in self.lrs)
            raise ConfigError(
                f"no cell at lr {lr:g} and warmup {warmup}",
                expected=f"lr of {rates}; warmup of {', '.join(map(str, self.warmups))}",
            )
        return self.cells[self.warmups.index(warmup)][self.lrs.index(lr)]

    def edge(self, warmup: int) -> float:
        """Largest learning rate up to which no seed diverged; 0 if there is none."""
        stable = 0.0
        for cell in self.cells[self.warmups.index(warmup)]:
            if cell.diverged:
                break
            stable = cell.lr
        return stable


def stability_map() -> StabilityMap:
    """The shipped study, read. Raises ConfigError where it is stale."""
    study = STUDIES["stability"]
    cells, cfg = study.whole(), study.plan().base
    unigram = (
        open_dataset(cfg.data, vocab_size=cfg.model.vocab_size).manifest.splits["train"].unigram_entropy_nats
    )

    def cell(lr: float, warmup: int) -> MapCell:
        curves = tuple(tuple(one.outcome["losses"]) for one in cells[arm(lr, warmup)])
        return MapCell(lr, warmup, curves, unigram)

    return StabilityMap(LRS, WARMUPS, tuple(tuple(cell(lr, warmup) for lr in LRS) for warmup in WARMUPS))
