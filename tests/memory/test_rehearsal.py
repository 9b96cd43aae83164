"""Protects the rehearsal: what fake tensors foretell is what PyTorch's own allocator then hands out.

    pytest tests/memory/test_rehearsal.py

The oracle is the profiler's record of every allocation of a real step on this CPU, kernels' own included: no
dispatch mode and nothing of llmkit.memory has a part in it.
"""

from __future__ import annotations

import gc
from itertools import accumulate

import pytest
import torch
from torch import nn

from llmkit.errors import ConfigError
from llmkit.memory import measure
from llmkit.memory.job import OPTIMIZERS, Job, deal_evenly, numbers, settle
from llmkit.memory.rehearsal import KINDS, rehearse
from llmkit.train import GPT, tiny

SHAPE = {"vocab_size": 512, "context": 64, "layers": 3, "width": 96, "heads": 4}
LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "position": "rotary", "kv_heads": 2, "tied": False}


def config(batch=4, micro_batch=None, precision="fp32", **shape):
    shape = {f"model__{name}": value for name, value in (SHAPE | shape).items()}
    return tiny(batch=batch, micro_batch=micro_batch, precision=precision, **shape)


def allocated(cfg, optimizer: str) -> int:
    """Peak of two real steps in bytes that torch's CPU allocator was asked for."""
    torch.set_num_threads(1)
    job = Job(cfg, None, None, "cpu")
    model = GPT(cfg.model, generator=torch.Generator().manual_seed(0))
    deal_evenly(model)  # as the rehearsal does: who goes where needs numbers
    stepper = OPTIMIZERS[optimizer](list(model.parameters()))
    gc.collect()
    start = sum(p.numel() * 4 for p in model.parameters())
    with torch.profiler.profile(profile_memory=True, acc_events=True) as seen:
        job.step(model, stepper)
        job.step(model, stepper)
    sizes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(sizes, initial=start))


@pytest.mark.parametrize(
    ("kw", "optimizer"),
    [
        ({}, "adamw"),
        ({"tied": False}, "adamw-foreach"),
        ({"kv_heads": 2}, "adamw"),
        ({"activation": "swiglu"}, "adamw"),
        (LLAMA, "adamw"),
        ({"checkpointing": "selective", "batch": 8}, "adamw"),
        ({"checkpointing": "full", "batch": 8}, "adamw"),
        ({"checkpointing": "full", "tied": False, "batch": 8}, "adamw-foreach"),
        ({"batch": 8, "micro_batch": 2}, "adamw"),
        ({"precision": "bf16"}, "adamw"),
        ({"precision": "bf16", "batch": 8, "micro_batch": 4} | LLAMA, "adamw"),
        ({"loss_chunk": 32, "window": 16, "batch": 8}, "sgd"),
        ({"experts": 4, "top_k": 2}, "adamw"),
        ({"experts": 4, "capacity_factor": 0.5, "precision": "bf16", "checkpointing": "full"}, "adamw"),
    ],
)
def test_the_rehearsed_peak_is_what_the_allocator_hands_out(kw, optimizer):
    cfg = config(**kw)
    peak = allocated(cfg, optimizer)
    told = rehearse(cfg, optimizer=optimizer, kernels="cpu").peak.bytes
    assert abs(told - peak) <= 0.01 * peak  # seen: 0.2 %, blocks of 512 bytes to which a CPU does not round


def test_it_is_the_step_that_the_loop_takes(tiny_run):
    run = tiny_run(micro_batch=4, model__checkpointing="full")
    assert rehearse(run.config, kernels="cpu").peak.bytes == pytest.approx(
        measure(run, steps=2).bytes, rel=0.01
    )


def test_a_brief_rehearsal_has_the_same_moments_as_a_whole_one():
    cfg = config(precision="bf16", **LLAMA)
    whole, brief = rehearse(cfg), rehearse(cfg, brief=True)
    assert whole.moments == brief.moments and whole.kinds == brief.kinds
    assert max(moment.live for moment in whole.moments.values()) == whole.peak.bytes


def test_what_people_forget_is_seen():
    cfg = config(precision="bf16", norm="rmsnorm", tied=False)
    weights = 4 * sum(p.numel() for p in GPT(cfg.model).parameters())
    seen = {name: rehearse(cfg, optimizer=name).kinds for name in ("adamw", "adamw-foreach")}
    assert seen["adamw"]["logits"] == 12 * 4 * 64 * 512
    assert seen["adamw"]["optimizer temporaries"] < 0.02 * weights
    assert seen["adamw-foreach"]["optimizer temporaries"] == pytest.approx(weights, rel=0.02)
    matrices = sum(p.numel() for n, p in GPT(cfg.model).named_parameters() if p.dim() == 2)
    tables = (512 + 64) * 96  # looked up, never multiplied
    assert seen["adamw"]["weight copies"] == 2 * (matrices - tables)
    assert seen["adamw"]["fp32 norms"] >= 7 * 4 * 4 * 64 * 96  # x / rms, kept by 7 norms
    assert set(seen["adamw"]) == set(KINDS)


