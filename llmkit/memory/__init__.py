"""The scales: a memory budget for any PyTorch code, the peak it would need, and who holds what at it.

with budget("24 MiB", run):
    list(train(run))
print(record(run).table())
"""

from __future__ import annotations

from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.budget import Budget, budget
from llmkit.memory.facts import OutOfMemory, Peak
from llmkit.memory.ledger import CATEGORIES
from llmkit.memory.measure import measure
from llmkit.memory.sizes import parse_size, show_size
from llmkit.memory.snapshot import snapshot, write_snapshot
from llmkit.memory.trace import Fragmentation, Trace, fragmentation, record, replay
from llmkit.memory.watch import watch

__all__ = [
    "CATEGORIES",
    "Budget",
    "CachingAllocator",
    "Fragmentation",
    "OutOfMemory",
    "Peak",
    "Trace",
    "budget",
    "fragmentation",
    "measure",
    "parse_size",
    "record",
    "replay",
    "show_size",
    "snapshot",
    "watch",
    "write_snapshot",
]
