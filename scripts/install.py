"""Build .venv from requirements.lock: `make` runs this, and it needs nothing but a Python with `venv`.

A plain `pip install torch` on Linux brings about 3 GB of CUDA. So PyTorch's CPU index is added to whatever
indexes pip is configured with, unless TORCH=cuda asks for the GPU build or the index does not answer.

    python3 scripts/install.py .venv
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 3.0


def answers(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a URL answers in time. pip itself would retry five times for each of the pinned packages.

    The request runs in a thread because a name server that hangs is not bound by the socket's time-out.
    """
    answered = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{url}/", timeout=seconds) as response:
                answered.append(response.status)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def index_options(torch: str, system: str, url: str = CPU_INDEX) -> list[str]:
    """The options that make pip find the CPU build, with one line said where it does not.

    Args:
        torch: "cpu" or "cuda", from the variable TORCH.
        system: `sys.platform`; macOS wheels are CPU and MPS anyway.
    """
    if torch not in ("cpu", "cuda"):
        sys.exit(f"error: unknown build TORCH={torch}\n  expected: TORCH=cpu or TORCH=cuda")
    if torch == "cuda" or system != "linux":
        return []
    if answers(url):
        return ["--extra-index-url", url]
    print(
        f"note: {url} does not answer; torch comes from pip's configured indexes (on PyPI, the CUDA build)",
        flush=True,
    )
    return []


def works(python: Path) -> bool:
    """Whether an earlier .venv can be built upon: its interpreter starts and has pip."""
    return (
        python.exists()
        and not subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode
    )


def install(folder: Path, options: list[str]) -> None:
    """Create the environment, or bring an existing one to the lock."""
    python = folder / "bin" / "python"
    if not works(python):
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    lock = ROOT / "requirements.lock"
    subprocess.run([*pip, "install", "--prefer-binary", *options, "-r", lock], check=True)
    # The build backend is in the lock, so that this line needs no network.
    subprocess.run([*pip, "install", "--quiet", "--no-build-isolation", "--no-deps", "-e", ROOT], check=True)
    subprocess.run([*pip, "check"], check=True)


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]), index_options(os.environ.get("TORCH", "cpu"), sys.platform))
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"error: `pip {error.cmd[4]}` failed, see above\n  remedy: mend the cause, then run make again"
        )
