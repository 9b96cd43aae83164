"""Protects the loop's laws: order, skip, resume after death, accumulation, nothing open at a yield.

pytest tests/train/test_loop.py
"""

from __future__ import annotations

import copy
import inspect
import math

import numpy as np
import pytest
import torch

from llmkit.errors import DeadIteratorError, NonFiniteError
from llmkit.train import loop, train


def weights(run):
    return [p.detach().clone() for p in run.model.parameters()]


def moments(run):
    return copy.deepcopy(run.optimizer.state_dict()["state"])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class PoisonGrad:
    """Writes a value into one gradient at given steps, as a broken kernel would."""

    def __init__(self, value, steps, parameter=0):
        self.value, self.steps, self.parameter = value, steps, parameter

    def __call__(self, run):
        p = list(run.model.parameters())[self.parameter]
        p.register_hook(lambda grad: grad + self.value if run.step in self.steps else grad)
        return run


def test_the_loop_fits_one_screen():
    assert len(inspect.getsource(loop.train.__wrapped__).splitlines()) <= 80


def test_it_learns(tiny_run):
    records = list(train(tiny_run(steps=60)))
    assert abs(records[0].loss - math.log(512)) < 0.2
    assert records[-1].loss < records[0].loss - 1.0
    assert [r.step for r in records] == list(range(60))


def test_two_runs_give_the_same_bits_and_another_seed_does_not(tiny_run):
    one, two, other = (tiny_run(seed=s, model__dropout=0.1) for s in (0, 0, 1))
    assert repr(list(train(one))) == repr(list(train(two))) != repr(list(train(other)))
    assert same(weights(one), weights(two))


