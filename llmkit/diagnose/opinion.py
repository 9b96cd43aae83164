"""What one rule thinks of one chart: findings, or the fact that speaks against it, or what it would need to
judge.

return Opinion(findings=(Finding(...),))
return Opinion(ruled_out="every loss is finite")
return Opinion(not_judged="no times.jsonl: attach `llmkit.observe.Recorder`")
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.timeline import Step
from llmkit.records import Event, Evidence, Experiment, Finding

SECTION = re.compile(r"^([A-Z][a-z ]+): (.*?)(?=^[A-Z][a-z ]+: |\Z)", re.M | re.S)  # of a rule's docstring
OUTSIDE_BRACKETS = re.compile(r", (?![^(]*\))")
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


def needs(name: str) -> Callable[[Callable[[Chart, list[Step]], Opinion]], Callable[[Chart], Opinion]]:
    """For rules that read one number of `stats`: they get the steps that have it, earliest first.

    A step that was lived twice, because of a rollback, comes twice.
    """

    def decorate(rule: Callable[[Chart, list[Step]], Opinion]) -> Callable[[Chart], Opinion]:
        @functools.wraps(rule)
        def judge(chart: Chart) -> Opinion:
            lived = [s for life in chart.timelines() for s in life.own if name in s.record.stats]
            if not lived:
                missing = f"`stats` has no `{name}`: attach `llmkit.observe.Recorder`, or `Tokens`"
                return Opinion(not_judged=missing)
            return rule(chart, sorted(lived, key=lambda s: s.number))

        return judge

    return decorate


def asked(probe: str) -> Callable[[Callable[[Chart, Event], Opinion]], Callable[[Chart], Opinion]]:
    """For rules that read a probe of `llmkit.observe`: they get the event of its last answer."""

    def decorate(rule: Callable[[Chart, Event], Opinion]) -> Callable[[Chart], Opinion]:
        @functools.wraps(rule)
        def judge(chart: Chart) -> Opinion:
            told = [e for e in chart.events_of("probe") if e.data.get("probe") == probe]
            if not told:
                return Opinion(not_judged="no probe was made: `llmkit diagnose RUN --probe` makes them")
            if len(told[-1].data) < 2:
                return Opinion(not_judged=told[-1].says)  # it could not be made
            return rule(chart, told[-1])

        return judge

    return decorate


def answered(rule: Callable, told: Event, says: str, cause: str, step: int | None = None) -> Opinion:
    """A finding by a probe. It tells what is wrong now; since when is not known unless `step` says it."""
    known = told.step if step is None else step
    probe = told.data["probe"]
    return finding(
        rule, says, known, cause, (fact(told.says, told.step, EVENTS),),
        probe=f"probe-{probe}", command="llmkit diagnose RUN --probe",
    )  # fmt: skip


def finding(
    rule: Callable, says: str, step: int, cause: str, evidence: tuple[Evidence, ...], *, probe: str,
    command: str, confidence: str = "certain",
) -> Opinion:  # fmt: skip
    """A finding whose general part is the rule's own page: code, title, confirm, fix, look-alikes.

    `Confirm:` on the page says what to do, a colon, and what is then seen if the finding is right.
    """
    page = inspect.getdoc(rule) or ""
    code, _, title = page.partition(".\n")[0].partition(": ")
    said = {name: " ".join(text.split()).rstrip(".") for name, text in SECTION.findall(page)}
    do, _, seen = said["Confirm"].partition(": ")
    confirm = Experiment(name=probe, says=do, predicts=seen, command=command)
    return Opinion(findings=(Finding(
        code=code, title=title, says=says, step=step, cause=cause, evidence=evidence, confirm=confirm,
        fix=said["Fix"], also_seen_with=tuple(OUTSIDE_BRACKETS.split(said["Confused with"])),
        confidence=confidence,
    ),))  # fmt: skip


def fact(says: str, step: int | None = None, source: str = STEPS) -> Evidence:
    """Evidence, positionally."""
    return Evidence(says=says, step=step, source=source)
