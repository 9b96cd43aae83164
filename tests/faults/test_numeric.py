"""Protects the two numeric faults: what they spoil, what they leave alone, where the damage is first seen.

Run it: python -m pytest tests/faults/test_numeric.py -q
"""

from __future__ import annotations

import copy
import math
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from llmkit.errors import FaultError, NonFiniteError
from llmkit.faults import apply
from llmkit.faults.numeric import FP16_MAX, grown
from llmkit.train import train


def outputs(run):
    """Forward of the run's next batch under its precision: (name, output) as modules finish."""
    names = {module: name or "GPT" for name, module in run.model.named_modules()}
    seen = []
    handle = register_module_forward_hook(lambda m, args, out: seen.append((names[m], out.detach())))
    batch = run.loader.batch(run.step)
    try:
        with run.precision.forward():
            run.model(torch.from_numpy(batch.x), torch.from_numpy(batch.y))
    finally:
        handle.remove()
    return seen


def first_bad(run):
    return next((name for name, out in outputs(run) if not torch.isfinite(out).all()), None)


MODULES = (
    "embed",
    "blocks.0.norm1",
    "blocks.0.attention.qkv",
    "blocks.0.attention",
    "blocks.1.mlp",
    "blocks.1",
    "head",
)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("row", [0, 5, -1])
def test_a_division_is_first_seen_at_the_named_module_and_only_in_its_row(tiny_run, module, row):
    run = tiny_run()
    healthy = outputs(run)
    with apply("nan-division", run, module=module, row=row):
        broken = outputs(run)
    seen = False
    for (name, out), (same_name, well_out) in zip(broken, healthy, strict=True):
        assert name == same_name
        seen = seen or name == module
        bad = [i for i, one in enumerate(out) if not torch.isfinite(one).all()]
        assert bad == ([] if not seen else list(range(8)) if row == -1 else [row])
        well = [i for i in range(8) if i not in bad]
        assert torch.equal(out[well], well_out[well])
        if name == module:
            assert torch.isnan(out[bad]).all()


def test_a_division_costs_one_step_and_no_weight(tiny_run):
    run = tiny_run()
    with apply("nan-division", run, at=3) as fault:
        records = list(islice(train(run), 3))
        before = [p.clone() for p in run.model.parameters()]
        bad = next(train(run))
        assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
        records += [bad, *train(run)]
    assert fault.module == "blocks.1.mlp"
    assert [r.step for r in records if r.skipped] == [3]
    assert bad.nonfinite == "loss" and math.isnan(bad.loss) and math.isnan(bad.sequence_losses[0])
    assert all(math.isfinite(loss) for loss in bad.sequence_losses[1:])


def test_a_division_that_lasts_ends_the_run(tiny_run):
    run = tiny_run()
    with pytest.raises(NonFiniteError) as error, apply("nan-division", run, at=2, until=math.inf):
        list(train(run))
    assert error.value.step == 4


def test_every_micro_batch_meets_the_division(tiny_run):
    run = tiny_run(micro_batch=2)
    with apply("nan-division", run, row=1):
        record = next(train(run))
    assert [math.isnan(loss) for loss in record.sequence_losses] == [False, True] * 4


LINEARS = ("blocks.0.attention.qkv", "blocks.0.attention.out", "blocks.1.mlp.up", "blocks.1.mlp.down", "head")


@pytest.mark.parametrize("module", LINEARS)
@pytest.mark.parametrize("trained", [0, 6], ids=["fresh", "trained"])
def test_the_same_product_overflows_in_fp16_and_is_finite_in_fp32_and_bf16(tiny_run, module, trained):
    run = tiny_run(precision="fp16")
    for _ in range(trained):
        next(train(run))
    layer = run.model.get_submodule(module)
    seen = []
    handle = layer.register_forward_hook(lambda m, args, out: seen.append((args[0].detach(), out.detach())))
    with apply("fp16-overflow", run, module=module):
        assert first_bad(run) == module
    handle.remove()
    (x, out) = seen[0]
    assert (
        torch.isinf(out).any() and not torch.isnan(out).any()
    )  # an infinity first; NaN only in what follows
    assert x.abs().max() < FP16_MAX / 4  # and out of ordinary inputs
    big_x, big_weight = grown(x, layer.weight.detach(), 2 * FP16_MAX)
    assert max(big_x.abs().max(), big_weight.abs().max()) < FP16_MAX
    product = big_x @ big_weight.T
    assert product.abs().max().item() == pytest.approx(2 * FP16_MAX, rel=1e-4)
    assert torch.isfinite(product.bfloat16()).all() and torch.isinf(product.half()).any()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-4, 1e3), st.floats(1e-3, 10), st.floats(1.01, 64))
def test_growth_reaches_the_number_asked_for_with_factors_fp16_can_hold(seed, scale_x, scale_w, excess):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 16, generator=draw) * scale_x
    weight = torch.randn(8, 16, generator=draw) * scale_w
    big_x, big_weight = grown(x, weight, excess * FP16_MAX)
    assert (big_x @ big_weight.T).abs().max().item() == pytest.approx(excess * FP16_MAX, rel=1e-3)
    assert big_x.abs().max() < FP16_MAX and big_weight.abs().max() < FP16_MAX


