"""llmkit data: build, verify, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.out import Json, columns, next_command, result

app = typer.Typer(help="Text in, verified token shards out.", no_args_is_help=True)
Dataset = Annotated[str, typer.Argument(help="Folder of a data set, or `docstrings`, or `generated`.")]


@app.command(epilog="Example: llmkit data build notes/ more.jsonl --out data/mine --vocab 4096")
def build(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders or files: .txt, .jsonl (field text), .parquet.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new data set.")],
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 4096,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on your text and write it as token shards with a manifest."""
    from llmkit.data import build as write
    from llmkit.data import describe, read_documents

    sources = {"files": [str(path) for path in paths]}
    built = write(read_documents(paths), out, vocab_size=vocab, name=out.name, sources=sources)
    facts = describe(out)
    result(columns(facts.items(), ("what", "value")), facts, as_json)
    next_command(
        f"llmkit train --set data={out} --set model__vocab_size={built.vocab_size} --out runs/{out.name}"
    )


@app.command(epilog="Example: llmkit data verify docstrings")
def verify(dataset: Dataset, as_json: Json = False) -> None:
    """Hash every shard and compare with the manifest; names the shard that differs."""
    from llmkit.data import open_dataset
    from llmkit.data import verify as check

    path = Path(dataset) if Path(dataset).exists() else open_dataset(dataset).path
    problems = check(path)
    text = "\n".join(problems) or f"every shard of `{path}` is as it was written"
    result(text, {"path": str(path), "problems": problems}, as_json)
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
        result(columns(facts.items(), ("what", "value")), facts, as_json)
    next_command(f"llmkit data verify {dataset}")
