"""Protects the landscape slice: exact on a quadratic, blind to rescaled weights, and nothing is moved for good.

pytest tests/lab/test_landscape.py
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmkit.errors import ConfigError
from llmkit.lab.landscape import direction, kept, landscape, losses_along
from llmkit.train import train


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_on_a_quadratic_every_point_is_what_the_formula_says():
    """loss(W) = w'Aw / 2: the slice is the polynomial of the six products of centre and directions with A."""
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 3, bias=True).double()
    half = torch.randn(12, 12, generator=g, dtype=torch.float64)
    a = half @ half.T
    w0, bias = model.weight.detach().clone().flatten(), model.bias.detach().clone()
    d = [direction(model, g) for _ in range(2)]
    u, v = (one["weight"].flatten() for one in d)
    offsets = (-1.5, -0.5, 0.0, 0.5, 1.5)
    seen = losses_along(
        model, d, offsets, lambda: float(model.weight.flatten() @ a @ model.weight.flatten()) / 2
    )
    for x, row in zip(offsets, seen, strict=True):
        for y, loss in zip(offsets, row, strict=True):
            terms = (
                w0 @ a @ w0 / 2, x * (u @ a @ w0), y * (v @ a @ w0),
                x * x * (u @ a @ u) / 2, y * y * (v @ a @ v) / 2, x * y * (u @ a @ v),
            )  # fmt: skip
            assert loss == pytest.approx(float(sum(terms)), rel=1e-12)
    assert torch.equal(model.weight.flatten(), w0) and torch.equal(model.bias, bias)


def test_a_direction_has_the_length_of_each_row_it_moves_and_leaves_norms_alone(tiny_run):
    model = tiny_run(model__bias=True).model
    drawn = direction(model, torch.Generator().manual_seed(1))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    assert set(drawn) == {name for name, p in weights.items() if p.dim() > 1}
    for name, d in drawn.items():
        torch.testing.assert_close(d.norm(dim=1), weights[name].norm(dim=1))
    plain = direction(model, torch.Generator().manual_seed(1), normalised=False)
    norms = [math.hypot(*(t.norm() for t in of.values())) for of in (plain, {n: weights[n] for n in plain})]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for name in drawn:  # the same draws, scaled by row or as a whole
        cosine = torch.cosine_similarity(drawn[name], plain[name], dim=1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_the_same_function_held_by_other_weights_has_the_same_slice_if_rows_are_normalised(tiny_run):
    """Values times 4, the matrix that reads them over 4: powers of two, so the function is equal to the bit."""
    run = tiny_run()
    list(train(run))
    options = {"points": 3, "batches": 1, "reach": 0.5}
    before = landscape(run, **options), landscape(run, normalised=False, **options)
    with torch.no_grad():
        for block in run.model.blocks:
            block.attention.qkv.weight[-run.config.model.width :] *= 4
            block.attention.out.weight /= 4
    after = landscape(run, **options), landscape(run, normalised=False, **options)
    assert after[0].losses == before[0].losses
    assert after[1].centre == before[1].centre
    assert abs(after[1].rise - before[1].rise) > 0.1 * before[1].rise


@pytest.mark.parametrize("dies", [False, True])
def test_weights_generator_and_mode_are_as_before_whatever_happens(tiny_run, monkeypatch, dies):
    run, twin = (tiny_run(model__dropout=0.1, steps=6) for _ in range(2))
    steps = [train(one) for one in (run, twin)]
    for one in steps:
        for _ in range(3):
            next(one)
    weights, generator = state(run.model), torch.get_rng_state()
    if dies:
        monkeypatch.setattr("llmkit.lab.landscape.evaluate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            landscape(run, points=3)
    else:
        landscape(run, points=3, batches=1)
    assert same(state(run.model), weights) and run.model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(steps[0]) == list(steps[1])  # the run goes on as if nobody had looked
    assert same(state(run.model), state(twin.model))


def test_the_centre_is_the_loss_of_the_weights_and_the_slice_is_a_function_of_its_seed(tiny_run):
    from llmkit.train import evaluate

    run = tiny_run()
    one, two, other = (landscape(run, points=3, batches=1, seed=seed) for seed in (0, 0, 1))
    assert one.centre == evaluate(run, batches=1)
    assert one == two and one.losses != other.losses
    assert one.offsets == (-1.0, 0.0, 1.0)
    ends = [one.losses[0][1], one.losses[2][1], one.losses[1][0], one.losses[1][2]]
    assert one.rise == pytest.approx(sum(ends) / 4 - one.centre)


def test_what_is_written_inside_kept_is_undone_to_the_bit():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = math.nan  # NaN, as a run that died leaves it
    before = model.weight.detach().numpy().tobytes()
    with kept(model):
        model.weight.fill_(1.0)
    assert model.weight.detach().numpy().tobytes() == before


@pytest.mark.parametrize("wrong", [{"points": 4}, {"points": 1}, {"reach": 0.0}, {"reach": math.nan}])
def test_a_grid_without_a_centre_is_refused(tiny_run, wrong):
    with pytest.raises(ConfigError, match=r"expected: 3, 5, 7 ... points, reach > 0"):
        landscape(tiny_run(), **wrong)
