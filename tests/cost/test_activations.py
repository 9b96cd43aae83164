"""Protects the memory of activations: a published table to the byte, and what must grow, shrink or stay equal.

pytest tests/cost/test_activations.py
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cost import activations, logits, stage_activations
from llmkit.cost.activations import stage_layers
from llmkit.errors import ConfigError

GPT = {"vocab_size": 51_200, "context": 2048, "layers": 96, "width": 12_288, "heads": 96}
LLAMA3_8B = {
    "vocab_size": 128_256, "context": 8192, "layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "tied": False,
    "mlp_hidden": 14_336, "activation": "swiglu", "norm": "rmsnorm", "position": "rotary",
}  # fmt: skip
PAPER = {"batch": 1, "flash": False, "dropout": True}


@pytest.mark.parametrize(
    ("sequence_parallel", "recompute", "closed"),
    [
        (False, "none", lambda t, square: 10 + 24 / t + square / t),
        (True, "none", lambda t, square: (34 + square) / t),
        (False, "selective", lambda t, square: 10 + 24 / t),
        (True, "selective", lambda t, square: 34 / t),
        (False, "full", lambda t, square: 2),
    ],
)
@pytest.mark.parametrize("tp", [1, 8])
def test_korthikanti_table_2(sequence_parallel, recompute, closed, tp):
    found = activations(GPT, tp=tp, sequence_parallel=sequence_parallel, recompute=recompute, **PAPER)
    square = 5 * GPT["heads"] * GPT["context"] / GPT["width"]
    assert float(found) == pytest.approx(GPT["context"] * GPT["width"] * closed(tp, square), rel=1e-12)


def test_the_measured_copies_of_a_llama_layer_lie_in_the_interval():
    """28 hidden-state copies of 2 bytes (ml-engineering, eager); the tensor bill alone is 41 bytes."""
    bill = activations(LLAMA3_8B, batch=1)
    unit = 8192 * 4096
    rows = bill["scores"].value / unit  # the kernel's fp32 sums
    assert float(bill) / unit - rows == pytest.approx(41.0)
    assert bill.interval[0] / unit <= 56 <= bill.interval[1] / unit


def test_stage_0_of_an_interleaved_pipeline_holds_more_than_all_layers_and_the_last_stage_least():
    plain = stage_activations(GPT, pp=8, micro_batches=64, **PAPER)
    woven = stage_activations(GPT, pp=8, micro_batches=64, interleave=3, **PAPER)
    each = float(activations(GPT, **PAPER))
    assert float(plain[0]) == pytest.approx(96 * each)
    assert float(woven[0]) == pytest.approx(96 * each * (1 + 7 / 24))
    assert sorted(map(float, plain), reverse=True) == list(map(float, plain))
    short = stage_activations(GPT, pp=8, micro_batches=2, **PAPER)
    assert float(short[0]) == pytest.approx(2 * 12 * each)


@given(st.integers(1, 40), st.integers(1, 40))
def test_stages_hold_every_layer_once(layers, pp):
    if pp <= layers:
        shares = stage_layers(layers, pp)
        assert sum(shares) == layers and len(shares) == pp and max(shares) - min(shares) <= 1
    else:
        with pytest.raises(ConfigError) as caught:
            stage_layers(layers, pp)
        assert str(caught.value) == f"pp ({pp}) is above layers ({layers})\n  expected: 1 <= pp <= layers"


@given(
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([2, 4]),
)
def test_memory_grows_with_the_batch_and_shrinks_with_every_remedy(batch, tp, flash, dropout, size):
    def kept(**changes):
        settings = {"batch": batch, "tp": tp, "flash": flash, "dropout": dropout, "number_bytes": size}
        return float(activations(LLAMA3_8B, **(settings | changes)))

    assert kept(batch=2 * batch) == pytest.approx(2 * kept())
    assert (
        kept(tp=2 * tp) < kept()
        and kept(sequence_parallel=True) <= kept()
        and kept(dropout=True) >= kept(dropout=False)
    )
    assert kept(recompute="full") < kept(recompute="selective") <= kept() and kept(flash=True) <= kept(
        flash=False
    )
    found = activations(LLAMA3_8B, batch=batch, tp=tp, flash=flash, dropout=dropout, number_bytes=size)
    assert float(found) == pytest.approx(sum(term.value for term in found.terms))


def test_full_recomputation_still_needs_the_layer_it_works_on():
    (whole,) = stage_activations(LLAMA3_8B, batch=1, recompute="full")
    one = float(activations(LLAMA3_8B, batch=1))
    assert float(whole) == pytest.approx(32 * 2 * 8192 * 4096 + one) and whole["working set"].value == one


def test_the_logits_of_a_large_vocabulary():
    """4.2 GB per fp32 copy at V = 128,256 and 8,192 tokens: the term that most calculators forget."""
    q = logits(LLAMA3_8B, batch=1)
    assert pytest.approx(4.2e9, rel=0.01) == 4 * 8192 * 128_256 and q.interval[0] < q.value < q.interval[1]
    assert float(logits(LLAMA3_8B, batch=1, tp=8)) == q.value / 8


def test_refusals():
    with pytest.raises(ConfigError) as caught:
        activations(GPT, batch=1, recompute="some")
    assert str(caught.value) == "recompute is `some`\n  expected: none, selective or full"
    with pytest.raises(ConfigError) as caught:
        activations(GPT, batch=1, tp=5)
    assert str(caught.value) == "tp (5) does not divide heads (96)\n  remedy: lower tp"
