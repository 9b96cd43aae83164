"""Heatmaps, each with the table behind it: the stability map, and a slice of a loss landscape.

    grid = stability_grid(stability_map())
    heatmap(grid)       # a matplotlib Figure
    print(table(grid))  # the same numbers and marks

No fact hangs on a colour: a cell has its number in it, or its table beside it, and its marks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmkit.lab.landscape import Slice
from llmkit.lab.stability import MapCell, StabilityMap
from llmkit.show.figure import Figure

MOST_NUMBERS = 60  # cells; of larger grids the numbers stand in the table alone
TOP = 1.0  # nats above the lowest loss: brighter does not get
SIGNS = {"diverged": "×", "exploded": "^"}  # with the count of seeds


@dataclass(frozen=True)
class Grid:
    """Losses by row and column, and their marks."""

    title: str
    row: str  # what the rows are
    column: str
    rows: tuple[str, ...]  # labels, from the top
    columns: tuple[str, ...]
    losses: tuple[tuple[float, ...], ...]  # nats; infinity where there is none
    marks: tuple[tuple[str, ...], ...]


def stability_grid(seen: StabilityMap) -> Grid:
    """Median final loss of the seeds; ×2 is two of them diverged, ^1 one of them exploded."""
    return Grid(
        "final loss, × diverged, ^ exploded",
        "warmup, steps",
        "peak learning rate",
        tuple(map(str, seen.warmups)),
        tuple(f"{lr:g}" for lr in seen.lrs),
        tuple(tuple(cell.final for cell in row) for row in seen.cells),
        tuple(tuple(marks(cell) for cell in row) for row in seen.cells),
    )


def marks(cell: MapCell) -> str:
    counts = {sign: getattr(cell, what) for what, sign in SIGNS.items()}
    return "".join(f"{sign}{count}" for sign, count in counts.items() if count)


def landscape_grid(around: Slice, title: str = "loss around the weights") -> Grid:
    """The centre, the weights as they are, is marked o."""
    offsets = tuple(f"{offset:+.2f}" for offset in around.offsets)
    losses = tuple(tuple(loss if math.isfinite(loss) else math.inf for loss in row) for row in around.losses)
    centre = tuple(tuple("o" if a == b == 0 else "" for b in around.offsets) for a in around.offsets)
    return Grid(title, "along the first direction", "along the second", offsets, offsets, losses, centre)


def table(grid: Grid) -> str:
    """Rows and columns as lines of text, two digits."""
    wide = max(
        8, *(len(label) + 2 for label in grid.columns), *(len(t) + 2 for row in _texts(grid) for t in row)
    )
    left = max(len(label) for label in (grid.row, *grid.rows))
    lines = [f"{grid.title}; columns: {grid.column}"]
    lines += [f"{grid.row:>{left}}" + "".join(f"{label:>{wide}}" for label in grid.columns)]
    for label, row in zip(grid.rows, _texts(grid), strict=True):
        lines.append(f"{label:>{left}}" + "".join(f"{text:>{wide}}" for text in row))
    return "\n".join(lines)


def heatmap(grid: Grid) -> Figure:
    """Dark is low. What is TOP nats or more above the lowest loss, or not finite, is brightest."""
    low = min(loss for row in grid.losses for loss in row)
    shades = [[min(loss, low + TOP) for loss in row] for row in grid.losses]
    few = len(grid.rows) * len(grid.columns) <= MOST_NUMBERS
    figure = Figure(figsize=(9, 0.55 * len(grid.rows) + 1.3) if few else (5.4, 4.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shades, cmap="viridis", vmin=low, vmax=low + TOP, aspect="auto" if few else "equal")
    for ticks, labels in ((axes.set_xticks, grid.columns), (axes.set_yticks, grid.rows)):
        every = 1 if few else max(1, len(labels) // 4)
        shown = slice(len(labels) // 2 % every, None, every)  # the middle is one of them
        ticks(range(len(labels))[shown], labels[shown])
    axes.set(xlabel=grid.column, ylabel=grid.row, title=grid.title)
    for i, row in enumerate(_texts(grid)):
        for j, text in enumerate(row):
            said = text if few else grid.marks[i][j]
            ink = "black" if shades[i][j] > low + TOP / 2 else "white"
            axes.text(j, i, said, ha="center", va="center", fontsize=9, color=ink)
    figure.colorbar(image, ax=axes, label="nats per token", extend="max")
    return figure


def _texts(grid: Grid) -> list[list[str]]:
    def text(loss: float, mark: str) -> str:
        return f"{loss:.2f}" * math.isfinite(loss) + f" {mark}" * bool(mark)

    return [list(map(text, *row)) for row in zip(grid.losses, grid.marks, strict=True)]
