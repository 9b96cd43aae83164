"""How the verbs speak: one object on stdout under --json, columns for people, talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def result(text: str, plain: Any, as_json: bool) -> None:
    """The answer: `text` for people, `plain` as one JSON object."""
    if as_json:
        from llmkit.records import to_json

        print(json.dumps(json.loads(to_json(plain)), indent=1))
    else:
        print(text)


def talk(text: str) -> None:
    print(text, file=sys.stderr)


def next_command(command: str) -> None:
    talk(f"next: {command}")


def columns(rows: Iterable[Sequence[object]], head: Sequence[str]) -> str:
    """Left-aligned columns under a header."""
    table = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in table)


def progress(records: Iterator[Any], total: int, start: Callable[[], int], every: int) -> Iterator[Any]:
    """Pass records through; a bar on a terminal, else a line every `every` steps."""
    if sys.stderr.isatty():
        yield from _bar(records, total, start)
        return
    talk("  step      loss  grad norm         lr  loss scale")
    for record in records:
        if record.step % every == 0 or record.step == total - 1 or record.skipped:
            talk(_line(record))
        yield record


def _line(record: Any) -> str:
    mark = f"  skipped: {record.nonfinite or 'vetoed'}" if record.skipped else ""
    numbers = f"{record.loss:9.4f} {record.grad_norm:10.4f} {record.lr:10.2e} {record.loss_scale:11g}"
    return f"{record.step:6d} {numbers}{mark}"


def _bar(records: Iterator[Any], total: int, start: Callable[[], int]) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shape = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*shape, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=start(), loss="")
        for record in records:
            bar.update(task, completed=record.step + 1, loss=f"{record.loss:.3f}")
            yield record
