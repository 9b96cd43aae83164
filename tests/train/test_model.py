"""Protects the GPT: every option computes what its name says.

pytest tests/train/test_model.py
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llmkit.train import GPT, ModelConfig, tiny, vary
from llmkit.train.model import rotate
from llmkit.train.optim import WarmupCosine, adamw

OPTIONS = {
    "gpt2": {"bias": True},
    "llama": {"position": "rotary", "norm": "rmsnorm", "activation": "swiglu", "tied": False},
    "grouped": {"kv_heads": 2},
    "one-kv-head": {"kv_heads": 1, "position": "rotary"},
    "qk-norm": {"qk_norm": True},
    "untied": {"tied": False},
    "window": {"window": 5, "position": "rotary"},
    "grouped window": {"window": 3, "kv_heads": 2},
    "chunked loss": {"loss_chunk": 7, "tied": False},
}


def make(seed=0, **options):
    cfg = ModelConfig(vocab_size=97, context=16, layers=2, width=32, heads=4, **options)
    return GPT(cfg, generator=torch.Generator().manual_seed(seed))


def tokens(seed=1, rows=3):
    stream = torch.randint(0, 97, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return stream[:, :-1], stream[:, 1:]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_first_loss_is_ln_v(name):
    losses = make(**OPTIONS[name])(*tokens())
    assert losses.shape == (3, 16) and losses.dtype == torch.float32
    assert abs(losses.mean().item() - math.log(97)) < 0.2


@pytest.mark.parametrize("name", OPTIONS)
def test_no_position_sees_its_future(name):
    """The gradient of position 7's loss with respect to later embeddings is exactly zero."""
    model = make(**OPTIONS[name])
    x, y = tokens()
    kept = {}
    model.embed.register_forward_hook(lambda m, a, out: kept.update(h=out) or out.retain_grad())
    model(x, y)[:, 7].sum().backward()
    assert kept["h"].grad[:, 8:].abs().max() == 0.0
    assert kept["h"].grad[:, :8].abs().max() > 0.0


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_do_not_see_each_other(name):
    model = make(**OPTIONS[name])
    x, y = tokens()
    torch.testing.assert_close(model(x, y)[1:2], model(x[1:2], y[1:2]))


def test_attention_is_the_textbook_formula():
    model = make(kv_heads=2)
    attention, cfg = model.blocks[0].attention, model.cfg
    h = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    q, k, v = attention.heads(attention.qkv(h))
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)  # each kv head serves two query heads
    scores = q @ k.transpose(-1, -2) / math.sqrt(cfg.head_dim)
    scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -math.inf)
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(h), expected)


@pytest.mark.parametrize("window", [1, 2, 5, 8, 15, 16, 40])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_sliding_window_is_full_attention_with_a_band_for_a_mask(window, kv_heads):
    """In outputs and gradients; a window as long as the text is plain causal attention, bit for bit."""
    attention = make(kv_heads=kv_heads, window=window).blocks[0].attention
    h = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    q, k, v = attention.heads(attention.qkv(h))
    k, v = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    distance = torch.arange(16)[:, None] - torch.arange(16)
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(h), expected)
    grads = [
        torch.autograd.grad(out.square().sum(), attention.parameters()) for out in (attention(h), expected)
    ]
    torch.testing.assert_close(*grads)
    if window >= 16:
        assert torch.equal(attention(h), make(kv_heads=kv_heads).blocks[0].attention(h))


def test_rotary_scores_depend_on_distance_only():
    q = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(1, 1, 12, 8)
    k = torch.randn(8, generator=torch.Generator().manual_seed(1)).expand(1, 1, 12, 8)
    scores = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    for distance in range(12):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_swiglu_is_silu_gate_times_up():
    mlp = make(activation="swiglu").blocks[0].mlp
    h = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    up, gate, down = mlp.up.weight, mlp.gate.weight, mlp.down.weight
    torch.testing.assert_close(mlp(h), ((h @ gate.T) * torch.sigmoid(h @ gate.T) * (h @ up.T)) @ down.T)


@pytest.mark.parametrize("policy", ["selective", "full"])
@pytest.mark.parametrize("name", OPTIONS)
def test_checkpointed_blocks_give_the_same_gradients_bit_for_bit(name, policy):
    plain, recomputed = make(**OPTIONS[name]), make(**OPTIONS[name], checkpointing=policy)
    for model in (plain, recomputed):
        model(*tokens()).mean().backward()
    for (n, a), (_, b) in zip(plain.named_parameters(), recomputed.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), n


