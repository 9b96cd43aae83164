"""A trace in the words of `torch.cuda.memory._snapshot()`, for PyTorch's own memory viewer.

    write_snapshot(record(run), "runs/mine/memory.pickle", "expandable_segments:True")

Drop the file on https://docs.pytorch.org/memory_viz, or, without a network:
`python -m torch.cuda._memory_viz stats runs/mine/memory.pickle`. The keys are those that
torch/cuda/_memory_viz.py and torch/utils/viz/MemoryViz.js of PyTorch 2.13 read.
"""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

from llmkit.folder import write_whole
from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.trace import Allocation, Trace, replay


def frames(allocation: Allocation) -> list[dict[str, Any]]:
    """The stack as far as it is known: the line, and the module as a function that called it."""
    place, _, name = allocation.line.partition(" ")
    file, _, line = place.partition(":")
    stack = [{"filename": file, "line": int(line), "name": name}] if place else []
    who = f"{allocation.module or 'outside'} ({allocation.phase or 'before'})"
    return [*stack, {"filename": allocation.category, "line": 0, "name": who}]


def snapshot(trace: Trace, settings: str = "", *, limit: float = math.inf, scale: int = 1) -> dict[str, Any]:
    """Segments with their blocks as they stand at the end, and everything that happened before; emulated."""
    told: list[dict[str, Any]] = []
    stacks = [frames(allocation) for allocation in trace.allocations]
    event = 0

    def log(action: str, at: int, size: int, place: str = "addr") -> None:
        stack = stacks[event if event >= 0 else ~event]
        told.append({"action": action, place: at, "size": size, "stream": 0, "time_us": len(told),
                     "frames": stack})  # fmt: skip

    allocator = CachingAllocator(settings, limit=limit, log=log)
    player = replay(trace, allocator, scale)
    for event in trace.events:
        if next(player, None) is None:
            left = int(limit - allocator.reserved)
            log("oom", left, trace.allocations[event].nbytes * scale, place="device_free")
            break
    return {
        "segments": [_segment(blocks, stacks, allocator) for blocks in allocator.layout()],
        "device_traces": [told],
        "allocator_settings": {"PYTORCH_ALLOC_CONF": settings},
        "external_annotations": [],
    }


def _segment(
    blocks: list[tuple[int, int, Any, str]], stacks: list[list[dict]], allocator: CachingAllocator
) -> dict[str, Any]:
    shown = []
    for at, size, name, _ in blocks:
        used = name is not None
        shown.append({
            "address": at, "size": size, "requested_size": allocator.live[name][3] if used else 0,
            "state": "active_allocated" if used else "inactive", "frames": stacks[name] if used else [],
        })  # fmt: skip
    held = sum(block["size"] for block in shown if block["frames"])
    return {
        "device": 0, "address": blocks[0][0], "total_size": sum(block["size"] for block in shown),
        "allocated_size": held, "active_size": held, "stream": 0, "segment_type": blocks[0][3],
        "is_expandable": allocator.settings.expandable, "frames": [], "blocks": shown,
    }  # fmt: skip


def write_snapshot(trace: Trace, path: os.PathLike | str, settings: str = "", **options: Any) -> Path:
    """The snapshot as a pickle file; options as of `snapshot`. Raises StorageError where it cannot be."""
    write_whole(path, pickle.dumps(snapshot(trace, settings, **options)))
    return Path(path)
