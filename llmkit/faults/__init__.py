"""The wreckers: every way a run goes wrong, entering by the door the real bug uses, and leaving no trace.

with apply("nan-division", run, module="blocks.1.mlp", at=40):
    list(train(run))
"""

from __future__ import annotations

from llmkit.faults.base import Fault, FaultSpec, Parameter
from llmkit.faults.catalog import FAULTS, apply

__all__ = ["FAULTS", "Fault", "FaultSpec", "Parameter", "apply"]
