"""What can be done about a sick run, cheapest first.

The one idea: a policy says whether it fits the trouble at hand, and what it did. It decides nothing else; the
supervisor asks them in order, and a policy that has been tried often enough in one case no longer fits, so
the same trouble coming back meets the next, dearer one.

    supervise(run, checkpoints, policies=(SkipStep(times=1), RollBack(skip=True)))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit.rescue.supervisor import Supervisor


@dataclass(frozen=True)
class Trouble:
    """What is wrong with the step just done, or just failed."""

    kind: str  # "nan", "spike", "overflow" (fp16, which the loss scaler does not get rid of) or "oom"
    step: int
    since: int  # first sign of it
    says: str
    done: bool = True  # the step ended, without an update; False: it died on the way
    torn: bool = False  # it died in the update, which some parameters got and others did not


@dataclass
class Case:
    """One illness: from its first sign until the run has been healthy for a while."""

    since: int  # first sign
    last: int  # latest step in trouble
    tried: list[Policy] = field(default_factory=list)
    story: list[str] = field(default_factory=list)  # one phrase for each policy tried
    went_back_to: int | None = None  # oldest step rolled back to
    fresh: int = 0  # treatments before the run last got further than ever

    @property
    def lately(self) -> list[Policy]:
        """What was tried since the run got as far as this."""
        return self.tried[self.fresh :]

    def add(self, trouble: Trouble) -> None:
        """Trouble beyond the old, after a rollback, is progress: the cheap treatments have another chance."""
        if self.went_back_to is not None and trouble.step > self.last:
            self.fresh = len(self.tried)
        self.since, self.last = min(self.since, trouble.since), max(self.last, trouble.step)


class Policy:
    """One way to go on. `fits` asks and changes nothing; `apply` acts on the run and returns data for the
    event.

    Policies are compared by identity. The data may hold any of the keys of a `rescue` event that differ from
    "nothing was lost, nothing was changed".
    """

    name = ""

    def fits(self, crew: Supervisor, case: Case, trouble: Trouble) -> bool:
        raise NotImplementedError

    def apply(self, crew: Supervisor, case: Case, trouble: Trouble) -> dict[str, Any]:
        raise NotImplementedError


class SkipStep(Policy):
    """Go on without the update of this step: its batch is lost and nothing else.

    Non-finite steps are skipped by the loop itself. A spike is vetoed before the update, so that weights,
    moments and the detector's windows stay as they were, bit for bit.
    """

    name = "skip-step"

    def __init__(self, times: int = 2):
        self.times = times

    def fits(self, crew: Supervisor, case: Case, trouble: Trouble) -> bool:
        patient = crew.run.stuck < crew.run.config.patience  # the loop itself is not about to give up
        rolled_back = any(isinstance(policy, RollBack) for policy in case.lately)
        return trouble.done and patient and not rolled_back and case.lately.count(self) < self.times

    def apply(self, crew: Supervisor, case: Case, trouble: Trouble) -> dict[str, Any]:
        crew.answered.add(crew.run.loader.skip.cursor(trouble.step))
        seconds, tokens = crew.ledger.cost(trouble.step)
        return {"to_step": crew.run.step, "lost_steps": 1, "lost_tokens": tokens, "seconds": seconds}


class LowerScale(Policy):
    """fp16 gradients keep overflowing: lower the loss scale by a large factor at once, below its floor if
    need be.

    Args:
        factor: by which the scale falls.
        lowest: scale below which it is not lowered; 2^-14 times the largest fp16 number is about 4.
    """

    name = "lower-scale"

    def __init__(self, times: int = 2, factor: float = 16.0, lowest: float = 2.0**-14):
        self.times, self.factor, self.lowest = times, factor, lowest

    def fits(self, crew: Supervisor, case: Case, trouble: Trouble) -> bool:
        can = crew.run.scaler.enabled and crew.run.scaler.current > self.lowest
        return trouble.kind == "overflow" and can and case.lately.count(self) < self.times

    def apply(self, crew: Supervisor, case: Case, trouble: Trouble) -> dict[str, Any]:
        scaler = crew.run.scaler
        scale = max(scaler.current / self.factor, self.lowest)
        scaler.floor = min(scaler.floor, scale)
        scaler.lower(scale, "gradients kept overflowing")
        crew.run.stuck = 0
        seconds, tokens = crew.ledger.cost(trouble.step)
        return {"to_step": crew.run.step, "lost_steps": 1, "lost_tokens": tokens, "seconds": seconds}


class HalveMicroBatch(Policy):
    """Out of memory: half as many sequences at once, twice as many times; the same step again, with the same
    batch.

    The gradient is the same sum in another order. Where memory ran out in the middle of an update, the
    weights are half old, half new: then the run is rolled back first.
    """

    name = "halve-micro-batch"

    def fits(self, crew: Supervisor, case: Case, trouble: Trouble) -> bool:
        whole = not trouble.torn or crew.checkpoint_before(trouble.step + 1) is not None
        return trouble.kind == "oom" and crew.at_once > 1 and whole

    def apply(self, crew: Supervisor, case: Case, trouble: Trouble) -> dict[str, Any]:
        data = crew.roll_back(crew.checkpoint_before(trouble.step + 1)) if trouble.torn else {}
        crew.at_once = next(n for n in range(crew.at_once // 2, 0, -1) if crew.rows % n == 0)
        return data


class RollBack(Policy):
    """Go back to the newest checkpoint from before the first sign of trouble.

    Args:
        skip: never serve the batches again that were served between the first sign and now. Without it the
            same steps are done again as they were: what came from a passing cause (a flipped bit) does not
            come back.
        further: go back one checkpoint more than before, skip as many batches again on either side, and make
            no update in the steps from two before the first sign: what came back with other data was not in
            the data.
    """

    name = "rollback-skip-data"
    LAG = 2  # steps by which a bad update precedes what it does to the loss

    def __init__(self, *, skip: bool = False, further: bool = False):
        self.skip, self.further = skip, further

    def fits(self, crew: Supervisor, case: Case, trouble: Trouble) -> bool:
        tried = trouble.kind == "oom" or self in case.lately
        return not tried and crew.checkpoint_before(case.since) is not None

    def apply(self, crew: Supervisor, case: Case, trouble: Trouble) -> dict[str, Any]:
        to = crew.checkpoint_before(case.since)
        bad = range(case.since, case.last + 1)
        if self.further:
            if case.went_back_to is not None:
                to = crew.checkpoint_before(case.went_back_to) or to
            bad = range(max(to, case.since - len(bad)), case.last + len(bad) + 1)
            crew.held |= set(range(case.since - self.LAG, case.last + 1))
        data = crew.roll_back(to, skip_steps=bad if self.skip else ())
        before = case.went_back_to
        case.went_back_to = data["to_step"] if before is None else min(before, data["to_step"])
        return data


# By cost: a batch; the resolution of small gradients; speed; the work since a checkpoint, and once more.
DEFAULT = (
    SkipStep(),
    LowerScale(),
    HalveMicroBatch(),
    RollBack(),
    RollBack(skip=True),
    RollBack(skip=True, further=True),
)


def phrase(data: dict[str, Any]) -> str:
    """What a treatment was, in a few words."""
    policy, at = data["policy"], f"at step {data['from_step']}"
    back = ""
    if data["to_step"] < data["from_step"]:
        back = f" from step {data['from_step']} to {data['to_step']}"
    if policy == "halve-micro-batch":
        return f"{policy} to {data['micro_batch']} {at}{back and ', back' + back}"
    if policy == "lower-scale":
        return f"{policy} to {data['scale']:g} {at}"
    if policy == "rollback-skip-data":
        skipped = f" without {len(data['skipped_batches'])} batches" if data["skipped_batches"] else ""
        return f"{policy}{back}{skipped}"
    return f"{policy} {at}"
