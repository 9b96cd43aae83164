"""Protects the refusals: an impossible configuration is named before anything is allocated, word for word.

pytest tests/train/test_config.py
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from llmkit.errors import ConfigError
from llmkit.train import CONFIGS, RunConfig, build, laptop, named, tiny, vary
from llmkit.train.config import substream

REFUSALS = [
    (
        {"model__width": 66},
        "heads (4) do not divide width (66)\n  expected: width a multiple of heads\n"
        "  remedy: set width to 68 or change heads",
    ),
    (
        {"model__kv_heads": 3},
        "kv_heads (3) do not divide heads (4)\n  expected: heads a multiple of kv_heads",
    ),
    (
        {"warmup": 500, "steps": 20},
        "warmup (500 steps) is longer than the run (20 steps)\n  remedy: lower warmup or raise steps",
    ),
    (
        {"micro_batch": 3},
        "micro_batch (3) does not divide batch (8)\n  expected: batch a multiple of micro_batch",
    ),
    ({"precision": "fp8"}, "unknown precision `fp8`\n  remedy: use one of: `bf16`, `fp16`, `fp32`"),
    ({"model__norm": "batchnorm"}, "unknown norm `batchnorm`\n  remedy: use one of: `layernorm`, `rmsnorm`"),
    ({"steps": 0}, "steps is 0\n  expected: steps >= 1"),
    ({"lr": 0.0, "min_lr": 0.0}, "lr is 0.0\n  expected: lr > 0"),
    ({"min_lr": 1.0}, "min_lr is 1.0\n  expected: 0 <= min_lr <= lr (0.0015)"),
    ({"model__dropout": 1.0}, "dropout is 1.0\n  expected: 0 <= dropout < 1"),
    ({"model__window": 0}, "window is 0\n  expected: window >= 1"),
    ({"model__loss_chunk": 0}, "loss_chunk is 0\n  expected: loss_chunk >= 1"),
    (
        {"model__checkpointing": "blocks"},
        "unknown checkpointing `blocks`\n  remedy: use one of: `full`, `none`, `selective`",
    ),
    ({"keep_last": 1}, "keep_last is 1\n  expected: keep_last >= 2"),
    (
        {"model__width": 12, "model__position": "rotary"},
        "rotary positions need an even head dimension, found 3\n"
        "  remedy: change width or heads, or set position to `learned`",
    ),
    ({"model__init_std": 0.0}, "init_std is 0.0\n  expected: init_std > 0"),
    ({"update_clip": 0.0}, "update_clip is 0.0\n  expected: update_clip > 0, or null"),
    (
        {"bias_correction": "off"},
        "unknown bias_correction `off`\n  remedy: use one of: `delayed`, `none`, `rectified`, `standard`",
    ),
    (
        {"bias_correction": "rectified", "beta2_schedule": "power"},
        "bias_correction `rectified` with beta2_schedule `power`\n"
        "  expected: a constant beta2: rectification counts the gradients behind it",
    ),
    ({"learning_rate": 1.0}, "unknown setting `learning_rate`\n  remedy: use `model__heads`"),
]


@pytest.mark.parametrize("overrides, words", REFUSALS, ids=lambda v: str(v)[:30])
def test_an_impossible_configuration_is_refused_word_for_word(overrides, words):
    with pytest.raises(ConfigError) as refusal:
        tiny(**overrides)
    if "learning_rate" not in overrides:
        assert str(refusal.value) == words
    else:
        assert str(refusal.value).startswith("unknown setting `learning_rate`\n  remedy: use ")


def test_an_unknown_configuration_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown configuration `laptp`\n  remedy: use `laptop`"):
        named("laptp")


def test_a_vocabulary_that_is_not_the_datas_is_refused(dataset):
    with pytest.raises(ConfigError) as refusal:
        build(tiny(model__vocab_size=1000), dataset=dataset)
    assert str(refusal.value) == (
        "the model has a vocabulary of 1000 and data set `generated` one of 512\n"
        "  expected: equal vocabularies\n"
        "  remedy: set model vocab_size to 512, or rebuild the data with the model's"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_named_configuration_survives_json(name):
    cfg = named(name)
    assert RunConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert cfg.name == name


def test_every_field_says_what_it_means():
    import ast
    import inspect

    from llmkit.train import config

    tree = ast.parse(inspect.getsource(config))
    for node in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr) and isinstance(after.value.value, str), field.target.id
                assert after.value.value.endswith("."), field.target.id


def test_a_configuration_is_frozen_and_vary_reaches_the_model():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().lr = 1.0
    assert vary(tiny(), model__width=128).model.width == 128
    assert tiny(steps=5).warmup <= 5  # a shorter run keeps a warmup that fits


def test_streams_of_randomness_are_separate_and_constant():
    cfg = tiny(seed=3)
    assert len({cfg.stream(use) for use in ("init", "data", "dropout")}) == 3
    assert tiny(seed=3, data_seed=9).stream("init") == cfg.stream("init")
    assert tiny(seed=3, data_seed=9).stream("data") != cfg.stream("data")
    assert substream(0, "init") == 1519069808562059438


def test_laptop_is_about_five_million_parameters_and_two_thousand_tokens():
    from llmkit.train import GPT

    assert laptop().tokens_per_step == 2048
    assert 5e6 < sum(p.numel() for p in GPT(laptop().model).parameters()) < 6e6
