"""The stability-map explorer: click a cell of the map, see its curves, beside those of the cell before it.

explorer = stability_explorer()         # print(explorer) is its text twin
explorer.pick(lr=0.032, warmup=0)       # what a click does
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.lab.stability import MapCell, StabilityMap, stability_map
from llmkit.show.heatmap import TOP, marks, stability_grid, table

CEILING = 8.0  # nats: a curve above it runs along the upper edge
STEPS = (0, 10, 25, 50, 75)  # whose losses the text names, beside the last


def stability_explorer() -> StabilityExplorer:
    """The shipped map. Raises ConfigError where it is stale."""
    return StabilityExplorer(stability_map())


class StabilityExplorer(anywidget.AnyWidget):
    """The map, one cell picked. All that is drawn is in `cells` and `shown`, texts as they are printed."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    cells = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, seen: StabilityMap):
        super().__init__(cells=board(seen))
        self.seen = seen
        self.on_msg(lambda _, message, buffers: self.pick(**message))
        self.pick(seen.lrs[0], seen.warmups[0])

    def pick(self, lr: float, warmup: int) -> None:
        """Show a cell; the one shown so far stays beside it, in grey. Raises ConfigError: no such cell."""
        before = {key: self.shown[key] for key in ("name", "curves")} if self.shown else None
        self.shown = screen(self.seen.at(lr, warmup)) | {"before": before}

    def __str__(self) -> str:
        before = f"\nbefore it: {self.shown['before']['name']}" if self.shown["before"] else ""
        lines = [f"{self.shown['name']}: {self.shown['headline']}", *self.shown["seeds"]]
        return f"{table(stability_grid(self.seen))}\n\n" + "\n  ".join(lines) + before

    def __repr__(self) -> str:
        return f"<stability map: {len(self.seen.warmups)} x {len(self.seen.lrs)} cells>"


def board(seen: StabilityMap) -> dict[str, Any]:
    """What does not change: labels, and of each cell its text, its marks and how bright it is, 0 to 1."""
    grid = stability_grid(seen)
    low = min(loss for row in grid.losses for loss in row)
    return {
        "lrs": seen.lrs, "warmups": seen.warmups, "columns": grid.columns, "title": grid.title,
        "unigram": round(seen.cells[0][0].unigram, 2), "ceiling": CEILING,
        "rows": [
            [
                {
                    "text": f"{cell.final:.2f}", "marks": marks(cell), "says": says(cell),
                    "shade": min(1.0, (cell.final - low) / TOP),
                }
                for cell in row
            ]
            for row in seen.cells
        ],
    }  # fmt: skip


def screen(cell: MapCell) -> dict[str, Any]:
    """One cell: where it is, what became of it, and the curves with a line of text each."""
    return {
        "lr": cell.lr, "warmup": cell.warmup, "name": f"lr {cell.lr:g}, warmup {cell.warmup}",
        "headline": says(cell),
        "curves": [list(map(height, curve)) for curve in cell.curves],
        "seeds": [line(seed, curve) for seed, curve in enumerate(cell.curves)],
    }  # fmt: skip


def height(loss: float) -> float | None:
    """Of a point of a curve; None, a gap, where the loss is not finite."""
    return min(loss, CEILING) if math.isfinite(loss) else None


def says(cell: MapCell) -> str:
    return f"final loss {cell.final:.2f}, {cell.verdict}"


def line(seed: int, curve: Sequence[float]) -> str:
    """The curve of a seed in words."""
    named = [f"{step}: {curve[step]:.2f}" for step in STEPS if step < len(curve)]
    return f"seed {seed}: loss at step {', '.join(named)}; last {curve[-1]:.2f}, highest {max(curve):.2f}"