def test_it_says_where_a_card_would_be_full_and_goes_on():
    cfg = config()
    free = rehearse(cfg)
    found = rehearse(cfg, card=free.peak.bytes - 1)
    assert found.peak == free.peak and free.fits and not found.fits and found.headroom == -1
    assert (found.died.module, found.died.phase) == (free.peak.module, free.peak.phase)
    assert rehearse(cfg, card=free.peak.bytes).fits


def test_eight_bit_moments_are_a_quarter():
    stored = {
        name: rehearse(config(), optimizer=name).stored["optimizer state"] for name in ("adamw", "adamw-8bit")
    }
    assert 0.25 < stored["adamw-8bit"] / stored["adamw"] < 0.28  # and a scale for every 256


class Peeks(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.table, self.head, self.how = nn.Embedding(512, 64), nn.Linear(64, 512), how

    def forward(self, x, y):
        h = self.table(x)
        if self.how == "item":
            h = h * h.abs().max().item()
        if self.how == "nonzero":
            h = h[h.sum(-1) > 0]
        if self.how == "numpy":
            h = h + torch.from_numpy(h.detach().numpy())
        return nn.functional.cross_entropy(self.head(h).flatten(0, 1), y.flatten())


def tokens():
    return torch.zeros(2, 4, 64, dtype=torch.int64).unbind()


def test_a_model_of_the_users_own_is_rehearsed():
    found = rehearse(lambda: Peeks(""), inputs=tokens, precision="fp32")
    assert found.stored["parameters"] == 4 * (2 * 512 * 64 + 512) == 4 * found.parameters
    assert found.kinds["logits"] == 12 * 4 * 64 * 512


@pytest.mark.parametrize(
    ("how", "says"),
    [("item", "_local_scalar_dense"), ("nonzero", "aten.index.Tensor"), ("numpy", "numpy")],
)
def test_what_depends_on_numbers_is_refused_by_the_name_of_the_operation(how, says):
    with pytest.raises(ConfigError) as error:
        rehearse(lambda: Peeks(how), inputs=tokens)
    assert says in error.value.found and "`Peeks`" in error.value.found


@pytest.mark.parametrize(
    ("kw", "found"),
    [
        ({"card": "A100-8"}, "unknown card `A100-8`"),
        ({"optimizer": "adam"}, "unknown optimizer `adam`"),
        ({"precision": "fp8"}, "unknown precision `fp8`"),
        ({"card": "0 MiB"}, "a memory limit of `0 MiB` holds nothing"),
    ],
)
def test_the_impossible_is_refused_in_words(kw, found):
    with pytest.raises(ConfigError) as error:
        rehearse(config(), **kw)
    assert error.value.found == found


def test_layers_are_those_of_the_largest_list():
    whole, block, layers = numbers(GPT(config().model))
    assert layers == 3 * block and whole == layers + 512 * 96 + 64 * 96 + 96


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(100, 64), torch.nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x)).float().sum()


@pytest.mark.parametrize("half", [False, True])
def test_a_factory_may_convert_its_model_and_ties_stay_tied(half):
    """PyTorch 2.13's own `Module.to` fails on fake weights (pytorch/pytorch#184976)."""
    found = rehearse(
        lambda: Tied().to(torch.bfloat16 if half else torch.float32),
        inputs=lambda: (torch.zeros(1, 64, dtype=torch.int64),), precision="fp32",
    )  # fmt: skip
    assert found.parameters == 6400
    assert found.stored["parameters"] == found.stored["gradients"] == 6400 * (2 if half else 4)


def test_what_pytorch_does_not_multiply_is_refused_and_not_counted():
    config = tiny(model__norm="rmsnorm", data="generated")
    with pytest.raises(ConfigError) as error:
        rehearse(config, precision="bf16 weights")
    assert error.value.found == "`linear` was given bfloat16 and float32, which PyTorch does not multiply"
    model, tokens = GPT(config.model), torch.zeros(1, 8, dtype=torch.int64)
    settle(model, torch.bfloat16)
    with pytest.raises(RuntimeError, match="dtype"):  # and so it is
        model(tokens, tokens)
