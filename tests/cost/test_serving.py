"""Protects latency while serving, and the laws of scale.

pytest tests/cost/test_serving.py
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cost.decode import decode_latency, prefill_latency, reading, unpacking
from llmkit.cost.job import shape_named
from llmkit.cost.scaling import batch_tradeoff, compute_optimal, expected_loss
from llmkit.errors import ConfigError

LLAMA = shape_named("llama2-7b")


def test_reading_reaches_most_of_the_bandwidth_and_a_layer_takes_some_time():
    share, layer_s = reading()
    assert 0.7 < share < 1 and 20e-6 < layer_s < 200e-6


@given(st.integers(1, 64), st.integers(1, 8192), st.sampled_from([1, 2, 4, 8]))
def test_a_token_takes_longer_with_more_to_read_and_less_on_more_gpus(batch, context, tp):
    now = float(decode_latency(LLAMA, "A100-SXM-80", batch=batch, context=context, tp=tp))
    assert float(decode_latency(LLAMA, "A100-SXM-80", batch=2 * batch, context=context, tp=tp)) > now
    assert float(decode_latency(LLAMA, "A100-SXM-80", batch=batch, context=2 * context, tp=tp)) > now
    assert float(decode_latency(LLAMA, "A100-SXM-80", batch=batch, context=context, tp=2 * tp)) < now
    assert (
        float(decode_latency(LLAMA, "A100-SXM-80", batch=batch, context=context, tp=tp, weight_bytes=1)) < now
    )


def test_quantised_weights_are_read_more_slowly_than_their_bytes_say_and_16_bits_are_not():
    full, half = (decode_latency(LLAMA, "A100-SXM-80", weight_bytes=size)["weights"] for size in (2, 1))
    assert 1.1 < unpacking() < 1.3
    assert float(half) == pytest.approx(float(full) / 2 * unpacking())
    assert half.formula.endswith(f"x {unpacking():.2f} to unpack") and "unpack" not in full.formula


def test_a_large_batch_is_bound_by_arithmetic():
    few, many = (decode_latency(LLAMA, "A100-SXM-80", batch=b, context=1) for b in (1, 4096))
    assert float(few["products"]) < float(few["weights"])
    assert float(many["products"]) > float(many["weights"]) + float(many["keys and values"])
    assert float(many) == pytest.approx(float(many["products"]) + float(many["layers"]))


def test_a_batch_erodes_what_a_mixture_does_not_read():
    mixtral = shape_named("mixtral-8x7b")
    one, many = (float(decode_latency(mixtral, "A100-SXM-80", batch=b)["weights"]) for b in (1, 64))
    assert one == pytest.approx(many * 12.9 / 46.7, rel=0.03)


def test_a_prompt_takes_more_than_its_share_of_tokens():
    short, long = (float(prefill_latency(LLAMA, "H100-SXM", prompt=n)) for n in (1024, 8192))
    assert 8 < long / short < 10


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="batch 0"):
        decode_latency(LLAMA, "A100-SXM-80", batch=0)
    with pytest.raises(ConfigError, match="prompt 0, batch 1"):
        prefill_latency(LLAMA, "H100-SXM", prompt=0)
    with pytest.raises(ConfigError, match="unknown scaling law `hofmann`"):
        compute_optimal(1e20, "hofmann")
    with pytest.raises(ConfigError, match="flops is -1"):
        compute_optimal(-1)
    with pytest.raises(ConfigError, match="both above 0"):
        batch_tradeoff(0, 1)


def test_the_printed_constants_contradict_chinchilla_and_the_corrected_ones_do_not():
    """At its 5.76e23 FLOPs Hoffmann et al. trained 70B on 1.4T."""
    n, d = map(float, compute_optimal(5.76e23))
    assert n == pytest.approx(70e9, rel=0.05) and d == pytest.approx(1.4e12, rel=0.06)
    n, d = map(float, compute_optimal(5.76e23, "hoffmann"))
    assert n == pytest.approx(32e9, rel=0.02) and d / n == pytest.approx(93, rel=0.02)


@given(
    st.floats(1e18, 1e26), st.sampled_from(["besiroglu", "hoffmann"]), st.sampled_from([0.5, 0.9, 1.1, 2.0])
)
def test_no_other_split_of_the_budget_has_a_lower_loss(flops, law, other):
    n, d = map(float, compute_optimal(flops, law))
    assert 6 * n * d == pytest.approx(flops)
    assert float(expected_loss(n, d, law)) < float(expected_loss(n * other, d / other, law))


@given(st.floats(1, 1e9), st.floats(1, 1e9))
def test_steps_and_tokens_trade_as_mccandlish_says(batch, critical):
    steps, tokens = batch_tradeoff(batch, critical)
    assert (steps - 1) * (tokens - 1) == pytest.approx(1)
    assert batch_tradeoff(critical, critical) == (2, 2)
