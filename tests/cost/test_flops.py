"""Protects the FLOP count: closed forms of the papers, a count by PyTorch's own counter, and the conventions.

pytest tests/cost/test_flops.py
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cost import forward_flops, parameters, training_flops

SMALL = {"vocab_size": 512, "context": 64, "layers": 2, "width": 64, "heads": 4}


def test_narayanan_closed_form():
    """72 B s L h^2 (1 + s/6h + V/12Lh) per iteration (Narayanan et al. 2021, eq. 3 without recomputation)."""
    layers, h, s, vocab = 96, 12_288, 2048, 51_200
    model = {"vocab_size": vocab, "context": s, "layers": layers, "width": h, "heads": 96}
    closed = 72 * layers * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert training_flops(model).value == pytest.approx(closed, rel=1e-12)
    again = 96 * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))
    assert training_flops(model, recompute=True).value == pytest.approx(again, rel=1e-12)


def test_palm_appendix_b():
    """6 N + 12 L H Q T, with N the weights that multiply: no embedding table, no positions, no norms."""
    count, flops = parameters(SMALL), training_flops(SMALL)
    weights = count.value - count["positions"].value - count["norms"].value  # tied: the head is the embedding
    assert flops.value == 6 * weights + 12 * 2 * 64 * 64


def test_six_n_is_close_for_a_large_model():
    model = {"vocab_size": 50_257, "context": 2048, "layers": 96, "width": 12_288, "heads": 96}
    assert training_flops(model).value / (6 * parameters(model).value) == pytest.approx(1.0, abs=0.04)


def test_pytorch_counts_the_same():
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from llmkit.train.config import ModelConfig
    from llmkit.train.model import GPT

    shape = ModelConfig(**SMALL)
    model = GPT(shape, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(2, 64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(x, x).sum().backward()
    assert counter.get_total_flops() == pytest.approx(2 * 64 * training_flops(shape).value, rel=0.01)


def test_causal_halves_the_scores_and_nothing_else():
    full, half = forward_flops(SMALL), forward_flops(SMALL, causal=True)
    assert half["attention scores"].value * 2 == full["attention scores"].value
    assert half["blocks"].value == full["blocks"].value and "attention causal" in half.source


def test_recomputation_is_a_second_forward_of_the_blocks():
    model = SMALL | {"checkpointing": "full"}
    plain, again = training_flops(SMALL), training_flops(model)
    assert again.value - plain.value == plain["forward"].value - plain["forward"]["head"].value
    assert training_flops(model, recompute=False).value == plain.value


def test_selective_recomputation_runs_no_product_twice_and_a_chunked_loss_runs_its_head_twice():
    plain = training_flops(SMALL)
    assert training_flops(SMALL | {"checkpointing": "selective"}).value == plain.value
    chunked = training_flops(SMALL | {"loss_chunk": 16})
    assert chunked.value - plain.value == plain["forward"]["head"].value
    assert chunked["recomputation"].formula == "head, once more"


@given(st.integers(1, 200))
def test_a_window_counts_the_keys_that_it_lets_a_query_see(window):
    """Against counting them one by one, the mask's diagonal at one half as in the causal convention."""
    context = SMALL["context"]
    seen = sum(min(t + 1, window) - 0.5 * (t < window) for t in range(context))
    kept = forward_flops(SMALL | {"window": window}, causal=True)["attention scores"].value
    each = forward_flops(SMALL)["attention scores"].value / context  # of one key more for every query
    assert kept == pytest.approx(each * seen / context, abs=1)


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_query_groups_change_weights_but_not_scores(layers, wide, kv_heads):
    model = SMALL | {"layers": layers, "width": 64 * wide}
    grouped = model | {"kv_heads": kv_heads}
    assert forward_flops(model)["attention scores"].value == forward_flops(grouped)["attention scores"].value
    assert forward_flops(grouped).value <= forward_flops(model).value
