"""Protects the run folder as the recorder writes it: what, when, once, and by whom.

pytest tests/observe/test_recorder.py
"""

from __future__ import annotations

import math
import threading

import pytest
import torch

from llmkit.errors import StorageError
from llmkit.folder import RunFolder
from llmkit.observe import Recorder, oom_event
from llmkit.records import Detail, Event, read_jsonl, to_json
from llmkit.train import Checkpoints, train


def record(run, path, **options):
    """Train `run` to its end into a new folder; (folder, records)."""
    folder = RunFolder.create(path, {})
    with Recorder(folder, **options).attached(run):
        return folder, list(train(run))


def details(folder):
    return read_jsonl(folder.path / "details.jsonl", Detail)


def test_steps_are_the_records_that_the_loop_yielded(small_run, tmp_path):
    folder, records = record(small_run(precision="fp16", loss_scale=2.0**40), tmp_path)
    assert [repr(r) for r in folder.steps()] == [repr(r) for r in records]
    assert [r.step for r in records] == [0, 1, 2, 3]


def test_a_resumed_run_writes_the_lines_of_the_uninterrupted_one(small_run, tmp_path):
    options = {"steps": 8, "model__dropout": 0.1}
    whole, _ = record(small_run(**options), tmp_path / "whole", every=3)

    run, folder = small_run(**options), RunFolder.create(tmp_path / "parts", {})
    checkpoints = Checkpoints(folder.checkpoints)
    with Recorder(folder, every=3).attached(run):
        for done in train(run):
            if done.step == 3:
                checkpoints.save(run)
            if done.step == 5:
                break
    again = small_run(**options)
    step = checkpoints.load(again)
    folder.truncate("steps", step)
    with Recorder(folder, every=3).attached(again):
        list(train(again))
    assert (folder.path / "steps.jsonl").read_bytes() == (whole.path / "steps.jsonl").read_bytes()


