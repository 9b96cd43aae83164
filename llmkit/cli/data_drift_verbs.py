"""llmkit data drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.data_verbs import Dataset
from llmkit.cli.out import Json, next_command, result


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit data drift docstrings --source-strata")(drift)


def drift(
    dataset: Dataset,
    baseline: Annotated[
        str, typer.Option(help="Frozen data set to compare with; default: the other shards.")
    ] = "",
    source_strata: Annotated[bool, typer.Option(help="Compare within groups of sources only.")] = False,
    raw: Annotated[list[Path], typer.Option(help="Files the data were built from: encode those anew.")] = (),
    seed: Annotated[int, typer.Option(help="Of the sample and the permutations.")] = 0,
    permutations: Annotated[int, typer.Option(help="Random dealings of the documents.")] = 1999,
    alpha: Annotated[float, typer.Option(help="Share of clean data sets that may raise an alarm.")] = 0.01,
    as_json: Json = False,
) -> None:
    """Has a shard drifted? Exact checks, a permutation test over documents, and documents out of place."""
    from dataclasses import asdict

    from llmkit.data import open_dataset, read_documents
    from llmkit.data.drift import as_text
    from llmkit.data.drift import drift as examine

    report = examine(
        open_dataset(dataset),
        open_dataset(baseline) if baseline else None,
        by_source=source_strata,
        seed=seed,
        permutations=permutations,
        alpha=alpha,
        raw={d.source: d.text for d in read_documents(raw)} if raw else None,
    )
    result(as_text(report), asdict(report) | {"reassigned": report.reassigned}, as_json)
    next_command(f"llmkit data verify {dataset}")
    if report.verdict == "drift":
        raise typer.Exit(1)
