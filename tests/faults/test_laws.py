"""Protects law 3, for every fault there is: it leaves no trace, depends on the step alone, says nothing.

Run it: python -m pytest tests/faults/test_laws.py -q
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

from llmkit.errors import LLMKitError
from llmkit.faults import FAULTS, apply
from llmkit.faults.base import Wrapper
from llmkit.memory import Budget
from llmkit.memory.measure import HOOKS
from llmkit.train import evaluate, train

NAMES = list(FAULTS)
PROGRESS = ("step", "batch", "found", "veto", "stuck", "stopwatch")  # what training itself moves


def trace(run):
    """Everything about a run that a fault could have touched, weights and moments apart."""
    modules = {}
    for name, module in run.model.named_modules():
        methods = sorted(key for key, value in vars(module).items() if callable(value))
        modules[name] = methods, [len(getattr(module, hooks)) for hooks in HOOKS]
    files = sorted(run.dataset.path.rglob("*"))
    batches = [served(run, step) for step in range(8)]
    return {
        "parts": {name: id(part) for name, part in vars(run).items() if name not in PROGRESS},
        "modules": modules,
        "parameter hooks": [
            (p._backward_hooks, p._post_accumulate_grad_hooks) for p in run.model.parameters()
        ],
        # the loop writes `lr` from the schedule at every step
        "groups": [
            {k: v for k, v in g.items() if k not in ("params", "lr")} for g in run.optimizer.param_groups
        ],
        "optimizer": sorted(key for key in vars(run.optimizer) if key in ("step", "zero_grad")),
        "optimizer hooks": (
            dict(run.optimizer._optimizer_step_pre_hooks),
            dict(run.optimizer._optimizer_step_post_hooks),
        ),
        "global hooks": [
            len(hooks)
            for hooks in (
                torch_module._global_forward_pre_hooks,
                torch_module._global_forward_hooks,
                torch_optimizer._global_optimizer_pre_hooks,
                torch_optimizer._global_optimizer_post_hooks,
            )
        ],
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "rng": torch.get_rng_state().tolist(),
        "schedule": [run.schedule(step) for step in range(8)],
        "data": batches,
        "skip": run.loader.skip,
        "scaler": {k: v for k, v in vars(run.scaler).items() if k not in ("current", "good_steps", "tell")},
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
        },
    }


def served(run, step):
    """The bytes of a batch, or why there is none."""
    try:
        b = run.loader.batch(step)
    except LLMKitError as error:
        return str(error)
    return b.x.tobytes(), b.y.tobytes(), b.weight.tobytes(), b.documents.tobytes(), b.samples.tobytes()


def go(run, steps):
    """Up to `steps` steps; a step that dies counts as one, and is not repeated."""
    records = []
    for _ in range(steps):
        try:
            records.append(next(train(run)))
        except (torch.OutOfMemoryError, LLMKitError) as death:
            records.append(type(death).__name__)
            run.step += 1
    return records


def same_weights(run, other):
    """Bit for bit: a NaN is equal to itself."""
    pairs = zip(run.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32)) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_after_three_steps_and_the_exit_every_part_is_as_before(victim, name):
    run = victim(name)
    go(run, 1)
    before = trace(run)
    with apply(name, run, at=2, until=4) as fault:
        assert trace(run) != before
        assert repr(fault) == f"<{name} at step 2 to 3>"
        go(run, 3)
    assert run.step == 4
    assert trace(run) == before


@pytest.mark.parametrize("name", NAMES)
def test_after_the_exit_the_run_trains_as_one_that_was_never_broken(victim, name):
    run, twin = victim(name), victim(name)
    with apply(name, run, at=1):
        go(run, 3)
    twin.model.load_state_dict(run.model.state_dict())
    twin.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))  # loading does not copy
    twin.scaler.load_state_dict(run.scaler.state_dict())
    twin.step, twin.stuck = run.step, run.stuck
    assert repr(go(run, 4)) == repr(go(twin, 4))
    assert same_weights(run, twin)


@pytest.mark.parametrize("name", NAMES)
def test_outside_its_steps_a_fault_changes_no_bit(victim, name):
    run, healthy = victim(name), victim(name)
    with apply(name, run, at=6):
        assert repr(go(run, 6)) == repr(go(healthy, 6))
    assert same_weights(run, healthy)


@pytest.mark.parametrize("name", NAMES)
def test_at_its_step_something_is_different(victim, name):
    run, healthy = victim(name), victim(name)
    with apply(name, run, at=2), Budget(math.inf, run.model, run.optimizer) as needs:
        broken = go(run, 4)
        if name == "dropout-in-eval":
            assert evaluate(run, batches=1) != evaluate(run, batches=1)
            return
    with Budget(math.inf, healthy.model, healthy.optimizer) as usual:
        well = go(healthy, 4)
    assert repr(broken[:2]) == repr(well[:2])
    different = repr(broken) != repr(well) or needs.peak.bytes > 1.05 * usual.peak.bytes
    assert different or run.clock.slept == [0.5]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_step_done_again_meets_the_same_fault(victim, name):
    run = victim(name)
    go(run, 2)
    start = {k: v.clone() for k, v in run.model.state_dict().items()}
    moments, scaler = copy.deepcopy(run.optimizer.state_dict()), run.scaler.state_dict()
    seen = []
    with apply(name, run, at=2):
        for _ in range(2):
            run.step = 2
            run.model.load_state_dict(start)
            run.optimizer.load_state_dict(copy.deepcopy(moments))
            run.scaler.load_state_dict(scaler)
            slept = len(run.clock.slept)
            seen.append((repr(go(run, 1)), run.clock.slept[slept:]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_tells_the_run_nothing(victim, name):
    run, told = victim(name), []
    run.sinks.append(told.append)
    with apply(name, run, at=1):
        go(run, 3)
    assert {event.kind for event in told} <= {"skip", "scale"}  # what the loop itself has to say
    assert not any(word in event.says for event in told for word in (name, "fault"))


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_in_the_body_ends_the_fault_too(victim, name):
    run = victim(name)
    before = trace(run)
    with pytest.raises(KeyboardInterrupt), apply(name, run, at=3):
        raise KeyboardInterrupt
    assert trace(run) == before


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_faults_come_off_in_any_order(mixed, names, order):
    from llmkit.train import build, tiny

    more = {"micro_batch": 4, "warmup": 4, "model__dropout": 0.1, "model__position": "rotary"}
    run = build(tiny(steps=4, precision="fp16", model__experts=2, **more), dataset=mixed)
    before = trace(run)
    where = {"oom": {"limit": "1 GiB"}, "fp16-overflow": {"module": "blocks.1.attention"}}
    faults = [apply(name, run, **where.get(name, {})) for name in names]
    for fault in faults:
        fault.__enter__()
    order.shuffle(faults)
    for fault in faults:
        fault.__exit__(None, None, None)
    assert trace(run) == before


def test_what_others_do_to_a_part_meanwhile_stays_done(victim):
    from llmkit.data import Skip

    run = victim("poisoned-document")
    with apply("poisoned-document", run, at=0), apply("stalled-loader", run, at=0):
        run.loader = run.loader.with_skip(Skip(batches={1}))
        run.loader.batch(0)
        assert run.clock.slept == [0.5]  # a loader made from the wrapped one meets the fault
    assert not isinstance(run.loader, Wrapper) and run.loader.skip == Skip(batches={1})
    mine = run.schedule
    with apply("lr-glitch", run, at=0):
        run.schedule = mine
    assert run.schedule is mine


def test_a_copied_model_meets_the_fault_with_its_own_weights_and_is_well_after_the_exit(victim):
    run = victim("nan-division")
    x, y = (torch.from_numpy(part) for part in (run.loader.batch(0).x, run.loader.batch(0).y))
    with apply("nan-division", run):
        twin = copy.deepcopy(run.model)
        with torch.no_grad():
            twin.head.weight.zero_()
        assert torch.isnan(twin(x, y)[0]).all()
        assert torch.allclose(twin(x, y)[1:], torch.tensor(math.log(512)))
    assert torch.isfinite(twin(x, y)).all()


# --------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_tells_the_truth_about_its_fault(victim, name):
    spec, fault = FAULTS[name], apply(name, victim(name))
    assert spec.name == fault.name == name
    signature = {}
    for kind in reversed(type(fault).__mro__[:-1]):
        signature |= inspect.signature(kind.__init__).parameters
    declared = {p.name: p.default for p in spec.parameters}
    assert set(declared) == set(signature) - {"self", "run", "when"}
    assert declared == {key: signature[key].default for key in declared}
    assert spec.truth.startswith(("emulated", "real")) and spec.emulated == spec.truth.startswith("emulated")
    texts = [spec.symptom, spec.wild, spec.truth, spec.harm, *(p.says for p in spec.parameters)]
    assert all(text and not text.endswith(".") and len(text) < 120 for text in texts)


def test_every_fault_leads_to_its_own_finding():
    codes = sorted(spec.code for spec in FAULTS.values())
    assert codes == sorted(set(codes))
    for code in codes:  # each family is numbered from 1, without gaps
        assert code.endswith("01") or f"LK{int(code[2:]) - 1}" in codes


def test_listing_the_faults_needs_no_torch():
    heavy = "{'torch', 'numpy'} & set(sys.modules)"
    code = f"import sys; from llmkit.faults import FAULTS; print(len(FAULTS), *({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(FAULTS))]


def test_numpy_types_do_for_steps(victim):
    run = victim("lr-glitch")
    with apply("lr-glitch", run, at=np.int64(1), until=math.inf) as fault:
        assert fault.active(5) and not fault.active(0)
        assert repr(fault) == "<lr-glitch at step 1 on>"
