"""Protects the tracer: every planted NaN and infinity is named by module, phase, parameter and documents.

pytest tests/observe/test_nonfinite.py
"""

from __future__ import annotations

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.observe import Site, Tracer, trace_nonfinite
from llmkit.train import train

NAMES = ["embed", "dropout", "norm", "head"] + [
    f"blocks.{i}{leaf}"
    for i in (0, 1)
    for leaf in (
        "", ".norm1", ".attention", ".attention.qkv", ".attention.out", ".norm2", ".mlp", ".mlp.up",
        ".mlp.down", ".dropout",
    )
]  # fmt: skip

PARAMETERS = ["embed.weight", "position.weight", "norm.weight"] + [
    f"blocks.{i}.{leaf}.weight"
    for i in (0, 1)
    for leaf in ("norm1", "attention.qkv", "attention.out", "norm2", "mlp.up", "mlp.down")
]

KEYS = {
    "module", "type", "phase", "parameter", "kind", "input_absmax", "output_share", "inputs_finite",
    "precision", "documents", "sequences",
}  # fmt: skip


def traced(run):
    """Train to the end with a tracer; its one site."""
    tracer = Tracer()
    run.observers.append(tracer)
    records = list(train(run))
    (only,) = tracer.sites
    assert [only[0]] == [record.step for record in records if record.nonfinite]
    return only[1]


def test_the_lists_above_are_all_there_is(small_run):
    model = small_run().model
    assert {n for n, _ in model.named_modules()} - {"", "blocks", "position"} == set(NAMES)
    assert {n for n, _ in model.named_parameters()} == set(PARAMETERS)


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("name", NAMES)
def test_a_0_over_0_is_traced_to_where_it_was_put_at_every_step(small_run, bug, name, phase):
    run = small_run(model__dropout=0.1)
    bug(run, name, (0, 2, 3), phase)
    tracer = Tracer()
    run.observers.append(tracer)
    assert [record.nonfinite != "" for record in train(run)] == [True, False, True, True]
    assert [step for step, _ in tracer.sites] == [0, 2, 3]
    for _, site in tracer.sites:
        assert (site.module, site.phase, site.kind) == (name, phase, "nan")
        assert site.type == type(run.model.get_submodule(name)).__name__
        assert (site.inputs_finite, site.output_share, site.reproducible) == (True, 1.0, True)
        assert site.sequences == (0, 1, 2, 3)


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"precision": "bf16", "micro_batch": 2},
        {"model__checkpointing": "full"},
        {"precision": "fp16", "model__checkpointing": "full", "model__dropout": 0.1},
        {
            "model__position": "rotary",
            "model__activation": "swiglu",
            "model__norm": "rmsnorm",
            "model__kv_heads": 1,
        },
    ],
    ids=lambda options: " ".join(options),
)
def test_it_is_traced_under_every_way_of_computing(small_run, bug, options, phase):
    for name in ("embed", "blocks.1.mlp", "blocks.1.attention.qkv"):
        run = small_run(steps=2, **options)
        bug(run, name, 1, phase)
        site = traced(run)
        assert (site.module, site.phase, site.precision) == (name, phase, run.config.precision)
        assert site.sequences == (0, 1, 2, 3)


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("name", ["embed", "blocks.0", "blocks.1.attention", "blocks.1.mlp.up", "head"])
def test_poisoned_rows_are_named_with_their_documents(small_run, bug, name, phase):
    """Micro-batches of two: row 1 of the first and row 0 of the second are rows 1 and 2 of the batch."""
    run = small_run(micro_batch=2)
    rows = {0: slice(1, 2), 1: slice(0, 1)}
    bug(run, name, 2, phase, rows=lambda call: rows[call % 2])
    served = run.loader.batch(2).documents
    site = traced(run)
    expected = tuple(dict.fromkeys(served[[1, 2]].ravel().tolist()))
    assert (site.sequences, site.documents) == ((1, 2), expected)
    assert site.output_share == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_bad_gradient_of_one_parameter_is_named(small_run, parameter, value):
    run = small_run()
    p = dict(run.model.named_parameters())[parameter]
    p.register_hook(lambda grad: grad + value if run.step == 1 else grad)
    site = traced(run)
    owner = parameter.rpartition(".")[0]
    assert (site.module, site.parameter, site.phase) == (owner, parameter, "backward")
    assert site.kind == ("nan" if value != value else "inf")
    assert site.sequences == site.documents == ()  # a weight's gradient is a sum over all of them


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_weight_that_was_bad_before_the_step_is_named(small_run, parameter):
    run = small_run(steps=1)
    with torch.no_grad():
        dict(run.model.named_parameters())[parameter][:] = float("nan")
    site = traced(run)
    owner = parameter.rpartition(".")[0]
    assert (site.module, site.parameter, site.phase, site.inputs_finite) == (
        owner,
        parameter,
        "forward",
        False,
    )
    assert site.says == f"first NaN in the forward pass: `{parameter}` was non-finite before the step"


