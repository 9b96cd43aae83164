"""Protects the watchdog: verdicts that change no bit, alarms for NaN, spike, slow step and hang, and no
thread left.

pytest tests/rescue/test_watchdog.py
"""

from __future__ import annotations

import math
import threading

import pytest
import torch

from llmkit.errors import StorageError
from llmkit.rescue import Detector, Watchdog
from llmkit.train import Checkpoints, train


def alarms(run):
    return [e for e in run.events if e.kind == "alarm"]


def watched(run, **how):
    return list(Watchdog(run, **how).watch(train(run)))


# ---------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize(
    "overrides",
    [{"model__dropout": 0.1, "micro_batch": 2}, {"precision": "fp16", "loss_scale": 2.0**30}],
    ids=["dropout and accumulation", "overflowing fp16"],
)
def test_watching_changes_nothing(small_run, plant, overrides):
    bare, seen = (small_run(steps=16, **overrides) for _ in range(2))
    records = repr(list(train(bare)))
    state = torch.get_rng_state()
    assert repr(watched(seen)) == records
    assert torch.equal(torch.get_rng_state(), state)
    seen.parts.clear()
    assert plant.bits(seen) == plant.bits(bare)
    assert not alarms(seen), "a loss scale that finds its level is healthy"


def test_nothing_is_attached_between_two_records(small_run):
    run = small_run(steps=3)
    observers, threads = list(run.observers), threading.active_count()
    for _ in Watchdog(run).watch(train(run)):
        assert run.observers == observers
        assert threading.active_count() == threads


def test_nothing_is_attached_after_an_error(small_run):
    run = small_run(steps=3)
    observers, threads = list(run.observers), threading.active_count()
    run.loader = None
    with pytest.raises(AttributeError):
        watched(run)
    assert (run.observers, threading.active_count()) == (observers, threads)


def test_a_recorder_at_the_end_stays_at_the_end(small_run):
    run = small_run(steps=1)
    last = run.observers[-1]
    with Watchdog(run).attached() as watchdog:
        assert (run.observers[0], run.observers[-1]) == (watchdog, last)


# --------------------------------------------------------------------------------------------- NaN and spikes


def test_a_nan_is_told_at_its_step(small_run, plant):
    run = small_run(steps=8)
    plant.spoil(run, lambda run: run.step == 5, math.nan)
    watched(run)
    (alarm,) = alarms(run)
    assert (alarm.step, alarm.says, alarm.data["kind"]) == (5, "step 5: the loss is nan", "nan")
    assert [e.kind for e in run.events] == ["alarm", "skip"], "the cause comes before the effect"


def test_a_spike_is_told_with_its_numbers(small_run, plant):
    run = small_run(steps=32)
    plant.spoil(run, lambda run: run.step == 30, 3.0)
    records = watched(run)
    (alarm,) = alarms(run)
    assert alarm.step == alarm.data["since"] == 30
    assert alarm.data["kind"] == "spike"
    assert alarm.data["loss"] == records[30].loss > 2.9 * alarm.data["expected"]
    assert alarm.data["z"] > 6


def test_a_curable_overflow_is_no_alarm_and_an_incurable_one_is(small_run):
    run = small_run(steps=8, precision="fp16", loss_scale=4.0)
    next(run.model.parameters()).register_hook(lambda grad: grad * math.inf if run.step >= 3 else grad)
    for _ in zip(range(6), Watchdog(run).watch(train(run)), strict=False):
        pass
    scales = [e.data["new"] for e in run.events if e.kind == "scale"]
    assert scales == [2.0, 1.0]
    assert [a.step for a in alarms(run)] == [5], "the third overflow, at the floor of 1"


def test_the_verdict_is_there_when_the_gradients_are(small_run, plant):
    run, seen = small_run(steps=32), []
    plant.spoil(run, lambda run: run.step == 30, 3.0)
    watchdog = Watchdog(run)

    class Asks:
        def on_backward(self, run):
            seen.append(watchdog.verdict(run.step).kind)

    run.observers.append(Asks())
    list(watchdog.watch(train(run)))
    assert seen == ["ok"] * 30 + ["spike", "ok"]


def test_a_skipped_step_leaves_the_detector_untouched(small_run, plant):
    run, states = small_run(steps=32), {}
    plant.spoil(run, lambda run: run.step == 30, 3.0)
    watchdog = Watchdog(run)

    class Vetoes:
        def on_backward(self, run):
            run.veto = watchdog.verdict(run.step).kind.replace("ok", "")

    run.observers.append(Vetoes())
    for record in watchdog.watch(train(run)):
        states[record.step] = repr(watchdog.detector.state_dict())
    assert states[30] == states[29] != states[31]


