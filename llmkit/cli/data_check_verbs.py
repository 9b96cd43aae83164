"""llmkit data build, check: text becomes a data set, and what breaks its schema is named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.data_verbs import made_of
from llmkit.cli.out import Json, next_command, result, talk

Paths = Annotated[
    list[Path], typer.Argument(help="Folders or files: .txt, .jsonl(.gz, .zst) (field text), .parquet.")
]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit data build notes/ more.jsonl --out data/mine --dedup exact")(build)
    app.command(epilog="Example: llmkit data check corpus/ --json > violations.jsonl")(check)


class Dedup(StrEnum):
    """Which documents are dropped."""

    none = "none"
    exact = "exact"
    near = "near"


def build(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="Folder of the new data set.")],
    vocab: Annotated[int | None, typer.Option(help="Tokens in the vocabulary, 4096.")] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Unicode NFC, CRLF to LF.")] = False,
    dedup: Annotated[Dedup, typer.Option(help="Drop equal texts, or near duplicates too.")] = Dedup.none,
    near: Annotated[float, typer.Option(help="Similarity from which texts are near duplicates.")] = 0.8,
    val_share: Annotated[float, typer.Option(help="Share of documents kept for validation.")] = 0.02,
    parent: Annotated[
        Path | None, typer.Option(help="The version before; its tokenizer is kept unless --vocab is given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on your text and write it as token shards with a manifest."""
    from llmkit.data import build as write
    from llmkit.data import describe, iter_documents, open_dataset
    from llmkit.data.preprocess import DropDuplicates, DropNearDuplicates, Normalise

    steps = [Normalise()] if normalise else []
    steps += [] if dedup == "none" else [DropDuplicates()]
    steps += [DropNearDuplicates(near)] if dedup == "near" else []
    before = open_dataset(parent) if parent else None
    built = write(
        iter_documents(paths),
        out,
        vocab_size=vocab or 4096,
        name=out.name,
        sources={"files": [str(path) for path in paths]},
        val_share=val_share,
        steps=steps,
        parent=before.digest if before else None,
        tokenizer=before.tokenizer if before and vocab is None else None,
        progress=teller(),
    )
    facts = describe(out)
    result(made_of(facts), facts, as_json)
    next_command(
        f"llmkit train --set data={out} --set model__vocab_size={built.vocab_size} --out runs/{out.name}"
    )


def teller() -> Callable[[str, int, int], None]:
    """Something to call with a stage and its documents: says where it stands, at most every five seconds."""
    last = time.monotonic()

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or stage == "train" or time.monotonic() - last >= 5:
            last = time.monotonic()
            talk(f"{stage} {done:,}{f' of {total:,}' if total else ''} documents")

    return tell


def check(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders of files, or a built data set.")],
    field: Annotated[str, typer.Option(help="Name of the text field.")] = "text",
    limit: Annotated[int, typer.Option(help="Bytes of the longest line.", min=1)] = 2**26,
    at_most: Annotated[int, typer.Option("--max", help="Stop after this many; 0 reports all.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per violation and line.")] = False,
) -> None:
    """Report every violation of the schema: file, line, field, what was found, what was expected."""
    from dataclasses import asdict

    from llmkit.data.schema import Check

    say = teller()  # `tell` is the word of a run's events
    checked = Check(paths, field, limit, lambda documents: say("read", documents, 0))
    for violation in checked:
        where = f"{violation.where}: {violation.field}".removesuffix(": ")
        text = f"{where}: {violation.found} (expected: {violation.expected})"
        print(json.dumps(asdict(violation)) if as_json else text.encode(errors="replace").decode())
        if checked.violations == at_most:
            talk(f"stopped after {at_most:,} violations; --max 0 reports all")
            break
    talk(f"{checked.violations:,} violations in {checked.documents:,} documents of {checked.files:,} files")
    verb, more = ("build", " --out data/mine") if checked.documents else ("verify", "")
    if checked.violations:
        verb, more = "check", ""
    next_command(f"llmkit data {verb} {' '.join(map(str, paths))}{more}")
    if checked.violations:
        raise typer.Exit(1)
