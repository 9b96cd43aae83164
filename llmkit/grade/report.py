"""Reports as text, as a table, as JSON and as JUnit XML. Nothing is decided here.

print_plain(reports)          # or print_rich(reports) on a terminal
write_junit(reports, Path("grades.xml"))
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from llmkit.folder import write_whole
from llmkit.grade.verdict import FAIL, NOT_ATTEMPTED, PASS, Example, Report, Verdict

STYLES = {PASS: "green", FAIL: "red", NOT_ATTEMPTED: "dim"}


def lines(report: Report) -> list[str]:
    """A report as lines of plain text: one per task, then what failed, on what, and what to do next."""
    head = f"{report.path}   isolation: {report.isolation}   {report.seconds:.1f} s"
    width = max(len(verdict.task) for verdict in report.verdicts)
    body = []
    for verdict in report.verdicts:
        body.append(f"  {verdict.status:<13}  {verdict.task:<{width}}  {verdict.says}".rstrip())
        body += [f"      {line}" for line in details(verdict)]
    return [legal(line) for line in (head, *body, *(f"  note: {note}" for note in report.notes))]


def details(verdict: Verdict) -> list[str]:
    """The public counter-example, the question, and what to type for a hint."""
    found = []
    if verdict.example:
        found += [f"{name:<9} {getattr(verdict.example, name)}" for name in ("input", "yours", "expected")]
    if verdict.asks:
        found.append(f"ask yourself: {verdict.asks}")
    if verdict.hint:
        found.append(f"for a hint: {verdict.hint}")
    return found


def summary(reports: Sequence[Report]) -> str:
    """`3 of 4 tasks passed in 1 notebook`"""
    tasks = [verdict for report in reports for verdict in report.verdicts]
    passed = sum(verdict.passed for verdict in tasks)
    plural = "" if len(reports) == 1 else "s"
    return f"{passed} of {len(tasks)} tasks passed in {len(reports)} notebook{plural}"


def print_plain(reports: Sequence[Report], file: Any = None) -> None:
    file = file or sys.stdout
    for report in reports:
        print("\n".join(lines(report)), file=file)
    print(summary(reports), file=file)


def print_rich(reports: Sequence[Report], console: Any = None) -> None:
    """The same lines with the status coloured; colour is never the only signal."""
    from rich.console import Console
    from rich.markup import escape

    console = console or Console(highlight=False)
    for report in reports:
        statuses = {verdict.status for verdict in report.verdicts}
        for line in lines(report):
            status = next((s for s in statuses if line.startswith(f"  {s}")), "")
            text = escape(line)
            if status:
                style = STYLES.get(status, "yellow")
                text = text.replace(status, f"[{style}]{status}[/{style}]", 1)
            console.print(text, soft_wrap=True)
    console.print(escape(summary(reports)))


def to_dict(reports: Sequence[Report]) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    found = [{**dataclasses.asdict(report), "passed": report.passed} for report in reports]
    return {"passed": bool(reports) and all(report.passed for report in reports), "reports": found}


def from_dict(plain: dict[str, Any]) -> Report:
    """The report that `to_dict` made one entry of. Raises KeyError, TypeError: another form."""
    plain = {key: value for key, value in plain.items() if key != "passed"}
    verdicts = [
        Verdict(**v | {"example": v["example"] and Example(**v["example"])}) for v in plain["verdicts"]
    ]
    return Report(**plain | {"verdicts": tuple(verdicts), "notes": tuple(plain["notes"])})


def print_json(reports: Sequence[Report]) -> None:
    print(json.dumps(to_dict(reports), allow_nan=False))


def write_junit(reports: Sequence[Report], path: Path) -> None:
    """A test suite per notebook, a test case per task: FAIL a failure, NOT ATTEMPTED skipped, others errors.

    Raises:
        StorageError: the file cannot be written.
    """
    root = ElementTree.Element("testsuites")
    for report in reports:
        counts = {"tests": len(report.verdicts), "time": f"{report.seconds:.2f}"}
        suite = ElementTree.SubElement(
            root, "testsuite", name=report.path, **{k: str(v) for k, v in counts.items()}
        )
        for verdict in report.verdicts:
            case = ElementTree.SubElement(
                suite, "testcase", classname=report.exercise or "notebook", name=verdict.task
            )
            if verdict.passed:
                continue
            kind = {FAIL: "failure", NOT_ATTEMPTED: "skipped"}.get(verdict.status, "error")
            made = ElementTree.SubElement(case, kind, message=legal(f"{verdict.status}: {verdict.says}"))
            made.text = "\n".join(map(legal, details(verdict)))
    write_whole(path, ElementTree.tostring(root, encoding="unicode") + "\n")


def legal(text: str) -> str:
    """Without control characters: XML has none, and a terminal obeys those in a learner's error message."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