def test_a_bad_row_of_a_tied_table_that_no_input_uses_shows_in_the_head(small_run):
    run = small_run(steps=1)
    unused = next(token for token in range(511, 0, -1) if not (run.loader.batch(0).x == token).any())
    with torch.no_grad():
        run.model.embed.weight[unused] = float("inf")
    site = traced(run)
    assert (site.module, site.type, site.parameter) == ("head", "Linear", "embed.weight")
    assert not site.inputs_finite


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_an_activation_beyond_65504_is_an_infinity_in_fp16_alone(small_run, precision):
    run = small_run(precision=precision, patience=5)
    inner = run.model.blocks[0].mlp.up.forward
    run.model.blocks[0].mlp.up.forward = lambda x: inner(x * 2000.0) * 300.0 if run.step == 1 else inner(x)
    tracer = Tracer()
    run.observers.append(tracer)
    list(train(run))
    if precision != "fp16":
        assert tracer.sites == []
        return
    ((step, site),) = tracer.sites
    assert (step, site.module, site.type, site.phase) == (1, "blocks.0.mlp.up", "Linear", "forward")
    assert (site.kind, site.inputs_finite) == ("inf", True)
    assert 0 < site.output_share < 1 and 1 < site.input_absmax < 65504


def test_an_activation_that_overflows_between_two_submodules_is_their_parents(small_run):
    """silu(gate) * up: neither factor is too large, the product is. `input_absmax` is that of the factors."""
    run = small_run(precision="fp16", model__activation="swiglu", steps=1)
    mlp = run.model.blocks[1].mlp
    for layer in (mlp.gate, mlp.up):
        inner = layer.forward
        layer.forward = lambda x, inner=inner: inner(x) * 0 + 300.0
    site = traced(run)
    assert (site.module, site.type, site.kind, site.input_absmax) == ("blocks.1.mlp", "MLP", "inf", 300.0)


def test_a_loss_scale_that_is_too_large_shows_backward_at_the_head(small_run, told):
    run = small_run(precision="fp16", loss_scale=2.0**40)
    events = told(run)
    tracer = Tracer()
    run.observers.append(tracer)
    records = list(train(run))
    overflowed = [record.step for record in records if record.nonfinite]
    assert overflowed and [step for step, _ in tracer.sites] == overflowed
    assert {(s.module, s.phase, s.kind) for _, s in tracer.sites} == {("head", "backward", "inf")}
    assert all(site.reproducible for _, site in tracer.sites)
    assert [event.step for event in events if event.kind == "nonfinite"] == overflowed


def test_logits_that_are_finite_and_a_loss_that_is_not_are_the_losss(small_run):
    run = small_run(steps=1)
    inner = run.model.head.forward
    huge = torch.tensor([3e38, -3e38]).repeat(256)
    run.model.head.forward = lambda x: inner(x) * 0 + huge
    site = traced(run)
    assert (site.module, site.type, site.phase, site.kind) == ("loss", "loss", "forward", "inf")
    assert site.input_absmax == pytest.approx(3e38)


class Steep(torch.autograd.Function):
    """x / 1e35 forward; the gradient a hundred million times what it should be."""

    @staticmethod
    def forward(ctx, x):
        return x * 1e-35

    @staticmethod
    def backward(ctx, grad):
        return grad * 1e8


def test_a_product_that_overflows_in_a_weights_gradient_alone_accuses_no_sequence(small_run):
    """Sixteen sequences and a matrix of sixteen columns: its rows are not to be taken for the batch's."""
    run = small_run(batch=16, steps=1)
    up = run.model.blocks[0].mlp.up
    inner = up.forward
    up.forward = lambda x: Steep.apply(inner(x * 1e35))
    site = traced(run)
    assert (site.module, site.phase, site.kind) == ("blocks.0.mlp.up", "backward", "inf")
    assert (site.parameter, site.sequences, site.documents) == ("blocks.0.mlp.up.weight", (), ())


