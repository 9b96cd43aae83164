"""Protects the budget: it dies where a device of that size would, and says so in PyTorch's words.

python -m pytest tests/memory/test_budget.py -q
"""

from __future__ import annotations

import pickle
import threading

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from llmkit.errors import ConfigError
from llmkit.memory import OutOfMemory, budget, measure
from llmkit.train import train

GiB = 2**30
SHAPES = {
    "tiny": {},
    "recomputed": {"checkpointing": "full"},
    "one sequence": {"batch": 1, "width": 256},
    "foreach": {"adamw": "foreach", "batch": 1, "width": 256, "context": 8},
    "loop": {"adamw": "loop"},
    "modern": {"kv_heads": 2, "activation": "swiglu", "norm": "rmsnorm", "position": "rotary", "tied": False},
}


@pytest.mark.filterwarnings("ignore")  # MemTracker imports parts of torch that warn
@pytest.mark.parametrize("warm", [False, True], ids=["first step", "second step"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_peak_is_that_of_pytorchs_own_tracker_within_one_percent(job, shape, warm):
    ours, theirs = job(**shape), job(**shape)
    if warm:
        ours.step()
        theirs.step()
    tracker = MemTracker()
    tracker.track_external(theirs.model, theirs.optimizer, theirs.x, theirs.y)
    with tracker:
        theirs.step()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    peak = measure(ours.step, ours.model, ours.optimizer)
    assert peak.bytes == pytest.approx(snapshot["Total"], rel=0.01)
    assert peak.bytes >= snapshot["Total"]  # whole blocks of 512 bytes: never below


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_measured_peak_is_the_smallest_budget_that_is_enough(job, shape):
    def fresh():
        made = job(**shape)
        made.step()
        return made

    probe = fresh()
    peak = measure(probe.step, probe.model, probe.optimizer)
    enough = fresh()
    with budget(peak.bytes, enough.model, enough.optimizer):
        enough.step()
    short = fresh()
    with pytest.raises(torch.OutOfMemoryError) as error, budget(peak.bytes - 1, short.model, short.optimizer):
        short.step()
    facts = error.value.llmkit
    assert (facts.phase, facts.limit_bytes) == (peak.phase, peak.bytes - 1)
    assert facts.live_bytes + facts.requested_bytes == peak.bytes
    assert sum(facts.by_category.values()) == facts.live_bytes


def test_as_the_limit_rises_the_step_dies_later_and_the_module_is_always_named(job):
    names = {name or "GPT" for name, _ in job().model.named_modules()}
    place = {"embed": 0, "blocks.0": 1, "blocks.1": 2, "norm": 3, "head": 4, "GPT": 5}
    died = []
    for limit in range(950_000, 8_200_000, 130_000):
        one = job()
        try:
            with budget(limit, one.model, one.optimizer):
                one.step()
        except torch.OutOfMemoryError as error:
            died.append(error.llmkit)
    assert {facts.phase for facts in died} == {"forward", "backward"}
    phases = [facts.phase for facts in died]
    assert phases == sorted(phases, reverse=True)  # all of forward, then all of backward
    modules = [facts.module for facts in died]
    assert set(modules) <= names and len(set(modules)) >= 10
    order = [max(at for name, at in place.items() if module.startswith(name)) for module in modules]
    assert order == sorted(order)


def test_backward_names_the_module_whose_forward_made_the_node():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4096), torch.nn.Linear(4096, 4))
    x = torch.randn(2, 4, requires_grad=True)
    died = set()
    for limit in range(150_000, 420_000, 4_000):
        model.zero_grad(set_to_none=True)
        try:
            with budget(limit, model):
                model(x).sum().backward()
        except torch.OutOfMemoryError as error:
            died.add((error.llmkit.phase, error.llmkit.module))
    assert {("forward", "1"), ("backward", "2"), ("backward", "1")} <= died
    assert ("backward", "") not in died


def test_the_optimizer_names_the_module_whose_parameter_it_was_updating():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    model(torch.zeros(1, 64)).sum().backward()
    layer = 64 * 64 * 4 + 512  # weight and bias
    died = []
    for layers in range(
        4, 10
    ):  # parameters and gradients of both are 4, moments of both 4 more, then temporaries
        with pytest.raises(torch.OutOfMemoryError) as error, budget(layers * layer + 4096, model, optimizer):
            optimizer.step()
        optimizer.state.clear()
        died.append((error.value.llmkit.phase, error.value.llmkit.module))
    assert [module for _, module in died] == ["0", "0", "1", "1", "0", "0"]
    assert {phase for phase, _ in died} == {"optimizer"}


