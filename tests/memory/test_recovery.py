"""Protects what comes after an out-of-memory error; and that counting changes no bit and leaves no trace.

python -m pytest tests/memory/test_recovery.py -q
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

from llmkit.memory import budget, measure
from llmkit.train import train

GiB = 2**30


# --------------------------------------------------------------------------------------------------- recovery


def test_recovery_inside_except_is_refused_again_because_the_traceback_holds_the_step(job):
    one = job()
    need = measure(one.step, one.model, one.optimizer).bytes
    small = job()
    small.x, small.y = small.x[:2], small.y[:2]
    with budget(need * 8 // 10, one.model, one.optimizer) as counted:
        resident = counted.live
        try:
            one.step()
        except torch.OutOfMemoryError:
            inside = counted.live
            with pytest.raises(torch.OutOfMemoryError):
                one.model(one.x, one.y)
        after = counted.live
    assert inside > 0.5 * need  # the frames of the traceback still hold the activations
    assert after < resident + 2 * one.x.nbytes + 4096  # and with the exception they are gone


def test_what_was_refused_is_not_kept_by_the_traceback():
    one = torch.zeros(1024)
    with budget(12_000) as counted:
        with pytest.raises(torch.OutOfMemoryError) as error:
            torch._foreach_add([one, one, one], 1)  # the third of three outputs does not fit
        assert error.value.llmkit.live_bytes == 2 * 4096
        assert error.tb is not None and counted.live == 0


def test_recovery_outside_except_works_with_half_the_batch(job):
    one = job()
    one.step()
    need = measure(one.step, one.model, one.optimizer).bytes
    with budget(need * 7 // 10, one.model, one.optimizer):
        died = False
        try:
            one.step()
        except torch.OutOfMemoryError:
            died = True
        assert died
        one.x, one.y = one.x[:4].clone(), one.y[:4].clone()
        one.step()


def test_a_run_that_died_goes_on_and_ends_as_if_it_never_had(tiny_run):
    straight = tiny_run(steps=6)
    list(train(straight))
    run = tiny_run(steps=6)
    steps = train(run)
    next(steps)
    next(steps)
    with pytest.raises(torch.OutOfMemoryError), budget("6 MiB", run):
        next(steps)
    assert run.step == 2
    with budget("1 GiB", run):
        list(train(run))
    assert_equal(run.model, straight.model)


def assert_equal(model, other):
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


# ---------------------------------------------------------------------------------------- it changes nothing


@pytest.mark.parametrize("shape", [{}, {"dropout": 0.1, "checkpointing": "full"}], ids=["plain", "dropout"])
def test_counting_changes_no_bit(job, shape):
    watched, alone = job(**shape), job(**shape)
    torch.manual_seed(7)
    for _ in range(3):
        alone.step()
    drawn = torch.rand(1)
    torch.manual_seed(7)
    with budget(GiB, watched.model, watched.optimizer):
        for _ in range(3):
            watched.step()
        assert torch.equal(torch.rand(1), drawn)
    assert_equal(watched.model, alone.model)


def _hooks():
    registries = (
        torch_module._global_forward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_forward_hooks_always_called,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    return [list(registry) for registry in registries]


@pytest.mark.parametrize("limit", ["1 GiB", "5 MiB"], ids=["enough", "too small"])
def test_no_hook_and_no_mode_is_left_behind(job, limit):
    one, before = job(), _hooks()
    try:
        with budget(limit, one.model, one.optimizer) as counted:
            one.step()
    except torch.OutOfMemoryError:
        assert limit == "5 MiB"
    assert _hooks() == before
    assert torch._C._len_torch_dispatch_stack() == 0
    peak = counted.peak
    one.step()
    assert counted.peak == peak  # nothing counts on after the exit
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in one.model.modules())
    assert all(
        p._post_accumulate_grad_hooks is None and p._backward_hooks is None for p in one.model.parameters()
    )


def test_a_budget_can_be_entered_again(job):
    one = job()
    one.step()
    counted = budget(GiB, one.model, one.optimizer)
    peaks = []
    for _ in range(2):
        with counted:
            one.step()
        peaks.append(counted.peak)
    assert peaks[0] == peaks[1]


def test_budgets_nest_and_the_smaller_one_refuses(job):
    one = job()
    with (
        budget(GiB, one.model) as outer,
        pytest.raises(torch.OutOfMemoryError) as error,
        budget("4 MiB", one.model),
    ):
        one.step()
    assert error.value.llmkit.limit_bytes == 4 * 2**20
    assert outer.peak.bytes < GiB
