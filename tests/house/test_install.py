"""Protects the first command in a fresh clone: which Python, which index, what is said when one is missing.

pytest tests/house/test_install.py
"""

from __future__ import annotations

import http.server
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def index():
    """A package index on this machine that answers."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silence():
    """One that accepts a connection and then says nothing, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# ------------------------------------------------------------------------------------------------ which index


def test_the_cpu_index_is_added_where_it_answers(install, index, capsys):
    assert install.index_options("cpu", "linux", index) == ["--extra-index-url", index]
    assert capsys.readouterr().out == ""


def test_an_index_that_does_not_answer_is_named_in_one_line_and_is_not_fatal(install, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert install.index_options("cpu", "linux", closed) == []
    assert capsys.readouterr().out == (
        f"note: {closed} does not answer; torch comes from pip's configured indexes "
        "(on PyPI, the CUDA build)\n"
    )


def test_an_index_that_hangs_is_given_up_in_time(install, silence):
    start = time.perf_counter()
    assert not install.answers(silence, seconds=0.2)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(("torch", "system"), [("cuda", "linux"), ("cpu", "darwin")])
def test_no_index_is_asked_where_none_is_needed(install, torch, system):
    assert install.index_options(torch, system, "no-url-at-all") == []


def test_an_unknown_build_is_refused(install):
    with pytest.raises(SystemExit) as refused:
        install.index_options("rocm", "linux")
    assert str(refused.value) == "error: unknown build TORCH=rocm\n  expected: TORCH=cpu or TORCH=cuda"


# ----------------------------------------------------------------------------------------------- which Python

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess:
    ours = {
        k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))
    }  # `make test` is make too
    environment = {**ours, "PATH": path or os.environ["PATH"]}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@needs_make
def test_the_newest_python_that_answers_is_taken_and_one_that_does_not_is_passed_over(tmp_path):
    (tmp_path / "python3.14").write_text("#!/bin/sh\nexit 127\n")  # what pyenv leaves for an absent version
    (tmp_path / "python3.14").chmod(0o755)
    (tmp_path / "python3.13").symlink_to(sys.executable)
    done = make(
        "-n",
        "VENV=" + str(tmp_path / "venv"),
        str(tmp_path / "venv/.ready"),
        path=f"{tmp_path}:/usr/bin:/bin",
    )
    assert "\npython3.13 scripts/install.py" in done.stdout


@needs_make
def test_without_any_python_one_sentence_says_what_to_install(tmp_path):
    done = make("PYTHON=", "VENV=" + str(tmp_path / "venv"), str(tmp_path / "venv/.ready"))
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "error: no Python 3.11 to 3.14 with the venv module was found; install one (Debian, Ubuntu: "
        "apt-get install python3 python3-venv) or name it with PYTHON=..."
    )


@needs_make
def test_make_alone_lists_every_target():
    listed = [line.split()[1] for line in make().stdout.splitlines()]
    assert listed == ["help", "lab", "demo", "test", "test-all", "grade", "bench", "lock", "clean"]


# -------------------------------------------------------------------------------------------- what is shipped


def test_the_wheel_holds_every_file_of_the_package_and_the_command(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("llmkit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("llmkit/")}
        (command,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "llmkit = llmkit.cli:main" in archive.read(command).decode()
    present = {p.relative_to(ROOT).as_posix() for p in (ROOT / "llmkit").rglob("*") if p.is_file()}
    assert shipped == {name for name in present if "__pycache__" not in name}
