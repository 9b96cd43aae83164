"""Protects the crew: a skip that touches no bit, a rollback that equals never having been there, an honest
end.

pytest tests/rescue/test_supervisor.py
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmkit.data import Skip
from llmkit.errors import DeadIteratorError, NonFiniteError, RescueError
from llmkit.folder import RunFolder
from llmkit.observe import Recorder
from llmkit.rescue import HalveMicroBatch, LowerScale, RollBack, SkipStep, Watchdog, supervise
from llmkit.train import Checkpoints, train

KEYS = {
    "policy", "trouble", "from_step", "to_step", "lost_steps", "lost_tokens", "seconds", "skipped_batches",
    "scale", "micro_batch",
}  # fmt: skip


def rescues(run):
    return [e for e in run.events if e.kind == "rescue"]


def policies(run):
    return [e.data["policy"] for e in rescues(run)]


def saved(crew, checkpoints, every):
    """Every record, with a checkpoint each `every` steps, as the caller of `supervise` would."""
    for record in crew:
        if crew.run.step % every == 0 and not crew.in_trouble:
            checkpoints.save(crew.run)
        yield record


def once(condition):
    """True the first time that `condition` is: a passing cause."""
    seen = []
    return lambda run: not seen and condition(run) and not seen.append(1)


# ----------------------------------------------------------------------------------------------------- health


def test_a_healthy_run_is_left_alone(small_run, checkpoints, plant):
    bare, crewed = small_run(steps=24), small_run(steps=24)
    records = list(train(bare))
    assert repr(list(supervise(crewed, checkpoints))) == repr(records)
    crewed.parts.clear()
    assert plant.bits(crewed) == plant.bits(bare)
    assert [e.kind for e in crewed.events] == ["checkpoint"], "there is always something to roll back to"


def test_nothing_is_attached_between_two_records(small_run, checkpoints):
    run = small_run(steps=3)
    observers = list(run.observers)
    for _ in supervise(run, checkpoints):
        assert run.observers == observers


def test_a_crew_that_comes_later_and_one_that_relieves_it(small_run, checkpoints, plant):
    bare, run = small_run(steps=12), small_run(steps=12)
    records = list(train(bare))
    mixed = list(itertools.islice(train(run), 4))
    mixed += list(itertools.islice(supervise(run, checkpoints), 4))
    mixed += list(supervise(run, checkpoints))
    assert repr(mixed) == repr(records)


# ------------------------------------------------------------------------------------------------------- skip


def test_a_skipped_spike_leaves_weights_moments_and_detector_untouched(small_run, checkpoints, plant):
    run = small_run(steps=34)
    plant.spoil(run, lambda run: run.step == 30, 3.0)
    states = {}
    for record in supervise(run, checkpoints):
        states[record.step] = plant.bits(run)
    assert states[29] == states[30] != states[31]
    (rescue,) = rescues(run)
    assert rescue.says.startswith("skip-step at step 30: loss ")
    assert rescue.data.keys() == KEYS
    assert (rescue.data["from_step"], rescue.data["to_step"], rescue.data["lost_steps"]) == (30, 31, 1)
    assert (rescue.data["lost_tokens"], rescue.data["seconds"]) == (8 * 32, pytest.approx(0.1))
    assert [e.kind for e in run.events] == ["checkpoint", "alarm", "skip", "rescue"]


@pytest.mark.parametrize("bad", [[12], [12, 13], [12, 25], [12, 14, 25, 26]])
def test_single_non_finite_steps_cost_one_batch_each(small_run, checkpoints, plant, bad):
    run = small_run(steps=36)
    plant.spoil(run, lambda run: run.step in bad, math.nan)
    records = list(supervise(run, checkpoints))
    assert [r.step for r in records] == list(range(36))
    assert [r.step for r in records if r.skipped] == bad
    assert policies(run) == ["skip-step"] * len(bad)


def test_every_pattern_of_six_steps_is_treated_in_order_of_cost(small_run, checkpoints, plant):
    """Passing NaN in all 2^6 places of steps 3 to 8, one illness: two skips, a rollback; that gets the run
    further than before, so the same again."""
    run = small_run(steps=9, model__context=8, model__width=8)
    watchdog, pattern = Watchdog(run), set()
    plant.spoil(run, lambda run: run.step in pattern and not pattern.discard(run.step), math.nan)
    list(itertools.islice(supervise(run, checkpoints, watchdog=watchdog), 3))
    checkpoints.save(run)
    for world in itertools.product((0, 1), repeat=6):
        checkpoints.load(run, before=3)
        pattern = {3 + i for i, bad in enumerate(world) if bad}
        bad, run.events[:] = sorted(pattern), []
        assert list(supervise(run, checkpoints, watchdog=watchdog))[-1].step == 8
        assert all(torch.isfinite(p).all() for p in run.model.parameters())
        assert policies(run) == ["skip-step", "skip-step", "rollback-skip-data"] * (len(bad) // 3) + [
            "skip-step"
        ] * (len(bad) % 3)


# -------------------------------------------------------------------------------------------------- roll back


def test_rollback_with_skip_equals_never_having_seen_those_batches(small_run, checkpoints, tmp_path, plant):
    """A document that makes NaN: wherever that window of the data is served."""
    sick = small_run(steps=26)
    bad = set(sick.loader.batch(17).samples.tolist()) | set(sick.loader.batch(18).samples.tolist())
    plant.spoil(sick, lambda run: bool(bad & set(run.batch.numpy.samples.tolist())), math.nan)
    crew = supervise(sick, checkpoints, policies=(SkipStep(times=1), RollBack(skip=True)))
    records = list(saved(crew, checkpoints, every=10))
    assert policies(sick) == ["skip-step", "rollback-skip-data"]
    rescue = rescues(sick)[1]
    assert (rescue.data["from_step"], rescue.data["to_step"]) == (18, 10)
    assert rescue.data["skipped_batches"] == [17, 18]
    assert rescue.data["lost_steps"] == 9
    assert rescue.data["seconds"] == pytest.approx(0.9)
    assert [told["step"] for told in rescue.data["records"]] == list(range(10, 19))

    other = Checkpoints(tmp_path / "other")
    healthy = small_run(steps=26)
    first = list(itertools.islice(supervise(healthy, other), 10))
    healthy.loader = healthy.loader.with_skip(Skip(batches=frozenset({17, 18})))
    never = first + list(supervise(healthy, other))
    assert repr(records[:17] + records[19:]) == repr(never[:17] + never[10:])
    assert plant.bits(sick) == plant.bits(healthy)


LADDER = (RollBack(), RollBack(skip=True), RollBack(skip=True, further=True))


@pytest.mark.parametrize(
    ("cause", "rungs"),
    [("passing", 1), ("data", 2), ("step", 3)],
    ids=["a flipped bit", "a document", "a schedule"],
)
def test_each_rung_cures_what_the_one_before_cannot(small_run, checkpoints, plant, cause, rungs):
    run = small_run(steps=30)
    bad = set(run.loader.batch(22).samples.tolist())
    when = {
        "passing": once(lambda run: run.step == 22),
        "data": lambda run: bool(bad & set(run.batch.numpy.samples.tolist())),
        "step": lambda run: run.step == 22,
    }[cause]
    plant.spoil(run, when, math.nan)
    records = list(saved(supervise(run, checkpoints, policies=LADDER), checkpoints, every=10))
    assert run.step == 30
    assert math.isfinite(records[-1].loss)
    assert [e.data["to_step"] for e in rescues(run)] == [20, 20, 10][:rungs]
    assert [e.data["skipped_batches"] for e in rescues(run)] == [[], [22], [21, 23, 24]][:rungs]
    held = [e.step for e in run.events if e.kind == "skip" and e.data["why"] == "held back"]
    assert held == ([20, 21, 22] if cause == "step" else [])


def test_a_spike_answered_before_does_not_speak_against_a_later_cure(small_run, checkpoints, plant):
    """A window that spikes (22) is skipped; then data that make NaN (32 to 34) send the run back beyond it.
    It spikes again on the way, is skipped again, and the rollback is judged by the NaN alone."""
    run = small_run(steps=44)
    served = {step: set(run.loader.batch(step).samples.tolist()) for step in (22, 32, 33, 34)}
    plant.spoil(run, lambda run: bool(served[22] & set(run.batch.numpy.samples.tolist())), 3.0)
    sick = served[32] | served[33] | served[34]
    plant.spoil(run, lambda run: bool(sick & set(run.batch.numpy.samples.tolist())), math.nan)
    records = list(saved(supervise(run, checkpoints), checkpoints, every=20))
    assert [(e.data["policy"], e.data["from_step"], e.data["skipped_batches"]) for e in rescues(run)] == [
        ("skip-step", 22, []), ("skip-step", 32, []), ("skip-step", 33, []),
        ("rollback-skip-data", 34, []), ("rollback-skip-data", 32, [32, 33, 34]),
    ]  # fmt: skip
    assert [r.skipped for r in records if r.step == 22] == [True, True, True]
    assert records[-1].step == 43


def test_a_learning_rate_glitch_is_cured_by_holding_back_the_step_before(small_run, checkpoints):
    """The loss shows at t + 1 what the update at t did; other data do not help, and skipping t + 1 does not
    either."""
    run = small_run(steps=60)
    inner = run.schedule
    run.schedule = lambda step: inner(step) * (300 if step == 44 else 1)
    records = list(saved(supervise(run, checkpoints), checkpoints, every=10))
    assert next(e.step for e in run.events if e.kind == "alarm") == 45
    assert policies(run)[:2] == ["skip-step", "skip-step"]
    assert policies(run)[-1] == "rollback-skip-data"
    assert next(r for r in reversed(records) if r.step == 44).skipped
    assert records[-1].loss < records[0].loss


def test_a_rollback_forgets_the_life_it_ends(small_run, tmp_path, plant):
    """steps.jsonl tells one life; later checkpoints of the other are gone, so a crash cannot bring it
    back."""
    run = small_run(steps=30)
    folder = RunFolder.create(tmp_path / "run", {})
    checkpoints = Checkpoints(folder.checkpoints, keep_last=8)
    plant.spoil(run, once(lambda run: run.step == 22), math.nan)
    there = {}
    with Recorder(folder).attached(run):
        for record in itertools.islice(supervise(run, checkpoints, policies=LADDER, folder=folder), 26):
            there.setdefault(record.step, []).append(checkpoints.steps())
            if record.step in (19, 20, 21, 22) and len(there[record.step]) == 1:
                checkpoints.save(run)  # the last one in the middle of the illness
    assert there[22] == [[0, 20, 21, 22], [0, 20, 21]], "that of step 23 is gone, and that of step 22 too"
    assert [r.step for r in folder.steps()] == [*range(24)]
    assert not any(r.nonfinite for r in folder.steps())
    assert [t.step for t in folder.times()] == [*range(24)]
    assert [e.kind for e in folder.events() if e.kind in ("alarm", "rescue")] == ["alarm", "rescue"]


def test_the_detector_goes_back_with_the_run(small_run, checkpoints, plant):
    run, states = small_run(steps=30), {}
    plant.spoil(run, once(lambda run: run.step == 22), math.nan)
    for record in saved(supervise(run, checkpoints, policies=LADDER), checkpoints, every=10):
        states.setdefault(record.step, []).append(repr(run.parts["detector"].state_dict()))
    assert [len(states[s]) for s in (19, 20, 21, 22, 23)] == [1, 2, 2, 2, 1]
    assert all(first == second for first, second in (states[20], states[21]))


def test_a_wish_to_stop_survives_a_rollback(small_run, checkpoints, plant):
    run = small_run(steps=30)
    plant.spoil(run, lambda run: run.step == 22, math.nan)

    class Asks:
        def on_step(self, run, record):
            run.stop_asked = run.stop_asked or record.step == 22

    run.observers.append(Asks())
    records = list(saved(supervise(run, checkpoints, policies=LADDER), checkpoints, every=10))
    assert [r.step for r in records[-2:]] == [22, 20], (
        "one step after the rollback, agreed on by all, and the end"
    )


# ----------------------------------------------------------------------------------------------------- memory


def test_after_halving_the_run_equals_one_with_the_small_micro_batch(small_run, checkpoints, plant):
    sick, small = (
        small_run(steps=12, model__dropout=0.1),
        small_run(steps=12, model__dropout=0.1, micro_batch=2),
    )
    plant.exhaust(sick, lambda run, rows: rows > 2)
    assert repr(list(supervise(sick, checkpoints))) == repr(list(train(small)))
    sick.parts.clear()
    assert plant.bits(sick) == plant.bits(small)
    assert [(e.data["micro_batch"], e.data["to_step"], e.data["lost_steps"]) for e in rescues(sick)] == [
        (4, 0, 0),
        (2, 0, 0),
    ]
    assert [e.kind for e in sick.events] == ["checkpoint", "oom", "rescue", "oom", "rescue"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_out_of_memory_in_the_middle_repeats_the_same_step(small_run, checkpoints, plant, precision):
    sick, reference = (small_run(steps=12, precision=precision) for _ in range(2))
    plant.exhaust(sick, lambda run, rows: run.step >= 7 and rows > 4)
    first = list(itertools.islice(train(reference), 7))
    reference.micro_batch = 4
    assert repr(list(supervise(sick, checkpoints))) == repr(first + list(train(reference)))
    sick.parts.clear()
    assert plant.bits(sick) == plant.bits(reference)


def test_the_step_that_died_is_not_kept_alive(small_run, checkpoints):
    """The classic trap: inside `except` the traceback still holds the activations of the dead step."""
    import gc
    import weakref

    run, alive = small_run(steps=4), []

    def hook(module, args):
        if len(args[0]) > 4:
            alive.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if alive and run.step == 0:
            assert alive[0]() is None

    run.model.blocks[0].register_forward_pre_hook(hook)
    gc.disable()
    try:
        list(supervise(run, checkpoints))
    finally:
        gc.enable()
    assert len(alive) == 1


class HalfAnUpdate:
    """An optimizer step that runs out of memory between its two parameter groups, once."""

    def __init__(self, run, at):
        self.run, self.at, self.inner = run, at, run.optimizer.step

    def __call__(self):
        if self.run.step != self.at or self.run.micro_batch is not None:
            return self.inner()
        groups = self.run.optimizer.param_groups
        kept, groups[:] = list(groups), groups[:1]
        try:
            self.inner()
        finally:
            groups[:] = kept
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("at", [0, 13])
def test_half_an_update_is_undone_before_it_is_repeated(small_run, checkpoints, tmp_path, plant, at):
    sick = small_run(steps=16)
    sick.optimizer.step = HalfAnUpdate(sick, at)
    list(saved(supervise(sick, checkpoints), checkpoints, every=10))
    (rescue,) = rescues(sick)
    back = at // 10 * 10
    assert (rescue.data["policy"], rescue.data["to_step"], rescue.data["lost_steps"]) == (
        "halve-micro-batch", back, at - back,
    )  # fmt: skip
    reference = small_run(steps=16)
    list(itertools.islice(supervise(reference, Checkpoints(tmp_path / "r")), back))
    reference.micro_batch = 4
    list(supervise(reference, Checkpoints(tmp_path / "r")))
    assert plant.bits(sick) == plant.bits(reference)


def test_state_allocated_for_a_first_update_that_never_came_is_taken_away(small_run, checkpoints, plant):
    sick, reference = small_run(steps=4), small_run(steps=4, micro_batch=4)
    inner = sick.optimizer.step

    def step():
        if sick.micro_batch is None:
            first = sick.optimizer.param_groups[0]["params"][0]
            sick.optimizer.state[first]["step"] = torch.tensor(0.0)  # and no room for its moments
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner()

    sick.optimizer.step = step
    assert repr(list(supervise(sick, checkpoints))) == repr(list(train(reference)))


def test_a_smaller_micro_batch_outlives_a_rollback(small_run, checkpoints, plant):
    run = small_run(steps=30)
    plant.exhaust(run, lambda run, rows: run.step >= 12 and rows > 4)
    plant.spoil(run, once(lambda run: run.step == 16), math.nan)
    list(saved(supervise(run, checkpoints, policies=(HalveMicroBatch(), *LADDER)), checkpoints, every=10))
    assert policies(run) == ["halve-micro-batch", "rollback-skip-data"]
    assert rescues(run)[1].data["to_step"] == 10
    assert run.micro_batch == 4


# ------------------------------------------------------------------------------------------------- loss scale


def overflow(run, when, above):
    """Gradients that overflow while the loss scale is above a limit."""
    next(run.model.parameters()).register_hook(
        lambda grad: grad * math.inf if when(run.step) and run.scaler.current > above else grad
    )


def test_a_loss_scale_that_keeps_overflowing_falls_in_one_jump(small_run, checkpoints):
    run = small_run(steps=40, precision="fp16", loss_scale=2.0**16)
    overflow(run, lambda step: step >= 20, above=2.0**4)
    records = list(supervise(run, checkpoints))
    skipped = [r.step for r in records if r.skipped]
    assert skipped == list(range(20, 26)), "6 steps instead of the 12 that halving takes"
    assert policies(run) == ["skip-step", "skip-step", "lower-scale", "lower-scale"]
    assert [e.data["scale"] for e in rescues(run)[2:]] == [2.0**7, 2.0**2]
    assert records[-1].loss_scale == 2.0**2


def test_a_scale_at_its_floor_is_lowered_below_it(small_run, checkpoints):
    run = small_run(steps=30, precision="fp16", loss_scale=128.0, scale_floor=128.0)
    overflow(run, lambda step: step >= 20, above=64.0)
    records = list(supervise(run, checkpoints, policies=(LowerScale(),)))
    assert [r.step for r in records if r.skipped] == [20]
    (rescue,) = rescues(run)
    assert (rescue.data["policy"], rescue.data["trouble"], rescue.data["scale"]) == (
        "lower-scale",
        "overflow",
        8.0,
    )
    assert rescue.says == "lower-scale to 8 at step 20: 1 overflows in a row, loss scale 128"
    assert run.scaler.floor == 8.0


def test_a_loss_scale_that_finds_its_level_is_left_alone(small_run, checkpoints):
    run = small_run(steps=20, precision="fp16", loss_scale=2.0**16)
    overflow(run, lambda step: True, above=2.0**4)
    assert sum(r.skipped for r in supervise(run, checkpoints)) == 12
    assert not rescues(run)


# -------------------------------------------------------------------------------------------------- giving up


def test_it_gives_up_and_says_what_was_tried(small_run, checkpoints, plant):
    run = small_run(steps=40)
    plant.spoil(run, lambda run: run.step >= 22, math.nan)
    crew = saved(crew := supervise(run, checkpoints), checkpoints, every=10), crew
    with pytest.raises(RescueError) as caught:
        list(crew[0])
    assert str(caught.value) == (
        "step 25 is still sick (the loss is nan); tried: skip-step at step 22, then skip-step at step 23, "
        "then rollback-skip-data from step 24 to 20, then rollback-skip-data from step 22 to 20 without 3 "
        "batches, then rollback-skip-data from step 22 to 10 without 9 batches, then skip-step at step 25, "
        "then skip-step at step 26, then rollback-skip-data from step 27 to 10\n"
        "  remedy: ask `llmkit diagnose` for the cause"
    )
    assert caught.value.step == 25
    assert len(caught.value.tried) == 8
    with pytest.raises(DeadIteratorError):
        next(crew[1])


def test_out_of_memory_with_one_sequence_is_the_end(small_run, checkpoints, plant):
    run = small_run(steps=5)
    plant.exhaust(run, lambda run, rows: run.step == 3)
    with pytest.raises(RescueError) as caught:
        list(supervise(run, checkpoints))
    assert str(caught.value) == (
        "step 3 is still sick (out of memory with 1 sequences at once); tried: halve-micro-batch to 4 at "
        "step 3, then halve-micro-batch to 2 at step 3, then halve-micro-batch to 1 at step 3\n"
        "  remedy: shorten the context, set `model__checkpointing`, or shrink the model"
    )


def test_max_rescues_counts_within_one_illness(small_run, checkpoints, plant):
    run = small_run(steps=60)
    plant.spoil(run, lambda run: run.step in (12, 25, 38, 51), math.nan)
    assert len(list(supervise(run, checkpoints, max_rescues=1))) == 60
    again = small_run(steps=60)
    plant.spoil(again, lambda run: run.step in (12, 13), math.nan)
    with pytest.raises(RescueError, match="step 13 is still sick"):
        list(supervise(again, checkpoints, max_rescues=1))


def test_without_policies_it_says_so(small_run, checkpoints, plant):
    run = small_run(steps=5)
    plant.spoil(run, lambda run: run.step == 3, math.nan)
    with pytest.raises(
        RescueError, match=r"step 3 is still sick \(the loss is nan\); tried: nothing, since no policy fits"
    ):
        list(supervise(run, checkpoints, policies=()))


def test_an_error_raised_by_a_part_of_the_run_is_treated_too(small_run, checkpoints):
    """A strict guard, as torchtitan has: it raises before the update."""
    run, raised = small_run(steps=20), []

    class Guard:
        def on_backward(self, run):
            if run.step == 15 and not raised:
                raised.append(1)
                raise NonFiniteError("the attention scores are inf", step=run.step)

    run.observers.append(Guard())
    records = list(saved(supervise(run, checkpoints), checkpoints, every=10))
    assert policies(run) == ["rollback-skip-data"]
    assert [r.step for r in records] == [*range(15), *range(10, 20)]


def test_other_errors_pass_through(small_run, checkpoints):
    run = small_run(steps=5)
    run.schedule = lambda step: 1 / (3 - step)
    with pytest.raises(ZeroDivisionError):
        list(supervise(run, checkpoints))
    assert not rescues(run)


def test_a_sick_run_is_no_moment_for_a_checkpoint(small_run, checkpoints, plant):
    run = small_run(steps=30)
    plant.spoil(run, lambda run: run.step == 12, math.nan)
    crew = supervise(run, checkpoints)
    sick = [record.step for record in crew if crew.in_trouble]
    assert sick == list(range(12, 20)), "until 8 healthy steps have passed"


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_bug_that_lasts_some_steps_is_outlived(small_run, checkpoints, plant, steps):
    run = small_run(steps=32)
    plant.spoil(run, lambda run: 22 <= run.step < 22 + steps, math.nan)
    records = list(saved(supervise(run, checkpoints), checkpoints, every=10))
    assert (records[-1].step, records[-1].skipped) == (31, False)
    assert len(rescues(run)) == [1, 2, 5, 6, 7][steps - 1]
