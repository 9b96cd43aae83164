"""What memory has to say for itself: how high it peaked, and where it ran out.

The one idea: PyTorch's own words stay word for word, because other libraries search for them; one sentence of
ours stands before them with the limit, the module and what was live.

    except torch.OutOfMemoryError as error:
        facts = error.llmkit        # OutOfMemory(module="blocks.1.mlp", phase="forward", ...)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llmkit.memory.sizes import show_size


@dataclass(frozen=True, kw_only=True)
class OutOfMemory:
    """Where memory ran out; found on the exception as `error.llmkit`. Bytes."""

    module: str  # as in `model.named_modules()`; the model itself by its class name; "" outside any module
    phase: str  # "forward", "backward" or "optimizer" (from the end of backward: unscale, clip, update)
    requested_bytes: int  # the one allocation that did not fit; 0 when only the allocator knows (CUDA)
    live_bytes: int
    limit_bytes: int
    by_category: dict[str, int] = field(
        default_factory=dict
    )  # what live_bytes consisted of; empty ones left out
    emulated: bool = True  # False: the CUDA allocator's own refusal
    reserved_bytes: int = 0  # what the allocator held, free blocks included; 0: not modelled


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory that was live at once. Bytes."""

    bytes: int
    by_category: dict[str, int]  # the categories of llmkit.memory.ledger
    module: str  # where the peak was reached, as in OutOfMemory
    phase: str
    by_phase: dict[str, int]  # the peak within each phase


def out_of_memory(facts: OutOfMemory) -> torch.OutOfMemoryError:
    """The exception that a GPU with `facts.limit_bytes` would have raised, saying that it is emulated."""
    where = f"in `{facts.module}` ({facts.phase})" if facts.module else f"outside any module ({facts.phase})"
    live = ", ".join(f"{category} {show_size(size)}" for category, size in facts.by_category.items())
    limit, used = show_size(facts.limit_bytes), show_size(facts.live_bytes)
    held = max(facts.live_bytes, facts.reserved_bytes)
    free, idle = show_size(max(0, facts.limit_bytes - held)), show_size(held - facts.live_bytes)
    error = torch.OutOfMemoryError(
        f"emulated: a memory budget of {limit} was reached {where}; live: {live or 'nothing'}.\n"
        f"CUDA out of memory. Tried to allocate {show_size(facts.requested_bytes)}. GPU 0 has a total "
        f"capacity of {limit} of which {free} is free. Including non-PyTorch memory, this process has "
        f"{show_size(held)} memory in use. Of the allocated memory {used} is allocated by PyTorch, and "
        f"{idle} is reserved by PyTorch but unallocated."
    )
    error.llmkit = facts
    return error
