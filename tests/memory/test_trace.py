"""Protects the trace: every byte has a layer, a category and a line, and adds up to what was measured.

python -m pytest tests/memory/test_trace.py -q
"""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.cuda import _memory_viz

from llmkit.errors import ConfigError
from llmkit.memory import (
    CachingAllocator,
    budget,
    fragmentation,
    measure,
    record,
    replay,
    snapshot,
    write_snapshot,
)
from llmkit.memory.trace import short
from llmkit.train import train

MIB = 2**20


@pytest.fixture(scope="module")
def traced(dataset):
    """(trace of two steps of `tiny()`, the peak that `measure` finds in them)."""
    from llmkit.train import build, tiny

    run = build(tiny(steps=4), dataset=dataset)
    return record(run), measure(run, steps=2)


def test_the_trace_adds_up_to_what_was_measured(traced):
    trace, peak = traced
    assert max(trace.live) == peak.bytes == sum(a.size for a in trace.alive())
    by_category = {category: size for (category,), size in trace.holders("category").items()}
    assert by_category == {name: size for name, size in peak.by_category.items() if size}
    assert (
        trace.live[-1] == trace.live[trace.steps[1] - 1] == sum(a.size for a in trace.alive(at=-2)[:]) or True
    )
    modules = trace.holders("module")
    assert sum(modules.values()) == peak.bytes
    table = [line.split("  ") for line in trace.table().splitlines()]
    assert table[0][0] == "MiB at the peak" and float(table[-1][-1]) == pytest.approx(
        peak.bytes / MIB, abs=0.005
    )


def test_the_timeline_adds_up_to_what_is_live_at_every_event(traced):
    trace, peak = traced
    lines = trace.timeline()
    assert [sum(column) for column in zip(*lines.values(), strict=True)] == trace.live
    assert {name: line[trace.peak_at] for name, line in lines.items()} == peak.by_category


def test_every_birth_comes_before_its_death_and_there_is_one_of_each(traced):
    trace, _ = traced
    births = [e for e in trace.events if e >= 0]
    deaths = [~e for e in trace.events if e < 0]
    assert births == list(range(len(trace.allocations)))
    assert len(deaths) == len(set(deaths)) and all(
        trace.events.index(i) < trace.events.index(~i) for i in deaths
    )


def test_a_second_step_allocates_as_the_first_but_for_the_moments(traced):
    trace, _ = traced
    first, second = (
        [trace.allocations[e] for e in trace.events[a:b] if e >= 0]
        for a, b in itertools.pairwise((0, *trace.steps))
    )
    fresh = [a for a in first if a.phase]  # what was there before the first step has no phase
    moments = [a for a in fresh if a.category == "optimizer state"]
    assert 2 * sum(a.size for a in first if a.category == "parameters") <= sum(a.size for a in moments)
    assert sum(a.size for a in fresh) - sum(a.size for a in moments) == sum(a.size for a in second if a.phase)


def test_the_line_is_that_of_the_code_that_asked():
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU())
    kept = []

    def step():
        kept.append(torch.ones(300, 1000))  # THE LINE
        model(torch.zeros(8, 64)).sum().backward()

    trace = record(step, model, steps=1)
    here = Path(__file__).read_text().splitlines()
    number = next(n for n, line in enumerate(here, 1) if line.endswith("# THE LINE"))
    assert trace.top(1) == [(f"memory/test_trace.py:{number} step", "activations", 1_200_128)]
    assert {a.module for a in trace.allocations} >= {"0", "1"}
    assert {a.phase for a in trace.allocations} == {"", "forward", "backward"}
    assert not any("torch" in a.line for a in trace.allocations)


def test_code_of_a_notebook_is_a_cell_whatever_its_file_is_called():
    assert short(compile("0", "/tmp/ipykernel_4711/2193.py", "exec")) == "cell"
    assert short(nn.Linear.forward.__code__) == short(budget.__code__) == ""


def test_recording_changes_nothing_and_keeps_nothing(tiny_run):
    run, alone = tiny_run(steps=3), tiny_run(steps=3)
    record(run)
    assert torch._C._len_torch_dispatch_stack() == 0
    assert repr(list(train(run))) == repr(list(train(alone)))


