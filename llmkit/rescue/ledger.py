"""What each step cost, so that work that is thrown away has a price.

ledger.add(record, seconds)
lost = ledger.discard(step)     # everything from `step` on was for nothing
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import Any

from llmkit.records import StepRecord

KEPT = 1 << 16  # steps whose cost is remembered; a rollback further back than this is priced too low
TOLD = 64  # records of thrown-away steps that an event carries


@dataclass(frozen=True)
class Lost:
    """Work that has to be done again."""

    steps: int
    seconds: float
    tokens: int
    records: tuple[dict[str, Any], ...]  # the last ones, for the doctor: steps.jsonl no longer has them


class Ledger:
    """The steps done, in order; after a rollback, those of the life that counts."""

    def __init__(self) -> None:
        self._costs: deque[tuple[int, float, int]] = deque(maxlen=KEPT)  # step, seconds, tokens
        self._records: deque[StepRecord] = deque(maxlen=TOLD)

    def add(self, record: StepRecord, seconds: float) -> None:
        self._costs.append((record.step, seconds, record.tokens))
        self._records.append(record)

    def cost(self, step: int) -> tuple[float, int]:
        """Seconds and tokens of a step; zeros for one that never ended."""
        return next(
            ((seconds, tokens) for s, seconds, tokens in reversed(self._costs) if s == step), (0.0, 0)
        )

    def discard(self, step: int) -> Lost:
        """Strike out every step from `step` on."""
        costs, records = [], []
        while self._costs and self._costs[-1][0] >= step:
            costs.append(self._costs.pop())
        while self._records and self._records[-1].step >= step:
            records.append(dataclasses.asdict(self._records.pop()))
        return Lost(len(costs), sum(c[1] for c in costs), sum(c[2] for c in costs), tuple(reversed(records)))
