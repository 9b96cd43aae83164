"""papermill as the examiner uses it: an engine that goes on after a failed cell, and a kernel in a cage.

The one idea: nothing the learner's kernel sends is kept but the bundles of answers, as text; everything else
is counted and dropped. Imported by the worker only: it takes a second.

    run_job(Path("job"))      # reads job.json and notebook.ipynb there, leaves result.json
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from queue import Empty
from typing import Any

import papermill
import zmq
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.client import CellExecutionComplete
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from llmkit.grade.collect import MIME

GRACE = 2.0  # seconds an interrupted cell may take to stop
OUR_OWN = 30  # seconds for a cell of ours that runs nothing of the learner's: it may import torch
IOPUB_WAIT = 5  # seconds from a cell's reply to the end of its output
MAX_MESSAGE = 16 * 2**20  # bytes: one huge message must not fill this process


def run_job(folder: Path) -> None:
    """Run `folder`/notebook.ipynb through papermill and leave `folder`/result.json."""
    job = json.loads((folder / "job.json").read_text())
    log = Log(folder)
    papermill_engines.register("llmkit", Examining)
    try:
        papermill.execute_notebook(
            str(folder / "notebook.ipynb"),
            None,
            parameters=job["parameters"],
            engine_name="llmkit",
            kernel_name="python3",
            progress_bar=False,
            start_timeout=30,
            iopub_timeout=IOPUB_WAIT,
            kernel_manager_class=caged_kernel(job["command"], Path(job["shared"])),
            job=job,
            record=log,
        )
    except PapermillExecutionError:
        pass  # the log has the cell and its error already
    except RuntimeError as error:  # nbclient's and jupyter_client's: the kernel did not come up
        log.end("start", str(error)[:300])
    log.save()


class Log:
    """What happened, cell by cell, and the bundles that came; on disk, whole, after every cell."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells: list[dict[str, Any]] = []
        self.bundles: dict[str, list[str]] = {}  # cell position -> texts
        self.ended, self.because, self.printed = "", "", 0

    def start(self, position: int) -> None:
        (self.folder / "progress").write_text(str(position))  # in case this process is killed

    def cell(self, position: int, status: str, ename: str = "", evalue: str = "") -> None:
        self.cells.append(
            {"position": position, "status": status, "ename": ename[:80], "evalue": evalue[:300]}
        )

    def end(self, ended: str, because: str = "") -> None:
        self.ended, self.because = self.ended or ended, self.because or because

    def save(self) -> None:
        result = {"cells": self.cells, "bundles": self.bundles, "ended": self.ended, "because": self.because}
        draft = self.folder / "result.part"
        draft.write_text(json.dumps(result))
        draft.rename(self.folder / "result.json")


def caged_kernel(command: list[str], shared: Path) -> type:
    """A kernel manager whose kernels are started by `command` and reached by sockets in `shared`."""

    class CagedKernel(AsyncKernelManager):
        def __init__(self, **traits: Any):
            super().__init__(**traits)
            self.transport, self.ip = "ipc", str(shared / "k")
            self.connection_file = str(shared / "kernel.json")
            self.kernel_spec.interrupt_mode = "message"  # a signal would end the sandbox, not the cell
            self.context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            filled = [part.replace("{connection_file}", self.connection_file) for part in command]
            return [*filled, *(extra_arguments or [])]

    return CagedKernel


class Client(PapermillNotebookClient):
    """Runs every cell whatever became of the one before, keeps the bundles, counts all other output."""

    spoilt: tuple[str, str] | None = None  # why this client itself gave the cell up

    def execute(self, **kwargs: Any) -> Any:
        self.reset_execution_trackers()
        with self.setup_kernel(env=self.job["environment"], **kwargs):
            self.run_cells()
        return self.nb

    async def async_run_cells(self) -> None:
        for position, cell in enumerate(self.nb.cells):
            self.record.start(position)
            fit = await self.run_cell(cell, position)
            self.record.save()  # what has come so far outlives this process
            if not fit:
                return
        self.record.end("done")

    run_cells = run_sync(async_run_cells)

    async def run_cell(self, cell: Any, position: int) -> bool:
        """Run one cell; whether the kernel is fit for another."""
        role = cell.metadata.get("llmkit", ["", 0])[0]
        limits = self.job["limits"]
        seconds = {"learner": limits["cell"], "collect": limits["task"]}.get(role, OUR_OWN)
        self.timeout = math.ceil(seconds)  # nbclient counts in whole seconds
        try:
            await self.async_execute_cell(cell, position)
            self.record.cell(position, "ok")
        except CellExecutionError as error:
            self.record.cell(position, "error", str(error.ename), str(error.evalue))
        except CellTimeoutError as error:
            lost = "IOPub" in str(error)
            self.record.cell(position, "lost" if lost else "timeout")
            return await self.recover()
        except DeadKernelError:
            self.record.end(*(self.spoilt or ("died", "")))
        except Exception as error:  # what a hostile kernel can make a client raise has no list
            self.record.end("garbled", f"{type(error).__name__}: {error}"[:300])
        if self.spoilt:
            self.record.end(*self.spoilt)
        return not self.record.ended

    async def recover(self) -> bool:
        """Interrupt a cell that ran too long; whether the kernel answers again within the grace."""
        await self.km.interrupt_kernel()
        asked = self.kc.kernel_info()
        until = time.monotonic() + GRACE
        while (left := until - time.monotonic()) > 0:
            try:
                reply = await self.kc.shell_channel.get_msg(timeout=left)
            except Empty:
                break
            except (ValueError, TypeError, KeyError):  # a message that is not one
                continue
            if reply.get("parent_header", {}).get("msg_id") == asked:
                return True
        self.record.end("hung")
        return False

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> None:
        kind, content = msg["msg_type"], msg["content"]
        if kind == "status" and content.get("execution_state") == "idle":
            raise CellExecutionComplete()
        data = content.get("data")
        self.record.printed += len(str(content.get("text", ""))) + len(str(data or ""))
        if self.record.printed > self.job["limits"]["output"] and not self.spoilt:
            self.spoilt = ("flood", "")
            self.task_poll_for_reply.cancel()  # nbclient would wait for the cell's end first
        elif kind == "display_data" and isinstance(data, dict) and isinstance(data.get(MIME), str):
            self.record.bundles.setdefault(str(cell_index), []).append(data[MIME])


class Examining(Engine):
    """papermill's engine `llmkit`."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        client = Client(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=kwargs["kernel_manager_class"],
            startup_timeout=kwargs["start_timeout"],
            iopub_timeout=kwargs["iopub_timeout"],
            shutdown_kernel="immediate",
        )
        client.job, client.record = kwargs["job"], kwargs["record"]
        client.execute()