def test_a_copy_of_the_model_overflows_by_its_own_weights(tiny_run):
    run = tiny_run(precision="fp16")
    x = torch.ones(2, 4 * 64)
    with apply("fp16-overflow", run) as fault:
        layer = run.model.get_submodule(fault.module)
        twin = copy.deepcopy(run.model).get_submodule(fault.module)
        with torch.no_grad():
            twin.weight.zero_()
        assert layer(x).abs().max() > FP16_MAX
        assert (twin(x) == 0).all()


def test_an_overflow_in_forward_costs_its_steps_and_lowers_the_scale(tiny_run):
    run = tiny_run(precision="fp16")
    with apply("fp16-overflow", run, at=2, until=4) as fault:
        records = list(islice(train(run), 8))
    assert fault.module == "blocks.1.mlp.down"
    assert [r.step for r in records if r.nonfinite == "loss"] == [2, 3]
    assert [r.loss_scale for r in records] == [65536] * 3 + [32768] + [16384] * 4


def test_a_container_names_its_last_linear_layer(tiny_run):
    run = tiny_run(precision="fp16")
    assert apply("fp16-overflow", run, module="blocks.0").module == "blocks.0.mlp.down"
    assert apply("fp16-overflow", run, module="blocks.0.attention").module == "blocks.0.attention.out"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_holds_the_numbers_is_refused(tiny_run, precision):
    with pytest.raises(FaultError) as error:
        apply("fp16-overflow", tiny_run(precision=precision))
    assert str(error.value) == (
        f"`fp16-overflow` does not apply: the run computes in {precision}, which holds such numbers\n"
        "  expected: precision `fp16`, whose largest number is 65504\n"
        '  remedy: train with precision="fp16"'
    )


def test_a_module_without_a_product_is_refused(tiny_run):
    with pytest.raises(FaultError) as error:
        apply("fp16-overflow", tiny_run(precision="fp16"), module="norm")
    assert str(error.value) == (
        "module `norm` has no linear layer, so no product to overflow\n"
        "  remedy: name a block, attention or mlp"
    )
    with pytest.raises(FaultError, match="excess is 1: the product would still fit"):
        apply("fp16-overflow", tiny_run(precision="fp16"), excess=1.0)


@pytest.mark.parametrize("name", ["nan-division", "fp16-overflow"])
def test_an_unknown_module_is_refused_with_the_nearest_name(tiny_run, name):
    with pytest.raises(FaultError) as error:
        apply(name, tiny_run(precision="fp16"), module="blocks.1.mpl")
    assert str(error.value) == "no module `blocks.1.mpl` in this model\n  remedy: use `blocks.1.mlp`"


def test_a_module_that_returns_no_tensor_is_refused_when_it_runs(tiny_run):
    run = tiny_run()
    run.model.blocks.append(nn.LSTM(64, 64, batch_first=True))
    with pytest.raises(FaultError) as error, apply("nan-division", run, module="blocks.2"):
        next(train(run))
    assert str(error.value) == (
        "module `blocks.2` returns tuple\n"
        "  expected: one tensor, whose first dimension is the sequence\n"
        "  remedy: name a module inside it"
    )


def test_nothing_grows_out_of_zero_or_out_of_what_is_spoiled_already():
    weight = torch.ones(2, 2)
    for x in (torch.zeros(1, 2), torch.tensor([[math.inf, 1.0]]), torch.tensor([[math.nan, 1.0]])):
        assert grown(x, weight, FP16_MAX)[0] is x


def test_a_learners_own_model_needs_a_module_name(tiny_run):
    run = tiny_run()
    run.model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(FaultError) as error:
        apply("nan-division", run)
    assert str(error.value) == "no module `blocks.0.mlp` in this model\n  remedy: use one of: `0`"


def test_a_division_keyed_to_documents_hits_their_sequences_and_skipping_them_is_a_cure(tiny_run):
    """Whatever the micro-batch: the rows whose targets hold the document, in every step that serves it."""
    from llmkit.data import Skip

    plan = [tiny_run(steps=4).loader.batch(step) for step in range(4)]
    document = int(plan[2].documents[5, 0])
    served = [s for s, batch in enumerate(plan) if (batch.documents == document).any()]
    for micro_batch in (None, 2):
        run = tiny_run(steps=4, micro_batch=micro_batch, patience=9)
        with apply("nan-division", run, documents=str(document)):
            records = list(train(run))
        assert [r.step for r in records if r.skipped] == served
        bad = [row for row, loss in enumerate(records[2].sequence_losses) if math.isnan(loss)]
        assert bad == [row for row in range(8) if (plan[2].documents[row] == document).any()]
    cured = tiny_run(steps=4)
    cured.loader = cured.loader.with_skip(Skip(documents=frozenset({document})))
    with apply("nan-division", cured, documents=[document]):
        assert not any(r.skipped for r in train(cured))


def test_documents_that_cannot_be_read_are_refused(tiny_run):
    with pytest.raises(FaultError) as refusal:
        apply("nan-division", tiny_run(), documents="three")
    assert str(refusal.value) == "documents `three` cannot be read\n  expected: ids, such as 3,14"
