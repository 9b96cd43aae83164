"""Protects the cockpit without its front end: scripts tell the same story everywhere, the text twin says
what the panel says, buttons make sense, and no child is left behind.

    pytest tests/show/test_cockpit.py
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmkit.errors import ConfigError
from llmkit.folder import RunFolder
from llmkit.lab.session import News
from llmkit.records import Event, StepRecord, StepTimes
from llmkit.show.cockpit import cockpit
from llmkit.show.cockpit_screen import Screen, Status, as_text
from llmkit.show.cockpit_script import arguments, band
from llmkit.train import tiny

SETTINGS = {
    "steps": 90, "save_every": 25, "precision": "fp16", "data": "generated",
    "lr": 1e-3, "min_lr": 1e-4, "warmup": 10,
}  # fmt: skip


def is_gone(pid: int, seconds: float = 30.0) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


# -------------------------------------------------------------------------------------------- a whole flight

SCRIPT = [
    ("until", 30),
    ("inject", "nan-division", {"module": "blocks.0.mlp", "at": 33}),
    ("until", 60),
    ("repair",),
    ("rescue",),
    ("until", 60),
    ("kill",),
    ("step",),
    ("bring_back",),
    ("inject", "nan-divison"),
    ("until", 200),
]

STORY = """\
until 30
  paused at step 30, no crew aboard, loss 5.0 to 5.5
inject nan-division blocks.0.mlp 33
  paused at step 30, no crew aboard, loss 5.0 to 5.5
until 60
  step 33: alarm: nan; update skipped; loss scale 65,536 to 32,768; nan in blocks.0.mlp, forward
  step 34: alarm: nan; update skipped; loss scale 32,768 to 16,384; nan in blocks.0.mlp, forward
  step 35: alarm: nan; update skipped; loss scale 16,384 to 8,192; nan in blocks.0.mlp, forward
  step 36: died of NonFiniteError
  dead at step 36, no crew aboard, loss NaN
  doctor: LK101 NaN made inside a module: blocks.0.mlp
repair
  dead at step 36, no crew aboard, loss NaN
rescue
  paused at step 36, crew aboard, loss NaN
until 60
  paused at step 60, crew aboard, loss 5.0 to 5.5
kill
  killed at step 60, crew aboard, loss 5.0 to 5.5
step
  refused: the run's process is gone (exit code -9)
  killed at step 60, crew aboard, loss 5.0 to 5.5
bring_back
  step 50: resumed here, bit for bit
  paused at step 50, no crew aboard, loss 5.0 to 5.5
inject nan-divison
  refused: unknown fault `nan-divison`
  paused at step 50, no crew aboard, loss 5.0 to 5.5
