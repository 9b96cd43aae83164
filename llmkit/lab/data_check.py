"""Are the files that a run reads still what was written? Asked of the files, told to the run's folder.

    check_files(run)                    # of a run in this process; when it dies of its data, and at its end
    check_folder(folder)                # of a run folder; what `llmkit diagnose RUN --check-data` does

Either leaves an event of kind `data` that the doctor reads. A data set of up to 64 MiB is hashed at the end
of every run, which takes some 50 ms; larger ones when somebody asks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmkit.data.checking import Damage, examine
from llmkit.data.dataset import HASH_ON_OPEN
from llmkit.data.manifest import Manifest, ShardEntry, read_manifest
from llmkit.errors import DataError, IntegrityError, RecordError
from llmkit.folder import RunFolder
from llmkit.records import Event
from llmkit.train import Run


def check_files(run: Run, *, died: bool = False) -> None:
    """Tell the run's sinks what is wrong with its data set's files; nothing when they are whole.

    Args:
        died: the run died of its data: look even if the set is large.
    """
    dataset = run.loader.dataset
    small = sum(entry.bytes for entry in dataset.manifest.files()) <= HASH_ON_OPEN
    problems = problems_of(dataset.path) if run.parallel.is_first and (small or died) else []
    if problems:
        run.tell("data", problems[0]["says"], path=str(dataset.path), problems=problems, died=died)


def check_folder(folder: RunFolder) -> Event:
    """Check the data set that a run folder names, and append what was found to its events.

    Raises:
        RecordError: run.json names no data set.
        DataError: it is not there any more.
    """
    path = (folder.facts.get("data") or {}).get("path")
    if not path:
        raise RecordError(f"`{folder.path / 'run.json'}` names no data set", expected="`data.path`")
    if not Path(path).exists():
        raise DataError(f"the data set of this run is not at `{path}` any more")
    steps, problems = folder.steps(), problems_of(path)
    says = problems[0]["says"] if problems else "every byte of the data set is as it was written"
    data = {"path": str(path), "problems": problems, "died": False}
    event = Event(kind="data", step=steps[-1].step if steps else 0, says=says, data=data)
    folder.append("events", event)
    folder.close()
    return event


def problems_of(path: os.PathLike | str) -> list[dict[str, Any]]:
    """What is wrong with a data set, as plain values for an event.

    Returns:
        Per damaged file: `file`, `says`, `kind` (`truncated`, `extended`, `missing`, `duplicate`, `changed`),
        `ranges` of bytes [start, stop) that differ; of a shard also `split`, `shard` (index in the split) and
        `itemsize` (bytes a token).

    Raises:
        DataError: there is no data set at `path`.
    """
    damages = examine(path)
    try:
        manifest = read_manifest(Path(path)) if damages else None
    except IntegrityError:  # damaged itself: then it is the only problem
        manifest = None
    return [_described(Path(path), manifest, damage) for damage in damages]


def _described(folder: Path, manifest: Manifest | None, damage: Damage) -> dict[str, Any]:
    path = folder / Path(damage.file).name
    plain = {"file": path.name, "says": damage.says, "kind": "changed", "ranges": [*map(list, damage.ranges)]}
    entry = next((e for e in manifest.files() if e.name == path.name), None) if manifest else None
    if entry is None:
        return plain
    size = path.stat().st_size if path.is_file() else 0
    if size < entry.bytes:
        plain |= {"kind": "truncated" if path.is_file() else "missing", "ranges": [[size, entry.bytes]]}
    elif size > entry.bytes:
        plain["kind"] = "extended"
    elif isinstance(entry, ShardEntry) and (twin := _twin(path, manifest)):
        plain |= {"kind": "duplicate", "says": f"{damage.says}; it holds the tokens of `{twin}`"}
    if isinstance(entry, ShardEntry):
        split = [e for e in manifest.shards if e.split == entry.split]
        plain |= {"split": entry.split, "shard": split.index(entry), "itemsize": int(entry.dtype[4:]) // 8}
    return plain


def _twin(path: Path, manifest: Manifest) -> str:
    """The other shard whose first bytes a file holds, as many as it has; empty when there is none."""
    content = path.read_bytes()
    for other in manifest.shards:
        beside = path.with_name(other.name)
        if beside != path and beside.is_file():
            with open(beside, "rb") as file:
                if file.read(len(content)) == content:
                    return other.name
    return ""
