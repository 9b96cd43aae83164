"""A run on one page: boxes for what stands, arrows for what flows, the cluster above.

    diagram(job, "run.svg")

Every number comes from `llmkit.cost.stations`; nothing is computed here but places.
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.patches import FancyBboxPatch

from llmkit.cost import Job
from llmkit.cost.stations import headline, stations
from llmkit.errors import ConfigError
from llmkit.folder import write_whole
from llmkit.show.figure import Figure
from llmkit.show.plots import BLUE, GREY, INK

PAGE = (11.69, 8.27)  # A4 across, inches; the axes have the same units
BOX = (2.3, 1.15)
COLUMNS, LEFT, PITCH = 4, 0.45, 2.83
ROWS = (4.15, 1.75)  # lower edges
FORMATS = (".svg", ".png", ".pdf")
NODES, GPUS = 8, 8  # drawn at most


def diagram(job: Job, path: str | Path) -> Path:
    """Draw a job. The suffix decides the format: .svg, .png or .pdf.

    Raises:
        ConfigError: another suffix.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ConfigError(f"cannot draw `{path.name}`", expected=f"a name in {', '.join(FORMATS)}")
    figure = Figure(figsize=PAGE)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE[0]), ylim=(0, PAGE[1]))
    axes.set_axis_off()
    what, takes = headline(job)
    axes.text(LEFT, 7.75, what, fontsize=12, weight="bold", color=INK)
    axes.text(LEFT, 0.55, takes, fontsize=9.5, color=INK)
    _cluster(axes, job)
    way = stations(job)
    for index, station in enumerate(way):
        x, y = _place(index)
        axes.add_patch(
            FancyBboxPatch((x, y), *BOX, boxstyle="round,pad=0,rounding_size=0.08", fc="white", ec=BLUE)
        )
        axes.text(
            x + BOX[0] / 2, y + 0.88, station.title, ha="center", va="center", weight="bold", fontsize=9.5
        )
        axes.text(
            x + BOX[0] / 2, y + 0.4, "\n".join(station.lines), ha="center", va="center", fontsize=8, color=INK
        )
        if index + 1 < len(way):
            _arrow(axes, (x, y), _place(index + 1), station.passes)
    page = io.BytesIO()
    undated = (
        {"Creator": None, "Date": None} if path.suffix == ".svg" else None
    )  # the same job, the same bytes
    with rc_context({"svg.hashsalt": job.name}):
        figure.savefig(page, format=path.suffix[1:], dpi=150, metadata=undated)
    write_whole(path, page.getvalue())
    return path


def _place(index: int) -> tuple[float, float]:
    """Lower left corner of a box: the second row runs back, so that no arrow crosses the page."""
    row, column = divmod(index, COLUMNS)
    return LEFT + PITCH * (COLUMNS - 1 - column if row else column), ROWS[row]


def _arrow(axes, here: tuple[float, float], there: tuple[float, float], says: str) -> None:
    down = here[0] == there[0]
    side = 1 if there[0] > here[0] else -1
    middle = here[0] + BOX[0] / 2, here[1] + BOX[1] / 2
    start = (middle[0], here[1]) if down else (middle[0] + side * BOX[0] / 2, middle[1])
    end = (middle[0], there[1] + BOX[1]) if down else (there[0] + BOX[0] / 2 - side * BOX[0] / 2, middle[1])
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY})
    at = (middle[0] + 0.1, (start[1] + end[1]) / 2) if down else ((start[0] + end[0]) / 2, here[1] - 0.16)
    axes.text(*at, says, fontsize=8, color=GREY, ha="left" if down else "center", va="center")


def _cluster(axes, job: Job) -> None:
    """Nodes with their GPUs, as many as have room; the rest in words."""
    drawn = min(job.nodes, NODES)
    for node in range(drawn):
        x = LEFT + node * 1.32
        axes.add_patch(
            FancyBboxPatch(
                (x, 6.1), 1.15, 1.1, boxstyle="round,pad=0,rounding_size=0.06", fc="white", ec=GREY
            )
        )
        axes.text(x + 0.57, 7.05, f"node {node}", ha="center", va="center", fontsize=8, color=GREY)
        for slot in range(min(job.gpus, job.gpus_per_node, GPUS)):
            corner = x + 0.1 + 0.25 * (slot % 4), 6.2 + 0.33 * (slot // 4)
            axes.add_patch(FancyBboxPatch(corner, 0.18, 0.24, boxstyle="square,pad=0", fc=BLUE, ec=BLUE))
    hw, rest = job.hardware, f"and {job.nodes - drawn:,} more nodes; " if job.nodes > drawn else ""
    room = f"{rest}{hw.memory_gb:g} GB and {hw.hbm_gbs:g} GB/s a GPU"
    links = f"{hw.intra_gbs:g} GB/s inside a node, {hw.node_gbs:g} GB/s out of it"
    axes.text(LEFT, 5.75, f"{room}, {links}", fontsize=8.5, color=GREY)