until 200
  step 90: finished
  finished at step 90, no crew aboard, loss 4.5 to 5.0"""


@pytest.fixture(scope="module")
def flown(dataset, tmp_path_factory):
    """A panel after a whole flight, and what it told."""
    panel = cockpit(tiny(**SETTINGS), tmp_path_factory.mktemp("flown") / "run")
    told = panel.play(SCRIPT)
    yield panel, told
    panel.close()


def test_a_flight_by_script_tells_a_story_that_is_the_same_everywhere(flown):
    _, told = flown
    assert told == STORY
    assert repr(told) == STORY  # as the last value of a cell


def test_the_text_twin_says_what_the_panel_says(flown):
    panel, _ = flown
    traits = {
        name: getattr(panel, name) for name in ("status", "readouts", "axes", "marks", "events", "doctor")
    }
    assert as_text(traits) == panel.text() == str(panel)
    lines = panel.text().splitlines()
    assert lines[0] == "finished, step 90 of 90, no crew aboard, no fault in"
    last = RunFolder.open(panel.desk.session.folder).steps()[-1]
    assert lines[1].startswith(
        f"loss {last.loss:.3g}   gradient norm {last.grad_norm:.3g}   loss scale 8,192   "
    )
    assert "  [1] ✕ step 33: nan-division put in, module blocks.0.mlp" in lines
    assert "  LK101 NaN made inside a module (step 33, certain)" in lines


def test_the_curves_break_where_the_loss_did_and_keep_the_branch_that_was_killed(flown):
    panel, _ = flown
    loss = panel.desk.screen.curves["loss"]
    assert [step for step, value in loss.points() if math.isnan(value)] == [33, 34, 35]
    assert [step for step, _ in loss.points()] == list(range(90))
    (branch,) = loss.branches
    assert [step for step, _ in branch] == list(range(49, 60))
    known = dict(loss.points())
    assert all(value == known[step] for step, value in branch)  # an exact resume does it again, to the bit
    assert [(m["mark"], m["name"], m["step"]) for m in panel.marks if m["tone"] != "warning"] == [
        (1, "nan-division", 33), (3, "nonfinite", 33), (6, "died", 36), (7, "repair", 36), (8, "crew", 36),
        (9, "kill", 60), (10, "resume", 50),
    ]  # fmt: skip


def test_what_the_panel_sends_is_strict_json(flown):
    panel, _ = flown
    shown = panel.desk.screen.shown() | panel.desk.screen.patches(everything=True)
    json.dumps(shown, allow_nan=False)


def test_a_notebook_stores_a_short_name_that_never_changes(flown):
    panel, _ = flown
    assert repr(panel) == "<cockpit: tiny, 90 steps>"
    assert panel._repr_mimebundle_()[0]["text/plain"] == "<cockpit: tiny, 90 steps>"


def test_a_press_is_a_plain_function_and_a_refusal_is_a_line_of_the_log(flown):
    panel, _ = flown
    panel.handle({"press": "inject", "fault": "nan-divison", "at": None})
    assert panel.events[-1]["says"] == "unknown fault `nan-divison`; remedy: use `nan-division`"
    panel.handle({"press": "loop"})
    assert panel.events[-1]["says"].startswith("unknown command `loop`; remedy: use one of: `bring_back`")
    assert panel.status["handled"] == 2
    assert panel.status["busy"] == ""


# ------------------------------------------------------------------------------------------ no child is left


def test_a_cell_that_is_run_again_ends_the_run_before_it(dataset):
    first = cockpit(tiny(**SETTINGS))
    folder, pid = first.desk.session.folder, first.desk.session.pid
    first.handle({"press": "go"})
    second = cockpit(tiny(**SETTINGS))
    try:
        assert is_gone(pid)
        assert (first.status["state"], first.status["says"]) == ("closed", "closed")
        assert not any(first.status["allowed"].values())
        assert not folder.exists()  # it had no name, so it was temporary
        assert second.desk.session.alive
        assert str(first.text()).startswith("closed, step")
    finally:
        second.close()


KERNEL_CELL = """
from llmkit.show.cockpit import cockpit
from llmkit.train import tiny
panel = cockpit(tiny(**SETTINGS))
panel.handle({"press": "go"})
print(panel.desk.session.pid)
"""


def test_no_child_outlives_a_kernel_that_restarts_or_is_killed(dataset, tmp_path, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))

    def fly(client) -> int:
        said: list[str] = []
        reply = client.execute_interactive(
            f"SETTINGS = {SETTINGS | {'steps': 100_000}}\n{KERNEL_CELL}", timeout=120, allow_stdin=False,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )  # fmt: skip
        assert reply["content"]["status"] == "ok", said
        return int("".join(said))

    kernel, client = start_new_kernel(kernel_name="python3")
    try:
        child = fly(client)
        assert psutil.pid_exists(child)
        kernel.restart_kernel(now=False)
        assert is_gone(child)
        client.wait_for_ready(timeout=60)
        child = fly(client)
        assert psutil.pid_exists(child)
        psutil.Process(kernel.provisioner.pid).kill()
        assert is_gone(child)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


SCRIPT_THAT_ENDS = f"""
from llmkit.show.cockpit import cockpit
from llmkit.train import tiny
panel = cockpit(tiny(**{SETTINGS | {"steps": 100_000}}))
panel.handle({{"press": "go"}})
print(panel.desk.session.pid, panel.desk.session.folder)
"""


def test_a_program_that_ends_with_a_cockpit_open_ends_at_once_and_tidies_up(dataset):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_THAT_ENDS], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    pid, folder = done.stdout.split()
    assert is_gone(int(pid))
    assert not Path(folder).exists()


# --------------------------------------------------------------------------------------------------- buttons


@pytest.mark.parametrize(
    ("state", "more", "allowed"),
    [
        ("running", {}, "pause inject rescue kill"),
        ("running", {"crew": True, "faults": ["oom"]}, "pause inject repair dismiss kill"),
        ("paused", {}, "go step inject rescue kill"),
        ("paused", {"busy": "stepping"}, ""),
        ("dead", {"faults": ["oom"]}, "go repair rescue kill"),
        ("dead", {"crew": True}, "go rescue kill"),
        ("killed", {"crew": True, "faults": ["oom"]}, "bring_back"),
        ("finished", {"faults": ["oom"]}, ""),
        ("closed", {}, ""),
        ("starting", {}, ""),
    ],
)
def test_only_buttons_that_make_sense_can_be_pressed(state, more, allowed):
    can = Status(state=state, **more).allowed()
    assert " ".join(name for name, yes in can.items() if yes) == allowed


def test_the_state_line_says_who_is_aboard_and_what_is_in():
    status = Status(
        state="dead", step=1234, of=5000, crew=True, faults=["oom", "lr-glitch"], reason="RescueError"
    )
    shown = status.shown()
    assert (shown["glyph"], shown["says"]) == ("✕", "dead: RescueError")
    assert shown["where"] == "step 1,234 of 5,000, crew aboard, oom and lr-glitch in"


# ---------------------------------------------------------------------------------------------------- screen


def steps(start: int, stop: int, loss: float) -> list[StepRecord]:
    return [
        StepRecord(step=s, loss=loss, grad_norm=1.0, lr=1e-3, loss_scale=1024.0) for s in range(start, stop)
    ]


def test_a_log_that_was_cut_back_and_has_grown_past_its_old_end_still_shows_the_branch():
    screen = Screen("tiny", steps=100)
    screen.take(News(steps=steps(0, 40, 5.0)))
    screen.take(
        News(events=[Event(kind="resume", step=20, says="resumed at step 20")])
    )  # told before the log is cut
    screen.take(News(steps=steps(0, 20, 5.0) + steps(20, 50, 4.0), rewound=True))
    curve = screen.curves["loss"]
    assert curve.points() == [(s, 5.0) for s in range(20)] + [(s, 4.0) for s in range(20, 50)]
    assert [list(branch) for branch in curve.branches] == [[(s, 5.0) for s in range(19, 40)]]


def test_throughput_has_no_branches():
    screen = Screen("tiny", steps=100)
    screen.take(News(times=[StepTimes(step=s, tokens_per_s=100.0) for s in (0, 1, 2, 1, 2, 3)]))
    curve = screen.curves["throughput"]
    assert ([step for step, _ in curve.points()], list(curve.branches)) == ([0, 1, 2, 3], [])


def test_the_log_is_short_checkpoints_take_one_line_and_repeats_one_mark():
    screen = Screen("tiny", steps=100_000)
    for step in range(300):
        screen.take(
            News(events=[Event(kind="checkpoint", step=step), Event(kind="alarm", step=step, says="nan")])
        )
    assert len(screen.shown()["events"]) == 80
    assert [entry["step"] for entry in screen.shown()["marks"]] == [0]
    before = len(screen.log)
    for step in range(300, 320):
        screen.take(News(events=[Event(kind="checkpoint", step=step)]))
    assert screen.log[-1].step == 319
    assert len(screen.log) == before
    assert [entry.kind for entry in list(screen.log)[-2:]] == ["alarm", "checkpoint"]


# --------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("command", "rest", "given"),
    [
        ("until", [40], {"step": 40}),
        ("inject", ["oom", {"phase": "backward"}], {"fault": "oom", "phase": "backward"}),
        ("step", [], {}),
        ("repair", [], {}),
    ],
)
def test_a_line_of_a_script_is_a_command_and_what_it_takes(command, rest, given):
    assert arguments(command, rest) == given


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("go",), '`go` leaves the run going\n  remedy: say how far: ("until", STEP)'),
        (("untl", 3), "unknown command `untl`\n  remedy: use `until`"),
        (("until", 3, 4), "`until` was given [3, 4]\n  expected: step"),
        (("repair", 3), "`repair` was given [3]\n  expected: nothing"),
        (("until",), "`until` was given []\n  expected: step"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(line, says):
    with pytest.raises(ConfigError) as refusal:
        arguments(line[0], line[1:])
    assert str(refusal.value) == says


@pytest.mark.parametrize(
    ("loss", "says"), [(4.0, "4.0 to 4.5"), (4.499, "4.0 to 4.5"), (math.inf, "infinity")]
)
def test_a_loss_is_told_as_a_band(loss, says):
    assert band(loss) == says


def test_an_unknown_fault_button_is_refused_before_anything_starts():
    with pytest.raises(ConfigError) as refusal:
        cockpit(tiny(**SETTINGS), faults=["nan-division", "oops"])
    assert refusal.value.found == "unknown fault `oops`"
