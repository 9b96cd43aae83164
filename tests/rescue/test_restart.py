"""Protects the keeper: a killed run comes back, a finished or mistaken one does not, and no process is left.

pytest tests/rescue/test_restart.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmkit.errors import ConfigError, RescueError
from llmkit.folder import RunFolder
from llmkit.rescue import HANG_EXIT, cause_of_death, keep_alive, lost_work

HERE = Path(__file__).parent
TRAINER = [sys.executable, str(HERE / "trainer.py")]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent.parent))
    return tmp_path / "run"


def keep(path, *words, **how):
    return keep_alive([*TRAINER, str(path), *words], path, **how)


def lives(path):
    return len(Path(f"{path}.lives").read_text())


def restarts(path):
    return [e for e in RunFolder(path).events() if e.kind == "rescue"]


def gone(pid):
    """Wait for the end of a process that is not ours; the kernel tells, nobody polls a clock."""
    try:
        psutil.Process(pid).wait(timeout=30)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# ----------------------------------------------------------------------------------------- which deaths count


def test_every_exit_code_is_judged():
    deaths = {code: cause_of_death(code) for code in range(-64, 256)}
    signals = {s.value: s.name for s in signal.Signals if s not in (signal.SIGINT, signal.SIGTERM)}
    expected = dict.fromkeys(deaths, "") | {HANG_EXIT: "hung"}
    expected |= {-n: f"killed by {name}" for n, name in signals.items()}
    expected |= {128 + n: f"killed by {name}" for n, name in signals.items()}
    assert deaths == expected


@pytest.mark.parametrize(("word", "death"), [("kill", "killed by SIGKILL"), ("exit-75", "hung")])
def test_a_killed_or_hung_run_is_resumed(path, word, death):
    assert keep(path, word, "finish") == 0
    assert lives(path) == 2
    assert [r.step for r in RunFolder(path).steps()] == list(range(10))
    (restart,) = restarts(path)
    assert (restart.step, restart.data["trouble"], restart.data["restart"]) == (7, death, 1)
    verb = "hung" if word == "exit-75" else f"was {death}"
    assert restart.says == f"the process {verb} at step 7; restart 1 from step 5"


def test_the_work_lost_is_measured_from_the_folder(path):
    keep(path, "kill", "finish")
    data = restarts(path)[0].data
    data.pop("lived_s")
    assert data == {
        "policy": "restart", "trouble": "killed by SIGKILL", "from_step": 7, "to_step": 5, "lost_steps": 2,
        "lost_tokens": 200, "seconds": 1.0, "scale": 8.0, "micro_batch": 4, "skipped_batches": (),
        "restart": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("word", "code"), [("finish", 0), ("exit-3", 3), ("term", 143)])
def test_a_run_that_ended_by_itself_or_was_asked_to_stop_stays_ended(path, word, code):
    assert keep(path, word) == code
    assert lives(path) == 1
    assert not restarts(path)


def test_a_run_without_a_folder_is_started_again_as_it_was(path):
    assert keep(path, "early", "finish") == 0
    assert lives(path) == 2
    assert not restarts(path)


def test_it_gives_up_and_says_of_what_it_died(path):
    with pytest.raises(RescueError) as caught:
        keep(path, "kill", "exit-75", "segv", max_restarts=2)
    assert str(caught.value) == (
        f"`{sys.executable}` died 3 times: killed by SIGKILL, then hung, then killed by SIGSEGV\n"
        f"  remedy: look at `{path}` with `llmkit diagnose`"
    )
    assert lives(path) == 3
    assert len(restarts(path)) == 2


def test_a_program_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError) as caught:
        keep_alive(["no-such-program"], tmp_path)
    assert str(caught.value) == "no program `no-such-program`\n  expected: a command that can be run"


def test_lost_work_of_a_folder_that_was_saved_at_its_last_step(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    assert lost_work(folder)["lost_steps"] == lost_work(folder)["from_step"] == 0


def test_a_run_that_stops_writing_is_killed_and_resumed(path):
    """What the child's own watchdog cannot see: its interpreter is stuck."""
    assert keep(path, "stuck", "finish", hang_s=2.0) == 0
    assert restarts(path)[0].data["trouble"] == "hung"
    assert gone(int(Path(f"{path}.stuck").read_text()))


# --------------------------------------------------------------------------------------------- no one is left


def test_what_the_child_started_ends_with_it(path):
    assert keep(path, "child", "finish") == 0
    assert gone(int(Path(f"{path}.child").read_text()))


KEEPER = """
import sys
from llmkit.rescue.restart import keep_alive
keep_alive(sys.argv[2:], sys.argv[1])
"""

CHILD = """
import os, signal, sys
with open(sys.argv[1], "w") as pipe: pipe.write(str(os.getpid()))
signal.pause()
"""


def start_keeper(path):
    """A keeper in a process of its own, and the id of its child, which waits for ever."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    child = [sys.executable, "-c", CHILD, str(pipe)]
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(path), *child], stderr=subprocess.DEVNULL)
    return keeper, int(pipe.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_keeper_takes_its_child_along(path):
    keeper, child = start_keeper(path)
    assert psutil.pid_exists(child)
    keeper.kill()
    keeper.wait(30)
    assert gone(child)


def test_an_interrupted_keeper_asks_its_child_to_stop(path):
    keeper, child = start_keeper(path)
    keeper.send_signal(signal.SIGINT)
    assert keeper.wait(60) != 0
    assert gone(child)


# -------------------------------------------------------------------------------------------- the whole thing


@pytest.mark.slow
def test_a_real_run_that_hangs_ends_itself_and_resumes_to_the_same_bits(path, dataset):
    """The loader waits for ever at step 9; the watchdog ends the process; the resumed run equals one that
    never hung."""
    hung, straight = path.with_name("hung"), path.with_name("straight")
    job = [sys.executable, str(HERE / "hanging.py")]
    assert keep_alive([*job, str(hung), "hang"], hung) == 0
    assert keep_alive([*job, str(straight), "healthy"], straight) == 0
    assert (hung / "steps.jsonl").read_bytes() == (straight / "steps.jsonl").read_bytes()
    assert (hung / "digest").read_text() == (straight / "digest").read_text()
    told = RunFolder(hung).events()
    alarm = next(e for e in told if e.kind == "alarm")
    assert (alarm.data["kind"], alarm.step) == ("hang", 9)
    assert json.dumps(alarm.data["stacks"]).count("hanging.py") >= 1
    assert [e.data["policy"] for e in told if e.kind == "rescue"] == ["restart"]