def test_stepping_by_hand_equals_running_through(tiny_run):
    by_hand, through = tiny_run(), tiny_run()
    steps = train(by_hand)
    records = [next(steps) for _ in range(7)]
    records += list(train(by_hand))  # a second generator goes on where the first stands
    assert repr(records) == repr(list(train(through)))


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulating_equals_one_big_batch(tiny_run, micro_batch):
    whole, parts = list(train(tiny_run())), list(train(tiny_run(micro_batch=micro_batch)))
    for a, b in zip(whole, parts, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.grad_norm == pytest.approx(
            b.grad_norm, rel=1e-4
        )
        assert a.sequence_losses == pytest.approx(b.sequence_losses, rel=1e-5)


class Ragged:
    """A loader whose rows hold very unequal numbers of targets."""

    def __init__(self, loader):
        self.loader = loader

    def batch(self, step):
        import dataclasses

        batch = self.loader.batch(step)
        keep = np.arange(64)[None, :] < np.array([64, 1, 3, 64, 7, 2, 64, 30])[:, None]
        return dataclasses.replace(batch, weight=keep.astype(np.float32))


def test_unequal_micro_batches_are_weighted_by_their_tokens(tiny_run):
    """The mean over targets, not the mean of micro-batch means: gradients agree with one big batch."""
    grads, losses = [], []
    for micro_batch in (None, 1):
        run = tiny_run(micro_batch=micro_batch)
        run.loader = Ragged(run.loader)
        record = next(train(run))
        assert record.tokens == 64 * 3 + 1 + 3 + 7 + 2 + 30
        losses.append(record.loss)
        grads.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)
    run = tiny_run()
    batch = Ragged(run.loader).batch(0)
    losses = run.model(torch.from_numpy(batch.x), torch.from_numpy(batch.y)).detach().numpy()
    assert record.loss == pytest.approx((losses * batch.weight).sum() / batch.weight.sum(), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("parameter", [0, 5, -1])
def test_nonfinite_gradients_never_reach_the_optimizer(tiny_run, value, parameter):
    run = PoisonGrad(value, {1}, parameter)(tiny_run())
    steps = train(run)
    next(steps)
    before, moved = weights(run), moments(run)
    record = next(steps)
    assert (record.skipped, record.nonfinite) == (True, "grad")
    assert same(before, weights(run))
    assert repr(moved) == repr(moments(run))  # moments and their step counts, bit for bit
    assert not next(steps).skipped and not same(before, weights(run))


def test_a_nonfinite_loss_is_told_apart_from_a_nonfinite_gradient(tiny_run):
    run = tiny_run()
    run.model.blocks[0].register_forward_hook(lambda m, a, out: out / 0.0 if run.step == 2 else out)
    records = list(train(run))
    assert [(r.step, r.nonfinite) for r in records if r.skipped] == [(2, "loss")]


def test_a_hopeless_run_dies_after_its_patience_and_says_why(tiny_run):
    run = tiny_run(patience=3)
    run.model.blocks[0].register_forward_hook(lambda m, a, out: out * math.nan if run.step >= 4 else out)
    records = []
    with pytest.raises(NonFiniteError) as death:
        for record in train(run):
            records.append(record)
    assert [r.step for r in records if r.skipped] == [4, 5, 6] and death.value.step == 6
    assert str(death.value) == (
        "3 steps in a row were non-finite, the last at step 6 (first seen in the loss), and "
        "a smaller loss scale cannot help\n"
        "  remedy: ask `llmkit diagnose` for the module, or roll back with `--supervise`"
    )


def test_an_overflow_that_a_smaller_scale_cures_is_not_hopeless(tiny_run):
    run = tiny_run(precision="fp16", loss_scale=2.0**40, steps=40)
    told = []
    run.sinks.append(told.append)
    records = list(train(run))
    skipped = [r.step for r in records if r.skipped]
    assert skipped[:20] == list(range(20))  # the scale searches its way down; far more than `patience` steps
    scales = [(e.data["old"], e.data["new"]) for e in told if e.kind == "scale"]
    assert scales[0] == (2.0**40, 2.0**39) and len(scales) == len(skipped)
    assert not records[-1].skipped


def test_a_dead_iterator_does_not_look_like_a_finished_run(tiny_run):
    run = tiny_run()

    def die(module, args):
        if run.step == 3 and not run.parts.get("cured"):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run.model.blocks[1].register_forward_pre_hook(die)
    steps = train(run)
    with pytest.raises(torch.OutOfMemoryError):
        list(steps)
    with pytest.raises(
        DeadIteratorError, match="this iterator died of OutOfMemoryError\n  remedy: call train"
    ):
        next(steps)
    run.parts["cured"] = True
    assert [r.step for r in train(run)] == list(range(3, 20))


def test_a_step_that_died_leaves_nothing_behind(tiny_run):
    """Dead after backward of the first micro-batch: its gradients must not leak into the step done again."""
    clean, hurt = tiny_run(micro_batch=4), tiny_run(micro_batch=4)
    died = []

    def die(module, args):
        if hurt.step == 3 and hurt.batch.losses and not died:
            died.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hurt.model.register_forward_pre_hook(die)
    records = []
    with pytest.raises(torch.OutOfMemoryError):
        for record in train(hurt):
            records.append(record)
    records += list(train(hurt))
    assert died and repr(records) == repr(list(train(clean)))
    assert same(weights(clean), weights(hurt))


def test_a_finished_iterator_stays_finished(tiny_run):
    steps = train(tiny_run(steps=2))
    assert len(list(steps)) == 2 and list(steps) == []


def test_nothing_is_open_at_a_yield(tiny_run):
    from torch.overrides import _get_current_function_mode
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    for _ in train(tiny_run(steps=3, precision="fp16", micro_batch=2)):
        assert _get_current_function_mode() is None and _get_current_dispatch_mode() is None
        assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_training_leaves_the_global_generator_alone(tiny_run):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    list(train(tiny_run(steps=3, model__dropout=0.2)))
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_masks_depend_on_the_step_not_on_what_ran_before(tiny_run):
    straight = list(train(tiny_run(steps=6, model__dropout=0.3)))
    run = tiny_run(steps=6, model__dropout=0.3)
    first = [next(train(run)) for _ in range(3)]
    torch.rand(100)  # somebody else draws numbers
    assert repr(first + list(train(run))) == repr(straight)


class Spy:
    def __init__(self):
        self.seen = []

    def on_batch(self, run):
        self.seen.append(("batch", run.step, run.batch.x.shape, run.model.embed.weight.grad))

    def on_backward(self, run):
        norm = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm().item()
        self.seen.append(("backward", run.step, norm, run.found["grad_norm"]))

    def on_step(self, run, record):
        self.seen.append(("step", run.step, record.step, record.grad_norm))


def test_observers_are_told_at_three_moments_with_unscaled_unclipped_gradients(tiny_run):
    run, spy = tiny_run(steps=2, precision="fp16", clip=1e-3), Spy()
    run.observers.append(spy)
    records = list(train(run))
    assert [s[0] for s in spy.seen] == ["batch", "backward", "step"] * 2
    assert spy.seen[0][2] == (8, 64) and spy.seen[0][3] is None
    _, _, norm, found = spy.seen[1]
    assert norm == pytest.approx(found, rel=1e-5) == records[0].grad_norm and 0.1 < norm < 10
    assert records[0].clipped and spy.seen[2][1:] == (0, 0, records[0].grad_norm)


def test_clipping_comes_after_unscaling(tiny_run):
    """With clip-before-unscale the update would depend on the loss scale; here it does not."""
    run_a, run_b = (tiny_run(steps=1, precision="fp16", clip=0.01, loss_scale=s) for s in (1.0, 1024.0))
    for run in (run_a, run_b):
        list(train(run))
    norms = [
        torch.cat([p.grad.flatten() for p in r.model.parameters()]).norm().item() for r in (run_a, run_b)
    ]
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_a_veto_skips_the_update_and_says_why(tiny_run):
    class Veto:
        def on_backward(self, run):
            run.veto = "spike" if run.step == 1 else ""

    run, told = tiny_run(steps=3), []
    run.observers.append(Veto())
    run.sinks.append(told.append)
    records = list(train(run))
    assert [r.skipped for r in records] == [False, True, False]
    assert [(e.kind, e.says) for e in told] == [("skip", "step 1 was skipped: spike")]


def test_stopping_finishes_the_step_and_the_run_can_go_on(tiny_run):
    run = tiny_run(steps=10)
    done = []
    for record in train(run):
        done.append(record.step)
        run.stop_asked = record.step == 3
    assert done == [0, 1, 2, 3, 4]  # the wish travels with the next all-reduce
    run.stop_asked = run.stopped = False
    assert [r.step for r in train(run)] == [5, 6, 7, 8, 9]


def test_every_target_can_be_traced_to_its_document(tiny_run):
    record = next(train(tiny_run()))
    assert len(record.documents) == len(record.sequence_losses) == len(record.samples) == 8
    assert all(documents for documents in record.documents)


def test_a_fully_masked_batch_gives_loss_zero_not_nan(tiny_run):
    import dataclasses

    run = tiny_run(steps=1)
    inner = run.loader

    class Masked:
        def batch(self, step):
            batch = inner.batch(step)
            return dataclasses.replace(batch, weight=np.zeros_like(batch.weight))

    run.loader = Masked()
    record = next(train(run))
    assert (record.loss, record.tokens, record.nonfinite) == (0.0, 0, "")


def test_evaluation_changes_nothing(tiny_run):
    from llmkit.train import evaluate

    plain, looked = tiny_run(model__dropout=0.1), tiny_run(model__dropout=0.1)
    records, losses = [], []
    for record in train(looked):
        records.append(record)
        losses.append(evaluate(looked, batches=2))
    assert repr(records) == repr(list(train(plain)))
    assert losses[-1] < losses[0]
    assert evaluate(looked, batches=2) == losses[-1]
