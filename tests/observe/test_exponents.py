"""Protects the exponent histograms: they count what fp16 would lose, at every scale, from one look.

pytest tests/observe/test_exponents.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmkit.observe import exponents
from llmkit.observe.exponents import Exponents, Look
from llmkit.train import train


def watched(run, **options):
    run.observers.append(watch := Exponents(**options))
    list(train(run))
    return watch.looks


def look_at(values):
    watch = Exponents()
    watch.looks.append(Look(0))
    watch._count("layer", values)
    return watch.looks[0]


@pytest.fixture(scope="module")
def numbers():
    """A hundred thousand numbers from 2^-45 to 2^30, and zeros. Mantissas stay below 65520 / 2^15 = 1.9995."""
    generator = torch.Generator().manual_seed(0)
    mantissa = 1.001 + 0.99 * torch.rand(100_000, generator=generator)
    values = torch.ldexp(mantissa, torch.randint(-45, 30, (100_000,), generator=generator))
    values[::10], values[1::2] = 0.0, -values[1::2]
    return values


def lost(numbers, scale):
    """The shares of the non-zero numbers that torch's own conversion to fp16 makes 0 and infinite."""
    half = (numbers[numbers != 0] * scale).half()
    return (half == 0).float().mean().item(), half.isinf().float().mean().item()


@pytest.mark.parametrize("power", [-20, 0, 1, 16, 40])
def test_the_shares_are_those_of_torchs_conversion_to_fp16(numbers, power):
    look = look_at(numbers)
    found = look.underflow(2.0**power), look.overflow(2.0**power, "layer")
    assert found == pytest.approx(lost(numbers, 2.0**power), abs=1e-6)
    assert look.largest == numbers.abs().max().item()


@pytest.mark.parametrize("limit", [-27, -25])
def test_a_limit_that_is_off_by_one_is_caught(monkeypatch, numbers, limit):
    monkeypatch.setattr(exponents, "VANISHES", limit)
    assert abs(look_at(numbers).underflow(1.0) - lost(numbers, 1.0)[0]) > 1e-3


def test_infinities_nan_and_zeros_have_bins_of_their_own():
    look = look_at(torch.tensor([0.0, -0.0, 1.0, -3.0, math.inf, math.nan]))
    assert {b: n for b, n in enumerate(look.counts.tolist()) if n} == {0: 2, 127: 1, 128: 1, 255: 2}
    assert (look.largest, look.overflow(1.0), look.underflow(0.0)) == (3.0, 0.5, 0.5)


@pytest.mark.parametrize("step", [0, 2, 7])
def test_a_look_in_bf16_knows_the_first_scale_at_which_fp16_overflows(small_run, step):
    """At the same weights and batch; what overflows is what was counted, to the factor of two."""
    options = {"steps": step + 1, "model__layers": 2, "lr": 1e-2}
    plain, half = (small_run(precision=precision, **options) for precision in ("bf16", "fp16"))
    plain.observers.append(watch := Exponents())
    records = train(plain)
    for _ in range(step):
        next(records)
    half.model.load_state_dict(plain.model.state_dict())
    next(records)
    limit = math.ceil(math.log2(exponents.OVERFLOWS / watch.looks[-1].largest))

    def overflows(power):
        half.step, half.scaler.current = step, 2.0**power
        return next(train(half)).nonfinite == "grad"

    weights = {name: p.clone() for name, p in half.model.state_dict().items()}
    below = overflows(limit - 1)
    half.model.load_state_dict(weights)
    assert (below, overflows(limit)) == (False, True)


def test_what_fp16_loses_is_what_the_look_before_it_said(small_run):
    """Zeros in fp16 that were none in fp32. A few more than foreseen: what vanishes above takes others along."""
    whole, half = (
        watched(small_run(precision=p, steps=1, scale_floor=2.0**-8, loss_scale=2.0**-8))[0].counts
        for p in ("fp32", "fp16")
    )
    before = watched(small_run(precision="fp32", steps=1))[0]
    vanished = (half[0] - whole[0]) / whole[1:].sum()
    assert 0.05 < vanished < 0.95
    assert 1.0 < vanished / before.underflow(2.0**-8) < 1.2


def test_layers_are_the_linear_ones_and_their_weights_per_micro_batch(small_run):
    (look,) = watched(small_run(steps=1, micro_batch=2))
    model = small_run().model
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(look.layers) == {f"{n}{end}" for n in linear for end in ("", ".weight")}
    tokens, passes = 4 * 16, 2
    for name, module in linear.items():
        assert look.layers[name].sum() == tokens * module.out_features
        assert look.layers[f"{name}.weight"].sum() == passes * module.weight.numel()
    assert np.array_equal(look.counts, sum(look.layers.values()))


def test_it_looks_every_so_many_steps_and_says_when_the_loss_itself_was_bad(small_run, bug):
    run = small_run(steps=7, patience=9)
    bug(run, "blocks.1.mlp", at=3)
    assert [(look.step, look.forward) for look in watched(run, every=3)] == [
        (0, False),
        (3, True),
        (6, False),
    ]
