"""Where the learner's kernel runs: in bubblewrap if the machine allows it, else behind resource limits alone.

The one idea: the sandbox is built from nothing. Python, /usr and the rooms a learner may import are mounted
read-only; solutions, tests, references, the repository's history and the network are not hidden there, they
are absent.

    isolation = choose()                       # Isolation("bubblewrap", "") or Isolation("rlimits", reason)
    command = kernel_command(isolation, folder, limits, hides=("train",))
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import llmkit
from llmkit.errors import MissingDependency

VISIBLE = (
    "__init__.py",
    "check.py",
    "collect.py",
    "predict.py",
)  # of llmkit/grade: knows no answer
HOME = "/home/learner"
SCRATCH_BYTES = 64 * 2**20  # each of the sandbox's temporary folders, and the largest file


@dataclass(frozen=True)
class Isolation:
    """How well the learner's code is locked in; stands in every report."""

    name: str  # "bubblewrap" or "rlimits"
    why: str = ""  # for "rlimits": what stood in the way of better


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one notebook may take. Seconds and bytes."""

    wall: float = 60.0  # whole notebook, kernel starts included
    cell: float = 15.0  # one cell of the learner's
    task: float = 10.0  # all inputs of one task
    memory: int = 2 * 2**30  # resident, all processes together, by the watchdog
    address_space: int = (
        8 * 2**30
    )  # per process, by the kernel; torch maps 0.6 GB on a CPU, some GB in CUDA builds
    output: int = 4 * 2**20  # characters printed or displayed
    processes: int = 64
    disk: int = SCRATCH_BYTES


@functools.lru_cache(maxsize=1)
def choose() -> Isolation:
    """The best isolation this machine allows, found by starting `true` in it once."""
    if sys.platform != "linux":
        return Isolation("rlimits", "bubblewrap needs Linux")
    if not shutil.which("bwrap"):
        return Isolation("rlimits", "bubblewrap is not installed")
    probe = subprocess.run(
        [*_empty_house(), *_system(), "--", "/bin/true"], capture_output=True, text=True, timeout=20
    )
    if probe.returncode:
        lines = probe.stderr.strip().splitlines() or ["no reason given"]
        return Isolation("rlimits", f"bubblewrap cannot start here ({lines[-1][:120]})")
    return Isolation("bubblewrap")


def require(isolation: Isolation) -> None:
    """Insist on a real sandbox.

    Raises:
        MissingDependency: only resource limits are available; says what stands in the way.
    """
    if isolation.name != "bubblewrap":
        raise MissingDependency(
            f"no sandbox: {isolation.why}",
            expected="bubblewrap, able to make user namespaces",
            remedy=(
                "apt-get install bubblewrap; on Ubuntu 24.04 also: sysctl -w "
                "kernel.apparmor_restrict_unprivileged_userns=0"
            ),
        )


# ------------------------------------------------------------------------------------------------- bubblewrap


def _empty_house() -> list[str]:
    """Own users, processes, network, mounts; no way to make further ones; no capabilities."""
    return [
        "bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000",
        "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "sandbox",
    ]  # fmt: skip


def _system() -> list[str]:
    """/usr and the links into it; the few files of /etc that libraries look for."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        link = Path("/", name)
        if link.is_symlink():
            args += ["--symlink", os.readlink(link), str(link)]
        elif link.is_dir():
            args += ["--ro-bind", str(link), str(link)]
    for name in ("ld.so.cache", "fonts", "localtime", "alternatives"):
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    scratch = ["--size", str(SCRATCH_BYTES), "--tmpfs"]
    args += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        *scratch,
        "/dev/shm",
        "--remount-ro",
        "/dev",
        *scratch,
        "/tmp",
    ]
    return [*args, *scratch, HOME]


