"""Protects the pictures of memory: each frame is the allocator's state, each height what was live.

pytest tests/show/test_film_strip.py
"""

from __future__ import annotations

import json

import pytest

from llmkit.errors import ConfigError
from llmkit.memory import CachingAllocator, record, replay
from llmkit.memory.strip import Frame, film
from llmkit.show.film_strip import SETTINGS, film_strip
from llmkit.show.memory_timeline import memory_timeline

MIB = 2**20


@pytest.fixture(scope="module")
def trace(dataset):
    from llmkit.train import build, tiny

    return record(build(tiny(steps=3), dataset=dataset))


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_frame_is_the_state_of_the_allocator_after_its_event(trace, settings):
    frames = {frame.event: frame for frame in film(trace, settings, scale=32, frames=9)}
    assert len(frames) in (9, 10) and trace.peak_at in frames and len(trace.events) - 1 in frames
    allocator = CachingAllocator(settings)
    for event in replay(trace, allocator, 32):
        if event in frames:
            frame = frames[event]
            assert (frame.allocated, frame.reserved) == (allocator.allocated, allocator.reserved)
            used = sum(size for blocks in frame.segments for size, category in blocks if category)
            assert used == frame.allocated and used + sum(frame.holes) == frame.reserved
            assert frame.step == (0 if event < trace.steps[0] else 1 if event < trace.steps[1] else 2)


def test_a_frame_is_drawn_in_letters_as_long_as_its_segments():
    frame = Frame(7, 1, 15 * MIB, 24 * MIB, (((15 * MIB, "activations"), (5 * MIB, "")), ((4 * MIB, ""),)))
    assert str(frame).splitlines() == [
        "step 1, event 7: 15.00 MiB of 24.00 MiB in use, 9.00 MiB free in 2 pieces, the largest 5.00 MiB",
        f"   20.00 MiB |{'a' * 36}{'.' * 12}|",
        f"    4.00 MiB |{'.' * 10}|",
    ]


def test_the_last_frame_of_a_run_that_dies_says_for_what(trace):
    last = film(trace, limit=8 * MIB)[-1]
    assert last.died > 8 * MIB - last.reserved and "; out of memory for " in last.says()


def test_the_twin_says_what_the_panel_says_and_a_knob_is_a_function(trace):
    strip = film_strip(trace, scale=32, frames=9)
    shown = json.loads(json.dumps(strip.shown))
    assert [f["says"] for f in shown["frames"]] == [frame.says() for frame in strip.frames]
    assert strip.frames[strip.at].reserved == max(f["reserved"] for f in shown["frames"])
    assert str(strip).splitlines()[1] == shown["frames"][strip.at]["says"]
    strip.turn(settings="expandable_segments:True", at=3)
    assert strip.at == 3 and str(strip).startswith("allocator `expandable_segments:True` (emulated)\n")
    strip.turn(at=99)
    assert strip.at == len(strip.frames) - 1
    with pytest.raises(ConfigError, match="no setting"):
        strip.turn(settings="split:1")
    assert repr(strip) == f"<film strip of {len(trace.events)} events>"


def test_the_timeline_is_as_high_as_the_peak_and_names_it(trace):
    (axes,) = memory_timeline(trace).axes
    tops = [path.vertices[:, 1].max() for area in axes.collections for path in area.get_paths()]
    assert max(tops) == pytest.approx(max(trace.live) / MIB)
    assert axes.texts[0].get_text() == f"peak {max(trace.live) / MIB:.2f} MiB"
    assert [line.get_xdata()[0] for line in axes.lines] == [trace.steps[0]]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[::-1] == [name for name, line in trace.timeline().items() if any(line)]