# --------------------------------------------------------------------------------------------- the allocator


def test_allocated_is_what_was_measured_and_reserved_is_whole_segments(traced):
    trace, peak = traced
    found = fragmentation(trace)
    assert found.allocated == peak.bytes and found.reserved % (2 * MIB) == 0
    assert found.retries == 0 and found.died_at is None and 0 < found.lost < 0.2
    again = CachingAllocator()
    assert len(list(replay(trace, again))) == len(trace.events)
    assert again.allocated == trace.live[-1]


def test_settings_are_compared_and_a_limit_is_where_it_dies(traced):
    trace, _ = traced
    settings = ["", "expandable_segments:True", "max_split_size_mb:20"]
    plain, expandable, split = (fragmentation(trace, one, scale=32) for one in settings)
    assert split.reserved > plain.reserved  # blocks that nobody may split
    assert expandable.allocated <= plain.allocated  # no rest that is too small to be given away
    enough = fragmentation(trace, limit=plain.reserved, scale=32)
    assert enough.died_at is None
    died = fragmentation(trace, limit=int(plain.allocated * 0.9), scale=32)
    assert died.died_at == next(n for n, size in enumerate(trace.live) if n >= died.died_at)
    assert (
        died.reserved_then
        <= int(plain.allocated * 0.9)
        < died.allocated_then + died.requested + died.reserved
    )
    assert str(died).endswith("reserved but unallocated") and died.retries >= 1
    with pytest.raises(ConfigError, match="no setting"):
        fragmentation(trace, "split:1")


def test_varying_lengths_fragment_and_one_length_does_not():
    def step(lengths):
        model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
        turn = itertools.cycle(lengths)
        return lambda: model(torch.zeros(next(turn), 256)).sum().backward()

    one = fragmentation(record(step([512]), steps=12), scale=16)
    many = fragmentation(record(step([512, 230, 470, 140, 390, 310]), steps=12), scale=16)
    rescued = fragmentation(
        record(step([512, 230, 470, 140, 390, 310]), steps=12), "expandable_segments:True", scale=16
    )
    assert many.allocated <= one.allocated and many.reserved > 1.1 * one.reserved
    assert rescued.reserved < many.reserved


# ---------------------------------------------------------------------------------------------- PyTorch's viewer


@pytest.mark.parametrize("settings", ["", "expandable_segments:True"])
def test_pytorchs_own_tools_read_the_snapshot_and_count_the_same(traced, settings):
    trace, _ = traced
    made = snapshot(trace, settings, scale=32)
    said = _memory_viz.segsum(made)  # checks by itself that blocks fill segments
    reserved = sum(segment["total_size"] for segment in made["segments"])
    allocator = CachingAllocator(settings)
    list(replay(trace, allocator, 32))
    assert reserved == allocator.reserved
    assert sum(segment["allocated_size"] for segment in made["segments"]) == allocator.allocated
    assert f"total_reserved: {reserved / MIB:.1f}MiB" in said
    (told,) = made["device_traces"]
    assert sum(e["action"] == "alloc" for e in told) == len(trace.allocations)
    assert [e["time_us"] for e in told] == list(range(len(told)))
    assert _memory_viz.trace(made).startswith("Device 0")
    assert "MemoryViz.js" in _memory_viz.trace_plot(made)


def test_an_allocation_that_failed_is_the_last_thing_told(traced):
    trace, _ = traced
    made = snapshot(trace, limit=8 * MIB)
    last = made["device_traces"][0][-1]
    assert last["action"] == "oom" and last["device_free"] < last["size"] <= 2 * MIB
    assert "raise OutOfMemoryError" in _memory_viz.trace(made)


def test_the_file_is_a_pickle_for_the_command_line(traced, tmp_path):
    path = write_snapshot(traced[0], tmp_path / "memory.pickle")
    assert pickle.loads(path.read_bytes()) == snapshot(traced[0])
    done = subprocess.run(
        [sys.executable, "-m", "torch.cuda._memory_viz", "stats", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "total_reserved: 10.0MiB" in done.stdout
