"""Shards that are no longer what was written: cut short, one byte changed, another shard's copy.

The one idea: the folder of the data set is copied (by hard links, the damaged shard by value), the damage is
done to the copy, and the loader reads the copy. The data set itself is never written to, and the copy is gone
after the exit. A damaged set is refused when it is opened; so the damage here is done after that, as by a
disk, a cache or a copy that was interrupted.

    with FlippedByte(run, at=40):
        list(train(run))
        examine(run.loader.dataset.path)        # names shard and bytes
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmkit.data import Batch, TokenDataset
from llmkit.data.shards import open_stream
from llmkit.errors import FaultError
from llmkit.faults.base import Fault, LoaderWrapper
from llmkit.faults.data_tokens import loader_behind, place


class FileWrapper(LoaderWrapper):
    """A loader whose data set is the damaged copy."""

    @property
    def dataset(self) -> TokenDataset:
        return self.fault.copy if self.fault.active() else self.inner.dataset


class FileFault(Fault):
    """Serves a data set one of whose shards was damaged after it was opened.

    Args:
        shard: which of the training split. None: the one that the first row at step `at` lies in.
    """

    lasts = math.inf

    def __init__(self, run: Any, shard: int | None = None, **when: Any):
        super().__init__(run, **when)
        self.shard, self.token = place(run, self.at, shard)
        self.copy: TokenDataset | None = None

    def install(self) -> None:
        source, self._temporary = self.run.dataset.path, Path(tempfile.mkdtemp(prefix="llmkit-data-"))
        folder, shards = self._temporary / source.name, self.run.dataset.shards("train")
        shutil.copytree(source, folder, copy_function=_link)
        damaged = folder / shards[self.shard].name
        damaged.unlink()
        shutil.copyfile(source / damaged.name, damaged)
        self.copy = TokenDataset(folder, check=False)
        self.damage(damaged)
        stream = open_stream(folder, shards, self.copy.manifest.shard_tokens)
        stream._length = self.copy.n_tokens("train")  # as it was when the set was opened
        self.copy._streams["train"] = stream
        self.wrap(self.run, "loader", FileWrapper)

    def damage(self, path: Path) -> None:
        """Do it to the copy of the shard."""
        raise NotImplementedError

    def call(self, inner: Any, step: int) -> Batch:
        if not self.active(step):
            return inner.batch(step)
        loader = loader_behind(inner)
        before, loader._stream = loader._stream, self.copy.tokens("train")
        try:
            return inner.batch(step)
        finally:
            loader._stream = before

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.copy = None
        shutil.rmtree(vars(self).pop("_temporary", ""), ignore_errors=True)


def _link(source: str, target: str) -> None:
    with suppress(OSError):  # another file system, or none that links
        return os.link(source, target)
    shutil.copyfile(source, target)


class TruncatedShard(FileFault):
    """A shard that ends too early: a full disk, an upload that broke off.

    The run dies at the first window beyond the end; a loader without that check would hang, or read zeros.
    """

    name = "truncated-shard"

    def damage(self, path: Path) -> None:
        os.truncate(path, self.token * self.copy.tokens("train").shards[self.shard].itemsize)


class FlippedByte(FileFault):
    """One bit of one token is another: a bad sector or memory cell. The id stays in the vocabulary."""

    name = "flipped-byte"

    def damage(self, path: Path) -> None:
        tokens = self.copy.tokens("train").shards[self.shard].copy()
        at = min(self.token + 1, len(tokens) - 1)
        tokens[at] ^= 1 if int(tokens[at]) ^ 1 < self.copy.vocab_size else 2
        path.write_bytes(tokens.tobytes())


class DuplicateShard(FileFault):
    """A shard's file holds the tokens of another, as after a copy to the wrong name.

    Args:
        shard: the one whose own tokens are lost. None: the one that the first row at step `at` lies in.
    """

    name = "duplicate-shard"

    def __init__(self, run: Any, shard: int | None = None, **when: Any):
        super().__init__(run, shard=shard, **when)
        entries = run.dataset.shards("train")
        mine = entries[self.shard]
        self._twin = next((e for e in entries if e is not mine and e.tokens >= mine.tokens), None)
        if self._twin is None:
            raise FaultError(
                f"data set `{run.dataset.name}` has no other training shard as long as shard {self.shard}",
                remedy="choose another shard, train on `docstrings`, or build with smaller shards",
            )

    def damage(self, path: Path) -> None:
        path.write_bytes(path.with_name(self._twin.name).read_bytes()[: path.stat().st_size])
