"""Verbs about the kit itself: env, grade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.out import Json, columns, next_command, result


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit env")(env)
    app.command(epilog="Example: llmkit grade exercises/01_loss_scaler.ipynb")(grade)


def env(as_json: Json = False) -> None:
    """What is here, what is missing, and what that costs you."""
    from llmkit.lab import environment

    lines = environment()
    rows = [("ok" if line.here else "missing", line.what, line.found, line.costs) for line in lines]
    plain = [vars(line) for line in lines]
    result(columns(rows, ("", "what", "found", "without it")), plain, as_json)
    next_command("llmkit demo")
    if not all(line.here for line in lines if line.needed):
        raise typer.Exit(3)


def grade(
    notebooks: Annotated[list[Path], typer.Argument(help="Exercise notebooks.")],
    require_sandbox: Annotated[bool, typer.Option(help="Refuse to grade without bubblewrap.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    as_json: Json = False,
) -> None:
    """Grade exercises: your notebook runs in a sandbox, the verdict is made outside it."""
    from llmkit.grade import exit_code, print_rich
    from llmkit.grade import grade as examine

    reports = examine(notebooks, json=as_json, junit=junit, require_sandbox=require_sandbox)
    if not as_json:
        print_rich(reports)
    next_command("llmkit lab")
    raise typer.Exit(exit_code(reports))
