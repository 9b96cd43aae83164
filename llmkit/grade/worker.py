"""The process that runs notebooks: papermill loaded once, a forked process per notebook, no answers known.

The one idea: this process holds the learner's kernel and nothing worth stealing. It counts, limits and
forwards; what comes back is text in a file that the examiner reads strictly.

    python -m llmkit.grade.worker      # reads job folders, says "pid N", "exit N"; ends with its input
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import sys
import time
import warnings
from pathlib import Path

import psutil

from llmkit.grade.engine import run_job

PR_SET_CHILD_SUBREAPER = 36


def serve() -> None:
    """Fork a process per job folder named on standard input; sweep up what it left before saying "exit"."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # papermill and nbclient log what the result file says
    if sys.platform == "linux":  # orphans of the learner's become this process's children and are swept
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    say("ready")
    while line := sys.stdin.buffer.readline():
        job = os.fork()
        if job == 0:
            os._exit(_forked(Path(line.decode().strip())))
        say(f"pid {job}")
        status = _wait(job)
        sweep()
        if status is None:
            return  # the examiner is gone
        say(f"exit {status}")


def _forked(folder: Path) -> int:
    """The forked process: its own session, and no hold on the server's input and output."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    try:
        run_job(folder)
    except BaseException as error:  # nothing may return into the server's loop
        (folder / "crash").write_text(f"{type(error).__name__}: {error}"[:2000])
        return 1
    return 0


def _wait(job: int) -> int | None:
    """The exit status of the job; None, with the job killed, when the examiner closed our input meanwhile."""
    while True:
        ended, status = os.waitpid(job, os.WNOHANG)
        if ended:
            return status
        if select.select([sys.stdin], [], [], 0.02)[0] and not sys.stdin.buffer.peek(1):
            return None


def sweep() -> None:
    """Kill every descendant, again and again until there is none."""
    me = psutil.Process()
    while left := me.children(recursive=True):
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        while True:  # collect our own dead, orphans that were handed to us included
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.01)


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    serve()
