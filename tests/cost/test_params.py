"""Protects the parameter count: published models to the last digit, and every shape of the kit's own model.

pytest tests/cost/test_params.py
"""

from __future__ import annotations

from itertools import product

import pytest

from llmkit.cost import parameters, shape_of
from llmkit.errors import ConfigError

LLAMA3 = {
    "vocab_size": 128_256, "context": 8192, "activation": "swiglu", "norm": "rmsnorm", "position": "rotary",
    "tied": False,
}  # fmt: skip
GPT2 = {"vocab_size": 50_257, "context": 1024, "bias": True}
PUBLISHED = {
    # Radford et al. 2019, as loaded from the released checkpoints (openai-community/gpt2*)
    "gpt2": (GPT2 | {"layers": 12, "width": 768, "heads": 12}, 124_439_808),
    "gpt2-medium": (GPT2 | {"layers": 24, "width": 1024, "heads": 16}, 354_823_168),
    "gpt2-xl": (GPT2 | {"layers": 48, "width": 1600, "heads": 25}, 1_557_611_200),
    # meta-llama/llama-models MODEL_CARD.md and params.json
    "llama-3-8b": (
        LLAMA3 | {"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "mlp_hidden": 14_336},
        8_030_261_248,
    ),
    "llama-3-70b": (
        LLAMA3 | {"layers": 80, "width": 8192, "heads": 64, "kv_heads": 8, "mlp_hidden": 28_672},
        70_553_706_496,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_met_to_the_last_parameter(name):
    model, count = PUBLISHED[name]
    assert parameters(model).value == count


@pytest.mark.parametrize("name", ["tiny", "laptop", "gpt2", "gpt-13b", "llama3-8b", "llama2-70b"])
def test_the_named_configurations_are_counted_as_they_are_built(name):
    gpt, presets = pytest.importorskip("llmkit.train.model"), pytest.importorskip("llmkit.train")
    shape = presets.named(name).model
    built = sum(p.numel() for p in gpt.GPT(shape).parameters())  # on the meta device: nothing is allocated
    assert parameters(shape).value == parameters(vars(shape)).value == built


def test_every_option_is_counted_as_it_is_built():
    config, gpt = pytest.importorskip("llmkit.train.config"), pytest.importorskip("llmkit.train.model")
    options = {
        "position": ("learned", "rotary"), "norm": ("layernorm", "rmsnorm"), "activation": ("gelu", "swiglu"),
        "tied": (True, False), "bias": (True, False), "qk_norm": (True, False), "kv_heads": (None, 1, 2),
        "mlp_hidden": (None, 40),
    }  # fmt: skip
    for values in product(*options.values()):
        shape = config.ModelConfig(
            vocab_size=97, context=16, layers=3, width=24, heads=4, **dict(zip(options, values, strict=True))
        )
        built = sum(p.numel() for p in gpt.GPT(shape).parameters())
        assert parameters(shape).value == built, shape


def test_the_terms_add_up_and_are_shown():
    count = parameters(GPT2 | {"layers": 12, "width": 768, "heads": 12})
    assert sum(term.value for term in count.terms) == count.value
    assert count["embedding"].value == 50_257 * 768
    assert count.explain().splitlines()[1] == "  embedding: 38,597,376 parameters  = V C"


def test_a_missing_field_is_refused():
    with pytest.raises(ConfigError) as caught:
        shape_of({"width": 64})
    assert str(caught.value) == (
        "the model has no `vocab_size`\n  expected: the fields of `llmkit.train.ModelConfig`"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 0}, "layers is 0\n  expected: a whole number, at least 1"),
        ({"width": 64.5}, "width is 64.5\n  expected: a whole number, at least 1"),
        ({"mlp_hidden": "4x"}, "mlp_hidden is 4x\n  expected: a whole number, at least 1"),
        ({"kv_heads": 5}, "kv_heads (5) do not divide heads (12)"),
        (
            {"experts": 4, "top_k": 8},
            "top_k is 8\n  expected: 1 to 4, the experts of a layer",
        ),
    ],
)
def test_an_absurd_shape_is_refused(changes, says):
    with pytest.raises(ConfigError) as caught:
        shape_of(GPT2 | {"layers": 12, "width": 768, "heads": 12} | changes)
    assert str(caught.value) == says
