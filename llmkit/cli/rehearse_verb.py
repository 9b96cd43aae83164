"""llmkit memory --config: whether a card would hold a training step, rehearsed without the memory."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import typer

from llmkit.cli.out import columns, next_command, result
from llmkit.errors import ConfigError, LLMKitError


def rehearsal(
    config: str, factory: str, changes: dict[str, Any], optimizer: str, gpu: str, as_json: bool,
    ranks: int = 1,
) -> None:  # fmt: skip
    """Two training steps without the memory: does it fit, where would it die, what would help.

    Args:
        factory: in place of `config`, `package.module:make`: called without arguments, it returns an
            nn.Module, which is called with token ids and targets, both (batch, seq), and returns a loss.
        changes: as for `vary`.
        ranks: cards that share the model out with FSDP2; its remedies are then left out.
    """
    from llmkit.memory.formula import longest_context
    from llmkit.memory.rehearsal import rehearse
    from llmkit.memory.remedies import remedies
    from llmkit.train.named import named

    options = {"optimizer": optimizer}
    if factory:
        size = changes["batch"], changes["model__context"]
        own = {"inputs": lambda: _tokens(*size), "precision": changes["precision"]}
        found, more, context = rehearse(_imported(factory), card=gpu, ranks=ranks, **options, **own), [], None
    else:
        what = named(config, **{"micro_batch": None} | changes)
        found, context = rehearse(what, card=gpu, ranks=ranks, **options), longest_context(what.model, gpu)
        more = [] if found.fits or ranks > 1 else remedies(what, found, **options)
    plain = {
        "name": found.name, "parameters": found.parameters, "ranks": ranks, "emulated": True,
        "peak": asdict(found.peak),
        "limit": found.limit, "fits": found.fits, "headroom": found.headroom,
        "died": found.died and asdict(found.died),
        "kinds": found.kinds, "remedies": [asdict(remedy) | {"cost": remedy.cost} for remedy in more],
        "longest_context_when_serving": context,
    }  # fmt: skip
    result(_text(found, more, gpu, ranks), plain, as_json)
    next_command("llmkit memory --help" if found.fits else _again(more))
    if not found.fits:
        raise typer.Exit(1)


def _again(more: list[Any]) -> str:
    return next((f"again with: {one.name}" for one in more if one.fits), "a smaller model")


def _text(found: Any, more: list[Any], gpu: str, ranks: int) -> str:
    from llmkit.memory import show_size

    peak, place = found.peak, found.peak.module or "no module"
    shared = f", shared out over {ranks} cards (FSDP2), of which this is one" if ranks > 1 else ""
    lines = [
        f"{found.name}: {found.parameters:,} parameters{shared}; two steps rehearsed, nothing allocated "
        "(emulated)",
        f"peak {show_size(peak.bytes)} in {peak.phase}, `{place}`; {gpu} has {show_size(found.limit)}: "
        + f"{show_size(abs(found.headroom))} {'left, it fits' if found.fits else 'too much'}",
        "", columns([(k, show_size(v)) for k, v in peak.by_category.items() if v], ("at the peak", "")),
        "", columns([(k, show_size(v)) for k, v in found.kinds.items()], ("most at once", "")),
    ]  # fmt: skip
    if found.died:
        where, what = found.died.module or "no module", show_size(found.died.requested_bytes)
        lines += ["", f"would die in {found.died.phase}, `{where}`, asking for {what}"]
    if more:
        rows = [(r.name, show_size(r.peak), "fits" if r.fits else "no", r.cost) for r in more]
        lines += ["", columns(rows, ("what would help", "peak", "", "cost"))]
    return "\n".join(lines)


def _tokens(batch: int, seq: int) -> tuple:
    import torch

    return torch.zeros(2, batch, seq, dtype=torch.int64).unbind()


def _imported(path: str) -> Callable[[], Any]:
    """The callable at `package.module:name`, the current folder included. ConfigError if there is none."""
    module, _, name = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except LLMKitError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import `{path}`: {error}", expected="package.module:callable") from error
    finally:
        sys.path.pop(0)