def test_a_gradient_whose_norm_overflows_though_no_element_does(small_run):
    run = small_run()
    p = dict(run.model.named_parameters())["blocks.1.mlp.up.weight"]
    p.register_hook(lambda grad: grad + 1e30 if run.step == 1 else grad)
    site = traced(run)
    assert (site.module, site.parameter, site.kind) == ("blocks.1.mlp.up", "blocks.1.mlp.up.weight", "inf")
    assert (site.output_share, site.inputs_finite) == (0.0, True)
    assert site.input_absmax == pytest.approx(1e30)
    assert site.says == (
        "the gradient of `blocks.1.mlp.up.weight` is finite, and so large that its norm is not"
    )


# ---------------------------------------------------------------------------------- replays, and their limits


def test_a_replay_has_the_dropout_masks_of_the_step(small_run):
    """Sequences whose first value was dropped go bad: a replay must drop the same ones."""
    run = small_run(model__dropout=0.5, batch=8, micro_batch=4, steps=3)
    dropout, dropped = run.model.dropout, []
    inner = dropout.forward

    def forward(x):
        out = inner(x)
        if run.step != 1:
            return out
        dropped.extend((out[:, 0, 0] == 0).tolist())
        return torch.where((out[:, :1, :1] == 0), float("nan"), out)

    dropout.forward = forward
    site = traced(run)
    assert site.sequences == tuple(row for row in range(8) if dropped[row])
    assert 0 < len(site.sequences) < 8 and site.reproducible


def test_a_step_that_cannot_be_repeated_says_so(small_run, bug, told):
    run = small_run()
    events = told(run)
    bug(run, "blocks.1.mlp", 2, calls={0})
    tracer = Tracer()
    run.observers.append(tracer)
    list(train(run))
    (event,) = [event for event in events if event.kind == "nonfinite"]
    assert event.data["reproducible"] is False
    assert (event.data["module"], event.data["phase"], event.data["kind"]) == ("", "forward", "nan")
    assert (
        event.says == "a replay of the step is finite: not made by the model, the batch or the dropout masks"
    )


def test_two_replays_that_differ_say_so(small_run, bug):
    run = small_run()
    bug(run, "blocks.1.mlp", 2, calls={0, 1})
    site = traced(run)
    assert (site.module, site.reproducible, site.data["reproducible"]) == ("blocks.1.mlp", False, False)
    assert site.says.endswith("made it from finite values, in one replay of two")


def test_a_replay_that_runs_out_of_memory_does_not_end_the_run(small_run, bug):
    run = small_run()
    bug(run, "blocks.1.mlp", 2)
    inner, calls = run.model.embed.forward, []

    def embed(x):
        calls.append(run.step)
        if run.step == 2 and calls.count(2) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(x)

    run.model.embed.forward = embed
    site = traced(run)
    assert (site.module, site.phase) == ("", "forward")
    assert site.says == "the step could not be replayed: out of memory"
    assert run.step == 4


def test_it_can_be_traced_after_the_step_was_yielded_too(small_run, bug):
    run = small_run(model__dropout=0.1, precision="fp16")
    bug(run, "blocks.0.norm2", 1)
    tracer = Tracer()
    run.observers.append(tracer)
    steps = train(run)
    next(steps), next(steps)
    assert run.step == 2
    assert trace_nonfinite(run) == tracer.sites[0][1] and run.step == 2
    assert not next(steps).nonfinite
    assert trace_nonfinite(run) is None


def test_there_is_nothing_to_trace_before_the_first_step(small_run):
    with pytest.raises(ConfigError) as error:
        trace_nonfinite(small_run())
    assert str(error.value) == (
        "no step was done yet\n  remedy: trace after a record of `train(run)` that is `nonfinite`"
    )


def test_the_event_has_exactly_the_documented_keys(small_run, bug, told):
    run = small_run()
    events = told(run)
    bug(run, "blocks.1.mlp", 2)
    site = traced(run)
    (event,) = [event for event in events if event.kind == "nonfinite"]
    assert event.step == 2 and set(event.data) == KEYS
    assert event.data == site.data
    assert event.says == "first NaN in the forward pass: `blocks.1.mlp` (MLP) made it from finite values"


def test_buffers_are_put_back_after_a_replay(small_run, bug):
    """A module that counts its calls in a buffer, as BatchNorm does, counts one step and not three."""
    run = small_run()
    up = run.model.blocks[0].mlp.up
    up.register_buffer("calls", torch.zeros(()))
    inner = up.forward
    up.forward = lambda x: (up.calls.add_(1), inner(x))[1]
    bug(run, "blocks.1.mlp", 2)
    traced(run)
    assert up.calls.item() == 4


def test_sites_compare_by_value():
    one, same = (Site(module="norm", type="LayerNorm", phase="forward") for _ in range(2))
    assert one == same != Site(module="norm", type="LayerNorm", phase="backward")
