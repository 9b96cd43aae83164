"""The memory lab as plain functions: knobs to a stack of bars by formula, and a rehearsal of the same.

    print(llmkit.cost.labs.as_text(LAB.screen({"sequence": 8192})))
    print(rehearsed(LAB.start()))

`llmkit.show.memory_lab` draws it; the formula takes microseconds, the rehearsal a second.
"""

from __future__ import annotations

from typing import Any

from llmkit.cost.labs import Knob, Lab, Screen
from llmkit.memory.formula import MOMENTS, estimate
from llmkit.memory.remedies import CHUNK, peak_at_depth
from llmkit.memory.sizes import parse_size
from llmkit.train import RunConfig, named, vary
from llmkit.train.config import CHECKPOINTING

GIB = 1024**3
PARTS = (
    "parameters", "gradients", "optimizer state", "weight copies", "activations", "logits", "temporaries",
)  # fmt: skip
KNOBS = (
    Knob("model", "shape", ("gpt2", "gpt-1.3b", "gpt-2.7b", "gpt-7b", "gpt-13b", "llama3-8b"), "gpt-2.7b"),
    Knob("layers", "layers", (4, 8, 12, 16, 24, 32, 40, 48, 64, 80), 32),
    Knob("sequence", "sequence", (512, 1024, 2048, 4096, 8192, 16384, 32768), 2048),
    Knob("batch", "sequences at once", (1, 2, 4, 8, 16, 32), 4),
    Knob("precision", "precision", ("fp32", "bf16"), "bf16"),
    Knob("checkpointing", "checkpointing", CHECKPOINTING, "none"),
    Knob("optimizer", "optimizer", tuple(MOMENTS), "adamw"),
    Knob("loss", "loss", ("whole", f"chunks of {CHUNK}"), "whole"),
    Knob("card", "card", ("24 GiB", "48 GiB", "A100-80", "H200"), "A100-80"),
)


def config_of(setting: dict[str, Any]) -> RunConfig:
    """The configuration of a setting of the knobs."""
    return vary(
        named(setting["model"]), batch=setting["batch"], micro_batch=None, precision=setting["precision"],
        model__layers=setting["layers"], model__context=setting["sequence"],
        model__checkpointing=setting["checkpointing"],
        model__loss_chunk=None if setting["loss"] == "whole" else CHUNK,
    )  # fmt: skip


def draw(**setting: Any) -> Screen:
    """By formula: the fullest instant of a step, stacked, against the card."""
    config, limit = config_of(setting), parse_size(setting["card"])
    found = estimate(
        config.model, batch=config.batch, precision=config.precision, optimizer=setting["optimizer"]
    )
    left, parts = limit - found.bytes, found.parts
    return Screen(
        f"{found.bytes / GIB:.1f} GiB of {limit / GIB:.1f} GiB: "
        + (f"fits, {left / GIB:.1f} GiB left" if left >= 0 else f"{-left / GIB:.1f} GiB too much"),
        tuple((name, parts[name], f"{parts[name] / GIB:.1f} GiB") for name in PARTS if parts.get(name)),
        (),
        (("fullest when", found.instant), ("card", f"{limit / GIB:.2f} GiB as PyTorch sees it")),
    )


def rehearsed(setting: dict[str, Any]) -> str:
    """By rehearsal: two short ones of three and four layers, continued to the depth asked for."""
    config = config_of(setting)
    peak, (phase, module) = peak_at_depth(config, optimizer=setting["optimizer"])
    told = estimate(
        config.model, batch=config.batch, precision=config.precision, optimizer=setting["optimizer"]
    )
    return (
        f"rehearsed: {peak / GIB:.1f} GiB in {phase}{f', `{module}`' if module else ''}; the formula is "
        f"{told.bytes / peak - 1:+.1%} off (emulated)"
    )


LAB = Lab("memory of one training step of llmkit's GPT, on one card", KNOBS, draw)
