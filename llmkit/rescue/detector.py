"""Is this step sick? A pure state machine on the loss and the gradient norm of each step.

The one idea: a loss falls as it trains, so a spike is not a high loss but a loss high above the last few.
Each value is read as its change from the median of the last 8 healthy ones, in robust standard deviations of
that change over the last 64 healthy steps (1.4826 x median absolute deviation). There is no limit in nats,
and what is not healthy (NaN, outliers, skipped steps) never enters a window, so a spike cannot raise the bar
for the next one.

    detector = Detector()
    verdict = detector.judge(loss=5.10, grad_norm=960.0)    # asks, changes nothing
    detector.learn(5.10, 960.0, verdict)                    # only after the update was made

The gradient norm is a poor alarm by itself (healthy runs of `tiny()` reach z = 12), so it needs the loss to
agree or two more steps to insist. One bad sequence in a batch moves neither far enough; then the losses of
the single sequences are the third witness. They are local to a rank, so only a run of one rank has them
judged: under several ranks the loss and the norm are global numbers, and every rank comes to the same
verdict.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

WINDOW = 64  # healthy changes that set the yardstick
BASE = 8  # healthy values whose median is what was expected
YOUNG = 3  # values before the first change is measured
ENOUGH = 8  # changes before a z is given
MAD_TO_SD = 1.4826  # standard deviation over median absolute deviation, normal distribution
ABS_TO_SD = 1.2533  # standard deviation over mean absolute deviation, normal distribution
LEAST_ROWS = 4  # sequences in a batch below which one of them is no outlier


@dataclass(frozen=True)
class Verdict:
    """What the detector thinks of a step."""

    kind: str  # "ok", "nan" or "spike"
    z: float = math.nan  # robust, of the loss; NaN while the window is young
    norm_z: float = math.nan  # of the logarithm of the gradient norm
    row_z: float = math.nan  # of the worst sequence
    expected: float = math.nan  # loss that was expected, nats
    lead: int = 0  # steps since the first sign: the gradient norm may warn before the loss moves
    says: str = ""

    @property
    def sick(self) -> bool:
        return self.kind != "ok"


class Gauge:
    """One series: what is expected next, and how far off a value is.

    Args:
        floor: smallest robust standard deviation, as a share of the expected value if `relative`: a series
            that has not moved for 64 steps would else make its first ripple infinitely surprising.
    """

    def __init__(self, floor: float, *, relative: bool):
        self.floor, self.relative = floor, relative
        self.values: deque[float] = deque(maxlen=BASE)
        self.changes: deque[float] = deque(maxlen=WINDOW)

    @property
    def expected(self) -> float:
        return median(self.values) if len(self.values) >= YOUNG else math.nan

    def z(self, value: float) -> float:
        """Robust standard deviations above what was expected; NaN while there are fewer than 8 changes.

        A median absolute deviation of n normal values has a relative error of about 1.17/sqrt(n) (Rousseeuw
        and Croux
        1993: 37 % efficiency), so a young yardstick is widened by twice what that error exceeds its value at
            64.
        """
        seen = len(self.changes)
        if seen < ENOUGH:
            return math.nan
        middle, expected = median(self.changes), self.expected
        spread = MAD_TO_SD * median(abs(change - middle) for change in self.changes)
        spread = max(spread, self.floor * (abs(expected) if self.relative else 1.0), 1e-12)
        young = 1 + 2 * 1.17 * (1 / math.sqrt(seen) - 1 / math.sqrt(WINDOW))
        return (value - expected) / (spread * young)

    def learn(self, value: float) -> None:
        if len(self.values) >= YOUNG:
            self.changes.append(value - self.expected)
        self.values.append(value)

    def state(self) -> dict[str, list[float]]:
        return {"values": list(self.values), "changes": list(self.changes)}

    def restore(self, state: dict[str, Iterable[float]]) -> None:
        self.values = deque(state["values"], maxlen=BASE)
        self.changes = deque(state["changes"], maxlen=WINDOW)


class Detector:
    """See the module's docstring. Its state goes into checkpoints: a resumed run is not blind for 64 steps.

    Args:
        loss_z: the loss alone is a spike above this.
        agree_z: so is a loss above this, when the norm is a warning or was one within the last `within`
            steps.
        norm_z: the norm is a warning above this; `insist` warnings in a row are a spike.
        within: steps that a warning stays valid. The loss follows a sick update by 1 to 8 steps.
        rows: z of the loss, the norm and the worst sequence that together are a spike.
        relearn: this many outliers in a row, their updates made, and the new level is taken for the normal
            one.
    """

    def __init__(
        self,
        *,
        loss_z: float = 6.0,
        agree_z: float = 4.0,
        norm_z: float = 6.0,
        insist: int = 3,
        within: int = 8,
        rows: tuple[float, float, float] = (2.0, 3.0, 5.0),
        relearn: int = 32,
    ):
        self.loss_z, self.agree_z, self.norm_z, self.rows = loss_z, agree_z, norm_z, rows
        self.insist, self.within, self.relearn = insist, within, relearn
        self._forget()

    def _forget(self) -> None:
        # floors: a loss that moves by less than 0.5 %, or a norm by less than 20 %, surprises nobody
        self.loss, self.norm = Gauge(0.005, relative=True), Gauge(0.2, relative=False)
        self.row_deviations: deque[float] = deque(maxlen=WINDOW)  # mean |sequence - batch| of a step, nats
        self.norm_zs: deque[float] = deque(maxlen=self.within)  # of the last steps, newest last
        self.outliers = 0

    @property
    def young(self) -> bool:
        """Whether it has seen too little to call anything a spike."""
        return len(self.loss.changes) < ENOUGH

    def judge(self, loss: float, grad_norm: float, rows: Sequence[float] = ()) -> Verdict:
        """What to think of a step. Changes nothing.

        Args:
            loss: of the global batch, nats.
            grad_norm: global, unscaled, before clipping.
            rows: loss of each sequence, where this process sees the whole batch; else empty.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            where, value = ("gradient norm", grad_norm) if math.isfinite(loss) else ("loss", loss)
            return Verdict("nan", says=f"the {where} is {value}")
        z, norm_z, row_z = self.loss.z(loss), self.norm.z(_log(grad_norm)), self._row_z(rows)
        signs = [seen > self.norm_z for seen in (*self.norm_zs, norm_z)]
        together = all(seen > least for seen, least in zip((z, norm_z, row_z), self.rows, strict=True))
        insisted = len(signs) >= self.insist and all(signs[-self.insist :])
        sick = z > self.loss_z or (z > self.agree_z and any(signs)) or insisted or together
        expected = self.loss.expected
        if not sick:
            return Verdict("ok", z, norm_z, row_z, expected)
        says = f"loss {loss:.4g} where {expected:.4g} was expected (z {z:.1f})"
        says += f", gradient norm {grad_norm:.3g} (z {norm_z:.1f})"
        lead = len(signs) - 1 - signs.index(True) if any(signs) else 0
        return Verdict("spike", z, norm_z, row_z, expected, lead, says)

    def learn(self, loss: float, grad_norm: float, verdict: Verdict, rows: Sequence[float] = ()) -> None:
        """Remember a step whose update was made. What `verdict` called sick stays out of the windows."""
        if verdict.kind == "nan":
            return
        self.norm_zs.append(verdict.norm_z)
        self.outliers = self.outliers + 1 if verdict.sick else 0
        if self.outliers >= self.relearn:
            self._forget()
        elif not verdict.sick:
            self.loss.learn(loss)
            self.norm.learn(_log(grad_norm))
            if len(rows) >= LEAST_ROWS:
                self.row_deviations.append(sum(abs(row - loss) for row in rows) / (len(rows) - 1))

    def _row_z(self, rows: Sequence[float]) -> float:
        """How far the worst sequence is above the expected loss, in the usual spread of sequences within a
        step."""
        if len(rows) < LEAST_ROWS or len(self.row_deviations) < ENOUGH:
            return math.nan
        spread = max(ABS_TO_SD * median(self.row_deviations), 0.005 * abs(self.loss.expected), 1e-12)
        return (max(rows) - self.loss.expected) / spread

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "loss": self.loss.state(), "norm": self.norm.state(), "row_deviations": list(self.row_deviations),
            "norm_zs": list(self.norm_zs), "outliers": self.outliers,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss.restore(state["loss"])
        self.norm.restore(state["norm"])
        self.row_deviations = deque(state["row_deviations"], maxlen=WINDOW)
        self.norm_zs = deque(state["norm_zs"], maxlen=self.within)
        self.outliers = int(state["outliers"])


def _log(grad_norm: float) -> float:
    """A norm of exactly 0 (nothing trains) is a very small one."""
    return math.log(max(grad_norm, 1e-30))
