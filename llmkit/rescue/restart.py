"""Start a training process again when it dies, as a person at three in the morning would.

The one idea: a process that was killed, or that ended itself with code 75 because it hung, is started again
with `--resume`; everything it needs is in its run folder. An exit code of the program's own (a wrong
configuration, a run that nothing could cure) is passed on: starting it again would only repeat it.

    keep_alive(["llmkit", "train", "--supervise", "--out", "runs/mine"], "runs/mine", max_restarts=3)

No child outlives its keeper: it is in a process group of its own, which is killed when the keeper leaves, and
on Linux the kernel kills the child when the keeper is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmkit.errors import ConfigError, RescueError
from llmkit.folder import RunFolder
from llmkit.records import Event
from llmkit.rescue.watchdog import HANG_EXIT

GRACE_S = 30.0  # for a child to end by itself after Ctrl-C
ASKED = (signal.SIGINT, signal.SIGTERM)  # somebody wants it to stop
LOGS = ("steps.jsonl", "times.jsonl", "events.jsonl", "checkpoints")  # a run that moves writes one of them

# In a process with threads little is safe between fork and exec, so the child ties itself to the keeper in a
# small interpreter of its own. The keeper may have died before that: hence the second line.
LEASH = """
import ctypes, os, signal, sys
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def keep_alive(
    command: Sequence[str],
    folder: os.PathLike | str,
    *,
    max_restarts: int = 3,
    hang_s: float | None = None,
    resume: str = "--resume",
) -> int:
    """Run a command until it ends by itself.

    Each restart is an Event("rescue", data={"policy": "restart", ...}) in the run folder, with the work lost
    since the newest checkpoint. A child that died before it wrote a run folder is started again as it was.

    Args:
        command: the program and its arguments.
        folder: the run folder that it writes.
        max_restarts: how often to start it again.
        hang_s: kill and restart it when nothing in its folder was written for this many seconds. None: never.
            It catches what the child's own watchdog cannot, such as a thread that never gives up the
            interpreter's lock.
        resume: added to the command on a restart.

    Returns:
        The exit code of the last child; 128 + n if a signal n that means "stop" (SIGINT, SIGTERM) ended it.

    Raises:
        ConfigError: there is no such program.
        RescueError: it died once more after the last restart; says of what each time.
        StorageError: the event cannot be written.
    """
    command, folder, deaths = list(command), Path(folder), []
    if shutil.which(command[0]) is None:
        raise ConfigError(f"no program `{command[0]}`", expected="a command that can be run")
    while True:
        started = time.monotonic()
        code = _live(command, folder, hang_s)
        death = cause_of_death(code)
        if not death:
            return code if code >= 0 else 128 - code
        deaths.append(death)
        if len(deaths) > max_restarts:
            raise RescueError(
                f"`{command[0]}` died {len(deaths)} times: {', then '.join(deaths)}",
                remedy=f"look at `{folder}` with `llmkit diagnose`", deaths=deaths, folder=str(folder),
            )  # fmt: skip
        if (folder / "run.json").exists():
            _tell(folder, death, time.monotonic() - started, len(deaths))
            command += [resume] if resume not in command else []


def cause_of_death(code: int) -> str:
    """Why a child ended, in words; empty when it ended by itself or was asked to.

    >>> cause_of_death(-9), cause_of_death(75), cause_of_death(1), cause_of_death(-2)
    ('killed by SIGKILL', 'hung', '', '')
    """
    if code == HANG_EXIT:
        return "hung"
    number = -code if code < 0 else code - 128  # a shell between us and the program reports 128 + n
    if number <= 0 or number in ASKED:
        return ""
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:  # an exit code above 128 of the program's own
        return ""


def _live(command: list[str], folder: Path, hang_s: float | None) -> int:
    """One life of the child; its exit code, negative for a signal. Nothing of it is left afterwards."""
    leash = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid())]
    child = subprocess.Popen([*leash, *command], start_new_session=True)
    try:
        return _wait(child, folder, hang_s)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _wait(child: subprocess.Popen, folder: Path, hang_s: float | None) -> int:
    since = time.time()
    while True:
        try:
            return child.wait(None if hang_s is None else hang_s / 4)
        except subprocess.TimeoutExpired:
            if time.time() - max(since, _last_written(folder)) > hang_s:
                return HANG_EXIT


def _last_written(folder: Path) -> float:
    """Unix time of the youngest write; 0 before the first."""
    times = []
    for name in LOGS:
        with suppress(FileNotFoundError):
            times.append((folder / name).stat().st_mtime)
    return max(times, default=0.0)


def _tell(folder: Path, death: str, lived_s: float, restart: int) -> None:
    """Write what the death cost, as far as the folder knows."""
    run = RunFolder(folder)
    lost = lost_work(run)
    verb = death if death == "hung" else f"was {death}"
    says = f"the process {verb} at step {lost['from_step']}; restart {restart} from step {lost['to_step']}"
    data = {
        "policy": "restart",
        "trouble": death,
        **lost,
        "skipped_batches": [],
        "lived_s": lived_s,
        "restart": restart,
    }
    run.append("events", Event(kind="rescue", step=lost["from_step"], says=says, data=data))
    run.close()


def lost_work(run: RunFolder) -> dict[str, Any]:
    """Steps done since the newest checkpoint, and what they had cost."""
    saved = [int(path.name[5:]) for path in run.checkpoints.glob("step-*") if path.name[5:].isdigit()]
    to_step, steps = max(saved, default=0), run.steps()
    lost = [record for record in steps if record.step >= to_step]
    seconds = {times.step: times.total_s for times in run.times() if times.step >= to_step}
    return {
        "from_step": steps[-1].step + 1 if steps else 0,
        "to_step": to_step,
        "lost_steps": len(lost),
        "lost_tokens": sum(record.tokens for record in lost),
        "seconds": sum(seconds.values()),
        "scale": steps[-1].loss_scale if steps else 1.0,
        "micro_batch": run.facts.get("config", {}).get("micro_batch"),
    }
