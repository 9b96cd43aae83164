"""Checkpoints that survive a SIGKILL at any instant, and say so when they did not.

    checkpoints = Checkpoints(folder, keep_last=2)
    checkpoints.save(run)
    checkpoints.load(run)       # newest good one; falls back and says so

A save is: temporary folder, hash of every file while it is written, fsync of files and folder, rename, read
back and compare, and only then delete old ones. `torch.load` does not check its CRCs (pytorch#126952): a
flipped bit in a weight is loaded silently, so the hashes in checkpoint.json are checked first.

    checkpoints/step-00002000/
        checkpoint.json     step, SHA-256 and size of every file, fingerprint, data cursor, loss scaler
        weights.pt          the model
        optimizer.pt        moments and hyper-parameters
        rank-00000.pt       per rank: random generators, detectors
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from llmkit.data import Skip
from llmkit.errors import CheckpointError, DataError
from llmkit.folder import storage, sync_folder, write_whole
from llmkit.train.fingerprint import differences, fingerprint
from llmkit.train.run import Run

SCHEMA = 1
MANIFEST = "checkpoint.json"


class _HashingFile:
    """A file that hashes what passes through it, so that saving reads nothing back twice."""

    def __init__(self, path: Path):
        self.file, self.sha256, self.bytes = open(path, "wb"), hashlib.sha256(), 0

    def write(self, chunk: bytes) -> int:
        self.sha256.update(chunk)
        self.bytes += len(chunk)
        return self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()

    def __enter__(self) -> _HashingFile:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self.file.flush()
                os.fsync(self.file.fileno())
        finally:
            self.file.close()


def _write(path: Path, state: object) -> dict[str, Any]:
    """torch.save through the hash; returns the file's line in the manifest."""
    with _HashingFile(path) as file:
        torch.save(state, file)
    return {"sha256": file.sha256.hexdigest(), "bytes": file.bytes}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint folder; empty when every byte is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST}: {type(error).__name__}: {error}"]
    if manifest.pop("sha256", None) != _digest(manifest):
        return [f"{MANIFEST}: its own hash does not match"]
    found = []
    for name, line in files.items():
        if not (path / name).exists():
            found.append(f"{name}: missing")
        elif _sha256(path / name) != line["sha256"]:
            found.append(f"{name}: SHA-256 differs from the one written")
    return found


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: usually `run_folder.checkpoints`.
        keep_last: newest ones kept, at least 2.
        keep_every: those at multiples of this many steps are kept for ever.
    """

    def __init__(self, folder: os.PathLike | str, *, keep_last: int = 2, keep_every: int | None = None):
        self.folder, self.keep_last, self.keep_every = Path(folder), keep_last, keep_every

    def steps(self) -> list[int]:
        """Steps with a checkpoint folder, oldest first; a temporary folder is not one."""
        return sorted(int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdigit())

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    # --------------------------------------------------------------------------------------------------- save

    def save(self, run: Run) -> Path:
        """Write the run as it stands before step `run.step`. Every rank calls this.

        Raises:
            StorageError: full disk or unwritable folder; older checkpoints still stand.
            CheckpointError: what was read back is not what was written.
        """
        world, final = run.parallel, self.at(run.step)
        temporary = self.folder / f".{final.name}.tmp"
        with storage(final):
            try:
                if world.is_first:
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
                world.barrier()
                files = self._write_files(run, temporary)
                if world.is_first:
                    self._commit(run, temporary, final, files)
            except BaseException:
                if world.is_first:
                    shutil.rmtree(temporary, ignore_errors=True)
                raise
        world.barrier()
        run.tell("checkpoint", f"checkpoint of step {run.step}", path=final.name)
        return final

    def _write_files(self, run: Run, temporary: Path) -> dict[str, Any]:
        rank_file = f"rank-{run.parallel.rank:05d}.pt"
        files = {rank_file: _write(temporary / rank_file, _rank_state(run))}
        if run.parallel.is_first:
            files["weights.pt"] = _write(temporary / "weights.pt", run.model.state_dict())
            files["optimizer.pt"] = _write(temporary / "optimizer.pt", run.optimizer.state_dict())
        return {name: line for part in run.parallel.gather(files) for name, line in part.items()}

    def _commit(self, run: Run, temporary: Path, final: Path, files: dict[str, Any]) -> None:
        manifest = {
            "schema": SCHEMA,
            "step": run.step,
            "files": files,
            "fingerprint": fingerprint(run),
            "data": run.loader.state(),
            "scaler": run.scaler.state_dict(),
            "stuck": run.stuck,
            "micro_batch": run.micro_batch,
        }
        manifest["sha256"] = _digest(json.loads(json.dumps(manifest)))
        write_whole(temporary / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        if final.exists():  # this step is being done again
            self._remove(final)
        os.rename(temporary, final)
        sync_folder(self.folder)
        if found := problems(final):
            raise CheckpointError(
                f"`{final}` was not read back as written: {found[0]}", remedy="check the disk"
            )
        self._rotate()

    def _rotate(self) -> None:
        kept = set(self.steps()[-self.keep_last :])
        for step in self.steps():
            for_ever = self.keep_every and step % self.keep_every == 0
            if step not in kept and not for_ever:
                self._remove(self.at(step))

    def _remove(self, path: Path) -> None:
        """Out of sight first: a half-deleted folder must not look like a checkpoint."""
        trash = self.folder / f".{path.name}.trash"
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(path, trash)
        shutil.rmtree(trash)

    # --------------------------------------------------------------------------------------------------- load

    def load(self, run: Run, *, before: int | None = None) -> int:
        """Restore the newest good checkpoint into `run` and return its step. Every rank calls this.

        Args:
            before: only checkpoints of this step or earlier (a rollback).

        Raises:
            CheckpointError: there is none, or none is whole, or it belongs to another run.
        """
        self._sweep(run)
        bad: list[str] = []
        for step in reversed([s for s in self.steps() if before is None or s <= before]):
            if found := problems(self.at(step)):
                bad.append(f"step {step}: {found[0]}")
                run.tell(
                    "fallback", f"checkpoint of step {step} is damaged ({found[0]}); trying an older one"
                )
                continue
            self._restore(run, self.at(step))
            return step
        raise CheckpointError(
            f"no checkpoint to load in `{self.folder}`" + (f" ({'; '.join(bad)})" if bad else ""),
            remedy="start the run anew, without --resume",
        )

    def _sweep(self, run: Run) -> None:
        """Temporary folders of a save or a deletion that was killed."""
        if run.parallel.is_first:
            for leftover in (*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.trash")):
                shutil.rmtree(leftover)
        run.parallel.barrier()

    def _restore(self, run: Run, path: Path) -> None:
        manifest = json.loads((path / MANIFEST).read_text())
        try:
            run.loader.check_state(manifest["data"])
            run.model.load_state_dict(_read(path / "weights.pt", run.device))
            run.optimizer.load_state_dict(_read(path / "optimizer.pt", run.device))
        except (DataError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"`{path}` belongs to another run: {error}",
                remedy="resume with the configuration and data of its run.json",
            ) from error
        run.scaler.load_state_dict(manifest["scaler"])
        run.stuck, run.micro_batch, run.step = manifest["stuck"], manifest["micro_batch"], manifest["step"]
        run.loader = run.loader.with_skip(Skip.from_json(manifest["data"]["skip"]))
        rank_file = path / f"rank-{run.parallel.rank:05d}.pt"
        if rank_file.exists():
            _restore_rank(run, _read(rank_file, torch.device("cpu")))
        run.optimizer.zero_grad(set_to_none=True)
        run.stop_asked, run.stopped, run.veto = False, False, ""
        reasons = differences(manifest["fingerprint"], fingerprint(run))
        exact = "exact" if not reasons else "not exact: " + "; ".join(reasons)
        run.tell(
            "resume",
            f"resumed at step {run.step}, {exact}",
            path=path.name,
            exact=not reasons,
            reasons=reasons,
        )


def _read(path: Path, device: torch.device) -> Any:
    return torch.load(path, map_location=device, weights_only=True)


def _rank_state(run: Run) -> dict[str, Any]:
    state = {
        "torch": torch.get_rng_state(),
        "parts": {name: part.state_dict() for name, part in run.parts.items()},
    }
    if run.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(run.device)
    return state


def _restore_rank(run: Run, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and run.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], run.device)
    for name, part in run.parts.items():
        if name in state["parts"]:
            part.load_state_dict(state["parts"][name])
