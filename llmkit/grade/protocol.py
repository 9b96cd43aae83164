"""What is run, and what may come back: a notebook reduced to its code, and a strict reader.

The one idea: everything the learner's file says about *how* it should be run is dropped (metadata, tags,
outputs, kernel), and everything that comes back is text until it has passed size, depth and form.

    submission = read_submission("exercises/01_loss_scaler.ipynb")
    notebook, parameters = build(submission.cells, jobs, nonce)
    answers = read_bundle(text, nonce, "update")
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.errors import GradeError
from llmkit.grade.exercise import catalog

MAX_NOTEBOOK = 5 * 2**20  # bytes of a submitted file
MAX_CODE = 200 * 2**10  # characters in all code cells; a syntax tree takes some 100 times the text
MAX_BUNDLE = 512 * 2**10  # characters of one task's answers
MAX_NESTING = (
    24  # brackets within brackets; Python's own parser gives up near 1,000 with an exception of its own
)


# ------------------------------------------------------------------------------------------ the file, reduced


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A learner's notebook: source of its code cells, and which exercise it says it is."""

    path: str
    exercise: str
    version: int  # 0 when the notebook does not say
    cells: tuple[str, ...]


def read_submission(path: Path | str) -> Submission:
    """The code cells of a notebook and the name of its exercise.

    Raises:
        GradeError: missing, too large, not a notebook, another language's, or no exercise of ours.
    """
    path = Path(path)
    notebook = _read_notebook(path)
    metadata = notebook.get("metadata") if isinstance(notebook.get("metadata"), dict) else {}
    language = (
        _text(metadata, "language_info", "name") or _text(metadata, "kernelspec", "language") or "python"
    )
    if language.lower() not in ("python", "ipython", "python3"):
        raise GradeError(
            f"`{path.name}` is a {language[:40]} notebook",
            expected="a Python notebook",
            remedy="choose the Python 3 kernel",
        )
    own = metadata.get("llmkit") if isinstance(metadata.get("llmkit"), dict) else {}
    name = own.get("exercise") if own.get("exercise") in catalog() else by_file_name(path)
    if not name:
        raise GradeError(
            f"`{path.name}` is no exercise of llmkit",
            expected="a notebook made from `exercises/`",
            remedy=f"keep the start of its file name, such as `{next(iter(catalog()), '')}`",
        )
    version = own.get("version") if type(own.get("version")) is int else 0
    cells = [
        _source(cell)
        for cell in notebook["cells"]
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]
    if sum(map(len, cells)) > MAX_CODE:
        raise GradeError(
            f"`{path.name}` has {sum(map(len, cells)) // 2**10} KiB of code",
            expected=f"at most {MAX_CODE // 2**10} KiB",
            remedy="take the data out of its code cells",
        )
    return Submission(
        path=str(path), exercise=name, version=version, cells=tuple(c for c in cells if c.strip())
    )


