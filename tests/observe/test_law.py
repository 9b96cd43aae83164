"""Protects the law of this room: watching changes nothing. The same bits with it and without.

pytest tests/observe/test_law.py
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from llmkit.folder import RunFolder
from llmkit.observe import Activations, Gradients, Recorder, Routing, Tokens, Tracer
from llmkit.observe.exponents import Exponents
from llmkit.train import train

OBSERVERS = {
    "gradients": lambda folder: Gradients(),
    "activations": lambda folder: Activations(every=1),
    "exponents": lambda folder: Exponents(),
    "tracer": lambda folder: Tracer(),
    "tokens": lambda folder: Tokens(),
    "routing": lambda folder: Routing(),
    "recorder": lambda folder: Recorder(RunFolder(folder), every=2),
}

SITUATIONS = {
    "dropout": {"model__dropout": 0.1},
    "fp16 that overflows, dropout, accumulation": {
        "precision": "fp16", "loss_scale": 2.0**40, "model__dropout": 0.1, "micro_batch": 2,
    },
    "a NaN in forward": {"model__dropout": 0.1, "micro_batch": 1},
    "a NaN, and a module that draws": {},
    "bf16, products kept, a window, loss in chunks": {
        "precision": "bf16", "model__checkpointing": "selective", "model__window": 24, "model__loss_chunk": 100,
    },
    "bf16, recomputed blocks": {"precision": "bf16", "model__checkpointing": "full", "model__dropout": 0.1},
    "a mixture of experts, recomputed": {
        "precision": "fp16", "model__experts": 4, "model__top_k": 2, "model__capacity_factor": 1.0,
        "model__checkpointing": "full", "model__dropout": 0.1, "micro_batch": 2,
    },
    "every other option": {
        "precision": "fp16", "model__qk_norm": True, "model__kv_heads": 1, "model__position": "rotary",
        "model__norm": "rmsnorm", "model__activation": "swiglu", "model__tied": False, "model__bias": True,
    },
}  # fmt: skip


def hooks(model):
    """How many hooks there are, of every kind that a module or a parameter can have."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    return on_modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


def everything(run):
    """All that a run is after its steps, as bytes or as text."""
    tensors = {f"weight {n}": p for n, p in run.model.named_parameters()}
    tensors |= {f"grad {n}": p.grad for n, p in run.model.named_parameters() if p.grad is not None}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"moment {index} {key}": value for key, value in state.items()}
    facts = {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()}
    return facts | {
        "scaler": run.scaler.state_dict(), "hooks": hooks(run.model), "step": run.step, "stuck": run.stuck,
        "mode": [m.training for m in run.model.modules()], "skip": run.loader.skip,
    }  # fmt: skip


class Witness:
    """Stands behind the observer and notes, at each step, what the next observer in line would find."""

    def __init__(self):
        self.seen = []

    def on_step(self, run, record):
        grads = [p.grad is not None and p.grad.numpy().tobytes() for p in run.model.parameters()]
        self.seen.append((run.step, hooks(run.model), hash(tuple(grads)), hash(generators())))


def generators():
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()


def outcome(run, observer=None):
    """Train `run` with or without an observer; everything that could have changed."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    if observer is not None:
        run.observers.append(observer)
    witness = Witness()
    run.observers.append(witness)
    records = [repr({k: v for k, v in vars(record).items() if k != "stats"}) for record in train(run)]
    facts = everything(run) | {"records": records, "generators": generators(), "on the way": witness.seen}
    if hasattr(observer, "close"):
        observer.close()
    return facts


def differences(a, b):
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


@pytest.fixture
def situation(small_run, bug):
    def make(name):
        run = small_run(**SITUATIONS[name])
        if name.startswith("a NaN"):
            bug(run, "blocks.1.mlp", at=2)
        if name.endswith("draws"):
            norm = run.model.blocks[0].norm1
            inner = norm.forward
            norm.forward = lambda x: inner(x) * (1 + 0.01 * torch.rand(()))
        return run

    return make


@pytest.mark.parametrize("name", SITUATIONS)
def test_watching_changes_nothing(situation, tmp_path, name):
    alone = outcome(situation(name))
    for observer, make in OBSERVERS.items():
        watched = outcome(situation(name), make(tmp_path))
        assert differences(alone, watched) == [], observer


def test_the_situations_are_what_they_say(situation, told):
    overflowing = situation("fp16 that overflows, dropout, accumulation")
    assert any(record.nonfinite == "grad" for record in train(overflowing))
    assert [r.nonfinite for r in train(situation("a NaN in forward"))] == ["", "", "loss", ""]
    plain, dropped = situation("every other option"), situation("dropout")
    assert (plain.config.model.dropout, dropped.config.model.dropout) == (0.0, 0.1)


@pytest.mark.parametrize("every", [1, 3])
def test_records_with_what_observers_add_are_the_same_in_two_runs(small_run, tmp_path, every):
    logs = []
    for name in ("one", "two"):
        run, folder = small_run(precision="fp16", model__dropout=0.1), RunFolder.create(tmp_path / name, {})
        with Recorder(folder, every=every).attached(run):
            list(train(run))
        logs.append((tmp_path / name / "steps.jsonl").read_bytes())
    assert logs[0] == logs[1]
    assert b"update_ratio_median" in logs[0] and b"attention_entropy_min" in logs[0]


# ------------------------------------------------------------------------------ the test of the test: mutants


class Draws:
    def on_step(self, run, record):
        torch.rand(1)


class DrawsFromPython:
    def on_batch(self, run):
        random.random()


class NudgesAWeight:
    def on_step(self, run, record):
        with torch.no_grad():
            run.model.embed.weight[3, 3] += 1e-7


class ClipsEarly:
    def on_backward(self, run):
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.01)


class LeavesAHook:
    def on_batch(self, run):
        run.model.head.register_forward_hook(lambda *args: None)


class ForgetsGradients:
    def on_step(self, run, record):
        run.model.zero_grad()


class SwitchesDropoutOff:
    def on_batch(self, run):
        run.model.eval()


@pytest.mark.parametrize(
    ("mutant", "seen_in"),
    [
        (Draws, "generators"),
        (DrawsFromPython, "generators"),
        (NudgesAWeight, "weight embed.weight"),
        (ClipsEarly, "moment 0 exp_avg"),
        (LeavesAHook, "hooks"),
        (ForgetsGradients, "grad embed.weight"),
        (SwitchesDropoutOff, "mode"),
    ],
)
def test_an_observer_that_touches_is_caught(situation, mutant, seen_in):
    assert seen_in in differences(outcome(situation("dropout")), outcome(situation("dropout"), mutant()))
