"""Protects the watch: it tells what stays and what an allocator reserves, and the run never learns of it.

python -m pytest tests/memory/test_watch.py -q
"""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.memory import fragmentation, measure, record, watch
from llmkit.train import train

MIB = 2**20


def told_by(run, *args, **options):
    told = []
    run.sinks.append(told.append)
    with watch(run, *args, **options):
        list(train(run))
    return [event.data for event in told if event.kind == "memory"]


def test_watching_changes_no_bit_and_leaves_nothing(tiny_run):
    run, alone = tiny_run(steps=4), tiny_run(steps=4)
    told = []
    run.sinks.append(told.append)
    with watch(run, allocator="expandable_segments:True", scale=64):
        watched = list(train(run))
    assert repr(watched) == repr(list(train(alone)))
    for mine, other in zip(run.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert run.observers == [] and torch._C._len_torch_dispatch_stack() == 0
    assert [event.step for event in told] == [0, 1, 2, 3]
    json.dumps([event.data for event in told], allow_nan=False)  # plain values


def test_what_is_told_is_what_was_measured(tiny_run):
    first, second, third = told_by(tiny_run(steps=3))
    assert (first["peak"], second["peak"]) == (measure(tiny_run()).bytes, measure(tiny_run(), steps=2).bytes)
    size = sum(-(-p.nbytes // 512) * 512 for p in tiny_run().model.parameters())
    assert first["kept"] == 0  # nothing has outlived a step yet
    assert second["kept"] == size + second["state"] == third["kept"] and third["grown"] == 0
    assert third["largest"] == 4 * 8 * 64 * 512 and third["largest_in"] == "head"
    assert third["largest_line"].endswith(" losses") and third["tokens"] == 8 * 64


def test_the_allocator_reserves_what_a_replay_of_the_trace_does(tiny_run):
    told = told_by(tiny_run(steps=2), allocator="", scale=32)
    trace = record(tiny_run(steps=2), steps=2)
    assert told[-1]["peak"] == 32 * max(trace.live)
    found = fragmentation(trace, scale=32)  # of a copy, whose tensors lie in another order
    assert told[-1]["reserved"] == pytest.approx(found.reserved, rel=0.1)


def test_a_limit_on_what_is_reserved_refuses_with_pytorchs_words(tiny_run):
    with pytest.raises(torch.OutOfMemoryError) as error:
        told_by(tiny_run(steps=2), "200 MiB", allocator="", scale=32)
    facts = error.value.llmkit
    assert facts.live_bytes < facts.reserved_bytes <= facts.limit_bytes == 200 * MIB
    assert facts.reserved_bytes + facts.requested_bytes > facts.limit_bytes
    assert sum(facts.by_category.values()) == facts.live_bytes
    idle = (facts.reserved_bytes - facts.live_bytes) / MIB
    assert f"and {idle:.2f} MiB is reserved by PyTorch but unallocated." in str(error.value)


def test_what_cannot_be_is_refused(tiny_run):
    with pytest.raises(ConfigError, match="is not a size"):
        watch(tiny_run(), "much")
    with pytest.raises(ConfigError, match="is emulated on this CPU"):
        watch(tiny_run(precision="fp16"))
    with pytest.raises(ConfigError, match="no setting"), watch(tiny_run(), allocator="split:1"):
        pass
