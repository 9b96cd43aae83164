"""THE WORKSHOP: a run with its folder and crew around it, in this process or steered in a child; runs done
again.

    from llmkit.lab import fly

    records = list(fly(tiny(steps=60), "runs/mine"))
"""

from llmkit.lab.contracts import Contract, contracts
from llmkit.lab.demo import demo
from llmkit.lab.environment import environment
from llmkit.lab.expected import expected_loss
from llmkit.lab.flight import Flight, finish, fly, fresh, interruptible, prepare
from llmkit.lab.probing import probe_folder
from llmkit.lab.regress import Regression, regress
from llmkit.lab.session import Session
from llmkit.lab.sweep import Share, Sweep, share
from llmkit.lab.verify import Check, verify

__all__ = [
    "Check",
    "Contract",
    "Flight",
    "Regression",
    "Session",
    "Share",
    "Sweep",
    "contracts",
    "demo",
    "environment",
    "expected_loss",
    "finish",
    "fly",
    "fresh",
    "interruptible",
    "prepare",
    "probe_folder",
    "regress",
    "share",
    "verify",
]
