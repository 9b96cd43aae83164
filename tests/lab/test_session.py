"""Protects the run in a child process: it does what it is told, dies and comes back, and never outlives its
parent.

pytest tests/lab/test_session.py
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from llmkit.errors import ConfigError, DataError, FaultError, RecordError
from llmkit.lab.flight import fly
from llmkit.lab.session import Session
from llmkit.memory.sizes import CARDS
from llmkit.train import tiny


@pytest.fixture(scope="module")
def settings(dataset):
    """A run that is ready in a second: the generated corpus, a checkpoint every 25 steps."""
    return {"steps": 80, "save_every": 25, "precision": "fp16", "data": "generated"}


@pytest.fixture(scope="module")
def endless(settings, tmp_path_factory):
    """A run that does not end by itself, for tests that leave it healthy."""
    with Session(
        tiny(**settings | {"steps": 100_000}), tmp_path_factory.mktemp("endless") / "run"
    ) as session:
        yield session


def is_gone(pid: int, seconds: float = 30.0) -> bool:
    """Whether the process ends within `seconds`. A zombie has ended: only its parent can bury it."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_run_goes_where_it_is_told_dies_of_a_fault_and_goes_on_when_it_is_repaired(settings, tmp_path):
    with Session(tiny(**settings), tmp_path / "run") as session:
        assert (session.state, session.at) == ("paused", 0)
        assert (session.until(10), session.at) == ("paused", 10)
        assert (session.step(), session.at) == ("paused", 11)
        news = session.news()
        assert [r.step for r in news.steps] == [t.step for t in news.times] == list(range(11))
        assert session.news().steps == []

        session.inject("nan-division", module="blocks.0.mlp", at=15, until=100)
        assert (session.until(30), session.at) == ("dead", 18)  # patience is 3 steps
        assert session.until(40) == "dead"
        (died,) = [e for e in session.news().events if e.kind == "died"]
        assert died.data["error"] == "NonFiniteError"

        session.repair()
        assert session.state == "dead"
        session.rescue(go=False)
        assert (session.state, session.until(30), session.at) == ("paused", "paused", 30)
        assert [r.skipped for r in session.run_folder().steps()] == [False] * 15 + [True] * 3 + [False] * 12

        session.rescue(False)
        session.inject("oom")
        assert (session.until(80), session.at) == ("dead", 30)
        session.repair()
        session.go()  # without the crew, too
        assert (session.until(80), session.at) == ("finished", 80)
        assert (session.until(80), session.step()) == ("finished", "finished")


def test_a_killed_run_comes_back_and_ends_as_if_nothing_had_happened(settings, dataset, tmp_path):
    cfg = tiny(**settings)
    list(fly(cfg, tmp_path / "straight", dataset=dataset))
    with Session(cfg, tmp_path / "killed") as session:
        session.until(40)
        session.news()
        session.kill()
        assert (session.state, session.alive) == ("gone", False)
        with pytest.raises(RecordError) as refusal:
            session.go()
        assert str(refusal.value) == (
            "the run's process is gone (exit code -9)\n"
            "  remedy: use bring_back() to resume it; "
            f"`{tmp_path / 'killed' / 'child.log'}` has its last words"
        )
        assert (session.bring_back(), session.state) == (25, "paused")
        news = session.news()
        assert news.rewound
        assert [r.step for r in news.steps] == list(range(25))
        assert [e.step for e in news.events if e.kind == "resume"] == [25]
        assert session.until(80) == "finished"
    straight, killed = (tmp_path / name / "steps.jsonl" for name in ("straight", "killed"))
    assert killed.read_bytes() == straight.read_bytes()


def test_after_a_rollback_the_news_begin_again(endless):
    at = endless.at
    endless.until(at + 40)
    endless.news()
    endless.rescue()
    endless.inject("nan-division", at=at + 42, until=at + 45)
    assert endless.until(at + 60) == "paused"
    news = endless.news()
    assert news.rewound
    assert [r.step for r in news.steps] == list(range(at + 60))
    assert "rollback-skip-data" in [e.data["policy"] for e in news.events if e.kind == "rescue"]
    endless.rescue(False)
    endless.repair()


def test_a_refusal_is_in_the_words_of_the_room_that_refuses_and_harms_nothing(endless, settings):
    endless.step()
    with pytest.raises(FaultError) as refusal:
        endless.inject("nan-divison")
    assert str(refusal.value) == "unknown fault `nan-divison`\n  remedy: use `nan-division`"
    with pytest.raises(FaultError) as refusal:
        endless.inject("lr-glitch", at=0)
    assert str(refusal.value) == (
        f"step 0 is over: the run is at step {endless.at}\n  remedy: choose a later step"
    )
    with pytest.raises(ConfigError) as refusal:
        endless.inject("oom", limit="plenty")
    assert str(refusal.value) == (
        '`plenty` is not a size\n  expected: bytes as an int, a size such as "24 MiB" or "1.5 GB", or a card: '
        + ", ".join(CARDS)
    )
    with pytest.raises(RecordError) as refusal:
        Session(tiny(**settings), endless.folder)
    assert str(refusal.value) == (
        f"`{endless.folder}` already holds a run\n  remedy: add --resume, or choose another folder"
    )
    assert endless.step() == "paused"


def test_a_refused_run_leaves_nothing_behind(settings, tmp_path):
    with pytest.raises(DataError) as refusal:
        Session(tiny(**settings | {"data": "nowhere"}), tmp_path / "run")
    assert refusal.value.found == "no data set `nowhere`"
    with pytest.raises(RecordError) as refusal:
        Session(None, tmp_path / "none", resume=True)
    assert refusal.value.found == f"`{tmp_path / 'none'}` is not a run folder"
    assert list(tmp_path.iterdir()) == []


def test_a_pause_ends_an_until_that_somebody_waits_for(endless):
    answers: list[str] = []
    endless.news()
    waiting = threading.Thread(target=lambda: answers.append(endless.until(99_999)))
    waiting.start()
    while not endless.news().steps:
        time.sleep(0.01)
    endless.pause()
    waiting.join(30)
    assert answers == ["paused"]
    assert endless.at < 99_999


def test_an_interrupt_of_the_parents_group_is_not_meant_for_the_run(endless):
    assert os.getpgid(endless.pid) != os.getpgid(0)


def test_a_session_that_is_forgotten_takes_its_child_along(settings, tmp_path):
    session = Session(tiny(**settings | {"steps": 100_000}), tmp_path / "run")
    session.go()
    pid = session.pid
    del session
    gc.collect()
    assert is_gone(pid)


PARENT = """
import json, os, sys, time
from llmkit.lab.session import Session
from llmkit.train import tiny
session = Session(tiny(**json.loads(sys.argv[2])), sys.argv[1])
session.go()
other = os.fork()       # as a data loader's worker would be: it inherits the pipe to the child
if other:
    print(session.pid, other, flush=True)
time.sleep(600)
"""


def test_no_child_is_left_when_its_parent_is_killed_even_if_others_hold_the_pipe(settings, tmp_path):
    arguments = [str(tmp_path / "run"), json.dumps(settings | {"steps": 100_000})]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        child, other = map(int, parent.stdout.readline().split())
        assert psutil.pid_exists(child)
        parent.kill()
        assert is_gone(child)
        assert psutil.pid_exists(other)
        os.kill(other, signal.SIGKILL)
    finally:
        parent.kill()
        parent.communicate()
