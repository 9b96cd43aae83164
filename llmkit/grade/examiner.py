"""The examiner's side of a run: hand a notebook to the worker, watch it, take the text that comes back.

The one idea: whatever the learner's code does, this process only waits, counts and kills. It starts no
kernel, parses no message of one, and holds no right answer while one lives.

    with Examiner(choose(), Limits()) as examiner:
        run = examiner.run(notebook, parameters, hides=("train",), wall=60.0)
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import llmkit
from llmkit.grade.protocol import strict_json
from llmkit.grade.sandbox import Isolation, Limits, describe, kernel_command, kernel_environment

POLL = 0.05  # seconds between two looks at the learner's processes
PATIENCE = 15.0  # seconds a killed notebook may take to be swept before the worker goes too
MAX_RESULT = 8 * 2**20  # characters of a worker's result file


ENDINGS = ("done", "died", "hung", "flood", "garbled", "start")  # as the worker says them
STOPS = ("wall", "memory", "processes", "disk")  # as the examiner does


@dataclass(kw_only=True)
class Run:
    """What came of one run, unjudged: texts and facts."""

    cells: list[dict[str, Any]] = field(default_factory=list)  # position, status, ename, evalue
    bundles: dict[str, list[Any]] = field(
        default_factory=dict
    )  # position -> texts displayed under our MIME type
    ended: str = "lost"  # one of ENDINGS, of STOPS, or "lost"
    because: str = ""
    position: int = -1  # of the cell that ran last; -1 when none did
    seconds: float = 0.0
    peak_bytes: int = 0


class Examiner:
    """A warm worker: papermill is imported once, each notebook gets a process of its own."""

    def __init__(self, isolation: Isolation, limits: Limits):
        self.isolation, self.limits = isolation, limits
        self._server: subprocess.Popen | None = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and everything below it."""
        if self._server is None:
            return
        self._server.stdin.close()  # it sweeps, then leaves
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill_tree(self._server.pid, itself=True)
            self._server.wait()
        self._server.stdout.close()
        self._server = None

    def run(self, notebook: str, parameters: dict[str, str], *, hides: tuple[str, ...], wall: float) -> Run:
        """Run a built notebook; returns when every process of it is dead.

        Args:
            wall: seconds this run may take, kernel start included.
        """
        private = Path(tempfile.mkdtemp(prefix="llmkit-examiner-"))  # never mounted in the sandbox
        shared = Path(tempfile.mkdtemp(prefix="lk-"))  # short: socket paths may have 107 characters
        try:
            (private / "notebook.ipynb").write_text(notebook)
            job = {
                "parameters": parameters,
                "limits": describe(self.limits),
                "shared": str(shared),
                "command": kernel_command(self.isolation, shared, self.limits, hides),
                "environment": kernel_environment(self.isolation, shared),
            }
            (private / "job.json").write_text(json.dumps(job))
            return self._watch(private, shared, wall)
        finally:
            shutil.rmtree(private, ignore_errors=True)
            shutil.rmtree(shared, ignore_errors=True)

    # --------------------------------------------------------------------------------------------- the watch

    def _watch(self, private: Path, shared: Path, wall: float) -> Run:
        server = self._started()
        began, run, stopped = time.monotonic(), Run(), ""
        server.stdin.write(f"{private}\n".encode())
        server.stdin.flush()
        while True:
            word = self._heard(POLL)
            elapsed = time.monotonic() - began
            if word.startswith("exit") or word == "gone" or elapsed > wall + PATIENCE:
                break
            if not stopped:
                stopped = self._breach(server, shared, elapsed, wall, run)
                if stopped:
                    kill_tree(server.pid)
        run.seconds = time.monotonic() - began
        if not word.startswith("exit"):  # without a sandbox a learner can kill the worker
            self._server = None
            kill_tree(server.pid, itself=True)
            server.wait()
            server.stdin.close()
            server.stdout.close()
        _read_result(private, run, stopped)
        return run

    def _breach(self, server: subprocess.Popen, shared: Path, elapsed: float, wall: float, run: Run) -> str:
        """The limit that is broken now, or ""."""
        processes, resident = 0, 0
        for process in descendants(server.pid):
            try:
                resident += process.memory_info().rss
                processes += 1
            except psutil.Error:
                continue
        run.peak_bytes = max(run.peak_bytes, resident)
        if elapsed > wall:
            return "wall"
        if resident > self.limits.memory:
            return "memory"
        if processes > self.limits.processes:
            return "processes"
        return "disk" if folder_bytes(shared) > self.limits.disk else ""

    # -------------------------------------------------------------------------------------------- the worker

    def _started(self) -> subprocess.Popen:
        if self._server is None or self._server.poll() is not None:
            environment = dict(os.environ, PYTHONPATH=str(Path(llmkit.__file__).resolve().parent.parent))
            self._server = subprocess.Popen(
                [sys.executable, "-m", "llmkit.grade.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
            while self._heard(60.0) not in ("ready", "gone", ""):
                continue
        return self._server

    def _heard(self, seconds: float) -> str:
        """The worker's next word: "ready", "pid N", "exit N", "" for silence, "gone" when it has ended."""
        if not select.select([self._server.stdout], [], [], seconds)[0]:
            return ""
        line = self._server.stdout.readline()
        return line.decode(errors="replace").strip() if line else "gone"


def _read_result(private: Path, run: Run, stopped: str) -> None:
    """Fill `run` from the worker's files. Without them it stays "lost", never passed.

    The worker wrote them; but without a sandbox a learner can write there too.
    """
    run.ended = stopped or run.ended
    try:
        run.position = int(_text(private / "progress") or -1)
        found = strict_json(_text(private / "result.json"), nesting=8)
        shape = {"position": int, "status": str, "ename": str, "evalue": str}
        if not all(type(cell[key]) is kind for cell in found["cells"] for key, kind in shape.items()):
            raise TypeError("a cell of another form")
        run.bundles = {str(key): list(texts) for key, texts in found["bundles"].items()}
        run.cells, run.because = found["cells"], str(found["because"])
        run.ended = stopped or (found["ended"] if found["ended"] in ENDINGS else "lost")
    except (AttributeError, LookupError, TypeError, ValueError):
        run.because = _text(private / "crash")[:300] or "the worker left no result"


def _text(path: Path) -> str:
    """A small file's text; "" when there is none."""
    if not path.is_file() or path.stat().st_size > MAX_RESULT:
        return ""
    return path.read_text(errors="replace")


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill_tree(pid: int, itself: bool = False) -> None:
    """SIGKILL every descendant until there is none but zombies; then, if asked, the process."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        left = [p for p in descendants(pid) if _alive(p)]
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        if not left:
            break
        time.sleep(0.005)
    if itself:
        try:
            psutil.Process(pid).kill()
        except psutil.Error:
            return


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def folder_bytes(folder: Path) -> int:
    """Bytes in a folder the learner can write to; follows no links."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
