"""Verbs about the kit itself: env."""

from __future__ import annotations

import typer

from llmkit.cli.out import Json, columns, next_command, result


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit env")(env)


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
