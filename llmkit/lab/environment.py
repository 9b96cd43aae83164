"""What is on this machine, what is missing, and what that costs.

for line in environment():
    print(line.what, line.found)
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One thing the kit can use."""

    what: str
    found: str
    here: bool
    costs: str = ""  # what does not work without it
    needed: bool = False  # nothing works without it


def environment() -> list[Line]:
    """Everything the kit looks for, needed things first."""
    import psutil
    import torch

    from llmkit.data.library import cache_folder

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    cache = cache_folder()
    memory = psutil.virtual_memory()
    return [
        Line("Python", platform.python_version(), True, needed=True),
        Line("torch", torch.__version__, True, needed=True),
        Line("CPU", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}", True, needed=True),
        Line(
            "memory",
            f"{memory.available / 2**30:.1f} GiB free",
            memory.available > 2**30,
            "room for the runs",
            True,
        ),
        Line("cache", _short(cache), _writable(cache), "data sets are kept there", True),
        Line("GPU", gpu, gpu != "none", "half precision and memory limits are emulated, and say so"),
        _package("jupyterlab", "notebooks and the cockpit"),
        _package("pyarrow", "reading .parquet: pip install 'llmkit[parquet]'"),
        _program("Chromium", ("chromium", "google-chrome", "chromium-browser"), "browser tests are skipped"),
        _program(
            "bubblewrap", ("bwrap",), "exercises are graded under resource limits alone, and verdicts say so"
        ),
    ]


def _short(path: Path) -> str:
    """With `~` for the home folder, as people write it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _writable(folder: Path) -> bool:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return os.access(existing, os.W_OK)


def _package(name: str, costs: str) -> Line:
    here = importlib.util.find_spec(name) is not None
    return Line(name, "installed" if here else "not installed", here, costs)


def _program(name: str, commands: tuple[str, ...], costs: str) -> Line:
    path = next(filter(None, map(shutil.which, commands)), None)
    return Line(name, path or "not found", path is not None, costs)
