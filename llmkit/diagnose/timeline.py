"""Steps in the order they were lived, each with what was expected of it and how far off it was.

A run that rolled back lived some steps twice. Its log keeps the second life; the first survives in the alarm
that ended it (`Event.data["records"]`), or in a log whose trainer does not truncate. Each abandoned life is
a timeline of its own: the steps that led to it, then the steps that were thrown away.

    timeline = Timeline(); timeline.extend(records)
    timeline.steps[17].loss.z
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from llmkit.diagnose.signals import WINDOW, Reading, Surprise, median
from llmkit.records import StepRecord

ROW_Z = 5.0  # a sequence this many row spreads above its batch stands out
ROW_FLOOR = 0.03  # of the loss: to a model that knows nothing yet all documents are alike, then suddenly not
ABS_TO_SD = 1.2533  # standard deviation over mean absolute deviation, normal distribution


@dataclass(frozen=True)
class Step:
    """One step and what was expected of it."""

    record: StepRecord
    loss: Reading  # nats
    norm: Reading  # natural log of the gradient norm
    row_spread: float  # usual spread of sequence losses within a step, nats; NaN when not recorded

    @property
    def number(self) -> int:
        return self.record.step

    @property
    def healthy(self) -> bool:
        """The step made an update from finite numbers."""
        return not self.record.skipped and finite(self.record)

    @property
    def row_excess(self) -> list[float]:
        """How far each sequence stands above the batch, in row spreads.

        The centre is the median, or what the batch was expected to have where half of it is bad. The spread
        is the usual one, or this step's if that is wider, taken below the centre where bad sequences are not.
        """
        rows = self.record.sequence_losses
        if len(rows) < 2 or not self.row_spread > 0:
            return []
        middle = median(rows)
        half_bad = middle - self.loss.base > ROW_Z * max(self.row_spread, ROW_FLOOR * middle)
        centre = self.loss.base if half_bad else middle
        below = [centre - row for row in rows if row <= centre]
        wide = max(self.row_spread, ROW_FLOOR * centre, ABS_TO_SD * sum(below) / len(below) if below else 0.0)
        return [(row - centre) / wide for row in rows]

    @property
    def outliers(self) -> tuple[int, ...]:
        """Rows that stand out from their batch."""
        return tuple(row for row, excess in enumerate(self.row_excess) if excess > ROW_Z)

    @property
    def norm_ratio(self) -> float:
        """Gradient norm over what was expected."""
        return math.exp(min(self.norm.value - self.norm.base, 700.0))  # e^710 is beyond a float


def finite(record: StepRecord) -> bool:
    """No NaN or infinity in the step; a gradient norm that is not recorded is NaN, and does not count."""
    return math.isfinite(record.loss) and not record.nonfinite and not math.isinf(record.grad_norm)


class Timeline:
    """Readings of every step, computed once as the step arrives: under 0.1 ms each."""

    def __init__(self, before: Iterable[StepRecord] = ()):
        self.steps: list[Step] = []
        self.loss, self.norm = Surprise(floor=0.005), Surprise(floor=0.05, relative=False)
        self.row_deviations: deque[float] = deque(maxlen=WINDOW)
        self.extend(before)
        self.begins = len(
            self.steps
        )  # steps before this one are another timeline's, here for their statistics

    @property
    def own(self) -> list[Step]:
        return self.steps[self.begins :]

    def extend(self, records: Iterable[StepRecord]) -> None:
        for record in records:
            self.steps.append(self._read(record))

    def _read(self, record: StepRecord) -> Step:
        healthy = not record.skipped and finite(record)
        norm = math.log(record.grad_norm) if record.grad_norm > 0 else math.nan
        step = Step(
            record,
            loss=self.loss.see(record.loss, healthy=healthy),
            norm=self.norm.see(norm, healthy=healthy),
            row_spread=ABS_TO_SD * median(self.row_deviations) if self.row_deviations else math.nan,
        )
        rows = record.sequence_losses
        if healthy and len(rows) > 1:
            middle = sum(rows) / len(rows)
            # a mean over n rows follows each of them: n / (n - 1) undoes it to first order
            self.row_deviations.append(sum(abs(row - middle) for row in rows) / (len(rows) - 1))
        return step
