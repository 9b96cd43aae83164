"""Protects what is said to help: peaks by depth, by formula, sharded, and the micro-batch that fits.

    pytest tests/memory/test_remedies.py

The oracle is the whole rehearsal, which tests/memory/test_rehearsal.py holds against torch's allocator.
"""

from __future__ import annotations

import random

import pytest
import torch

from llmkit.cost import kv_cache, parameters
from llmkit.errors import ConfigError
from llmkit.memory import measure
from llmkit.memory.formula import estimate, layer_activations, longest_context
from llmkit.memory.lab import KNOBS, config_of
from llmkit.memory.rehearsal import attention_memory, rehearse
from llmkit.memory.remedies import largest_micro_batch, peak_at_depth, remedies, sharded
from llmkit.train import named, train, vary
from llmkit.train.model import Attention

LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "position": "rotary", "tied": False}
SHAPES = {"gpt": {}, "llama": LLAMA, "grouped": LLAMA | {"kv_heads": 4}}
POLICIES = ("none", "selective", "full")


def config(batch=4, precision="bf16", layers=6, context=512, **shape):
    shape = {"layers": layers, "context": context, "width": 512, "heads": 8, "vocab_size": 8192} | shape
    return named("gpt-1.3b", batch=batch, micro_batch=None, precision=precision,
                 **{f"model__{name}": value for name, value in shape.items()})  # fmt: skip


@pytest.mark.parametrize(
    ("checkpointing", "optimizer", "batch"), [("none", "adamw", 16), ("full", "adamw-foreach", 1)]
)
def test_three_and_four_layers_foretell_nine(checkpointing, optimizer, batch):
    deep = config(batch, layers=9, checkpointing=checkpointing)
    whole = rehearse(deep, optimizer=optimizer, brief=True)
    peak = max(moment.live for moment in whole.moments.values())
    assert peak_at_depth(deep, optimizer=optimizer)[0] == pytest.approx(peak, rel=1e-4)


@pytest.mark.parametrize(("shape", "precision"), [("gpt", "fp32"), ("llama", "bf16"), ("grouped", "bf16")])
def test_the_bill_of_a_layer_is_what_one_more_layer_keeps(shape, precision):
    for policy in POLICIES:
        kept = []
        for layers in (3, 4):
            what = config(1, precision, layers, checkpointing=policy, **SHAPES[shape])
            found = rehearse(what, brief=True)
            end = max(
                (m for (phase, _), m in found.moments.items() if phase == "forward"), key=lambda m: m.live
            )
            states = found.stored["parameters"] + found.stored["optimizer state"]
            kept.append(end.live - end.copies - states)
        bill = layer_activations(what.model, batch=1, precision=precision, policy=policy)
        assert bill.value == pytest.approx(kept[1] - kept[0], rel=0.02)


def test_korthikantis_bill_is_met_where_everything_is_stored_in_one_precision():
    for precision in ("fp32", "bf16 weights"):
        kept = []
        for layers in (3, 4):
            what = config(1, layers=layers, bias=False)
            found = rehearse(what, precision=precision, brief=True)
            ends = [m.live for (phase, _), m in found.moments.items() if phase == "forward"]
            kept.append(max(ends) - found.stored["parameters"] - found.stored["optimizer state"])
        bill = layer_activations(what.model, batch=1, precision=precision)
        assert [term.value for term in bill.terms if "fp32" in term.name] == [0]
        assert bill.value == pytest.approx(kept[1] - kept[0], rel=0.005)


@pytest.mark.parametrize("shape", ["gpt", "grouped"])
@pytest.mark.parametrize(
    ("policy", "batch", "optimizer"),
    [
        ("none", 32, "adamw"),
        ("full", 32, "adamw-8bit"),
        ("selective", 1, "adamw-foreach"),
        ("none", 1, "adamw"),
    ],
)
def test_the_formula_follows_the_rehearsal(shape, policy, batch, optimizer):
    what = config(batch, checkpointing=policy, **SHAPES[shape])
    peak = peak_at_depth(what, optimizer=optimizer)[0]
    assert estimate(what.model, batch=batch, optimizer=optimizer).bytes == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 80))]
)
def test_whatever_the_lab_is_set_to_its_formula_follows_the_rehearsal(seed):
    """Within 2.9 % on 360 settings drawn before this test was written; without the instants inside a layer, two
    thirds off (grouped queries in fp32)."""
    rng = random.Random(seed)
    setting = {knob.name: rng.choice(knob.values) for knob in KNOBS}
    what, how = config_of(setting), setting["optimizer"]
    peak, _ = peak_at_depth(what, optimizer=how)
    told = estimate(what.model, batch=what.batch, precision=what.precision, optimizer=how).bytes
    assert told == pytest.approx(peak, rel=0.04), setting


