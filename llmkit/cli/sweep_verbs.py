"""The verb that runs many: sweep."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, columns, next_command, result, talk
from llmkit.cli.run_verbs import Config, Set, Steps, settings
from llmkit.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    example = "llmkit sweep --arm base --arm 'hot lr=0.1 warmup=0' --steps 40 --seeds 20"
    app.command(name="sweep", epilog=f"Example: {example}")(sweep)


def sweep(
    arm: Annotated[list[str], typer.Option(help="'NAME setting=value ...'; repeatable.")] = ("base",),
    seeds: Annotated[str, typer.Option(help="How many, from 0; or FIRST:STOP.")] = "20",
    config: Config = "tiny",
    steps: Steps = None,
    set_: Set = (),
    out: Annotated[Path, typer.Option(help="File of cells: a cache, which is added to.")] = Path(
        "runs/sweep.jsonl"
    ),
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    study: Annotated[str | None, typer.Option(help="Refresh a study that the kit ships.")] = None,
    as_json: Json = False,
) -> None:
    """Run every arm with every seed, in processes; what the file has is not run again. Ctrl-C keeps all."""
    from llmkit.lab.studies import STUDIES
    from llmkit.lab.sweep import Sweep
    from llmkit.train import named

    if study is not None:
        if study not in STUDIES:
            raise ConfigError(f"unknown study `{study}`", expected=", ".join(STUDIES))
        plan, out = STUDIES[study].plan(), STUDIES[study].file
    else:
        plan = Sweep(named(config, **settings(list(set_), steps=steps)), arms(arm), numbers(seeds))
    total, left = len(plan.plan), len(plan.missing(out))
    talk(f"{total} cells, {total - left} of them in {out}")
    try:
        for _ in counted(plan.run(out, workers), left):
            pass
    except KeyboardInterrupt:
        talk("interrupted; the same command goes on")
    left = len(plan.missing(out))
    if study is not None and not left:
        plan.tidy(out)
    found = {name: facts([cell.outcome for cell in cells]) for name, cells in plan.cells(out).items()}
    head = max(found.values(), key=len)
    rows = [(name, *(row.get(column, "-") for column in head)) for name, row in found.items()]
    plain = {name: {column: jsonable(value) for column, value in row.items()} for name, row in found.items()}
    result(columns(rows, ("arm", *head)), plain, as_json)
    next_command("the same with one more --arm: what is there is not run again")
    if left:
        raise typer.Exit(1)


def arms(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """'NAME setting=value ...' by name."""
    return {name: settings(pairs) for name, *pairs in (text.split() for text in texts)}


def numbers(text: str) -> range:
    """`20` is 0 to 19, `100:120` is 100 to 119."""
    try:
        first, stop = map(int, text.split(":")) if ":" in text else (0, int(text))
    except ValueError:
        raise ConfigError(f"cannot read seeds `{text}`", expected="a number, or FIRST:STOP") from None
    return range(first, stop)


def facts(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one arm: cells, the share that exploded where there are curves, and of what the measure kept: of
    flags the share, of numbers the median, of curves the median of their ends."""
    from llmkit.lab.explosions import RISE, rise
    from llmkit.lab.sweep import share

    found: dict[str, Any] = {"cells": len(outcomes)}
    first = outcomes[0] if outcomes else {}
    if "losses" in first or "rise" in first:
        rises = [one["rise"] if "rise" in one else rise(one["losses"]) for one in outcomes]
        found["exploded"] = share(height >= RISE for height in rises)
    for name, value in first.items():
        ends = isinstance(value, (list, tuple))
        values = [one[name][-1] if ends else one[name] for one in outcomes]
        if isinstance(value, bool):
            found[name] = share(values)
        elif not isinstance(value, str):
            found[f"median {'last ' * ends}{name}"] = float(f"{statistics.median(values):.4g}")
    return found


def jsonable(value: Any) -> Any:
    """A share with its 95 % interval, which is no field of it; anything else as it is."""
    return {**vars(value), "interval": value.interval} if hasattr(value, "interval") else value


def counted(cells: Iterator[Any], total: int) -> Iterator[Any]:
    """Pass cells through; a bar on a terminal, else ten lines."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(cells, "cells", total=total, console=Console(stderr=True))
        return
    for number, cell in enumerate(cells, 1):
        if number % max(1, total // 10) == 0 or number == total:
            talk(f"{number} of {total} cells")
        yield cell
