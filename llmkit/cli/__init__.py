"""The command line: verbs that call the rooms. Results on stdout, talk and progress on stderr.

Exit codes: 0 fine; 1 it worked and the answer is bad news (a finding, a failed check, a run that died or was
interrupted); 2 you asked for something impossible; 3 something is missing from this machine.

    llmkit train --config tiny --steps 60 --out runs/mine
"""

from __future__ import annotations

import sys

import typer

from llmkit.cli import (
    cost_verbs,
    data_check_verbs,
    data_drift_verbs,
    data_tokenizer_verbs,
    data_verbs,
    grade_verbs,
    kit_verbs,
    memory_verbs,
    read_verbs,
    run_verbs,
    scale_verbs,
    sweep_verbs,
)
from llmkit.cli import data_version_verbs as versions
from llmkit.errors import LLMKitError, MissingDependency, NonFiniteError, RescueError, StorageError

app = typer.Typer(
    name="llmkit",
    help="Build, break and fix a real LLM training run; name what went wrong, and put a price on it.\n\n"
    "Example: llmkit break nan-division --out runs/sick; llmkit diagnose runs/sick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take longer to import than everything else
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (
    run_verbs,
    read_verbs,
    cost_verbs,
    scale_verbs,
    kit_verbs,
    grade_verbs,
    sweep_verbs,
    memory_verbs,
):
    verbs.add_to(app)
data_check_verbs.add_to(data_verbs.app)
data_tokenizer_verbs.add_to(data_verbs.app)
data_drift_verbs.add_to(data_verbs.app)
versions.add_to(data_verbs.app)
app.add_typer(data_verbs.app, name="data")


def exit_code(error: LLMKitError) -> int:
    """Which of the four codes an error ends with."""
    if isinstance(error, (MissingDependency, StorageError)):
        return 3
    return 1 if isinstance(error, (NonFiniteError, RescueError)) else 2


def main() -> None:
    """Entry point: dresses every refusal once, here."""
    if sys.platform == "win32":
        print(
            "error: llmkit runs on Linux, macOS and WSL2; on Windows, start it inside WSL2", file=sys.stderr
        )
        sys.exit(3)
    try:
        app()
    except LLMKitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(1)
