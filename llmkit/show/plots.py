"""The curves of a run, with what happened marked on them.

    figure = curves("runs/mine")        # a matplotlib Figure that a cell shows
    figure.savefig("curves.png")

A step that was not finite leaves a gap and a cross; a kind of event is told by its marker, its line and its
label, so that no fact hangs on a colour. Drawn for 900 pixels in width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from llmkit.folder import RunFolder
from llmkit.records import Event, Finding, StepRecord, StepTimes
from llmkit.show.figure import Figure

WIDTH, PANEL, TOP, BOTTOM = 9.0, 1.6, 0.66, 0.52  # inches
DPI = 100
MOST = 2000  # points of a curve; more are drawn as the lowest and highest of each bucket
INK, GREY, GRID = "#24292f", "#6e7781", "#e4e8ec"
# Okabe and Ito's palette: told apart with every common colour vision, and by lightness in print
BLUE, ORANGE, GREEN, PURPLE, RED = "#0072b2", "#d55e00", "#009e73", "#7b4d94", "#b3001b"


@dataclass(frozen=True)
class Mark:
    """How a kind of event is drawn: three signs beside the colour."""

    label: str
    marker: str
    line: Any  # matplotlib line style
    color: str
    rank: int  # of several marks at one place the lowest rank gives the label


MARKS = {
    "finding": Mark("finding", "v", "-", RED, 0),
    "oom": Mark("out of memory", "s", "-", RED, 1),
    "nonfinite": Mark("non-finite", "X", (0, (4, 1.5)), ORANGE, 2),
    "rescue": Mark("rescue", "^", (0, (1, 1)), GREEN, 3),
    "alarm": Mark("alarm", "D", (0, (1, 2.5)), PURPLE, 4),
    "floor": Mark("scale at floor", "_", (0, (3, 3)), ORANGE, 5),
    "resume": Mark("resume", ">", (0, (6, 2)), GREY, 6),
}


def curves(run: RunFolder | os.PathLike | str, findings: Sequence[Finding] = ()) -> Figure:
    """Loss, gradient norm, loss scale (if it is one) and throughput (if it was timed) over steps.

    Args:
        run: a run folder or its path.
        findings: marked with their codes.

    Raises:
        RecordError: not a run folder, or a log that cannot be read.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    return draw(folder.steps(), folder.times(), folder.events(), findings)


def draw(
    steps: Sequence[StepRecord],
    times: Sequence[StepTimes] = (),
    events: Sequence[Event] = (),
    findings: Sequence[Finding] = (),
) -> Figure:
    """The same, from records in memory."""
    panels: list[Callable[[Axes], None]] = [lambda axes: _loss(axes, steps), lambda axes: _norm(axes, steps)]
    if any(record.loss_scale != 1 for record in steps):
        panels.append(lambda axes: _scale(axes, steps, events))
    if any(t.tokens_per_s > 0 for t in times):
        panels.append(lambda axes: _throughput(axes, times))
    height = TOP + BOTTOM + PANEL * len(panels)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - TOP / height, bottom=BOTTOM / height, hspace=0.27)
    first: Axes | None = None
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1, sharex=first)
        first = first or axes
        _dress(axes, last=index == len(panels) - 1)
        panel(axes)
    assert first is not None
    _limits(first, steps, events)
    _mark(figure, _marks(events, findings))
    return figure


def describe(
    steps: Sequence[StepRecord], events: Sequence[Event] = (), findings: Sequence[Finding] = ()
) -> str:
    """The picture in one line, for a screen reader or a notebook's stored output."""
    losses = [r.loss for r in steps if math.isfinite(r.loss)]
    if not losses:
        return "no finite loss"
    said = [f"loss {losses[0]:.2f} to {losses[-1]:.2f} over {len(steps)} steps"]
    said += [f"{f.code} at step {f.step}" for f in findings]
    counts = {kind: sum(e.kind == kind for e in events) for kind in ("nonfinite", "alarm", "rescue", "oom")}
    said += [f"{count} x {MARKS[kind].label}" for kind, count in counts.items() if count]
    return ", ".join(said)


# ----------------------------------------------------------------------------------------------------- panels


def _dress(axes: Axes, last: bool) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c4cad0")
    axes.tick_params(colors=GREY, labelsize=9, labelbottom=last, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, steps=[1, 2, 5, 10]))
    if last:
        axes.set_xlabel("optimizer step", fontsize=10, color=INK)


def _title(axes: Axes, name: str, unit: str = "") -> None:
    place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    bold = axes.annotate(name, xytext=(0, 5), fontsize=10, color=INK, fontweight="bold", **place)
    wide = bold.get_window_extent().width * 72 / DPI  # points
    axes.annotate(unit, xytext=(wide + 7, 5), fontsize=9, color=GREY, **place)


def _loss(axes: Axes, steps: Sequence[StepRecord]) -> None:
    _line(axes, [r.step for r in steps], [r.loss for r in steps], BLUE, cross=RED)
    _title(axes, "loss", "nats per token")


def _norm(axes: Axes, steps: Sequence[StepRecord]) -> None:
    _line(axes, [r.step for r in steps], [r.grad_norm for r in steps], ORANGE)
    seen = [r.grad_norm for r in steps if math.isfinite(r.grad_norm) and r.grad_norm > 0]
    if seen and max(seen) > 4 * min(seen):
        _log_scale(axes)
    _title(axes, "gradient norm", "before clipping")