class Count(TorchDispatchMode):
    """How often each operator ran, by the name before its overload."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.name().split(".")[0].removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def test_selective_runs_no_product_twice_and_everything_else_between_them():
    """Products forward + 2 backward each; GELU, norms and sums of a block once more."""
    calls = {}
    for policy in ("none", "selective", "full"):
        model = make(checkpointing=policy)
        with Count() as count:
            model(*tokens()).mean().backward()
        calls[policy] = count.calls
    none, selective, full = calls.values()
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    assert (none["mm"], none[fused], none["gelu"], none["native_layer_norm"]) == (27, 2, 2, 5)
    assert (selective["mm"], selective[fused]) == (27, 2)
    assert (selective["gelu"], selective["native_layer_norm"]) == (4, 9)
    assert (full["mm"], full[fused], full["gelu"]) == (27 + 3 * 2, 4, 4)  # early stop: not the last product


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 16, 48, 1000])
def test_a_loss_in_chunks_is_the_loss_and_its_gradients(chunk, tied):
    """Also when sequences weigh differently, as padding and removed documents make them."""
    whole, pieces = make(tied=tied), make(tied=tied, loss_chunk=chunk)
    weight = torch.rand(3, 16, generator=torch.Generator().manual_seed(5))
    losses = [model(*tokens()) for model in (whole, pieces)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-6)
    for loss in losses:
        (loss * weight).sum().backward()
    for (n, a), (_, b) in zip(whole.named_parameters(), pieces.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6, msg=n)
    with torch.no_grad():
        torch.testing.assert_close(pieces(*tokens()), losses[0], rtol=0, atol=1e-6)


def test_a_loss_in_chunks_never_holds_all_logits():
    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() and out.shape[-1] == 97:
                self.rows = max(self.rows, out.numel() // 97)
            return out

    for chunk, rows in ((None, 48), (40, 40)):
        model = make(loss_chunk=chunk)
        with Largest() as largest:
            model(*tokens()).mean().backward()
        assert largest.rows == rows


def test_a_tied_head_is_the_embedding_and_trains_once():
    model = make()
    assert model.head.weight is model.embed.weight
    assert "head.weight" not in dict(model.named_parameters())


def test_building_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    a, b = make(seed=4), make(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed.weight, make(seed=5).embed.weight)


def test_a_shape_only_model_of_13b_allocates_nothing():
    from llmkit.train import named

    model = GPT(named("gpt-13b").model)
    assert all(p.is_meta for p in model.parameters())
    assert 12.8e9 < sum(p.numel() for p in model.parameters()) < 13.0e9


def test_a_token_outside_the_vocabulary_is_refused():
    x, y = tokens()
    with pytest.raises(IndexError):
        make()(x + 97, y)


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    model = make(bias=True, tied=False)
    groups = {g["name"]: g for g in adamw(model, tiny()).param_groups}
    placed = [p for g in groups.values() for p in g["params"]]
    assert len(placed) == len(set(map(id, placed))) == len(list(model.parameters()))
    assert {p.dim() for p in groups["decay"]["params"]} == {2} and groups["decay"]["weight_decay"] == 0.1
    assert {p.dim() for p in groups["no_decay"]["params"]} == {1} and groups["no_decay"][
        "weight_decay"
    ] == 0.0


def test_the_schedule_warms_up_peaks_and_ends_at_its_minimum():
    lr = WarmupCosine(tiny(steps=101, warmup=10, lr=1.0, min_lr=0.1))
    assert [lr(0), lr(9), lr(10)] == [0.1, 1.0, 1.0]
    assert lr(55) == pytest.approx(0.55)  # half way down the cosine
    assert lr(100) == pytest.approx(0.1) and lr(10_000) == pytest.approx(0.1)
    assert all(lr(s) >= lr(s + 1) for s in range(10, 100))


def test_dropout_is_drawn_in_training_only():
    model = make(dropout=0.5)
    x, y = tokens()
    torch.manual_seed(0)
    assert not torch.equal(model(x, y), model(x, y))
    model.eval()
    assert torch.equal(model(x, y), model(x, y))
    assert F.dropout is not None and vary(tiny(), model__dropout=0.5).model.dropout == 0.5