def _read_notebook(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_NOTEBOOK:
            raise GradeError(
                f"`{path.name}` has {size / 2**20:.1f} MiB",
                expected=f"at most {MAX_NOTEBOOK // 2**20} MiB",
                remedy="clear its outputs and save it again",
            )
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise GradeError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise GradeError(
            f"`{path.name}` is not UTF-8 text", expected="a notebook saved by Jupyter"
        ) from error
    try:
        notebook = strict_json(text, nesting=200)
    except ValueError as error:
        raise GradeError(
            f"`{path.name}` is not a notebook: {error}", expected="a notebook saved by Jupyter"
        ) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise GradeError(
            f"`{path.name}` is not a notebook: no list of cells",
            expected="a notebook of format 4, saved by Jupyter",
        )
    return notebook


def _text(metadata: dict[str, Any], *keys: str) -> str:
    for key in keys:
        metadata = metadata.get(key) if isinstance(metadata, dict) else None
    return metadata if isinstance(metadata, str) else ""


def by_file_name(path: Path) -> str:
    """The exercise a file's name begins with; "" for none."""
    for name in catalog():
        if path.stem.startswith(name) or (path.stem[:2] == name[:2] and path.stem[2:3] == "_"):
            return name
    return ""


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


# ---------------------------------------------------------------------------------- what the code says, unrun


def _tree(cell: str) -> ast.Module | None:
    """The syntax tree of a cell without its IPython magics; None where the syntax is wrong or too deep."""
    plain = re.sub(r"^\s*[%!?].*$", "", cell, flags=re.MULTILINE)
    try:
        return ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def definitions(cells: tuple[str, ...], name: str) -> list[tuple[int, bool]]:
    """Where `name` is defined as a function: (cell, is it still a stub) for each `def`, in order.

    A stub is a body of a docstring and `...`, `pass`, or `raise NotImplementedError`.
    """
    found = []
    for index, cell in enumerate(cells):
        for node in (_tree(cell) or ast.Module([], [])).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                found.append((index, all(_is_filler(statement) for statement in node.body)))
    return found


def _is_filler(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return any(
            isinstance(node, ast.Name) and node.id == "NotImplementedError" for node in ast.walk(statement)
        )
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def names_used(cells: tuple[str, ...]) -> set[str]:
    """Every name, attribute and imported name in the code: what the shortcut notes are made from."""
    used: set[str] = set()
    for cell in cells:
        for node in ast.walk(_tree(cell) or ast.Module([], [])):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.alias):
                used.update(node.name.split("."))
    return used


# ------------------------------------------------------------------------------------------------ what is run


# Cells between the learner's last and the first that collects: two of ours, and one that papermill adds.
FIRST_COLLECT = 3


def build(cells: dict[int, str], jobs: dict[str, Any], nonce: str) -> tuple[str, dict[str, str]]:
    """The notebook that is run and papermill's parameters for it.

    The parameters cell stands *after* the learner's cells, so the inputs do not exist while those run. Each
    cell names what it is: ("learner", its number), ("prepare", 0), ("parameters", 0) or ("collect", its
    task).
    """
    tensors = [task for task, job in jobs.items() if '"tensor"' in json.dumps(job)]
    made = [_cell(source, ["learner", number]) for number, source in cells.items()]
    made.append(
        _cell(
            f"import llmkit.grade.collect as llmkit_collect\nllmkit_collect.prepare({tensors})",
            ["prepare", 0],
        )
    )
    made.append(_cell('llmkit_nonce = ""\nllmkit_inputs = "{}"', ["parameters", 0], tags=["parameters"]))
    for task in jobs:
        ask = f'import llmkit.grade.collect as llmkit_collect\nllmkit_collect.send("{task}")'
        made.append(_cell(ask, ["collect", task]))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(notebook), {"llmkit_nonce": nonce, "llmkit_inputs": json.dumps(jobs)}


def _cell(source: str, role: list, tags: list[str] | None = None) -> dict[str, Any]:
    metadata = {"llmkit": role, "tags": tags or []}
    return {
        "cell_type": "code",
        "source": source,
        "metadata": metadata,
        "outputs": [],
        "execution_count": None,
    }


# -------------------------------------------------------------------------------------------- what comes back


# A whole string or one bracket. An unfinished string takes the rest, so that the scan stays linear.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)


def strict_json(text: str, nesting: int = MAX_NESTING) -> Any:
    """JSON without NaN, without repeated keys, not nested deeper than `nesting`.

    Raises:
        ValueError: saying which.
    """
    depth = deepest = 0
    for piece in _TOKENS.finditer(text):
        depth += (piece[0] in "[{") - (piece[0] in "]}")
        deepest = max(deepest, depth)
        if deepest > nesting:
            raise ValueError(f"nested more than {nesting} deep")
    hooks = {"parse_constant": _refuse, "parse_float": _finite, "parse_int": _short_int}
    return json.loads(text, object_pairs_hook=_once, **hooks)


def _refuse(name: str):
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError("a number beyond float64")
    return float(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer of more than 20 digits")
    return int(digits)


def read_bundle(text: Any, nonce: str, task: str) -> list[dict[str, Any]] | None:
    """The packed answers of one task; None when the learner's notebook defines no such function.

    Raises:
        ValueError: in words, why this is not the bundle of that task and run.
    """
    if not isinstance(text, str) or len(text) > MAX_BUNDLE:
        raise ValueError(
            f"answers larger than {MAX_BUNDLE // 2**10} KiB"
            if isinstance(text, str)
            else "answers that are not text"
        )
    bundle = strict_json(text)
    if not isinstance(bundle, dict) or bundle.get("nonce") != nonce or bundle.get("task") != task:
        raise ValueError("answers without the mark of this run")
    if bundle.get("missing") is True:
        return None
    answers = bundle.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise ValueError("no list of answers")
    return answers
