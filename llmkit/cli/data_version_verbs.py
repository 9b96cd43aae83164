"""llmkit data: audit, diff, croissant, pin, regress: versions of a data set, and the runs on them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.out import Json, next_command, result, talk

Folder = Annotated[Path, typer.Argument(help="Folder of a data set.")]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
Pins = Annotated[Path, typer.Option(help="File of pinned inputs.")]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit data audit runs/a runs/b runs/c")(audit)
    app.command(epilog="Example: llmkit data diff data/v1 data/v2")(diff)
    app.command(epilog="Example: llmkit data croissant data/mine --licence https://spdx.org/licenses/MIT")(
        croissant
    )
    app.command(epilog="Example: llmkit data pin docstrings --sample 64 --pins pins.jsonl")(pin)
    app.command(epilog="Example: llmkit data regress runs/before runs/after --pins pins.jsonl")(regress)


def audit(runs: Annotated[list[Path], typer.Argument(help="Run folders.")], as_json: Json = False) -> None:
    """Did these runs train on the same bytes in the same order? Names run, step, shard and reason."""
    from llmkit.data import audit as compare

    found = compare(*runs)
    result(found.text, found, as_json)
    bad = next((run.run for run in found.runs if run.verdict != "same"), found.baseline)
    next_command(f"llmkit verify {bad}")
    if found.verdict != "same":
        raise typer.Exit(1)


def diff(a: Folder, b: Folder, as_json: Json = False) -> None:
    """Documents added, removed, changed, renamed, moved between splits or in order; tokenizer, parent."""
    from llmkit.data import diff as compare

    found = compare(a, b)
    result(found.text, found, as_json)
    next_command(f"llmkit data verify {b}")
    if found.a != found.b:
        raise typer.Exit(1)


def croissant(
    folder: Folder,
    licence: Annotated[str | None, typer.Option(help="URL of its licence.")] = None,
    url: Annotated[str | None, typer.Option(help="Page of the data set.")] = None,
    creator: Annotated[str | None, typer.Option(help="Who made it.")] = None,
    published: Annotated[str | None, typer.Option(help="Date, as 2026-01-31.")] = None,
    as_json: Json = False,
) -> None:
    """Write croissant.json (JSON-LD) into a data set: every file with its SHA-256, and its documents."""
    from llmkit.data import write_croissant

    missing = write_croissant(folder, licence=licence, url=url, creator=creator, published=published)
    page = folder / "croissant.json"
    result(str(page), {"croissant": str(page), "missing": missing}, as_json)
    if missing:
        talk(f"the standard also requires: {', '.join(missing)}")
    next_command(f"llmkit data verify {folder}")


def pin(
    dataset: Annotated[str, typer.Argument(help="Folder of a data set, or `docstrings`, or `generated`.")],
    document: Annotated[list[int], typer.Option(help="Id of a document to keep; repeatable.")] = (),
    sample: Annotated[int, typer.Option(help="How many to draw when no id is given.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    pins: Pins = Path("pins.jsonl"),
    as_json: Json = False,
) -> None:
    """Keep inputs that were seen, with their text, to be asked again of later runs."""
    from llmkit.data import open_dataset
    from llmkit.data import pin as keep

    kept = keep(open_dataset(dataset), pins, documents=document or None, sample=sample, seed=seed)
    result(f"{len(kept)} inputs are in {pins}", {"pins": str(pins), "inputs": len(kept)}, as_json)
    next_command(f"llmkit data regress runs/before runs/after --pins {pins}")


def regress(
    before: Run,
    after: Run,
    pins: Pins = Path("pins.jsonl"),
    alpha: Annotated[float, typer.Option(help="Chance that any input is named wrongly.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Loss of every pinned input under the last checkpoints of two runs, and those that got worse."""
    from llmkit.lab import regress as compare

    found = compare(before, after, pins, alpha=alpha)
    result(found.text, asdict(found), as_json)
    next_command(f"llmkit data audit {before} {after}")
    if found.count("worse"):
        raise typer.Exit(1)
