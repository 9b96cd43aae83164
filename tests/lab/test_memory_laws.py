"""Protects the laws of late memory, on real runs: each fault is named by its folder alone, before the run dies.

pytest tests/lab/test_memory_laws.py
"""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from llmkit.diagnose import diagnose
from llmkit.errors import FaultError
from llmkit.faults import FAULTS, apply
from llmkit.faults.catalog_memory import LATE_MEMORY
from llmkit.lab import finish, prepare
from llmkit.memory import watch
from llmkit.train import tiny

MIB = 2**20
PLACES = {  # fault -> settings of the run, where it is put, what the doctor must name
    "graph-kept": ({}, {"at": 34}, "autograd graph"),
    "growing-list": ({}, {"at": 34}, "head"),
    "long-sequence": ({"model__position": "rotary"}, {"at": 36}, "batch of step 36"),
    "varying-lengths": ({}, {"at": 0}, "allocator"),
    "evaluation-kept": ({}, {"at": 30, "every": 3}, "evaluation"),
    "second-state": ({}, {"at": 34}, "optimizer state"),
    "big-vocabulary": ({}, {"at": 34}, "head"),
}


def flown(tmp_path, dataset, fault="", settings=None, place=None, steps=46, limit=math.inf, **watching):
    """Two sequences a step; sizes are told and limited 512 times as large, as of a model with such layers."""
    cfg = tiny(**{"steps": steps, "batch": 2, "save_every": 0, "data": str(dataset.path)} | (settings or {}))
    flight = prepare(cfg, tmp_path / (fault or "healthy"), dataset=dataset)
    with watch(flight.run, limit, **({"allocator": "", "scale": 512} | watching)):
        if not fault:
            list(finish(flight))
            return flight
        with apply(fault, flight.run, **place):
            try:
                list(finish(flight))
            except torch.OutOfMemoryError:
                assert limit != math.inf
    return flight


def test_every_late_fault_has_its_place():
    assert PLACES.keys() == LATE_MEMORY.keys()


@pytest.mark.parametrize("fault", PLACES)
def test_the_doctor_finds_it(fault, dataset, tmp_path):
    settings, place, culprit = PLACES[fault]
    diagnosis = diagnose(flown(tmp_path, dataset, fault, settings, place).folder)
    assert [f.code for f in diagnosis.findings] == [FAULTS[fault].code], diagnosis
    finding = diagnosis.findings[0]
    # an allocator is fragmented after a few steps only, and nothing is judged of the first two
    assert abs(finding.step - place["at"]) <= (8 if fault == "varying-lengths" else 1)
    assert finding.cause == culprit and finding.evidence and finding.confirm and finding.fix
    assert not any("faults" in e.says for e in finding.evidence)  # the line is the run's own


def test_the_doctor_stays_quiet_on_a_healthy_run_and_on_an_allocator_that_warms_up(dataset, tmp_path):
    flight = flown(tmp_path, dataset)
    assert diagnose(flight.folder).healthy
    told = [e.data for e in flight.folder.events() if e.kind == "memory"]
    assert len(told) == 46 and told[0]["reserved"] < told[2]["reserved"] == told[-1]["reserved"]


def test_the_step_of_death_is_predicted_before_it_comes(dataset, tmp_path):
    """The same leak twice: once cut off long before it is fatal, once to the end."""
    settings, place, _ = PLACES["growing-list"]
    limit = {"limit": "16 MiB", "allocator": None, "scale": 1}
    early = flown(tmp_path / "early", dataset, "growing-list", settings, place, steps=46, **limit)
    finding = diagnose(early.folder).findings[0]
    promised = finding.evidence[-1].says
    late = flown(tmp_path / "late", dataset, "growing-list", settings, place, steps=90, **limit)
    died = next(e for e in late.folder.events() if e.kind == "oom")
    low, high = (int(word.strip("()%:")) for word in promised.split("(95 %: ")[1].split(" to "))
    assert low <= died.step <= high and high - low <= 2 and died.step > 60
    assert [f.code for f in diagnose(late.folder).findings] == ["LK203"]  # LK201 follows from it


def test_fragmentation_kills_with_memory_to_spare_and_expandable_segments_save(dataset, tmp_path):
    settings, place, _ = PLACES["varying-lengths"]
    need = flown(tmp_path / "need", dataset, "varying-lengths", settings, place)
    told = [e.data for e in need.folder.events() if e.kind == "memory"]
    limit = int(1.05 * max(t["peak"] for t in told))
    dead = flown(tmp_path / "dead", dataset, "varying-lengths", settings, place, limit=limit)
    oom = next(e for e in dead.folder.events() if e.kind == "oom").data
    assert oom["reserved_bytes"] - oom["live_bytes"] > oom["requested_bytes"]
    assert [f.code for f in diagnose(dead.folder).findings] == ["LK205"]
    expandable = {"allocator": "expandable_segments:True", "limit": limit}
    saved = flown(tmp_path / "saved", dataset, "varying-lengths", settings, place, **expandable)
    assert saved.run.step == 46 and diagnose(saved.folder).healthy


def test_what_cannot_be_is_refused_word_for_word(tiny_run):
    with pytest.raises(FaultError, match="learned positions end where the context ends") as error:
        apply("long-sequence", tiny_run())
    assert error.value.remedy == 'set model__position="rotary"'
    with pytest.raises(FaultError, match="every is 0"):
        apply("evaluation-kept", tiny_run(), every=0)
    with pytest.raises(FaultError, match="factor is 1"):
        apply("big-vocabulary", tiny_run(), factor=1)


def test_a_loss_that_is_summed_keeps_no_activation_unless_backward_does(tiny_run):
    """What is said of `total_loss += loss` is half the truth: backward has freed what the graph had saved."""
    from llmkit.faults.memory_growth import GraphKept, Retained
    from llmkit.memory import budget
    from llmkit.train import train

    class SumAlone(GraphKept):
        def call(self, inner, loss):
            kept = super().call(inner, loss)
            return kept.loss if isinstance(kept, Retained) else kept

    grown = []
    for kind in (SumAlone, GraphKept):
        run = tiny_run(steps=6)
        with budget("1 GiB", run) as counted, kind(run, at=2):
            steps = train(run)
            live = [counted.live for _ in steps]
        grown.append(live[-1] - live[2])
    assert grown[0] <= 3 * 512 and grown[1] > 3 * 5 * MIB


def test_a_cache_of_keys_and_values_that_ends_with_its_sequence_is_no_leak(tiny_run):
    """Legitimate growth: after every step a token is decoded, the cache of 16 grows by it, and starts anew."""
    from llmkit.diagnose import Chart
    from llmkit.train import train

    run, told, cache = tiny_run(steps=60, batch=2), [], []
    run.sinks.append(told.append)
    with watch(run):
        records = []
        for record in train(run):
            records.append(record)
            with torch.no_grad():
                keys_and_values = run.model.blocks[0].attention.qkv(torch.zeros(2, 1, 64))[..., 64:].clone()
            cache = [*cache, keys_and_values][-(record.step % 16) - 1 :]
    kept = [event.data["kept"] for event in told if event.kind == "memory"]
    assert sum(b > a for a, b in pairwise(kept[3:])) > 40  # it grows at most steps
    assert diagnose(Chart.of(records, None, told, {})).healthy


def test_the_script_for_a_device_says_that_it_needs_one():
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "allocator_on_gpu.py"
    if torch.cuda.is_available():
        assert subprocess.run([sys.executable, script]).returncode == 0
    else:
        done = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (3, "needs a CUDA device: nothing was compared\n")
