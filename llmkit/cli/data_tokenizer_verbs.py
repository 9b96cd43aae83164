"""llmkit data tokenizer: is this the tokenizer it should be?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli.out import Json, columns, next_command, result

if TYPE_CHECKING:
    from llmkit.data import TokenDataset, Tokenizer
    from llmkit.data.fidelity import Fidelity

AGAIN = "again"
SIZES, RATIOS = ("documents", "bytes", "tokens", "baseline_tokens"), ("bytes", "words")
HEAD = ("source", "documents", "bytes", "tokens", "baseline", "tokens/byte", "tokens/word")


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit data tokenizer docstrings --baseline again")(tokenizer)


def tokenizer(
    subject: Annotated[str, typer.Argument(help="Data set, or a tokenizer.json.")],
    baseline: Annotated[
        str,
        typer.Option(help="What it should equal: a data set, a tokenizer.json, or `again`: trained anew."),
    ] = "",
    text: Annotated[
        str, typer.Option(help="Data set to encode, if neither of the two is one.")
    ] = "generated",
    as_json: Json = False,
) -> None:
    """Check a tokenizer, and what shards and loader make of it: exactly, and on every document."""
    from llmkit.data import open_dataset
    from llmkit.data.alignment import check_tokenised
    from llmkit.data.fidelity import check_tokenizer
    from llmkit.data.tokenizer import train_tokenizer

    mine, dataset = opened(subject)
    theirs, other = opened(baseline) if baseline not in ("", AGAIN) else (None, None)
    source = dataset or other or open_dataset(text)
    if baseline == AGAIN:
        theirs = train_tokenizer(
            (source.document(i).text for i in range(source.n_documents)), mine.vocab_size
        )
    if dataset:
        report = check_tokenised(dataset, theirs)
    else:
        report = check_tokenizer(mine, map(source.document, range(source.n_documents)), theirs)
    result(as_text(report), report, as_json)
    next_command(
        f"llmkit data verify {subject}" if baseline else f"llmkit data tokenizer {subject} --baseline again"
    )
    if not report.healthy:
        raise typer.Exit(1)


def opened(name: str) -> tuple[Tokenizer, TokenDataset | None]:
    """A tokenizer by file or by data set, and the data set."""
    from llmkit.data import open_dataset
    from llmkit.data.tokenizer import load_tokenizer

    if Path(name).is_file():
        return load_tokenizer(Path(name)), None
    dataset = open_dataset(name)
    return dataset.tokenizer, dataset


def as_text(report: Fidelity) -> str:
    """The checks, the fertility of each source, and what else there is to say."""
    rows = [
        (
            name,
            *(f"{r[unit]:,}" for unit in SIZES),
            *(f"{r['tokens'] / max(1, r[unit]):.3f}" for unit in RATIOS),
        )
        for name, r in report.fertility.items()
    ]
    lines = [report.explain(), "", columns(rows, HEAD), ""]
    lines.append(f"longest tokens: {' '.join(report.longest)}")
    lines.append(f"tokens that no document contains: {len(report.unused):,} of {report.vocab_size:,}")
    if report.baseline:
        distances = f"{report.id_distance:.4f} by id, {report.spelling_distance:.4f} by spelling"
        lines.append(f"distance from the baseline, as total variation on the same text: {distances}")
    return "\n".join(lines)