def test_remedies_are_sorted_by_cost_and_each_is_what_a_rehearsal_says():
    what = config(8, layers=4)
    found = rehearse(what, card="300 MiB")
    more = remedies(what, found)
    names = [one.name for one in more]
    assert sorted(names) == sorted([
        "micro-batch 1 of 8", "8-bit moments", "loss in chunks of 1024", "checkpointing: selective",
        "checkpointing: full", "all of these", f"FSDP over {more[-1].cards} cards",
    ])  # fmt: skip
    assert [one.slower for one in more[:5]] == sorted(one.slower for one in more[:5])
    assert all(one.fits == (one.peak <= found.limit) for one in more)
    again = rehearse(vary(what, model__checkpointing="full"), brief=True)
    full = next(one for one in more if one.name.endswith("full"))
    assert full.peak == max(moment.live for moment in again.moments.values())
    assert more[5].peak == min(one.peak for one in more[:6])


def test_sharding_divides_what_each_stage_says():
    found = rehearse(config(1, checkpointing="full"))
    state = found.stored["optimizer state"]
    alone = sharded(found, 1, stage=1)
    assert alone == max(moment.live for moment in found.moments.values())
    assert sharded(found, 8, stage=1) == pytest.approx(alone - state * 7 / 8, rel=0.01)
    peaks = [sharded(found, 8, stage=stage) for stage in (1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True)
    assert sharded(found, 4) > sharded(found, 16) > sharded(found, 10**6) > 0


def test_the_largest_micro_batch_keeps_batch_weights_and_random_state(tiny_run):
    run, whole = tiny_run(), tiny_run()
    drawn, state = torch.get_rng_state(), repr(run.loader.batch(0).samples)
    need = {}
    for size in (1, 2, 4, 8):
        run.micro_batch = size
        need[size] = measure(run, steps=2).bytes
    run.micro_batch = None
    assert largest_micro_batch(run, need[4]) == 4 and largest_micro_batch(run, need[8]) == 8
    assert run.micro_batch is None and torch.equal(torch.get_rng_state(), drawn)
    assert repr(run.loader.batch(0).samples) == state
    run.micro_batch = 2
    a, b = next(train(run)), next(train(whole))
    assert (a.tokens, a.samples) == (b.tokens, b.samples)
    assert a.loss == pytest.approx(b.loss, rel=1e-6) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5)
    with pytest.raises(ConfigError) as error:
        largest_micro_batch(run, need[1] - 1)
    assert error.value.found.startswith("one sequence of")


def test_a_configuration_is_searched_by_rehearsal():
    what = config(8)
    fits = peak_at_depth(vary(what, micro_batch=2))[0]
    assert largest_micro_batch(what, fits) == 2


def test_the_longest_context_fills_the_card_and_one_more_token_does_not():
    model = named("llama3-8b").model
    tokens = longest_context(model, "48 GiB")
    room = 48 * 2**30 - 2 * parameters(model).value
    assert (
        kv_cache(model, batch=1, context=tokens).value
        <= room
        < kv_cache(model, batch=1, context=tokens + 1).value
    )
    full = longest_context(vary(named("llama3-8b"), model__kv_heads=32).model, "48 GiB")
    assert full < tokens / 4  # grouped queries keep a quarter, and weigh less
    assert longest_context(vary(named("llama3-8b"), model__window=4096).model, "48 GiB") is None
    assert longest_context(named("llama2-70b").model, "48 GiB") == 0


ATTENTION = {"full": {}, "grouped": {"kv_heads": 2}, "window": {"window": 128}}


@pytest.mark.parametrize("change", ATTENTION)
def test_what_attention_keeps_by_hand(change):
    """Full: q, k, v and the result in half precision, a sum for each query; plain: its scores in fp32 too."""
    what = config(2, **ATTENTION[change])
    numbers, sums, shared = 2 * 512 * 512, 2 * 8 * 512, 2 / 8
    by_hand = {
        "full": 4 * numbers * 2 + sums * 4,
        "grouped": (2 + 2 * shared) * numbers * 2 + sums * 4,
        "window": 5 * numbers * 2
        + sums * 4
        + 128 * 255 * 2,  # each window's result, then all of them, a mask
    }
    assert attention_memory(what) == pytest.approx(by_hand[change], rel=0.005)
    scores = 2 * 8 * 512 * (255 if change == "window" else 512)
    assert (
        attention_memory(what, "plain")
        > attention_memory(what) + (0.8 if change == "window" else 1) * scores * 4
    )


def test_a_window_and_shared_heads_together_bring_the_scores_back_on_cuda():
    both = config(2, kv_heads=2, window=128)
    assert attention_memory(both) == attention_memory(both, "plain")
    assert attention_memory(both) > 2 * attention_memory(both, "cpu")


@pytest.mark.parametrize("change", ATTENTION)
def test_what_attention_is_said_to_keep_is_what_it_keeps(change):
    what = config(2, "fp32", **ATTENTION[change])
    layer, x = Attention(what.model), torch.randn(2, 512, 512, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()} | {x.untyped_storage().data_ptr()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    saved = sum(size for address, size in kept.items() if address not in weights)
    assert y.grad_fn is not None
    assert attention_memory(what, "cpu") == pytest.approx(saved, rel=0.005)