def _scale(axes: Axes, steps: Sequence[StepRecord], events: Sequence[Event]) -> None:
    axes.step(
        [r.step for r in steps], [r.loss_scale for r in steps], where="post", color=GREEN, linewidth=1.6
    )
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    skipped = [(r.step, r.loss_scale) for r in steps if r.skipped]
    if skipped:
        axes.plot(
            *zip(*skipped, strict=True), linestyle="none", marker="x", markersize=5, color=INK, zorder=5
        )
        _title(axes, "loss scale", "x skipped step")
    else:
        _title(axes, "loss scale")


def _throughput(axes: Axes, times: Sequence[StepTimes]) -> None:
    timed = [(t.step, t.tokens_per_s) for t in times if t.tokens_per_s > 0]
    _line(axes, [step for step, _ in timed], [rate for _, rate in timed], PURPLE)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _title(axes, "throughput", "tokens per second")


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float], color: str, cross: str = INK) -> None:
    """A curve with gaps where it is not finite, and a cross on the upper edge there."""
    shown = [(s, v if math.isfinite(v) else math.nan) for s, v in zip(steps, values, strict=True)]
    xs, ys = zip(*_thin(shown), strict=True) if shown else ((), ())
    axes.plot(xs, ys, color=color, linewidth=1.4, marker="o" if len(shown) == 1 else None, markersize=4)
    bad = [s for s, v in zip(steps, values, strict=True) if not math.isfinite(v)]
    if bad:
        axes.plot(
            bad, [0.94] * len(bad), transform=axes.get_xaxis_transform(), linestyle="none", marker="x",
            markersize=5, markeredgewidth=1.3, color=cross, zorder=5, clip_on=False,
        )  # fmt: skip


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MOST points, spikes kept: of each bucket the lowest and the highest, in order."""
    if len(points) <= MOST:
        return list(points)
    size = math.ceil(len(points) / (MOST // 2))
    kept = []
    for start in range(0, len(points), size):
        bucket = [p for p in points[start : start + size] if math.isfinite(p[1])] or [points[start]]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _limits(axes: Axes, steps: Sequence[StepRecord], events: Sequence[Event]) -> None:
    seen = [r.step for r in steps] + [e.step for e in events if e.kind in MARKS]
    low, high = (min(seen), max(seen)) if seen else (0, 1)
    room = max(1.0, 0.015 * (high - low))
    axes.set_xlim(low - room, high + room)


# ------------------------------------------------------------------------------------------------------ marks


def _marks(events: Sequence[Event], findings: Sequence[Finding]) -> list[tuple[int, str, str]]:
    """(step, kind, label), one of a kind a step, in the order of steps."""
    marks = {(e.step, e.kind): _label(e) for e in events if e.kind in MARKS}
    marks |= {(f.step, "finding"): f.code for f in findings}
    return sorted((step, kind, label) for (step, kind), label in marks.items())


def _label(event: Event) -> str:
    detail = {"rescue": "policy", "alarm": "kind"}.get(event.kind)
    told = str(event.data.get(detail, "")) if detail else ""
    return f"{MARKS[event.kind].label}: {told}" if told else MARKS[event.kind].label


def _mark(figure: Figure, marks: Sequence[tuple[int, str, str]]) -> None:
    """A line through every panel, a marker on top of the first, and labels in rows that do not overlap."""
    panels = figure.axes
    kinds = {
        step: min((k for s, k, _ in marks if s == step), key=lambda k: MARKS[k].rank) for step, _, _ in marks
    }
    for step, kind in kinds.items():
        style = MARKS[kind]
        for axes in panels:
            axes.axvline(step, color=style.color, linestyle=style.line, linewidth=1.1, alpha=0.75, zorder=1)
    # spans taken in each row of labels, as shares of the panel's width; the panel's title stands in the
    # lowest
    taken: list[list[tuple[float, float]]] = [[(0.0, 0.2)], [], []]
    low, high = panels[0].get_xlim()
    drawn: list[int] = []
    for step, label, kind in _grouped(marks, (high - low) / 60):
        color = MARKS[kind].color
        if all(abs(step - other) > (high - low) / 60 for other in drawn):
            drawn.append(step)
            panels[0].plot(
                [step], [1.0], transform=panels[0].get_xaxis_transform(), marker=MARKS[kind].marker,
                markersize=6, color=color, clip_on=False, zorder=7,
            )  # fmt: skip
        width = 0.0088 * len(label) + 0.012
        left = min(max((step - low) / (high - low) - width / 2, 0.0), 1.0 - width)
        free = (r for r, spans in enumerate(taken) if all(left + width <= a or left >= b for a, b in spans))
        row = next(free, None)
        if row is None:
            continue  # the line and the marker are there; whoever lists the events has the words
        taken[row].append((left, left + width))
        panels[0].annotate(
            label, (left + width / 2, 1.0), xycoords="axes fraction", xytext=(0, 7 + 12 * row),
            textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=color,
            fontweight="bold",
        )  # fmt: skip


def _grouped(marks: Sequence[tuple[int, str, str]], near: float) -> list[tuple[int, str, str]]:
    """(step, label, kind) with the same label said once where marks crowd."""
    groups: list[list[Any]] = []  # [first step, last step, label, count, kind]
    for step, kind, label in marks:
        same = next((g for g in reversed(groups) if g[2] == label and step - g[1] <= near), None)
        if same:
            same[1], same[3] = step, same[3] + 1
        else:
            groups.append([step, step, label, 1, kind])
    groups.sort(key=lambda g: (MARKS[g[4]].rank, g[0]))
    return [(g[0], f"{g[2]} x{g[3]}" if g[3] > 1 else g[2], g[4]) for g in groups]
