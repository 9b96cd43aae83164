"""Protects: a build is whole or absent: refused with the reason, killed, raced or out of disk.

python -m pytest tests/data/test_building_refusals.py
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

import llmkit.data.building as building
import llmkit.folder
from llmkit.data import Document, TokenDataset, build, verify
from llmkit.errors import ConfigError, DataError, StorageError


def make(documents, folder, **options) -> TokenDataset:
    return build(documents, folder, **{"vocab_size": 300, "name": "small", "sources": {}, **options})


def test_no_documents_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(DataError) as error:
        make([], tmp_path / "a")
    assert str(error.value) == (
        "no documents to build a data set from\n"
        "  expected: at least one non-empty text\n"
        "  remedy: name files or folders with .txt, .jsonl or .parquet in them"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "document `b` is empty\n  expected: at least one character"),
        (
            "half \ud83d",
            "document `b` is not Unicode text: half a character at 5\n"
            "  remedy: read the file with its right encoding, or drop the document",
        ),
    ],
)
def test_a_bad_document_is_named(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        make([Document(0, "a", "fine"), Document(1, "b", text)], tmp_path / "a")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 0.6}, "val_share is 0.6\n  expected: a share from 0 to 0.5"),
        ({"shard_tokens": 0}, "shard_tokens is 0\n  expected: at least 1"),
    ],
)
def test_impossible_options_are_refused(documents, tmp_path, options, message):
    with pytest.raises(ConfigError) as error:
        make(documents, tmp_path / "a", **options)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_is_too_small_leaves_nothing_behind(documents, tmp_path):
    with pytest.raises(ConfigError, match="a vocabulary of 100 is too small for byte-level BPE"):
        make(documents, tmp_path / "a", vocab_size=100)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(documents, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError) as error:
            make(documents, folder)
        assert str(error.value) == (
            f"`{folder}` already exists and is not an empty folder\n"
            "  remedy: name a new folder, or delete this one first"
        )
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_as_good_as_none(documents, tmp_path):
    (tmp_path / "a").mkdir()
    assert verify(make(documents, tmp_path / "a").path) == []


def test_a_folder_that_cannot_be_made_is_named(documents, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as error:
        make(documents, tmp_path / "file" / "a")
    assert str(error.value) == (
        f"cannot write `{tmp_path / 'file' / 'a'}`: not a directory\n"
        "  remedy: choose a folder you may write to"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(documents, tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StorageError) as error:
            make(documents, tmp_path / "a")
    finally:
        tmp_path.chmod(0o755)
    assert str(error.value) == (
        f"cannot write `{tmp_path / 'a'}`: permission denied\n  remedy: choose a folder you may write to"
    )


def test_a_refusal_of_the_system_is_named(documents, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(StorageError) as error:
        make(documents, tmp_path / "a")
    assert str(error.value) == (
        f"cannot write `{tmp_path / 'a'}`: permission denied\n  remedy: choose a folder you may write to"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_at_any_file_leaves_nothing_behind(documents, tmp_path, monkeypatch):
    """The disk is full at the k-th fsync, for every k up to the last one before the folder is in place."""
    fsync, left = os.fsync, 0

    def fill(handle):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(llmkit.folder.os, "fsync", fill)
    make(documents, tmp_path / "counted")
    calls = -left - 1  # the last fsync comes after the rename
    # the index, hashes, names, two shards; two each for tokenizer, leaves, manifest, sketch, manifest; the folder
    assert calls == 16
    for k in range(1, calls + 1):
        left = k
        with pytest.raises(StorageError) as error:
            make(documents, tmp_path / "a")
        assert str(error.value) == (
            f"cannot write `{tmp_path / 'a'}`: no space left on device\n"
            "  remedy: free some space or choose another folder"
        )
        assert [p.name for p in tmp_path.iterdir()] == ["counted"]


KILLED = """
import os, signal, sys
from llmkit.data import build
from llmkit.data.synthetic import synthetic
where, left = sys.argv[2], int(sys.argv[3])
def count(here):
    global left
    left -= here == where
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(name, call):
    def counting(*arguments):
        count(name)
        return call(*arguments)
    return counting
def documents():
    for document in synthetic(documents=40, seed=3):
        count("read")
        yield document
os.replace, os.fsync = counted("rename", os.replace), counted("fsync", os.fsync)
progress = lambda stage, done, total: count(stage)
build(documents(), sys.argv[1], vocab_size=300, name="small", sources={}, progress=progress)
"""


def run(code: str, *arguments: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


# the manifest is renamed third, and with its sketch fifth; the folder last
STAGES = [("read", 20), ("train", 1), ("fsync", 1), ("encode", 1), ("fsync", 4)]
STAGES += [("rename", 3), ("rename", 5), ("rename", 6)]


@pytest.mark.parametrize(("stage", "at"), STAGES)
def test_a_build_killed_at_any_stage_leaves_no_data_set_and_the_next_one_works(
    documents, tmp_path, stage, at
):
    assert run(KILLED, tmp_path / "a", stage, at).wait() == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    (left,) = tmp_path.iterdir()
    assert verify(make(documents, tmp_path / "a").path) == []
    assert left.exists()  # it might belong to a build that is still running
    yesterday = time.time() - 90000
    os.utime(left, (yesterday, yesterday))
    make(documents, tmp_path / "b")
    assert left.exists()  # another folder's
    os.rename(tmp_path / "a", tmp_path / "c")
    make(documents, tmp_path / "a")
    assert not left.exists()


TOGETHER = """
import sys
from llmkit.data import generated
dataset = generated(vocab_size=300, documents=40, seed=3, cache=sys.argv[1])
print(dataset.digest)
"""


def test_two_processes_that_build_at_once_get_the_same_data_set(tmp_path):
    both = [run(TOGETHER, tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert verify(folder) == []


def test_a_slower_build_takes_over_an_equal_one_and_refuses_another(documents, tmp_path, monkeypatch):
    publish = building.publish

    def late(temporary, folder):
        monkeypatch.setattr(building, "publish", publish)
        make(faster, folder)
        publish(temporary, folder)

    faster = documents
    monkeypatch.setattr(building, "publish", late)
    assert verify(make(documents, tmp_path / "a").path) == []

    faster = documents[:20]
    monkeypatch.setattr(building, "publish", late)
    with pytest.raises(DataError, match="already exists and is not an empty folder"):
        make(documents, tmp_path / "b")
    assert TokenDataset(tmp_path / "b").n_documents == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
