"""Verdicts: what the examiner says about one task, and how it comes to say it.

The one idea: PASS needs positive evidence. Every case answered, every answer plain, every property held;
anything else, silence included, is another word.

    verdict = judge(task, cases, answers)      # answers: packed, one per case, public cases first
    verdict.status, verdict.failing, verdict.example
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmkit.grade.collect import Tensor, nested, unpack
from llmkit.grade.exercise import Answer, Case, Task

PASS = "PASS"  # right on every public and every hidden input
FAIL = "FAIL"  # an answer is wrong; `failing` says what does not hold
NOT_ATTEMPTED = "NOT ATTEMPTED"  # the stub is as it was handed out
ERROR = "ERROR"  # the learner's code raised
TIMEOUT = "TIMEOUT"  # no answer within the time limit
MEMORY = "MEMORY"  # more memory than the limit
DIED = "DIED"  # the kernel ended while the learner's code ran
MALFORMED = "MALFORMED"  # no answers came back, or not in a form that can be read
STATUSES = (PASS, FAIL, NOT_ATTEMPTED, ERROR, TIMEOUT, MEMORY, DIED, MALFORMED)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A public counter-example. Hidden inputs are never shown with their answers."""

    input: str
    yours: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One task, one word, and what to do about it."""

    task: str
    status: str  # one of STATUSES
    says: str = ""  # one sentence
    failing: str = ""  # the property that does not hold, for FAIL
    asks: str = ""  # one question that leads there
    example: Example | None = None  # the smallest public counter-example
    hint: str = ""  # what to type for a hint

    @property
    def passed(self) -> bool:
        return self.status == PASS


@dataclass(frozen=True, kw_only=True)
class Report:
    """One graded notebook."""

    path: str
    exercise: str
    isolation: str  # "bubblewrap", "landlock" or "rlimits"
    verdicts: tuple[Verdict, ...]
    seconds: float = 0.0  # wall clock, kernel start included
    peak_mib: float = 0.0  # largest resident memory seen of the learner's processes
    notes: tuple[str, ...] = ()  # facts beside the verdicts: isolation, versions, errors in other cells

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


# ---------------------------------------------------------------------------------------------------- judging


def judge(task: Task, cases: list[Case], answers: list[dict[str, Any]]) -> Verdict:
    """The verdict on packed answers. `cases` are the task's public ones, in order, then any hidden ones.

    The reference runs here, so this is called only when the learner's processes are dead (or, by `check()`,
    in the learner's own kernel on public inputs).
    """
    if len(answers) != len(cases):
        says = f"{len(answers)} answers came back for {len(cases)} inputs"
        return Verdict(task=task.name, status=MALFORMED, says=says)
    wrong: list[tuple[int, str, Answer, Answer]] = []
    for position, (case, packed) in enumerate(zip(cases, answers, strict=True)):
        want = task.reference(**case.inputs)
        try:
            got = read_answer(packed, task.watch)
            failing = "" if got.error else task.judge(case.inputs, got, want)
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError):
            says = "the answers are not in a form that can be judged"
            return Verdict(task=task.name, status=MALFORMED, says=says)
        if got.error or failing:
            wrong.append((position, failing, got, want))
    if wrong:
        return _refuse(task, cases, wrong)
    return Verdict(task=task.name, status=PASS, says=f"right on {len(cases)} inputs")


def read_answer(packed: dict[str, Any], watch: tuple[str, ...]) -> Answer:
    """An Answer from what `collect.answer` sent.

    Raises:
        KeyError, TypeError, ValueError: another form.
    """
    if "error" in packed:
        if not isinstance(packed["error"], str):
            raise TypeError("error is not text")
        return Answer(error=packed["error"][:300] or "an error without text")
    args = {name: unpack(packed["args"][name]) for name in watch}
    return Answer(value=unpack(packed["value"]), args=args)


def _refuse(task: Task, cases: list[Case], wrong: list[tuple[int, str, Answer, Answer]]) -> Verdict:
    """FAIL or ERROR on the smallest public case that is wrong; else the first property hidden ones break."""
    order = {key: rank for rank, key in enumerate(task.properties)}
    shown = [item for item in wrong if item[0] < len(task.public)]
    hidden = sorted(wrong, key=lambda item: (order.get(item[1], -1), item[0]))
    position, failing, got, want = (shown or hidden)[0]
    example = None
    if shown:
        example = Example(
            input=show_inputs(cases[position]), yours=show_answer(got), expected=show_answer(want)
        )
    verdict = Verdict(task=task.name, status=FAIL, example=example, hint=f"hint({task.name}, 1)")
    if not failing:
        return replace(verdict, status=ERROR, says=f"raised {got.error}")
    held = task.properties[failing]
    where = "" if shown else "; the public examples are right, some hidden inputs are not"
    return replace(verdict, failing=held.says, says=f"does not hold: {held.says}{where}", asks=held.asks)


# ---------------------------------------------------------------------------------------------------- showing


def show(value: Any) -> str:
    """A value on one line: floats with at most six digits, tensors as lists, long texts cut, no addresses."""
    if isinstance(value, float):
        return repr(value) if len(repr(value)) <= 10 else f"{value:.6g}"
    if isinstance(value, str) and len(value) > 200:
        return f"{value[:100]!r} ... ({len(value):,} characters)"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{show(key)}: {show(item)}' for key, item in value.items())}}}"
    if isinstance(value, Tensor):
        return f"tensor({show(nested(list(value.values), value.shape))})"
    return repr(value)


def show_inputs(case: Case) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in case.inputs.items())


def show_answer(answer: Answer) -> str:
    if answer.error:
        return answer.error
    after = "".join(f"; {name} afterwards: {show(value)}" for name, value in (answer.args or {}).items())
    return f"returns {show(answer.value)}{after}"
