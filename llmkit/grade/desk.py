"""`grade_me()`: the real grader, called from the notebook that it grades.

The one idea: what is graded is the file, so the file must be what ran. A cell that ran after the notebook was
saved is found by comparing the kernel's history with the file, and then nothing is graded.

    card = grade_me()            # finds the notebook; or grade_me("01_loss_scaler.ipynb")
    print(card)                  # its plain twin
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmkit.errors import GradeError
from llmkit.grade.protocol import read_submission
from llmkit.grade.report import from_dict, legal
from llmkit.grade.verdict import Report


def find_notebook(names: Mapping[str, Any], environment: Mapping[str, str], exercise: str) -> Path:
    """The notebook that a kernel serves: as VS Code or Jupyter says, else `exercise`.ipynb in this folder.

    Args:
        names: the kernel's globals; VS Code puts `__vsc_ipynb_file__` there.
        environment: Jupyter Server 2 sets JPY_SESSION_NAME to the notebook's path.

    Raises:
        GradeError: none of them is a file.
    """
    asked = (names.get("__vsc_ipynb_file__"), environment.get("JPY_SESSION_NAME"), f"{exercise}.ipynb")
    for place in filter(None, asked):
        if (path := Path(str(place))).suffix == ".ipynb" and path.is_file():
            return path
    raise GradeError(
        "this kernel does not say which notebook it belongs to",
        remedy='name the file: grade_me("01_loss_scaler.ipynb")',
    )


def ran_since(history: Sequence[str], saved: Sequence[tuple[int | None, str]]) -> list[int]:
    """Numbers of the cells that ran after the file was saved and whose text the file does not have.

    A file knows the number of each cell's last run. The last number whose text agrees with the kernel's
    history is the newest run that the file has seen: what ran later was not saved, unless the file has that
    very text.

    Args:
        history: what the kernel ran; position 0 is unused, the last is the cell that runs now.
        saved: (execution count, source) of the file's code cells.
    """
    texts = {source.strip() for _, source in saved}
    counted = (number for number, source in saved if type(number) is int and 0 < number < len(history)
               and history[number].strip() == source.strip())  # fmt: skip
    seen = max(counted, default=0)
    late = [n for n in range(seen + 1, len(history) - 1) if history[n].strip() not in texts | {""}]
    return [
        n for n in late if "grade_me(" not in history[n] or "def " in history[n]
    ]  # asking changes nothing


def refuse_unsaved(path: Path, history: Sequence[str]) -> None:
    """Raise GradeError when cells ran after `path` was saved, naming the first."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    saved = [(c.get("execution_count"), "".join(c["source"])) for c in cells if c.get("cell_type") == "code"]
    late = ran_since(history, saved)
    if late:
        first = legal(history[late[0]].strip().partition("\n")[0])[:60]
        plural = "" if len(late) == 1 else "s"
        raise GradeError(
            f"{len(late)} cell{plural} ran after `{path.name}` was saved {when(path)}: [{late[0]}] `{first}`",
            remedy="save the notebook (Ctrl-S), then run this cell again",
        )


def when(path: Path) -> str:
    """The time of day at which a file was last saved."""
    return f"at {datetime.fromtimestamp(path.stat().st_mtime):%H:%M:%S}"


def graded(path: Path) -> Report:
    """One notebook's report, made by `llmkit grade` in a process of its own, which also keeps the progress.

    Raises:
        GradeError: the grader said no; in its words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "llmkit", "grade", "--json", str(path)],
        capture_output=True,
        text=True,
    )
    try:
        return from_dict(json.loads(done.stdout)["reports"][0])
    except (LookupError, TypeError, ValueError):
        said = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
        raise GradeError(f"the grader gave no verdict: {said[-500:]}") from None


def grade_me(notebook: os.PathLike | str | None = None, exercise: str = "") -> Any:
    """Grade the saved notebook of this kernel; returns a `card.Card`, a widget whose text is `print(card)`.

    Args:
        notebook: its file, where the kernel does not say which it is.

    Raises:
        GradeError: no notebook found, cells ran after it was saved, or the grader gave no verdict.
    """
    from IPython import get_ipython

    from llmkit.grade.card import Card

    shell = get_ipython()
    path = Path(notebook) if notebook else find_notebook(shell.user_ns if shell else {}, os.environ, exercise)
    read_submission(path)  # says in words what is wrong with the file, if anything is
    if shell:
        refuse_unsaved(path, shell.history_manager.input_hist_raw)
    return Card(graded(path), f"{path.name}, saved {when(path)}")
