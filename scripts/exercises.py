"""One hand-written text per exercise; its notebook and its solution are made from it and never edited.

The text is a Python file in the percent format (`# %%`, `# %% [markdown]`, optional `tags=["solution"]`).
What stands between `# BEGIN SOLUTION: about 5 lines` and `# END SOLUTION` becomes a stub `...  # about 5
lines` in the exercise, or nothing where no size is given; a cell tagged `solution` stands only in the
solution.

    python scripts/exercises.py exercises_src/01_loss_scaler     # writes exercises/ and solutions/
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.errors import GradeError
from llmkit.folder import write_whole

BEGIN = re.compile(r"^(?P<indent>\s*)# BEGIN SOLUTION(: (?P<size>.+))?$")
END = re.compile(r"^\s*# END SOLUTION$")
HEAD = re.compile(r"^# %%(?P<markdown> \[markdown\])?( tags=(?P<tags>\[.*\]))?\s*$")


@dataclass(frozen=True)
class SourceCell:
    """One cell as written: markdown or code, its tags, its lines."""

    kind: str
    tags: tuple[str, ...]
    lines: tuple[str, ...]


def parse(text: str, name: str = "source") -> list[SourceCell]:
    """The cells of a percent-format source.

    Raises:
        GradeError: solution marks that do not pair, naming the line; no cell at all.
    """
    cells: list[SourceCell] = []
    kind, tags, lines = "", (), []
    inside = 0
    for number, line in enumerate(text.splitlines(), 1):
        head = HEAD.match(line)
        if (bool(BEGIN.match(line)) and inside) or (END.match(line) and not inside) or (head and inside):
            raise GradeError(
                f"`{name}`, line {number}: solution marks do not pair",
                expected="# BEGIN SOLUTION, then # END SOLUTION, in one cell",
            )
        inside = number if BEGIN.match(line) else 0 if END.match(line) else inside
        if head:
            cells.append(SourceCell(kind, tags, _trimmed(lines)))
            kind, lines = ("markdown" if head["markdown"] else "code"), []
            tags = tuple(json.loads(head["tags"] or "[]"))
        else:
            lines.append(line)
    cells.append(SourceCell(kind, tags, _trimmed(lines)))
    if inside:
        raise GradeError(f"`{name}`, line {inside}: # BEGIN SOLUTION without # END SOLUTION")
    found = [cell for cell in cells if cell.kind and cell.lines]
    if not found:
        raise GradeError(
            f"`{name}` has no cells", expected="lines that start a cell: `# %%` or `# %% [markdown]`"
        )
    return found


def _trimmed(lines: list[str]) -> tuple[str, ...]:
    text = "\n".join(lines).strip("\n")
    return tuple(text.split("\n")) if text else ()


def notebooks(text: str, name: str, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(exercise, solution) as notebook format 4.5, unrun; the same text gives the same bytes.

    Args:
        name: of the exercise; cell ids are made of it and the cell's number.
    """
    exercise, solution = [], []
    for number, cell in enumerate(parse(text, name)):
        made = f"{name.replace('_', '-')}-{number:02d}"
        solution.append(_cell(cell, made, _without_marks(cell)))
        if "solution" not in cell.tags:
            exercise.append(_cell(cell, made, _stubbed(cell)))
    return _notebook(exercise, name, version), _notebook(solution, name, version)


def _without_marks(cell: SourceCell) -> list[str]:
    if cell.kind == "markdown":
        return [re.sub(r"^# ?", "", line) for line in cell.lines]
    return [line for line in cell.lines if not BEGIN.match(line) and not END.match(line)]


def _stubbed(cell: SourceCell) -> list[str]:
    kept, inside = [], False
    for line in cell.lines:
        if begin := BEGIN.match(line):
            inside = True
            kept += [f"{begin['indent']}...  # {begin['size']}"] if begin["size"] else []
        elif END.match(line):
            inside = False
        elif not inside:
            kept.append(line)
    return _without_marks(SourceCell(cell.kind, cell.tags, tuple(kept)))


def _cell(cell: SourceCell, made: str, lines: list[str]) -> dict[str, Any]:
    tags = [tag for tag in cell.tags if tag != "solution"]
    found = {"cell_type": cell.kind, "id": made, "metadata": {"tags": tags} if tags else {}}
    found["source"] = [line + "\n" for line in lines[:-1]] + lines[-1:]
    if cell.kind == "code":
        found.update(execution_count=None, outputs=[])
    return found


def _notebook(cells: list[dict[str, Any]], name: str, version: int) -> dict[str, Any]:
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "llmkit": {"exercise": name, "version": version},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def as_text(notebook: dict[str, Any]) -> str:
    """The bytes that are committed."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def execute(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The notebook run from top to bottom in `folder`, outputs kept, nothing that differs between runs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    node = nbformat.reads(as_text(notebook), as_version=4)
    place = {"metadata": {"path": str(folder)}}
    with tempfile.TemporaryDirectory(prefix="lk-") as own:  # else two at once would share their sockets
        file = str(Path(own) / "kernel.json")
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=file)
        client = NotebookClient(node, km=kernel, timeout=120, record_timing=False, resources=place)
        client.execute(cleanup_kc=True)
    run = json.loads(nbformat.writes(node))
    run["metadata"] = notebook["metadata"]  # the kernel's own names the Python version
    return run


def write(folder: Path, root: Path) -> tuple[Path, Path]:
    """Write exercises/NAME.ipynb and solutions/NAME.ipynb under `root` from `folder`/text.py.

    Raises:
        GradeError: the text cannot be parsed or is no exercise of the catalog.
        StorageError: a notebook cannot be written.
    """
    from llmkit.grade.exercise import load

    name, version = folder.name, load(folder.name).version
    exercise, solution = notebooks((folder / "text.py").read_text(encoding="utf-8"), name, version)
    targets = root / "exercises" / f"{name}.ipynb", root / "solutions" / f"{name}.ipynb"
    write_whole(targets[0], as_text(exercise))
    write_whole(targets[1], as_text(execute(solution, root)))
    return targets


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        folder = Path(argument).resolve()
        for written in write(folder, folder.parent.parent):
            print(written)