def test_the_error_is_pytorchs_type_with_pytorchs_words():
    model = torch.nn.Sequential(torch.nn.Linear(256, 256, bias=False))
    x = torch.zeros(64, 256)
    with pytest.raises(torch.OutOfMemoryError) as caught, budget("350 KiB", model):
        model(x)
    error = caught.value
    assert str(error) == (
        "emulated: a memory budget of 350.00 KiB was reached in `0` (forward); "
        "live: parameters 256.00 KiB, inputs 64.00 KiB.\n"
        "CUDA out of memory. Tried to allocate 64.00 KiB. GPU 0 has a total capacity of 350.00 KiB of which "
        "30.00 KiB is free. Including non-PyTorch memory, this process has 320.00 KiB memory in use. Of the "
        "allocated memory 320.00 KiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but "
        "unallocated."
    )
    assert isinstance(error, RuntimeError) and type(error) is torch.cuda.OutOfMemoryError
    # what composer (first) and accelerate (second and third) look for
    assert "CUDA out of memory" in str(error) and " out of memory." in error.args[0] and len(error.args) == 1
    assert error.llmkit == OutOfMemory(
        module="0", phase="forward", requested_bytes=65536, live_bytes=327680, limit_bytes=358400,
        by_category={"parameters": 262144, "inputs": 65536}, emulated=True,
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(error)).llmkit == error.llmkit


def test_an_error_outside_any_module_says_so():
    with pytest.raises(torch.OutOfMemoryError) as error, budget("1 MiB"):
        torch.zeros(2**20)
    assert "was reached outside any module (forward); live: nothing." in str(error.value)


def test_a_forward_that_raised_is_over():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(8, 4))
    with budget("1 MiB", model):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.zeros(1, 4))
        with pytest.raises(torch.OutOfMemoryError) as error:
            torch.zeros(2**20)
    assert error.value.llmkit.module == ""


def test_a_model_that_was_not_named_is_found_when_it_runs(job):
    named, found = job(), job()
    told = measure(named.step, named.model, named.optimizer)
    seen = measure(found.step)
    assert seen == told


def test_another_thread_is_neither_counted_nor_stopped():
    made = []

    def apart():
        thread = threading.Thread(
            target=lambda: made.append(torch.nn.Linear(1024, 1024)(torch.zeros(1, 1024)))
        )
        thread.start()
        thread.join()

    with budget("1 MiB") as counted:
        with pytest.warns(UserWarning, match="does not count what runs in another thread"):
            apart()
        assert counted.live == 0
    assert made[0].shape == (1, 1024)


def test_an_emulated_precision_is_refused_unless_counted_as_stored(tiny_run):
    run = tiny_run(precision="fp16")
    with pytest.raises(ConfigError) as error:
        budget("1 GiB", run)
    assert str(error.value) == (
        "precision `fp16` is emulated on this CPU: its tensors are stored in fp32\n"
        "  expected: a run whose tensors have the size that is asked about\n"
        '  remedy: train with precision="fp32", or count what is stored here with `as_stored=True`'
    )
    with budget("1 GiB", run, as_stored=True) as counted:
        next(train(run))
    assert counted.peak.bytes > 2**20


def test_something_without_memory_is_refused():
    with pytest.raises(ConfigError) as error:
        budget("1 GiB", [1, 2])
    assert str(error.value) == (
        "found list, which has no memory to watch\n  expected: a run or a torch.nn.Module"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_allocator_refuses_and_the_refusal_is_annotated():
    model = torch.nn.Sequential(torch.nn.Linear(1024, 1024)).cuda()
    before = torch.cuda.get_per_process_memory_fraction()
    with pytest.raises(torch.OutOfMemoryError) as error, budget("64 MiB", model):
        model(torch.zeros(2**16, 1024, device="cuda"))
    assert error.value.llmkit.emulated is False and error.value.llmkit.limit_bytes == 64 * 2**20
    assert torch.cuda.get_per_process_memory_fraction() == before


def test_a_budget_below_the_weights_is_refused_before_anything_runs():
    model = torch.nn.Linear(256, 256)
    with pytest.raises(ConfigError) as error:
        budget("100 KiB", model)
    assert error.value.found == "a budget of 100.00 KiB for a model whose parameters are 257.00 KiB"
    with budget("258 KiB", model):
        pass
