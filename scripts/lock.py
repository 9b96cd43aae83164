"""Write requirements.lock: one pinned set for Python 3.11 to 3.14 on Linux and macOS.

    make lock        # needs uv (`pip install uv`) and the network; every pin moves to the newest that fits

The lock names no CUDA package: PyTorch's CPU wheel needs none, and the GPU build asks for its own. It
carries no hashes, because torch 2.13.0 is two builds, one on PyPI and one on PyTorch's CPU index.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

# What must not move by itself. The docstrings of the last three are the embedded data set: another version
# of one of them is another data-set digest (llmkit/data/docstrings.py).
HELD = ["torch==2.13.0", "sympy==1.14.0", "networkx==3.6.1", "jinja2==3.1.6"]

GPU_ONLY = ("nvidia-", "cuda-", "triton")

HEADER = """\
# One pinned set for Python 3.11 to 3.14 on Linux and macOS. Written by `make lock`; do not edit.
# torch has no CUDA packages beside it: the CPU wheel needs none, the GPU build brings its own.
"""


def environments() -> list[dict[str, str]]:
    """Every environment that the lock serves, as marker variables."""
    pythons = [f"3.{minor}" for minor in (11, 12, 13, 14)]
    machines = {"linux": ("x86_64", "aarch64"), "darwin": ("arm64",)}
    return [
        {
            "python_version": python,
            "python_full_version": f"{python}.{patch}",
            "sys_platform": system,
            "platform_system": system.title(),
            "platform_machine": machine,
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        for python, system, patch in itertools.product(pythons, machines, (0, 99))
        for machine in machines[system]
    ]


def simplify(line: str) -> str | None:
    """The pin with its marker only where the marker decides something; None where it is never wanted.

    >>> simplify("pexpect==4.9.0 ; sys_platform != 'win32'")
    'pexpect==4.9.0'
    >>> simplify("pywinpty==3.1.2 ; os_name == 'nt'")
    >>> simplify("appnope==1.0.0 ; sys_platform == 'darwin'")
    "appnope==1.0.0 ; sys_platform == 'darwin'"
    """
    requirement = Requirement(line)
    if requirement.name.startswith(GPU_ONLY):
        return None
    wanted = [requirement.marker is None or requirement.marker.evaluate(e) for e in environments()]
    if not any(wanted):
        return None
    return line.partition(" ;")[0] if all(wanted) else line


def resolve() -> list[str]:
    """uv's universal resolution of the project with all its extras and its build backend."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.exit("error: uv is not installed\n  remedy: .venv/bin/pip install uv")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    command = [uv, "pip", "compile", "pyproject.toml", "-", "--all-extras", "--universal"]
    command += ["--python-version", "3.11", "--fork-strategy", "fewest", "--no-annotate", "--no-header"]
    done = subprocess.run(
        command, input="\n".join(build + HELD), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.splitlines()


if __name__ == "__main__":
    pins = [pin for line in resolve() if (pin := simplify(line))]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(pins) + "\n")
    print(f"requirements.lock: {len(pins)} pins")
