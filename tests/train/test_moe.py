"""Protects the mixture of experts: each token gets what a loop over tokens would give it, and no more.

pytest tests/train/test_moe.py
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmkit.cost import parameters, training_flops
from llmkit.errors import ConfigError
from llmkit.train import GPT, Checkpoints, ModelConfig, build, tiny, train
from llmkit.train import moe as kit

SHAPE = {"vocab_size": 97, "context": 16, "layers": 2, "width": 32, "heads": 4}


def drawn(shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(seed=0, code=kit, **options):
    """A router and its experts with weights large enough that tokens differ in where they go."""
    cfg = ModelConfig(**{**SHAPE, "width": 8, "mlp_hidden": 12, **options})
    router, experts = code.Router(cfg), code.Experts(cfg)
    with torch.no_grad():
        for n, p in enumerate([*router.parameters(), *experts.parameters()]):
            p.copy_(drawn(p.shape, 100 * seed + n) / 2)
    return cfg, router, experts


def loop(cfg, router, experts, h):
    """One token at a time, from the papers: (output, penalty)."""
    tokens, weight = h.reshape(-1, h.shape[-1]), router.score.weight
    probabilities = torch.stack([torch.exp(weight @ t) / torch.exp(weight @ t).sum() for t in tokens])
    order = probabilities.argsort(-1, descending=True)[:, : cfg.top_k].tolist()
    places, used = {}, [0] * cfg.experts
    room = math.inf
    if cfg.capacity_factor is not None:
        room = math.ceil(cfg.capacity_factor * len(tokens) * cfg.top_k / cfg.experts)
    for choice, n in itertools.product(range(cfg.top_k), range(len(tokens))):
        e = order[n][choice]
        places[n, e], used[e] = used[e] < room, used[e] + 1
    outputs = []
    for n, t in enumerate(tokens):
        whole = sum(probabilities[n, e] for e in order[n]) if cfg.top_k > 1 else 1.0
        y = torch.zeros_like(t)
        for e in order[n]:
            if places[n, e]:
                a = experts.up[e] @ t
                if cfg.activation == "swiglu":
                    gate = experts.gate[e] @ t
                    a = gate * torch.sigmoid(gate) * a
                else:
                    a = F.gelu(a, approximate="tanh")
                y = y + probabilities[n, e] / whole * (experts.down[e] @ a)
        outputs.append(y)
    f = torch.tensor(used) / (len(tokens) * cfg.top_k)
    balance = cfg.experts * sum(f[e] * probabilities[:, e].mean() for e in range(cfg.experts))
    z = torch.stack([torch.log(torch.exp(weight @ t).sum()) ** 2 for t in tokens]).mean()
    return torch.stack(outputs).view(h.shape), cfg.balance_loss * balance + cfg.z_loss * z


def gradients(out, penalty, parameters, h):
    """Of a sum in which every output and the penalty have a weight of their own."""
    scalar = (out * drawn(out.shape, 9)).sum() + 3.0 * penalty
    return [out, penalty, *torch.autograd.grad(scalar, [h, *parameters])]


def differs(code=kit, rows=(2, 7), **options):
    """Largest difference between the module and the loop over tokens, in outputs and gradients."""
    worst = 0.0
    for seed in range(2):
        cfg, router, experts = layer(seed, code, **options)
        h = drawn((*rows, 8), 50 + seed).requires_grad_()
        route = router(h)
        parameters = [*router.parameters(), *experts.parameters()]
        ours = gradients(experts(h, route), route.penalty, parameters, h)
        theirs = gradients(*loop(cfg, router, experts, h), parameters, h)
        worst = max([worst, *((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))])
    return worst


WORLDS = [
    {"experts": experts, "top_k": top_k, "capacity_factor": room}
    for experts in (1, 2, 3, 5)
    for top_k in range(1, experts + 1)
    for room in (None, 0.3, 1.0, 1.25, 9.0)
]


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_outputs_penalties_and_gradients_are_those_of_a_loop_over_tokens(activation):
    for world in WORLDS:
        strong = {"balance_loss": 0.7, "z_loss": 0.3, "expert_hidden": 6}  # so that a wrong one shows
        assert differs(activation=activation, **world, **strong) < 2e-5, world


MUTANTS = [
    ("if self.top_k > 1:", "if self.top_k > 9:"),
    ("if self.top_k > 1:", "if True:"),
    ("rows[:room]", "rows[-room:]"),
    ("math.ceil(", "math.floor("),
    ("logits.softmax(-1)", "logits.bfloat16().softmax(-1).float()"),
    ("len(experts) * (load * chance)", "(load * chance)"),
    (".square().mean()", ".mean()"),
    ("(chosen[..., None] == experts)", "(chosen[:, :1, None] == experts)"),
    ("* route.gates.T[..., None]", "* route.gates.T[..., None].detach()"),
    ("self.balance_loss * balance +", ""),
]


@pytest.mark.parametrize("right, wrong", MUTANTS, ids=[wrong for _, wrong in MUTANTS])
def test_the_loop_over_tokens_notices_a_planted_defect(right, wrong):
    source = inspect.getsource(kit)
    assert source.count(right) == 1
    mutant = types.ModuleType("mutant")
    mutant.__dict__["__name__"] = "llmkit.train.moe"  # where NamedTuple looks its annotations up
    exec(source.replace(right, wrong), mutant.__dict__)
    worlds = ({"top_k": k, "capacity_factor": room} for k in (1, 2) for room in (None, 0.7))
    assert max(differs(mutant, experts=3, balance_loss=0.7, z_loss=0.3, **world) for world in worlds) > 1e-3


@pytest.mark.parametrize("room", [0.5, 1.0, 1.5])
def test_every_way_to_send_five_tokens_to_three_experts_keeps_the_first_that_fit(room):
    _, _, experts = layer(experts=3, capacity_factor=room)
    h = drawn((5, 8), 1)
    places = math.ceil(room * 5 / 3)
    for chosen in itertools.product(range(3), repeat=5):
        route = kit.Route(torch.ones(5, 1), torch.tensor(chosen)[:, None], *[torch.zeros(())] * 5)
        served = (experts(h, route) != 0).any(-1).tolist()
        assert served == [chosen[:n].count(e) < places for n, e in enumerate(chosen)]


def test_room_for_all_is_dropless_bit_for_bit():
    for top_k in (1, 2, 4):
        _, router, plain = layer(experts=4, top_k=top_k)
        _, _, roomy = layer(experts=4, top_k=top_k, capacity_factor=4.0 / top_k)
        h = drawn((3, 5, 8), 4)
        assert torch.equal(plain(h, router(h)), roomy(h, router(h)))


@pytest.mark.parametrize("experts, top_k", [(2, 1), (8, 2), (4, 4)])
def test_the_balance_loss_is_one_when_even_and_the_number_of_experts_when_one_has_all(experts, top_k):
    _, router, _ = layer(experts=experts, top_k=top_k)
    with torch.no_grad():
        router.score.weight.zero_()  # all probabilities equal: whatever is chosen, P is even
    assert router(drawn((64, 8), 0)).balance.item() == pytest.approx(1.0)
    with torch.no_grad():
        router.score.weight[0] = 100.0
    one = router(torch.ones(64, 8))
    assert one.chance[0] == 1.0 and one.load[0] == 1 / top_k
    assert one.balance.item() == pytest.approx(experts / top_k)


# ------------------------------------------------------------------------------------------- in the model


def make(seed=0, **options):
    return GPT(ModelConfig(**SHAPE, **options), generator=torch.Generator().manual_seed(seed))


def tokens(seed=1, rows=3):
    stream = torch.randint(0, 97, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return stream[:, :-1], stream[:, 1:]


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_one_expert_is_the_dense_model(dataset, precision, activation):
    """Records and weights of a run, bit for bit. Without z-loss: that of one expert still pulls at h."""
    runs = []
    for experts in ({}, {"model__experts": 1, "model__z_loss": 0.0}):
        shape = {"model__activation": activation, **experts}
        runs.append(build(tiny(steps=8, clip=math.inf, precision=precision, **shape), dataset=dataset))
    dense, mixture = (run.model for run in runs)
    mine = dict(mixture.named_parameters())
    with torch.no_grad():
        for name, p in dense.named_parameters():
            if ".mlp." in name:
                mine[name.removesuffix(".weight")][0] = p
            else:
                mine[name].copy_(p)
    dense_records, records = (list(train(run)) for run in runs)
    assert [r.loss for r in records] == [r.loss for r in dense_records]
    for name, p in dense.named_parameters():
        other = mine[name.removesuffix(".weight")][0] if ".mlp." in name else mine[name]
        assert torch.equal(other, p), name


def test_the_loss_is_cross_entropy_and_the_gradient_has_the_penalties():
    with_penalty, without = make(experts=4, top_k=2), make(experts=4, top_k=2, balance_loss=0, z_loss=0)
    weight = drawn((3, 16), 5).abs()
    grads = []
    for model in (with_penalty, without):
        routes = []
        for block in model.blocks:
            block.router.register_forward_hook(lambda m, a, out, routes=routes: routes.append(out))
        losses = model(*tokens())
        grads.append(
            torch.autograd.grad((losses * weight).sum(), list(model.parameters()), retain_graph=True)
        )
    assert torch.equal(with_penalty(*tokens()), without(*tokens()))
    penalty = sum(0.01 * route.balance + 0.001 * route.z for route in routes[:2]) * weight.sum()
    extra = torch.autograd.grad(penalty, list(without.parameters()), allow_unused=True)
    for a, b, c in zip(*grads, extra, strict=True):
        torch.testing.assert_close(a, b if c is None else b + c, rtol=1e-4, atol=1e-5)


class Ragged:
    """A loader whose rows hold very unequal numbers of targets."""

    def __init__(self, loader):
        self.loader = loader

    def batch(self, step):
        batch = self.loader.batch(step)
        keep = np.arange(64)[None, :] < np.array([64, 1, 3, 64, 7, 2, 64, 30])[:, None]
        return dataclasses.replace(batch, weight=keep.astype(np.float32))


@pytest.mark.parametrize("loss_sum", [False, True])
def test_a_micro_batchs_penalty_counts_by_its_targets(tiny_run, loss_sum):
    """Gradients of the accumulated step are those of the weighted mean written out."""
    run = tiny_run(
        micro_batch=2, loss_sum=loss_sum, model__experts=4, model__top_k=2, model__balance_loss=3.0
    )
    run.loader = Ragged(run.loader)
    batch = run.loader.batch(0)
    routes = []
    handles = [
        block.router.register_forward_hook(lambda m, a, out: routes.append(out)) for block in run.model.blocks
    ]
    x, y, weight = (torch.from_numpy(a) for a in (batch.x, batch.y, batch.weight))
    total = 0.0
    for rows in torch.arange(8).split(2):
        losses = run.model(x[rows], y[rows])
        penalty = sum(3.0 * route.balance + 0.001 * route.z for route in routes[-2:])
        without = losses - (penalty - penalty.detach())  # cross-entropy alone
        total = total + (without * weight[rows]).sum() + penalty * weight[rows].sum()
    expected = torch.autograd.grad(total / weight.sum(), list(run.model.parameters()))
    for handle in handles:
        handle.remove()
    next(train(run))
    for (name, p), grad in zip(run.model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad * p.grad.norm() / grad.norm(), rtol=1e-3, atol=1e-6, msg=name)
        assert p.grad.norm() <= grad.norm() * 1.001  # clipped, or equal


@pytest.mark.parametrize("policy", ["selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recomputed_blocks_route_as_they_did(tiny_run, policy, precision):
    shape = {"model__experts": 4, "model__top_k": 2, "model__capacity_factor": 1.0, "model__dropout": 0.1}
    plain = tiny_run(steps=4, precision=precision, **shape)
    again = tiny_run(steps=4, precision=precision, model__checkpointing=policy, **shape)
    assert repr(list(train(plain))) == repr(list(train(again)))
    for a, b in zip(plain.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_resumes_bit_for_bit(tiny_run, tmp_path):
    shape = {"steps": 6, "precision": "fp16", "model__experts": 4, "model__capacity_factor": 1.0}
    straight, first, resumed = (tiny_run(**shape) for _ in range(3))
    records = list(train(straight))
    steps = train(first)
    before = [next(steps) for _ in range(3)]
    Checkpoints(tmp_path).save(first)
    Checkpoints(tmp_path).load(resumed)
    assert repr(before + list(train(resumed))) == repr(records)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_expert_without_tokens_has_gradient_zero_and_not_none():
    model = make(experts=8)
    with torch.no_grad():
        for block in model.blocks:
            block.router.score.weight.zero_()
            block.norm2.weight.zero_()  # every token scores every expert alike: all go to one
    model(*tokens()).sum().backward()
    for block in model.blocks:
        assert all(p.grad is not None for p in block.mlp.parameters())
        assert (block.mlp.up.grad.flatten(1).norm(dim=1) == 0).all()


MIXTURES = {
    "switch": {"experts": 8},
    "mixtral": {"experts": 8, "top_k": 2, "activation": "swiglu", "position": "rotary", "norm": "rmsnorm"},
    "fine-grained": {"experts": 16, "top_k": 4, "expert_hidden": 32, "tied": False, "bias": True},
}


@pytest.mark.parametrize("name", MIXTURES)
def test_parameters_and_flops_are_those_of_the_calculator(name):
    cfg = ModelConfig(**{**SHAPE, "width": 64, "context": 64}, **MIXTURES[name])
    model = GPT(cfg, generator=torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in model.parameters()) == parameters(cfg).value
    x = torch.arange(128).view(2, 64) % 97
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(x, x).sum().backward()
    assert counter.get_total_flops() == pytest.approx(128 * training_flops(cfg).value, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model__experts": 4, "model__top_k": 5}, "top_k (5) is above experts (4)"),
        ({"model__top_k": 2}, "top_k is 2 in a dense model\n  remedy: set experts"),
        ({"model__balance_loss": 0.1}, "balance_loss is 0.1 in a dense model\n  remedy: set experts"),
        ({"model__experts": -1}, "experts is -1\n  expected: experts >= 0"),
        ({"model__experts": 4, "model__top_k": 0}, "top_k is 0\n  expected: top_k >= 1"),
        ({"model__experts": 4, "model__z_loss": -1.0}, "z_loss is -1.0\n  expected: z_loss >= 0"),
        (
            {"model__experts": 4, "model__capacity_factor": 0.0},
            "capacity_factor is 0.0\n  expected: above 0, or null",
        ),
    ],
)
def test_an_impossible_mixture_is_refused_word_for_word(options, words):
    with pytest.raises(ConfigError) as refusal:
        tiny(**options)
    assert str(refusal.value) == words
