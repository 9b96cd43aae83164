"""What one rule thinks of one chart: findings, or the fact that speaks against it, or what it would need to
judge.

return Opinion(findings=(Finding(...),))
return Opinion(ruled_out="every loss is finite")
return Opinion(not_judged="no times.jsonl: attach `llmkit.observe.Recorder`")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmkit.diagnose.evidence import Chart
from llmkit.records import Evidence, Finding

STEPS, EVENTS, TIMES, FACTS = "steps.jsonl", "events.jsonl", "times.jsonl", "run.json"


@dataclass(frozen=True)
class Opinion:
    """Exactly one of the three is given."""

    findings: tuple[Finding, ...] = ()
    ruled_out: str = ""
    not_judged: str = ""


@dataclass(frozen=True)
class Rule:
    """A code, what it stands for, and the function that judges; `llmkit explain` prints its docstring."""

    code: str
    title: str
    judge: Callable[[Chart], Opinion]


def fact(says: str, step: int | None = None, source: str = STEPS) -> Evidence:
    """Evidence, positionally."""
    return Evidence(says=says, step=step, source=source)
