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
from llmkit.grade import landlock, sandbox
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
    for isolation in (BOX, Isolation("landlock", "why"), Isolation("rlimits", "why")):
        variables = kernel_environment(isolation, Path("/tmp/lk-test"))
        assert "A_SECRET" not in variables
        assert variables["LLMKIT_GRADING"] == "1"


def test_every_limit_is_one_that_this_machine_knows():
    found = rlimits(Limits(wall=7.0))
    assert found["RLIMIT_CPU"] == 12
    assert all(hasattr(resource, name) for name in found)


@pytest.fixture
def afresh(monkeypatch):
    """`choose` as on a Linux where it was never called."""
    monkeypatch.setattr(sandbox.sys, "platform", "linux")
    sandbox.choose.cache_clear()
    yield monkeypatch
    sandbox.choose.cache_clear()


@pytest.mark.parametrize(
    "abi, found", [(7, ("landlock", "")), (0, ("rlimits", "; this Linux has no Landlock"))]
)
def test_without_bubblewrap_landlock_is_next_and_the_isolation_says_why(afresh, abi, found):
    afresh.setattr(shutil, "which", lambda name: None)
    afresh.setattr(landlock, "abi", lambda: abi)
    assert sandbox.choose() == Isolation(found[0], "bubblewrap is not installed" + found[1])


def test_off_linux_there_are_resource_limits_only(afresh):
    afresh.setattr(sandbox.sys, "platform", "darwin")
    assert sandbox.choose() == Isolation("rlimits", "bubblewrap and Landlock need Linux")


def test_a_bubblewrap_that_cannot_start_is_not_trusted(afresh, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    afresh.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    afresh.setattr(landlock, "abi", lambda: 4)
    why = "bubblewrap cannot start here (bwrap: setting up uid map: Permission denied)"
    assert sandbox.choose() == Isolation("landlock", why)


def test_a_folder_with_a_secret_in_it_is_given_entry_by_entry(tmp_path):
    for name in ("a/b/secret/x", "a/b/open", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    read, listed = [], []
    sandbox._split(tmp_path, {tmp_path / "a" / "b" / "secret"}, read, listed)
    assert read == [str(tmp_path / name) for name in ("a/b/open", "a/c", "d")]
    assert listed == [str(tmp_path / name) for name in ("", "a", "a/b")]


def test_landlock_gives_no_right_on_the_package_or_the_repository(tmp_path):
    rights = sandbox._rights(tmp_path, ("train",))
    given = {Path(path) for kind in rights.values() for path in kind}
    assert not given & {PACKAGE, PACKAGE / "grade", PACKAGE / "train", *PACKAGE.parents}
    house = sandbox._doll_house(tmp_path, ("train",))
    assert {path.name for path in (house / "llmkit" / "grade").iterdir()} == set(sandbox.VISIBLE)
    assert not (house / "llmkit" / "train").exists()


@pytest.mark.parametrize("name", ["bubblewrap", "landlock", "rlimits"])
def test_the_kernel_is_started_with_its_limits_inside(name, tmp_path):
    command = kernel_command(Isolation(name, ""), tmp_path, Limits())
    launch = command[command.index("-c") + 1]
    assert launch.index("setrlimit") < launch.index("import launch_new_instance")
    assert ("confine(**" in launch) == (name == "landlock")
    assert launch.find("confine(**") < launch.index("import launch_new_instance")