def test_checkpoints_keep_the_detector(small_run, tmp_path):
    run, checkpoints = small_run(steps=30), Checkpoints(tmp_path)
    for record in Watchdog(run).watch(train(run)):
        if record.step == 19:
            checkpoints.save(run)
    resumed = small_run(steps=30)
    watchdog = Watchdog(resumed)
    checkpoints.load(resumed)
    assert len(watchdog.detector.loss.changes) == 17, "20 steps, the first change after 3"
    list(watchdog.watch(train(resumed)))
    assert watchdog.detector.state_dict() == run.parts["detector"].state_dict()


def test_a_second_watchdog_takes_over_the_first_ones_detector(small_run):
    run, own = small_run(), Detector()
    first = Watchdog(run)
    assert Watchdog(run).detector is first.detector is run.parts["detector"]
    assert Watchdog(run, detector=own).detector is run.parts["detector"] is own


# ---------------------------------------------------------------------------------------------- slow and hung


def test_a_slow_step_is_told_with_its_phase(small_run):
    run = small_run(steps=20)
    inner = run.loader

    class Stalls:
        def batch(self, step):
            run.clock.sleep(3.0 if step == 15 else 0.01)
            return inner.batch(step)

    run.loader = Stalls()
    watched(run)
    (alarm,) = alarms(run)
    assert (alarm.step, alarm.data["kind"], alarm.data["phase"]) == (15, "slow", "data")
    assert alarm.says == "step 15 took 3.1 s where 0.11 s is usual; the excess is in data"


class Stuck:
    """A loader that comes back only when the watchdog has noticed."""

    def __init__(self, run, at, seconds):
        self.run, self.inner, self.at, self.seconds = run, run.loader, at, seconds
        self.noticed = threading.Event()

    def batch(self, step):
        if step == self.at:
            self.run.clock.sleep(self.seconds)
            assert self.noticed.wait(timeout=60)
        return self.inner.batch(step)


@pytest.mark.parametrize(
    ("at", "how", "limit"),
    [(0, {}, 600.0), (9, {}, 30.0), (9, {"hang_s": 5.0}, 5.0)],
    ids=["first", "later", "given"],
)
def test_a_hang_is_told_by_the_watchdogs_own_thread(small_run, at, how, limit):
    run, told = small_run(steps=12), []
    run.loader = stuck = Stuck(run, at, limit + 0.5)

    def on_hang(data):
        told.append((threading.current_thread().name, data))
        stuck.noticed.set()

    records = watched(run, on_hang=on_hang, poll_s=0.01, **how)
    assert len(records) == 12, "an alarm only: the loader came back and so did the run"
    ((name, data),) = told
    alarm = next(a for a in alarms(run) if a.data["kind"] == "hang")
    assert name == "llmkit-watchdog"
    assert alarm.data is data
    assert (data["limit_s"], data["phase"]) == (limit, "waiting for the batch")
    assert alarm.says == f"no sign of life for {limit + 0.5:.3g} s at step {at}, waiting for the batch"
    assert any(" batch" in call and "test_watchdog.py" in call for call in data["stacks"]["MainThread"])
    assert "llmkit-watchdog" not in data["stacks"]


def test_a_hang_limit_is_twenty_usual_steps(small_run, plant):
    run = small_run(steps=12)
    run.observers[:] = [plant.Ticking(lambda step: 4.0)]
    watchdog = Watchdog(run)
    assert watchdog.hang_limit == 600.0
    list(watchdog.watch(train(run)))
    assert watchdog.hang_limit == 80.0


def test_a_caller_who_takes_his_time_does_not_hang(small_run):
    run = small_run(steps=3)
    for _ in Watchdog(run, hang_s=5.0, poll_s=0.001).watch(train(run)):
        run.clock.sleep(3600.0)
    assert not alarms(run)


def test_what_goes_wrong_in_the_thread_goes_wrong_in_the_run(small_run):
    """A full disk must stop the run, also when it is the watchdog that notices."""
    run, noticed = small_run(steps=12), threading.Event()
    run.loader = stuck = Stuck(run, 9, 40.0)

    def full(event):
        if event.kind == "alarm":
            stuck.noticed.set()
            noticed.set()
            raise StorageError("cannot write `events.jsonl`: no space left on device")

    run.sinks.append(full)
    with pytest.raises(StorageError, match="no space left"):
        watched(run, poll_s=0.01)
    assert noticed.is_set()
