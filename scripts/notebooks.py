"""Run notebooks from top to bottom and keep their outputs, and nothing that differs between two runs.

    python scripts/notebooks.py notebooks/*.ipynb

`pytest --nbval notebooks/` compares a fresh run with what this wrote. Look at the diff before you commit it:
a changed output is a changed fact.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from llmkit.folder import write_whole

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path) -> None:
    """Execute in the notebook's own folder and write it back. Raises what a cell raised."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    quiet = {"record_timing": False, "store_widget_state": False, "coalesce_streams": True}
    NotebookClient(notebook, timeout=300, resources=place, **quiet).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{path.stem.replace('_', '-')}-{number:02d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    notebook.metadata = METADATA
    notebook.nbformat_minor = 5
    write_whole(path, nbformat.writes(notebook, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    for name in sys.argv[1:]:
        run(Path(name))
