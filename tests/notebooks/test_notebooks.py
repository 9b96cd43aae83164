"""Protects the notebooks: each runs from top to bottom under papermill, and keeps the shape that nbval can compare.

pytest tests/notebooks/test_notebooks.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
IGNORED = {"00_start_here": 1}  # what is on this machine differs between machines
LONG = ("02", "03", "06", "07", "08", "14")  # more than 20 s; nbval runs them in `make test` as well
UNSTABLE = re.compile(r"0x[0-9a-f]{6,}|/tmp/|/home/|it/s|\d\d:\d\d:\d\d|\b20\d\d-\d\d-\d\dT")


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_it_was_run_in_order_and_is_short(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(notebook.cells) <= 40 and path.stat().st_size < 300_000
    lengths = sorted(len(cell.source.splitlines()) for cell in cells)
    assert lengths[-1] <= 12 and lengths[len(lengths) // 2] <= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_its_outputs_can_be_compared(path):
    cells = code(nbformat.read(path, as_version=4))
    ignored = [cell for cell in cells if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(ignored) <= IGNORED.get(path.stem, 0)
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"], cell.source
        if cell not in ignored:
            assert not UNSTABLE.search(printed(cell)), printed(cell)
    speaking = [cell for cell in cells if printed(cell)]
    assert len(speaking) >= 0.7 * len(cells)  # the rest define or import


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem.startswith(LONG) else []) for p in NOTEBOOKS],
    ids=IDS,
)
def test_papermill_runs_it(path, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_HOME", str(tmp_path / "home"))
    done = papermill.execute_notebook(
        path, tmp_path / path.name, cwd=tmp_path, kernel_name="python3", progress_bar=False, iopub_timeout=30
    )
    again, stored = ([printed(c) for c in code(n)] for n in (done, nbformat.read(path, as_version=4)))
    ignored = {i for i, c in enumerate(code(done)) if "nbval-ignore-output" in c.metadata.get("tags", [])}
    assert [t for i, t in enumerate(again) if i not in ignored] == [
        t for i, t in enumerate(stored) if i not in ignored
    ]


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_outputs_are_the_same_on_another_processor(capability, cache, tmp_path):
    """In a folder of its own: two at once would write into one runs/."""
    place = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", place, ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints"))
    env = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "-q",
        "-p",
        "no:cacheprovider",
        str(place),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
