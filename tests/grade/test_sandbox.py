"""Protects: what the sandbox is built from. What a learner's code finds in it is tested in test_attacks.py.

pytest tests/grade/test_sandbox.py
"""

from __future__ import annotations

import itertools
import resource
import shutil
from pathlib import Path

import pytest

import llmkit
from llmkit.grade import sandbox
from llmkit.grade.sandbox import Isolation, Limits, kernel_command, kernel_environment, rlimits

PACKAGE = Path(llmkit.__file__).resolve().parent
BOX = Isolation("bubblewrap")


def mounts(*hides: str) -> list[str]:
    command = kernel_command(BOX, Path("/tmp/lk-test"), Limits(), hides)
    flags = ("--bind", "--ro-bind", "--ro-bind-try")
    binds = [place for flag, place in itertools.pairwise(command) if flag in flags]
    return [place for place in binds if Path(place).is_relative_to(PACKAGE.parent)]


def test_of_the_examiners_room_only_what_knows_no_answer_is_mounted():
    ours = {Path(place).name for place in mounts() if Path(place).parent == PACKAGE / "grade"}
    assert ours == set(sandbox.VISIBLE) == {"__init__.py", "check.py", "collect.py", "predict.py"}
    assert str(PACKAGE) not in mounts()
    assert str(PACKAGE.parent) not in mounts()
    assert str(PACKAGE / "grade") not in mounts()


def test_what_is_mounted_imports_no_reference():
    for name in sandbox.VISIBLE:
        lines = (PACKAGE / "grade" / name).read_text().splitlines()
        imports = [line for line in lines if line.startswith(("from llmkit", "import llmkit"))]
        allowed = (
            "from llmkit.errors",
            "from llmkit.folder",
            "from llmkit.grade.check",
            "from llmkit.grade.collect",
        )
        assert all(line.startswith(allowed) for line in imports)


def test_rooms_that_hold_the_answer_are_left_out():
    assert str(PACKAGE / "train") in mounts()
    assert str(PACKAGE / "train") not in mounts("train")


def test_the_kernels_environment_has_nothing_of_the_examiners(monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    for isolation in (BOX, Isolation("rlimits", "why")):
        variables = kernel_environment(isolation, Path("/tmp/lk-test"))
        assert "A_SECRET" not in variables
        assert variables["LLMKIT_GRADING"] == "1"


def test_every_limit_is_one_that_this_machine_knows():
    found = rlimits(Limits(wall=7.0))
    assert found["RLIMIT_CPU"] == 12
    assert all(hasattr(resource, name) for name in found)


def test_without_bubblewrap_the_isolation_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox.sys, "platform", "linux")
    sandbox.choose.cache_clear()
    assert sandbox.choose() == Isolation("rlimits", "bubblewrap is not installed")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    sandbox.choose.cache_clear()
    assert sandbox.choose() == Isolation("rlimits", "bubblewrap needs Linux")
    sandbox.choose.cache_clear()


def test_a_bubblewrap_that_cannot_start_is_not_trusted(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sandbox.sys, "platform", "linux")
    sandbox.choose.cache_clear()
    why = "bubblewrap cannot start here (bwrap: setting up uid map: Permission denied)"
    assert sandbox.choose() == Isolation("rlimits", why)
    sandbox.choose.cache_clear()


@pytest.mark.parametrize("name", ["bubblewrap", "rlimits"])
def test_the_kernel_is_started_with_its_limits_inside(name):
    command = kernel_command(Isolation(name, ""), Path("/tmp/lk-test"), Limits())
    launch = command[command.index("-c") + 1]
    assert launch.index("setrlimit") < launch.index("import launch_new_instance")
