"""The scales: a memory budget for any PyTorch code, and the peak it would need.

with budget("24 MiB", run):
    list(train(run))
"""

from __future__ import annotations

from llmkit.memory.budget import Budget, budget
from llmkit.memory.facts import OutOfMemory, Peak
from llmkit.memory.ledger import CATEGORIES
from llmkit.memory.measure import measure
from llmkit.memory.sizes import parse_size, show_size

__all__ = ["CATEGORIES", "Budget", "OutOfMemory", "Peak", "budget", "measure", "parse_size", "show_size"]
