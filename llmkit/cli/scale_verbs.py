"""The verb that reads the loss scale: scale-log."""

from __future__ import annotations

import typer

from llmkit.cli.out import Json, next_command, result
from llmkit.cli.read_verbs import RunPath


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit scale-log runs/mine --json")(scale_log)


def scale_log(run: RunPath, as_json: Json = False) -> None:
    """Every change of the loss scale: step, reason, module, largest value, steps skipped. Without torch."""
    from dataclasses import asdict

    from llmkit.diagnose.scale_log import as_text
    from llmkit.diagnose.scale_log import scale_log as read

    changes = read(run)
    result(as_text(changes), [asdict(change) for change in changes], as_json)
    next_command(f"llmkit diagnose {run}")
