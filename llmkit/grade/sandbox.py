"""Where the learner's kernel runs: in bubblewrap, else behind Landlock, else behind resource limits alone.

The one idea: the sandbox is built from nothing. Python, /usr and the rooms a learner may import are mounted
read-only; solutions, tests, references, the repository's history and the network are not hidden there, they
are absent. Landlock takes away the right to read them instead.

    isolation = choose()   # Isolation("bubblewrap", ""), else ("landlock", why) or ("rlimits", why)
    command = kernel_command(isolation, folder, limits, hides=("train",))
"""

from __future__ import annotations

import functools
import inspect
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
from llmkit.grade import landlock

VISIBLE = ("__init__.py", "check.py", "collect.py", "predict.py")  # of llmkit/grade: knows no answer
HOME = "/home/learner"
SCRATCH_BYTES = 64 * 2**20  # each of the sandbox's temporary folders, and the largest file


@dataclass(frozen=True)
class Isolation:
    """How well the learner's code is locked in; stands in every report."""

    name: str  # "bubblewrap", "landlock" or "rlimits"
    why: str = ""  # what stood in the way of better

    @property
    def note(self) -> str:
        """What a report says of it; "" for the best."""
        weaker = {"landlock": "locked in by Landlock", "rlimits": "no sandbox, resource limits only"}
        return f"{weaker[self.name]}: {self.why}" if self.name in weaker else ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one notebook may take. Seconds and bytes."""

    wall: float = 60.0  # whole notebook, kernel starts included
    cell: float = 15.0  # one cell of the learner's
    task: float = 10.0  # all inputs of one task
    memory: int = 2 * 2**30  # resident, all processes together, by the watchdog
    address_space: int = 8 * 2**30  # per process, by Linux; torch maps 0.6 GB, its CUDA builds some GB
    output: int = 4 * 2**20  # characters printed or displayed
    processes: int = 64
    disk: int = SCRATCH_BYTES


@functools.lru_cache(maxsize=1)
def choose() -> Isolation:
    """The best isolation this machine allows, found by trying."""
    if sys.platform != "linux":
        return Isolation("rlimits", "bubblewrap and Landlock need Linux")
    why = _why_not_bubblewrap()
    if not why:
        return Isolation("bubblewrap")
    if landlock.abi():
        return Isolation("landlock", why)
    return Isolation("rlimits", f"{why}; this Linux has no Landlock")


def _why_not_bubblewrap() -> str:
    """What stands in the way of starting `true` in it; "" when nothing does."""
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    command = [*_empty_house(), *_system(), "--", "/bin/true"]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if not probe.returncode:
        return ""
    lines = probe.stderr.strip().splitlines() or ["no reason given"]
    return f"bubblewrap cannot start here ({lines[-1][:120]})"


def require(isolation: Isolation) -> None:
    """Insist on a real sandbox: bubblewrap or Landlock.

    Raises:
        MissingDependency: only resource limits are available; says what stands in the way.
    """
    if isolation.name == "rlimits":
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
    args += ["--proc", "/proc", "--dev", "/dev", *scratch, "/dev/shm", "--remount-ro", "/dev"]
    return [*args, *scratch, "/tmp", *scratch, HOME]


def _visible(hides: tuple[str, ...]) -> list[str]:
    """What the learner may import of llmkit, as paths in it: no references, not the rooms in `hides`."""
    package = Path(llmkit.__file__).resolve().parent
    rooms = [
        entry.name
        for entry in sorted(package.iterdir())
        if entry.name not in ("grade", "exercises_src", "__pycache__", *hides)
        and (entry.is_dir() or entry.suffix == ".py")
    ]
    return [*rooms, *(f"grade/{name}" for name in VISIBLE)]


def _homes() -> list[Path]:
    """Where Python and its packages are, when not in /usr."""
    homes = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(sys.prefix)}
    return [home for home in sorted(homes) if not home.is_relative_to("/usr")]


def _copies() -> set[Path]:
    """Every folder `llmkit` among the installed packages."""
    return {
        copy
        for home in {*_homes(), Path(sys.prefix)}
        for copy in home.glob("lib/python*/site-packages/llmkit")
    }


def _python_and_package(hides: tuple[str, ...]) -> list[str]:
    """The interpreter, its packages, and what of llmkit is visible.

    The repository's root is emptied before anything in it is mounted, in case it lies below a mounted folder;
    so is any other copy of llmkit among the installed packages.
    """
    package = Path(llmkit.__file__).resolve().parent
    args: list[str] = []
    inside = [home for home in _homes() if home.is_relative_to(package.parent)]
    for home in (home for home in _homes() if home not in inside):
        args += ["--ro-bind", str(home), str(home)]
    if package.parent.name not in ("site-packages", "dist-packages"):
        args += ["--tmpfs", str(package.parent)]
    for home in inside:
        args += ["--ro-bind", str(home), str(home)]
    for emptied in sorted({package} | _copies()):
        args += ["--tmpfs", str(emptied)]
    for entry in _visible(hides):
        args += ["--ro-bind-try", str(package / entry), str(package / entry)]
    for emptied in (place for flag, place in itertools.pairwise(args) if flag == "--tmpfs"):
        args += ["--remount-ro", emptied]
    return args


# --------------------------------------------------------------------------------------------------- Landlock

DEVICES = ("null", "zero", "full", "random", "urandom")
READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime",
    "/etc/alternatives", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip


def _rights(folder: Path, hides: tuple[str, ...]) -> dict[str, list[str]]:
    """The arguments of `landlock.confine` for a kernel that works in `folder`."""
    package = Path(llmkit.__file__).resolve().parent
    read, listed = [*READABLE, *(str(package / entry) for entry in _visible(hides))], []
    for home in {home.resolve() for home in _homes()}:
        _split(home, {package, *_copies()}, read, listed)
    return {"read": read, "write": [str(folder), *(f"/dev/{name}" for name in DEVICES)], "listed": listed}


def _split(place: Path, secret: set[Path], read: list[str], listed: list[str]) -> None:
    """Rights reach all that is below: a folder with a secret somewhere in it is given entry by entry."""
    if place in secret:
        return
    if not any(path.is_relative_to(place) for path in secret):
        read.append(str(place))
        return
    listed.append(str(place))
    for entry in sorted(place.iterdir()):
        _split(entry, secret, read, listed)


def _doll_house(folder: Path, hides: tuple[str, ...]) -> Path:
    """A folder to import llmkit from: links to what is visible, since the package's own cannot be listed."""
    house, package = folder / "house", Path(llmkit.__file__).resolve().parent
    (house / "llmkit" / "grade").mkdir(parents=True, exist_ok=True)
    for entry in _visible(hides):
        link = house / "llmkit" / entry
        if not link.is_symlink():
            link.symlink_to(package / entry)
    return house


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
    launch = _LAUNCH
    if isolation.name == "landlock":
        _doll_house(folder, hides)
        lock = f"confine(**{_rights(folder, hides)!r})\nos.chdir({str(folder)!r})"
        launch = f"{inspect.getsource(landlock)}\n{lock}\n{_LAUNCH}"
    kernel = [sys.executable, "-c", launch, json.dumps(rlimits(limits)), "-f", "{connection_file}"]
    if isolation.name != "bubblewrap":
        return kernel
    shared = ["--bind", str(folder), str(folder), "--remount-ro", "/", "--chdir", HOME]
    shared += ["--setenv", "JPY_PARENT_PID", "1"]  # ipykernel then does not watch for a parent it cannot see
    return [*_empty_house(), *_system(), *_python_and_package(hides), *shared, "--", *kernel]


def kernel_environment(isolation: Isolation, folder: Path) -> dict[str, str]:
    """The kernel's whole environment: nothing of the examiner's leaks in."""
    home = HOME if isolation.name == "bubblewrap" else str(folder)
    package = Path(llmkit.__file__).resolve().parent.parent
    return {
        "TMPDIR": "/tmp" if isolation.name == "bubblewrap" else home,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": home,
        "USER": "learner",
        "LOGNAME": "learner",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(folder / "house" if isolation.name == "landlock" else package),
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