def _python_and_package(hides: tuple[str, ...]) -> list[str]:
    """The interpreter, its packages, and llmkit without `grade`'s references and the rooms in `hides`.

    The repository's root is emptied before anything in it is mounted, in case it lies below a mounted folder;
    so is any other copy of llmkit among the installed packages.
    """
    package = Path(llmkit.__file__).resolve().parent
    args: list[str] = []
    homes = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(sys.prefix)}
    outside = [home for home in sorted(homes) if not home.is_relative_to("/usr")]
    inside = [home for home in outside if home.is_relative_to(package.parent)]
    for home in (home for home in outside if home not in inside):
        args += ["--ro-bind", str(home), str(home)]
    if package.parent.name not in ("site-packages", "dist-packages"):
        args += ["--tmpfs", str(package.parent)]
    for home in inside:
        args += ["--ro-bind", str(home), str(home)]
    copies = {copy for home in homes for copy in home.glob("lib/python*/site-packages/llmkit")}
    for emptied in sorted({package} | copies):
        args += ["--tmpfs", str(emptied)]
    for entry in sorted(package.iterdir()):
        if entry.name not in ("grade", "__pycache__", *hides) and (entry.is_dir() or entry.suffix == ".py"):
            args += ["--ro-bind-try", str(entry), str(entry)]
    for name in VISIBLE:
        args += ["--ro-bind-try", str(package / "grade" / name), str(package / "grade" / name)]
    for emptied in (place for flag, place in itertools.pairwise(args) if flag == "--tmpfs"):
        args += ["--remount-ro", emptied]
    return args


# ------------------------------------------------------------------------------------------------- the kernel

# Limits are set inside the sandbox, in the process that becomes the kernel: hard ones, inherited by all it
# starts.
_LAUNCH = """
import json, resource, sys
for name, value in json.loads(sys.argv.pop(1)).items():
    hard = resource.getrlimit(getattr(resource, name))[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(getattr(resource, name), (value, value))
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


def rlimits(limits: Limits) -> dict[str, int]:
    """Resource limits of the kernel, by the names of Python's `resource` module."""
    found = {
        "RLIMIT_CPU": int(limits.wall) + 5,
        "RLIMIT_FSIZE": limits.disk,
        "RLIMIT_NOFILE": 512,
        "RLIMIT_CORE": 0,
    }
    if sys.platform == "linux":  # macOS accepts the name and refuses the value
        found["RLIMIT_AS"] = limits.address_space
    return found


def kernel_command(
    isolation: Isolation, folder: Path, limits: Limits, hides: tuple[str, ...] = ()
) -> list[str]:
    """The command that starts the kernel; `{connection_file}` in it is filled in by the worker.

    `folder` holds the connection file and the kernel's sockets: the only thing shared with the sandbox,
    writable by the learner, so nothing in it is trusted.
    """
    kernel = [sys.executable, "-c", _LAUNCH, json.dumps(rlimits(limits)), "-f", "{connection_file}"]
    if isolation.name != "bubblewrap":
        return kernel
    shared = ["--bind", str(folder), str(folder), "--remount-ro", "/", "--chdir", HOME]
    shared += ["--setenv", "JPY_PARENT_PID", "1"]  # ipykernel then does not watch for a parent it cannot see
    return [*_empty_house(), *_system(), *_python_and_package(hides), *shared, "--", *kernel]


def kernel_environment(isolation: Isolation, folder: Path) -> dict[str, str]:
    """The kernel's whole environment: nothing of the examiner's leaks in."""
    home = HOME if isolation.name == "bubblewrap" else str(folder)
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": home,
        "USER": "learner",
        "LOGNAME": "learner",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(llmkit.__file__).resolve().parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLCONFIGDIR": f"{home}/.matplotlib",
        "IPYTHONDIR": f"{home}/.ipython",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "LLMKIT_GRADING": "1",  # check() and hint() rest: their answers are not here
    }


def describe(limits: Limits) -> dict[str, float]:
    """The limits as plain numbers, for the worker's job file."""
    return asdict(limits)
