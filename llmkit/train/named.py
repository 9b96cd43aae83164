"""The named configurations, as functions.

cfg = tiny(steps=60, precision="fp16", model__dropout=0.1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmkit.errors import ConfigError, closest
from llmkit.train.config import ModelConfig, RunConfig, vary


def tiny(**overrides: Any) -> RunConfig:
    """About 0.14M parameters on real text, 512 tokens a step, some ten milliseconds: tests and most cells."""
    return vary(RunConfig(name="tiny", data="docstrings", threads=1), **overrides)


def laptop(**overrides: Any) -> RunConfig:
    """About 5.8M parameters on real text, 2,048 tokens a step, a few steps a second on two cores."""
    model = ModelConfig(vocab_size=4096, context=256, layers=6, width=256, heads=8)
    base = RunConfig(
        name="laptop",
        model=model,
        data="docstrings",
        steps=1000,
        lr=1e-3,
        min_lr=1e-4,
        warmup=50,
        save_every=100,
    )
    return vary(base, **overrides)


def gpt2(**overrides: Any) -> RunConfig:
    """GPT-2 small, 124M parameters (Radford et al. 2019); trainable on one GPU, a shape elsewhere."""
    return vary(
        _published("gpt2", 12, 768, 12, context=1024, vocab_size=50257, bias=True, lr=6e-4), **overrides
    )


def _published(name, layers, width, heads, *, context=2048, vocab_size=50257, bias=True, lr):
    model = ModelConfig(
        vocab_size=vocab_size, context=context, layers=layers, width=width, heads=heads, bias=bias
    )
    return RunConfig(
        name=name, model=model, data="docstrings", batch=256, micro_batch=1, lr=lr, min_lr=lr / 10,
        steps=100_000, warmup=2_000, save_every=2_000,
    )  # fmt: skip


def _llama(name, layers, width, heads, hidden, vocab_size, context, lr):
    """Shapes of Llama 3 8B (Dubey et al. 2024, arXiv 2407.21783, table 3) and Llama 2 70B (Touvron et al.
    2023, arXiv 2307.09288; its hidden width from the published weights). Both have 8 key/value heads. The kit
    adds nothing and leaves out Llama 3's rotary base, which costs no memory."""
    shape = {"position": "rotary", "norm": "rmsnorm", "activation": "swiglu", "tied": False, "kv_heads": 8}
    run = _published(name, layers, width, heads, context=context, vocab_size=vocab_size, bias=False, lr=lr)
    return vary(run, **{f"model__{key}": value for key, value in shape.items()}, model__mlp_hidden=hidden)


# Shapes and peak learning rates of Brown et al. 2020, table 2.1, with heads x head dimension = width (the
# table's XL row and 13B row do not multiply out: 24 x 128 and 40 x 128 stand beside widths 2048 and 5140).
CONFIGS: dict[str, Callable[..., RunConfig]] = {
    "tiny": tiny,
    "laptop": laptop,
    "gpt2": gpt2,
    "gpt-1.3b": lambda **o: vary(_published("gpt-1.3b", 24, 2048, 16, lr=2e-4), **o),
    "gpt-2.7b": lambda **o: vary(_published("gpt-2.7b", 32, 2560, 32, lr=1.6e-4), **o),
    "gpt-7b": lambda **o: vary(_published("gpt-7b", 32, 4096, 32, lr=1.2e-4), **o),
    "gpt-13b": lambda **o: vary(_published("gpt-13b", 40, 5120, 40, lr=1e-4), **o),
    "llama3-8b": lambda **o: vary(_llama("llama3-8b", 32, 4096, 32, 14336, 128256, 8192, 3e-4), **o),
    "llama2-70b": lambda **o: vary(_llama("llama2-70b", 80, 8192, 64, 28672, 32000, 4096, 1.5e-4), **o),
}


def named(name: str, **overrides: Any) -> RunConfig:
    """A configuration by name. Raises ConfigError on an unknown one."""
    if name not in CONFIGS:
        raise ConfigError(f"unknown configuration `{name}`", remedy=closest(name, CONFIGS))
    return CONFIGS[name](**overrides)
