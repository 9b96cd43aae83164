"""Protects the cockpit's front end: JupyterLab in a real Chromium, buttons pressed, values read off the page.

    pytest tests/show/test_cockpit_browser.py

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
LIMIT = 60_000  # milliseconds

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        bool(MISSING) and os.environ.get("LLMKIT_REQUIRE_BROWSER") != "1",
        reason=f"needs {' and '.join(MISSING)}",
    ),
]

CELL = """
from llmkit.show.cockpit import cockpit
from llmkit.train import tiny
cockpit(tiny(steps=5000, precision="fp16", data="generated"))
"""


@pytest.fixture
def lab(dataset, tmp_path):
    """JupyterLab on a notebook with one cell; afterwards no process of it is left."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
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
        server.wait(30)
        _, alive = psutil.wait_procs(family, timeout=30)
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
    """Press until JupyterLab takes it: before its kernel is connected, a press is lost without a word."""
    from playwright.sync_api import TimeoutError as Late

    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    taken = "document.querySelector('.jp-CodeCell .jp-InputPrompt').textContent !== '[ ]:'"
    for _ in range(20):
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(Late):
            page.wait_for_function(taken, timeout=LIMIT / 20)
            return
    raise AssertionError("the cell was never run")


class Panel:
    """What a person sees and presses."""

    def __init__(self, page):
        self.page, self.root = page, page.locator(".llmkit-cockpit")

    def reaches(self, state: str) -> None:
        self.page.wait_for_selector(f'.llmkit-cockpit[data-state="{state}"]')

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def until(self, script: str) -> None:
        self.page.wait_for_function(script)

    def path(self, layer: str) -> str:
        return self.page.locator(f".llmkit-cockpit figure >> nth=0 >> .{layer}").get_attribute("d") or ""

    def enabled(self) -> list[str]:
        return self.root.locator('button[aria-disabled="false"]').all_inner_texts()


LOSS = "document.querySelector('[data-curve=loss]').textContent"

# Changes of the step that is shown, in three seconds; the line's node must be the same one afterwards.
CHANGES = """async () => {
    const where = document.querySelector('.llmkit-cockpit .where');
    const line = document.querySelector('.llmkit-cockpit .line');
    let changes = 0;
    const observer = new MutationObserver(() => { changes += 1; });
    observer.observe(where, { childList: true, characterData: true, subtree: true });
    await new Promise((done) => setTimeout(done, 3000));
    observer.disconnect();
    return [changes, line.isConnected];
}"""


def test_a_stranger_breaks_the_run_sees_why_has_it_rescued_kills_it_and_brings_it_back(page):
    panel = Panel(page)
    panel.reaches("paused")
    assert panel.enabled()[:2] == ["Go", "Step once"]
    panel.root.get_by_role("button", name="Go", exact=True).focus()
    page.keyboard.press("Enter")  # by keyboard: JupyterLab must not take the key for itself
    panel.reaches("running")

    # the curves move, at least twice a second, and their nodes are not replaced
    panel.until("document.querySelector('.llmkit-cockpit .line').getAttribute('d').split('L').length > 20")
    changes, same_line = page.evaluate(CHANGES)
    assert changes / 3 >= 2
    assert same_line

    # broken: the readout, the curve, the watchdog, the doctor
    panel.press("nan-division")
    panel.reaches("dead")
    panel.until(f"{LOSS} === 'NaN'")
    panel.until("document.querySelector('.llmkit-cockpit figure .bad text').textContent === '✕ NaN'")
    assert panel.root.locator("li.fault .glyph").first.inner_text() == "✕"
    assert "the loss is nan" in panel.root.locator("li.alarm").first.inner_text()
    assert "NonFiniteError" in panel.root.locator("li.died").inner_text()
    finding = panel.root.locator('.finding[data-code="LK101"]')
    finding.wait_for()
    assert "blocks.1.mlp" in finding.inner_text()
    assert panel.enabled() == ["Go", "Rescue", "Kill −9", "Repair"]
    assert panel.path("line").count("M") == 1

    # mended: the line goes on behind a gap
    panel.press("Repair")
    panel.until("document.querySelectorAll('.llmkit-cockpit li.repair').length === 1")
    panel.press("Rescue")
    panel.reaches("running")
    panel.until(f"{LOSS} !== 'NaN'")
    panel.until("document.querySelector('.llmkit-cockpit .line').getAttribute('d').split('M').length === 3")
    assert "crew aboard" in panel.root.locator(".where").inner_text()

    # killed and brought back: the lost steps stay as a branch
    panel.press("Kill −9")
    panel.reaches("killed")
    assert panel.enabled() == ["Bring back"]
    panel.press("Bring back")
    panel.reaches("paused")
    panel.until("document.querySelectorAll('.llmkit-cockpit li.resume').length === 1")
    assert panel.path("branch").startswith("M")
    panel.press("Go")
    panel.reaches("running")
    assert page.errors == []