class FakeClock:
    """Each look at it takes a second."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        self.time += 1.0
        return self.time


def test_times_are_the_laps_of_the_stopwatch_and_the_total_includes_observers(small_run, tmp_path):
    class Dawdles:
        def on_step(self, run, record):
            run.clock.time += 100.0

    run = small_run(micro_batch=2)
    run.clock = run.stopwatch.clock = FakeClock()
    run.observers.append(Dawdles())
    folder, records = record(run, tmp_path)
    for found, made in zip(folder.times(), records, strict=True):
        # one look each: start, data, forward and backward of two micro-batches, optimizer; dawdler; total
        laps = found.data_s, found.forward_s, found.backward_s, found.optimizer_s
        assert laps == (1.0, 2.0, 2.0, 1.0)
        assert found.total_s == sum(laps) + 100.0 + 1.0
        assert found.tokens_per_s == made.tokens / found.total_s
        assert found.step == made.step
        assert found.at > 1.7e9 and found.memory_bytes > 50e6  # Unix seconds; a process with torch in it


def test_events_are_written_as_they_are_told(small_run, tmp_path, told):
    run = small_run(precision="fp16", loss_scale=2.0**40)
    events = told(run)
    folder, _ = record(run, tmp_path)
    assert [to_json(event) for event in folder.events()] == [to_json(event) for event in events]
    assert {"scale", "skip", "nonfinite"} <= {event.kind for event in events}


# --------------------------------------------------------------------------------------------------- the ring


def test_a_healthy_run_writes_no_detail(small_run, tmp_path):
    folder, _ = record(small_run(), tmp_path)
    assert not (tmp_path / "details.jsonl").exists()
    assert folder.events() == []


def test_the_ring_is_written_once_for_an_alarm_with_the_step_itself(small_run, tmp_path, bug):
    run = small_run(steps=9)
    bug(run, "blocks.1.mlp", 6)
    folder, _ = record(run, tmp_path, ring=4, every=2)
    found = details(folder)
    assert [d.step for d in found] == [3, 4, 5, 6]
    assert [bool(d.modules) for d in found] == [False, True, False, True]
    assert all(len(d.tensors) == 15 for d in found)
    assert math.isnan(found[-1].tensors["embed.weight"]["grad_norm"])


@pytest.mark.parametrize("kind", ["alarm", "oom", "floor"])
def test_an_event_that_is_an_alarm_writes_it_too(small_run, tmp_path, kind):
    run, folder = small_run(steps=6), RunFolder.create(tmp_path, {})

    class Barks:
        def on_backward(self, run):
            if run.step == 3:
                for sink in run.sinks:
                    sink(Event(kind=kind, step=3))
                self.on_disk = [d.step for d in details(folder)]

    barks = Barks()
    run.observers.append(barks)
    with Recorder(folder, every=100).attached(run):
        list(train(run))
    assert barks.on_disk == [0, 1, 2]  # at once: the process might not have lived longer
    assert [d.step for d in details(folder)] == [0, 1, 2, 3]
    assert [bool(d.modules) for d in details(folder)] == [True, False, False, False]


def test_the_step_after_an_alarm_is_looked_at(small_run, tmp_path, bug):
    run = small_run(steps=8)
    bug(run, "blocks.1.mlp", (2, 5))
    folder, records = record(run, tmp_path, every=100)
    found = details(folder)
    assert [d.step for d in found] == [0, 1, 2, 3, 4, 5]
    assert [d.step for d in found if d.modules] == [0, 3]
    assert not any("attention_entropy_min" in r.stats for r in records[1:])


def test_other_events_write_no_detail(small_run, tmp_path):
    run, folder = small_run(), RunFolder.create(tmp_path, {})
    with Recorder(folder).attached(run):
        steps = train(run)
        next(steps)
        run.tell("checkpoint", "somewhere", path="step-00000001")
        next(steps)
    assert not (tmp_path / "details.jsonl").exists()
    assert [event.kind for event in folder.events()] == ["checkpoint"]


class OneAtATime(RunFolder):
    """While step 3 is being written, waits for the other thread to try and write as well."""

    def __init__(self, path):
        super().__init__(path)
        self.writing, self.intruded, self.overlaps = threading.Event(), threading.Event(), 0

    def append(self, log, *records):
        if log == "steps" and records[0].step == 3:
            self.writing.set()
            self.overlaps += self.intruded.wait(0.3)
        elif log == "events":
            self.intruded.set()
        super().append(log, *records)


def test_a_watchdogs_thread_waits_until_the_line_under_way_is_written(small_run, tmp_path):
    run, folder = small_run(steps=6), OneAtATime.create(tmp_path, {})
    recorder = Recorder(folder)

    def bark():
        folder.writing.wait()
        recorder.sink(Event(kind="alarm", step=3))

    watchdog = threading.Thread(target=bark)
    watchdog.start()
    with recorder.attached(run):
        list(train(run))
        watchdog.join()
    assert folder.overlaps == 0
    assert [event.step for event in folder.events()] == [3]
    assert [r.step for r in folder.steps()] == list(range(6))
    steps = [d.step for d in details(folder)]
    assert steps == list(range(len(steps))) and len(steps) >= 4


# ---------------------------------------------------------------------------------------------- out of memory


def dies(run, at):
    def head(module, args):
        if run.step == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    run.model.head.register_forward_pre_hook(head)


def test_running_out_of_memory_is_noted_on_the_way_out(small_run, tmp_path):
    run, folder = small_run(micro_batch=2), RunFolder.create(tmp_path, {})
    dies(run, 2)
    with pytest.raises(torch.OutOfMemoryError), Recorder(folder).attached(run):
        list(train(run))
    (event,) = folder.events()
    assert (event.kind, event.step, event.says) == ("oom", 2, "out of memory with 2 sequences at once")
    assert event.data == {
        "module": "", "phase": "", "requested_bytes": 0, "live_bytes": 0, "limit_bytes": 0, "by_category": {},
        "emulated": False, "micro_batch": 2, "tokens": 64,
    }  # fmt: skip
    assert [d.step for d in details(folder)] == [0, 1]
    assert (run.observers, run.sinks) == ([], [])


def test_it_is_noted_once_when_a_rescuer_noted_it_already(small_run, tmp_path):
    run, folder = small_run(), RunFolder.create(tmp_path, {})
    dies(run, 1)
    with pytest.raises(torch.OutOfMemoryError), Recorder(folder).attached(run):
        try:
            list(train(run))
        except torch.OutOfMemoryError as error:
            for sink in run.sinks:
                sink(oom_event(run, error))
            raise
    assert [event.kind for event in folder.events()] == ["oom"]


def test_what_a_budget_knows_is_told(small_run):
    from llmkit.memory.facts import OutOfMemory, out_of_memory

    run = small_run()
    next(train(run))
    facts = OutOfMemory(
        module="blocks.1.mlp", phase="backward", requested_bytes=64, live_bytes=900, limit_bytes=960,
        by_category={"parameters": 900},
    )  # fmt: skip
    event = oom_event(run, out_of_memory(facts))
    assert event.says == "out of memory in `blocks.1.mlp` (backward) with 4 sequences at once (emulated)"
    assert event.data == vars(facts) | {"micro_batch": 4, "tokens": 64}


# ---------------------------------------------------------------------------------------------------- manners


def test_a_rank_that_is_not_the_first_writes_nothing(small_run, tmp_path, bug):
    run = small_run()
    bug(run, "blocks.1.mlp", 2)
    folder = RunFolder(tmp_path / "nowhere")
    recorder = Recorder(folder, rank=1)
    with recorder.attached(run):
        records = list(train(run))
    assert not folder.path.exists()
    assert [step for step, _ in recorder.tracer.sites] == [
        2
    ]  # it traces all the same: the ranks agree on one site
    assert all(r.stats == {} for r in records)


def test_the_rank_is_torchruns(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "3")
    assert not Recorder(RunFolder(tmp_path)).writes
    monkeypatch.delenv("RANK")
    assert Recorder(RunFolder(tmp_path)).writes


def test_attaching_leaves_no_trace(small_run, tmp_path):
    run, others = small_run(), object()
    run.observers.append(others)
    recorder = Recorder(RunFolder.create(tmp_path, {}), every=1)
    with recorder.attached(run) as attached:
        assert attached is recorder and run.observers == [others, recorder] and run.sinks == [recorder.sink]
        run.model.blocks[1].register_forward_pre_hook(lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(train(run))
    assert (run.observers, run.sinks) == ([others], [])
    assert sum(len(m._forward_hooks) for m in run.model.modules()) == 0


def test_a_folder_that_cannot_be_written_stops_the_run(small_run, tmp_path):
    run, folder = small_run(), RunFolder.create(tmp_path, {})
    (tmp_path / "times.jsonl").mkdir()
    with pytest.raises(StorageError) as error, Recorder(folder).attached(run):
        list(train(run))
    assert str(error.value) == (
        f"cannot write `{tmp_path / 'times.jsonl'}`: is a directory\n"
        "  remedy: choose a folder you may write to"
    )
    assert [r.step for r in folder.steps()] == [0]
