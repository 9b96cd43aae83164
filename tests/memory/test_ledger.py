"""Protects the count itself: every storage once, gone when its last tensor goes, named by what holds it.

python -m pytest tests/memory/test_ledger.py -q
"""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.memory import budget, measure
from llmkit.memory.sizes import rounded

GiB = 2**30
steps = st.lists(
    st.tuples(
        st.sampled_from(["make", "view", "detach", "drop", "add", "add_", "cat", "split"]),
        st.integers(0, 2000),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_any_program_is_counted_as_a_list_of_its_tensors_would_be(program):
    """The oracle looks at the tensors themselves: distinct storages among those still held."""
    held, peak = [torch.zeros(3)], 0
    with budget(GiB) as counted:
        held[0] = torch.zeros(3)
        for action, n in program:
            one = held[n % len(held)]
            if action == "make":
                held.append(torch.empty(n))
            elif action == "view":
                held.append(one[: n % 7].view(-1))
            elif action == "detach":
                held.append(one.detach())
            elif action == "drop" and len(held) > 1:
                held.pop(n % len(held))
            elif action == "add":
                held.append(one + 1)
            elif action == "add_":
                one.add_(1)
            elif action == "cat":
                held.append(torch.cat(held[:3]))
            elif action == "split":
                held.extend(torch.split(one, max(1, n)))
            del one
            storages = {t.untyped_storage()._cdata: rounded(t.untyped_storage().nbytes()) for t in held}
            assert counted.live == sum(storages.values())
            peak = max(peak, counted.live)
        assert counted.peak.bytes >= peak


def test_after_steps_what_is_live_is_parameters_gradients_and_moments(job):
    job = job()
    with budget(GiB, job.model, job.optimizer) as counted:
        job.step()
        job.step()
        gc.collect()
        kept = [t for p in job.model.parameters() for t in (p, p.grad)]
        kept += [v for state in job.optimizer.state.values() for v in state.values()]
        expected = sum(rounded(t.untyped_storage().nbytes()) for t in kept) + 2 * rounded(job.x.nbytes)
        assert counted.live == expected


def test_the_peak_is_split_exactly_into_its_categories(job):
    job = job()
    job.step()
    peak = measure(job.step, job.model, job.optimizer)
    size = sum(rounded(p.nbytes) for p in job.model.parameters())
    assert sum(peak.by_category.values()) == peak.bytes
    assert peak.by_category["parameters"] == size
    assert 2 * size <= peak.by_category["optimizer state"] < 2.1 * size  # two moments and a step count each
    assert peak.by_category["inputs"] == 2 * rounded(job.x.nbytes)
    assert (peak.phase, peak.module) == (
        "backward",
        "GPT",
    )  # at the loss: every activation and the logits' gradient
    logits = 4 * 8 * 64 * 512
    assert peak.by_category["temporaries"] == 2 * logits
    assert max(peak.by_phase.values()) == peak.by_phase["backward"] == peak.bytes


def test_gradients_that_were_live_at_the_peak_are_named_although_they_are_gradients_only_later(job):
    job = job(batch=1, width=256)  # parameters outweigh activations, so the peak comes late in backward
    with budget(GiB, job.model, job.optimizer) as counted:
        job.step()
        job.optimizer.zero_grad()  # nothing of them is left to look at in the end
    peak = counted.peak
    size = sum(rounded(p.nbytes) for p in job.model.parameters())
    assert peak.by_category["gradients"] > 0.5 * size
    assert sum(peak.by_category.values()) == peak.bytes


def test_moments_made_during_the_peak_are_optimizer_state(job):
    job = job(batch=1, width=256, context=8, adamw="foreach")
    peak = measure(job.step, job.model, job.optimizer)
    size = sum(rounded(p.nbytes) for p in job.model.parameters())
    assert peak.phase == "optimizer"
    assert peak.by_category["optimizer state"] >= 2 * size
    assert peak.by_category["temporaries"] >= size  # foreach's parameter-sized temporary


@pytest.mark.parametrize("shape", [{}, {"checkpointing": "full"}], ids=["plain", "recomputed"])
def test_activations_are_counted_wherever_they_are_made(job, shape):
    job = job(**shape)
    with budget(GiB, job.model) as counted:
        losses = job.model(job.x, job.y)
        before = counted.live
        saved = counted._ledger.by_category["activations"]
        losses.mean().backward()
    assert saved == before - counted.peak.by_category["parameters"] - counted.peak.by_category["inputs"]
    assert (saved < 2.1 * 2**20) == bool(shape)  # recomputation keeps block inputs and the logits only


def test_a_budget_keeps_nothing_alive(job):
    with budget(GiB) as counted:
        made = job()
        made.step()
        assert counted.live > 2**20
        del made
        gc.collect()
        assert counted.live == 0
