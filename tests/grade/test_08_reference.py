"""Protects: exercise 08's NumPy attention and its gradients are what torch computes in float64.

pytest tests/grade/test_08_reference.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmkit.grade.exercise import load, source


def torchs(function, arrays, upstream):
    """Output and gradients, as arrays."""
    inputs = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = function(*inputs)
    out.backward(torch.tensor(upstream))
    return [out.detach().numpy(), *(one.grad.numpy() for one in inputs)]


def agree(mine, theirs):
    assert [a.shape for a in mine] == [b.shape for b in theirs]
    assert all(np.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("lead, t, s, d, e", [((), 3, 3, 2, 4), ((2,), 1, 6, 5, 3), ((2, 3), 4, 7, 3, 1)])
def test_attention_is_torchs_with_the_last_query_at_the_last_key(lead, t, s, d, e):
    draw = np.random.default_rng(t * s).normal
    arrays = [draw(size=(*lead, n, width)) for n, width in ((t, d), (s, d), (s, e))]
    upstream = draw(size=(*lead, t, e))
    mask = torch.ones(t, s, dtype=torch.bool).tril(s - t)

    def theirs(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    agree(source("08_attention", "arithmetic").attend(*arrays, upstream), torchs(theirs, arrays, upstream))


@pytest.mark.parametrize("heads, groups", [(4, 4), (6, 2), (3, 1)])
def test_grouped_attention_is_torchs(heads, groups):
    draw = np.random.default_rng(heads).normal
    arrays = [draw(size=(2, n, 4, width)) for n, width in ((heads, 3), (groups, 3), (groups, 5))]
    upstream = draw(size=(2, heads, 4, 5))

    def theirs(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    agree(source("08_attention", "tasks").grouped(*arrays, upstream), torchs(theirs, arrays, upstream))


def test_the_prediction_is_the_spread_of_a_score():
    q, k = np.random.default_rng(0).normal(size=(2, 20_000, 64))
    assert load("08_attention").predictions["spread of a score"].answer == pytest.approx(
        (q * k).sum(1).std(), rel=0.02
    )
