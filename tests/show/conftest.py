"""A notebook with one cell, the module's CELL, run in JupyterLab in a real Chromium.

Every wait is for something in the page; the limits are generous because machines are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    name
    for name, there in {"chromium": CHROMIUM, "playwright": importlib.util.find_spec("playwright")}.items()
    if not there
]
LIMIT = 120_000  # milliseconds


@pytest.fixture
def lab(request, dataset, tmp_path):
    """JupyterLab on a notebook with one cell; afterwards no process of it is left."""
    if MISSING and os.environ.get("LLMKIT_REQUIRE_BROWSER") != "1":
        pytest.skip(f"needs {' and '.join(MISSING)}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(request.module.CELL.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "flight.ipynb")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "PYTHONPATH": str(ROOT)}
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.password=",
        f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | folders,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, tmp_path / "lab.log")
        yield f"http://127.0.0.1:{port}/doc/tree/flight.ipynb"
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one in some dozens, on a loaded machine
            server.wait(30)
        server.kill()  # a kernel ends when its parent is gone, and with it what the cell started
        server.wait()
        _, alive = psutil.wait_procs(family, timeout=LIMIT / 1000)
        for process in alive:
            process.kill()
    assert alive == []


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + LIMIT / 1000
    while True:
        try:
            return opener.open(url, timeout=5).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def page(lab):
    """The notebook in a browser, its cell run; `page.errors` has what its scripts threw."""
    from playwright.sync_api import sync_playwright

    quiet = "gpu quic background-networking component-update sync extensions"
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet.split())]
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.set_default_timeout(LIMIT)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(lab)
        run_first_cell(page)
        yield page
        browser.close()


def run_first_cell(page) -> None:
    """Press until JupyterLab takes it: before its kernel is connected, a press is lost without a word.

    With no kernel even asked for, a press brings a dialog over the page: so the name is awaited first.
    """
    from playwright.sync_api import TimeoutError as Late

    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    taken = "document.querySelector('.jp-CodeCell .jp-InputPrompt').textContent !== '[ ]:'"
    for _ in range(20):
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(Late):
            page.wait_for_function(taken, timeout=LIMIT / 20)
            return
    raise AssertionError("the cell was never run")
