"""What flows between the blocks, and how sharply attention looks: sampled, because looking is not free.

The one idea: fused attention hides its scores, so they are computed again from the output of `qkv`, for one
sequence, and never for a whole batch.

    activations = Activations(every=10)
    run.observers.append(activations)
    activations.modules["blocks.0.attention"]       # {"score_max": ..., "entropy": ..., "entropy_min": ...}
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmkit.observe.base import aside
from llmkit.records import StepRecord

STATS = {  # what goes into the record: which number of the modules, and which of them is the worst
    "activation_rms_max": ("rms", max),
    "activation_absmax": ("absmax", max),
    "attention_score_max": ("score_max", max),
    "attention_entropy_min": ("entropy", min),
}
QUERIES = 256  # query positions whose scores are computed: (heads, 256, T) floats is the most that is held


class Activations:
    """Output RMS and largest value of every block; largest score and entropy of every attention layer.

    Seen on the first micro-batch of a sampled step; attention on its first sequence. Adds to the record of
    every `every`-th step: `activation_rms_max`, `activation_absmax`, `attention_score_max`,
    `attention_entropy_min` (lowest over layers of the mean entropy). Those of a step sampled for another
    reason stay out of the record: what raised the alarm may have been the clock, and a record is a function
    of the inputs.

    Cost of a sampled step: two passes over each block's output, per attention layer a softmax of one
    sequence, one device sync. Nothing on other steps: the hooks are set for one step and take themselves off.

    Attributes:
        modules: block -> `rms`, `absmax`; attention layer -> `score_max` (largest |score| that is not
            masked), `entropy` and `entropy_min` (nats: mean over queries and heads; lowest head). Empty on
            other steps.
        wanted: set to sample the next step whatever its number.
    """

    def __init__(self, every: int = 10):
        self.every = every
        self.modules: dict[str, dict[str, float]] = {}
        self.wanted = False
        self._handles: dict[str, RemovableHandle] = {}
        self._seen: dict[str, dict[str, Tensor]] = {}

    def on_batch(self, run: Any) -> None:
        self.close()
        self.modules, self._seen = {}, {}
        if self.wanted or run.step % self.every == 0:
            self.wanted = False
            for name, module, measure in _sites(run.model):
                self._handles[name] = module.register_forward_hook(self._hook(name, measure))

    def on_step(self, run: Any, record: StepRecord) -> None:
        self.close()
        flat = [(name, key, value) for name, found in self._seen.items() for key, value in found.items()]
        if not flat:
            return
        numbers = torch.stack([value.float() for _, _, value in flat]).tolist()
        self.modules = {name: {} for name in self._seen}
        for (name, key, _), number in zip(flat, numbers, strict=True):
            self.modules[name][key] = number
        if run.step % self.every == 0:
            record.stats.update(self._summary())

    def close(self) -> None:
        """Take off the hooks that did not fire (the step died before it came to them)."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, measure: Callable[[Tensor], dict[str, Tensor]]) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple, output: Any) -> None:
            self._handles.pop(name).remove()
            output = output[0] if isinstance(output, tuple) else output  # other people's blocks return more
            with aside(output.device):
                self._seen[name] = measure(output.detach())

        return look

    def _summary(self) -> dict[str, float]:
        stats = {}
        for stat, (key, worst) in STATS.items():
            values = [module[key] for module in self.modules.values() if key in module]
            if values:  # max and min would step over a NaN
                stats[stat] = math.nan if any(map(math.isnan, values)) else worst(values)
        return stats


def _sites(model: nn.Module) -> Iterator[tuple[str, nn.Module, Callable]]:
    """(name, module to hook, measure). A ModuleList holds blocks; what has `qkv` and `heads` attends."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for index, block in module.named_children():
                yield f"{name}.{index}", block, output_size
        if hasattr(module, "qkv") and hasattr(module, "heads"):
            yield name, module.qkv, functools.partial(_first_sequence, module)


def _first_sequence(attention: nn.Module, qkv: Tensor) -> dict[str, Tensor]:
    q, k, _ = attention.heads(qkv[:1])
    return attention_of(q, k, getattr(getattr(attention, "cfg", None), "window", None))


def output_size(output: Tensor) -> dict[str, Tensor]:
    """Root mean square and largest |value| of an activation of any shape."""
    norm = torch.linalg.vector_norm(output, dtype=torch.float32)
    return {"rms": norm / math.sqrt(output.numel()), "absmax": torch.linalg.vector_norm(output, ord=math.inf)}


def attention_of(q: Tensor, k: Tensor, window: int | None = None) -> dict[str, Tensor]:
    """Score and entropy of causal attention.

    Args:
        q: (1, H, T, D) queries as they enter the product.
        k: (1, K, T, D) keys; head h attends to key head h // (H/K).
        window: positions that a query sees, itself the last; None: all before it.

    Returns:
        `score_max`, `entropy`, `entropy_min` as 0-dim float32 tensors. Above QUERIES positions, evenly spaced
        queries stand for all. The entropy of query t is at most ln(t + 1).
    """
    q, k = q.float(), k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    length = q.shape[2]
    queries = torch.linspace(0, length - 1, min(length, QUERIES), device=q.device).long()
    scores = q[:, :, queries] @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (1, H, Q, T)
    distance = queries[:, None] - torch.arange(length, device=q.device)  # (Q, T)
    hidden = (distance < 0) | (distance >= (window or length))
    weights = torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)
    entropy = torch.special.entr(weights).sum(-1).mean(dim=(0, 2))  # (H,)
    return {
        "score_max": scores.masked_fill(hidden, 0.0).abs().amax(),
        "entropy": entropy.mean(),
        "entropy_min": entropy.amin(),
    }
