"""llmkit data: verify, show; the other verbs register themselves on this app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, columns, next_command, result, talk

app = typer.Typer(help="Text in, verified token shards out.", no_args_is_help=True)
Dataset = Annotated[str, typer.Argument(help="Folder of a data set, or `docstrings`, or `generated`.")]


def gigabytes() -> Callable[[int], None]:
    """Something to call with bytes that were read; says on stderr each time ten gigabytes are full."""
    done = 0

    def more(size: int) -> None:
        nonlocal done
        before, done = done, done + size
        if done // 10**10 > before // 10**10:
            talk(f"{done // 10**9:,} GB read")

    return more


def made_of(manifest: dict[str, Any]) -> str:
    """A manifest as a table for people; `--json` has all of it."""
    rows = [(name, manifest[name]) for name in ("path", "name", "digest", "parent", "tokenizer_digest")]
    rows += [
        ("vocabulary", f"{manifest['vocab_size']:,} tokens"),
        ("documents", f"{manifest['documents']:,}"),
    ]
    for name, split in manifest["splits"].items():
        shards = [shard for shard in manifest["shards"] if shard["split"] == name]
        size = sum(shard["bytes"] for shard in shards) / 1e6
        rows.append((name, f"{split['tokens']:,} tokens of {split['documents']:,} documents"))
        rows.append(("", f"in {len(shards):,} shard{'s' * (len(shards) != 1)}, {size:,.1f} MB"))
    for step in manifest["steps"]:
        counts = f"{step['documents_in']:,} documents in, {step['documents_out']:,} out"
        rows.append(("step", f"{step['name']} {step['version']}: {counts}"))
    return columns(rows, ("what", "value"))


@app.command(epilog="Example: llmkit data verify docstrings")
def verify(dataset: Dataset, as_json: Json = False) -> None:
    """Hash every shard and compare with the manifest; names the shard and the bytes that differ."""
    from llmkit.data import examine, open_dataset

    path = Path(dataset) if Path(dataset).exists() else open_dataset(dataset).path
    problems = examine(path, gigabytes())
    text = "\n".join(p.says for p in problems) or f"every shard of `{path}` is as it was written"
    plain = {"problems": [p.says for p in problems], "damage": [vars(p) for p in problems]}
    result(text, {"path": str(path), **plain}, as_json)
    next_command(f"llmkit data show {dataset}")
    if problems:
        raise typer.Exit(1)


@app.command(epilog="Example: llmkit data show docstrings --document 1017")
def show(
    dataset: Dataset,
    document: Annotated[int | None, typer.Option(help="Show the text of this document.")] = None,
    as_json: Json = False,
) -> None:
    """What a data set is made of, or one of its documents."""
    from llmkit.data import describe, open_dataset

    opened = open_dataset(dataset)
    if document is not None:
        found = opened.document(document)
        plain = {"id": found.id, "source": found.source, "text": found.text}
        result(f"document {found.id}, {found.source}\n\n{found.text}", plain, as_json)
    else:
        facts = describe(opened.path)
        result(made_of(facts), facts, as_json)
    next_command(f"llmkit data verify {dataset}")
