"""Memory over the operations of some steps, by category: a picture that needs no network.

memory_timeline(record(run)).savefig("memory.png")
"""

from __future__ import annotations

from llmkit.memory import CATEGORIES, Trace, show_size
from llmkit.show.figure import Figure
from llmkit.show.plots import DPI, GREY, INK, WIDTH

COLORS = dict(
    zip(CATEGORIES, ("#0072b2", "#009e73", "#56b4e9", "#e69f00", "#d55e00", "#cc79a7"), strict=True)
)
HATCHES = dict(zip(CATEGORIES, ("", "//", "\\\\", "", "xx", ".."), strict=True))  # told apart in print too


def memory_timeline(trace: Trace) -> Figure:
    """What each category holds after each event of a trace; the peak and the ends of steps are marked."""
    figure = Figure(figsize=(WIDTH, 3.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    lines = {name: line for name, line in trace.timeline().items() if any(line)}
    heights = [[size / 2**20 for size in line] for line in lines.values()]
    areas = axes.stackplot(
        range(len(trace.events)), heights, labels=list(lines), step="post",
        colors=[COLORS[name] for name in lines], edgecolor="white", linewidth=0,
    )  # fmt: skip
    for area, name in zip(areas, lines, strict=True):
        area.set_hatch(HATCHES[name])
    at = trace.peak_at
    says = f"peak {show_size(trace.live[at])}"
    axes.annotate(says, (at, trace.live[at] / 2**20), (6, 4), textcoords="offset points", color=INK)
    for end in trace.steps[:-1]:
        axes.axvline(end, color=GREY, linewidth=1, linestyle=(0, (4, 2)))
    axes.set(xlabel="allocations and releases", ylabel="live MiB", xlim=(0, len(trace.events)))
    axes.set_ylim(0, 1.12 * trace.live[at] / 2**20)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
