"""Protects the curves: every fact has a sign beside its colour, nothing overlaps, nothing leaks into pyplot.

pytest tests/show/test_plots.py
"""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from llmkit.folder import RunFolder
from llmkit.records import Event, Finding, StepRecord, StepTimes
from llmkit.show.plots import DPI, MARKS, MOST, _thin, curves, describe, draw


def steps(count=60, **more):
    fields = {"grad_norm": 1.0, "lr": 1e-3} | more
    return [StepRecord(step=s, loss=4 - s / 50 + s % 3 / 10, **fields) for s in range(count)]


def finding(step, code="LK101"):
    return Finding(code=code, title="NaN made inside a module", says="it broke", step=step)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_two_panels_always_and_two_more_where_there_is_something_to_show():
    times = [StepTimes(step=s, total_s=0.1, tokens_per_s=5000.0) for s in range(60)]
    assert len(draw(steps()).axes) == 2
    assert len(draw(steps(loss_scale=1024.0)).axes) == 3
    figure = draw(steps(loss_scale=1024.0), times)
    assert [axes.texts[0].get_text() for axes in figure.axes] == [
        "loss", "gradient norm", "loss scale", "throughput",
    ]  # fmt: skip


def test_the_figure_is_900_pixels_wide_and_is_nobody_elses():
    open_before = pyplot.get_fignums()
    figure = draw(steps())
    assert isinstance(figure, Figure) and figure.get_figwidth() * DPI == 900
    assert figure._repr_png_().startswith(b"\x89PNG")  # a cell shows the picture, not its name
    assert pyplot.get_fignums() == open_before


def test_a_run_folder_is_drawn(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.append("steps", *steps())
    folder.append("events", Event(kind="alarm", step=30, data={"kind": "nan"}))
    folder.close()
    assert "alarm: nan" in texts(curves(tmp_path / "run"))


@pytest.mark.parametrize("records", [[], steps(1), steps(2)])
def test_a_run_that_has_just_begun_is_drawn(records, tmp_path):
    draw(records).savefig(tmp_path / "curves.png")


def test_a_value_that_is_not_finite_is_a_gap_and_a_cross():
    records = steps()
    records[20] = StepRecord(step=20, loss=math.nan, grad_norm=math.inf, lr=1e-3, nonfinite="loss")
    for axes in draw(records).axes:
        curve, crosses = axes.lines[:2]
        assert math.isnan(curve.get_ydata()[20]) and not math.isnan(curve.get_ydata()[21])
        assert list(crosses.get_xdata()) == [20] and crosses.get_marker() == "x"


def test_kinds_of_events_differ_without_colour():
    signs = [(mark.marker, str(mark.line), mark.label) for mark in MARKS.values()]
    for part in zip(*signs, strict=True):
        assert len(set(part)) >= len(part) - 1  # a finding and what it is about may share a line
    assert len(set(signs)) == len(signs)


def test_every_event_is_labelled_and_no_label_covers_another():
    events = [Event(kind=kind, step=10 * i + 5, data={}) for i, kind in enumerate(MARKS) if kind != "finding"]
    events += [Event(kind="rescue", step=41, data={"policy": "rollback-skip-data"})]
    figure = draw(steps(100), events=events, findings=[finding(6), finding(95, "LK301")])
    figure.draw_without_rendering()
    labels = [t for t in figure.axes[0].texts if t.get_text()]
    assert {"LK101", "LK301", "out of memory", "rescue: rollback-skip-data"} <= {t.get_text() for t in labels}
    boxes = [(t.get_text(), t.get_window_extent()) for t in labels]
    for (name, box), (other, another) in combinations(boxes, 2):
        assert not box.overlaps(another), f"{name} over {other}"
    for name, box in boxes:
        assert box.x0 >= 0 and box.x1 <= 900 and box.y1 <= figure.get_figheight() * DPI, name


def test_crowded_events_are_said_once():
    events = [Event(kind="nonfinite", step=s) for s in (30, 31, 32)]
    assert "non-finite x3" in texts(draw(steps(), events=events))


def test_a_thousand_events_do_not_pile_up():
    events = [Event(kind="alarm", step=s, data={"kind": "slow"}) for s in range(1000)]
    assert len(texts(draw(steps(1000), events=events))) < 40


def test_a_long_curve_keeps_its_spikes():
    points = [(s, 9.0 if s == 4321 else 1.0 - (s == 777)) for s in range(50_000)]
    thin = _thin(points)
    assert len(thin) <= MOST and thin == sorted(thin)
    assert {(4321, 9.0), (777, 0.0)} <= set(thin)
    assert _thin(points[:MOST]) == points[:MOST]


def test_the_picture_in_words():
    events = [Event(kind="rescue", step=30), Event(kind="nonfinite", step=29)]
    assert describe(steps(), events, [finding(29)]) == (
        "loss 4.00 to 3.02 over 60 steps, LK101 at step 29, 1 x non-finite, 1 x rescue"
    )
    assert describe([]) == "no finite loss"
