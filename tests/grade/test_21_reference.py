"""Protects: the references of exercise 21 count as `llmkit.cost.flops` does, term by term.

pytest tests/grade/test_21_reference.py
"""

from __future__ import annotations

import random

import pytest

from llmkit.cost.flops import forward_flops, training_flops
from llmkit.grade.exercise import load

FIELDS = ("layers", "width", "heads", "kv_heads", "head_dim", "context")


@pytest.mark.parametrize("seed", range(5))
def test_the_references_equal_the_calculator(seed):
    forward, training, _ = load("21_flops").tasks
    for case in (*forward.public, *forward.hidden(random.Random(seed))):
        config, causal = case.inputs["config"], case.inputs["causal"]
        model = {name: config[name] for name in FIELDS} | {"vocab_size": config["vocab"]}
        model |= {"mlp_hidden": config["hidden"], "activation": "swiglu" if config["swiglu"] else "gelu"}
        want = forward_flops(model, causal=causal)
        terms = {name: want[long].value for name, long in LONG.items()}
        assert forward.reference(config, causal).value == terms
        needs, does = training.reference(terms, "full").value
        assert needs == training_flops(model, causal=causal, recompute=False).value
        assert does == training_flops(model, causal=causal, recompute=True).value


LONG = {"blocks": "blocks", "scores": "attention scores", "head": "head"}
