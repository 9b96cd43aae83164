"""What the cockpit costs the run it watches: steps per second with it looking, over those without.

    python benchmarks/cockpit.py [--rounds 20] [--seconds 6] [--config laptop] [--browser] [--json]

A real kernel holds the panel, the run is its child. Within each round the cockpit looks for some seconds and
is held back for as many, so that both see the same machine; each figure is the median over rounds of the
ratio within the round. The first look after a pause reads all that was missed: the cost is told a little too
high. A window must hold some ten steps: lengthen it with `--seconds` on a slow machine.
Goal at `laptop()`: 0.95 with no browser open. `--browser` adds JupyterLab in Chromium with the panel on screen;
what it costs is mostly the browser's own work on the same cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

PANEL = """
from llmkit.show.cockpit import cockpit
from llmkit.train import named
panel = cockpit(named({config!r}, steps=10**6, save_every=0))
panel.handle({{"press": "go"}})
panel
"""

# One round: LOOK, hold, LOOK, hold ...; steps per second from the time stamps that the run itself wrote.
MEASURE = """
import json, statistics, time
from llmkit.folder import RunFolder

spans = []
time.sleep({seconds})                                        # warm-up
for _ in range({rounds}):
    start = time.time()
    time.sleep({seconds})
    middle = time.time()
    with panel.desk.lock:                                    # the thread that looks has to wait
        time.sleep({seconds})
    spans.append((start, middle, time.time()))
panel.handle({{"press": "pause"}})
stamps = [times.at for times in RunFolder.open(panel.desk.session.folder).times()]

def rate(start, end):
    inside = [at for at in stamps if start <= at < end]
    return (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 2 else float("nan")

rates = [(rate(a, b), rate(b, c)) for a, b, c in spans]
open({result!r}, "w").write(json.dumps(rates))
panel.end()
"""


def closed(cells: list[str], done: Path) -> None:
    """A kernel that no front end listens to."""
    from jupyter_client.manager import start_new_kernel

    kernel, client = start_new_kernel()
    try:
        for cell in cells:
            reply = client.execute_interactive(cell, timeout=3600, output_hook=lambda message: None)
            if reply["content"]["status"] != "ok":
                raise SystemExit("\n".join(reply["content"]["traceback"]))
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def opened(cells: list[str], done: Path) -> None:
    """JupyterLab in headless Chromium, the panel on screen."""
    import nbformat
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp(prefix="llmkit-bench-"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "bench.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=os.environ | {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    try:
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1240, "height": 1000})
            address = f"http://127.0.0.1:{port}/doc/tree/bench.ipynb"
            patiently(lambda: page.goto(address))
            page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
            patiently(lambda: start(page), limit=120)
            page.wait_for_selector('.llmkit-cockpit[data-state="running"]', timeout=300_000)
            page.keyboard.press("Shift+Enter")
            patiently(lambda: json.loads(done.read_text()), limit=3600)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def start(page: Page) -> None:
    """Run the first cell. Raises where the press is lost, as it is until the kernel is connected."""
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    taken = "document.querySelector('.jp-InputPrompt').textContent.trim() !== '[ ]:'"
    page.wait_for_function(taken, timeout=3000)


def patiently(work: Callable[[], object], limit: float = 60.0) -> None:
    """Again and again, until it works."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            work()
            return
        time.sleep(0.5)
    work()


def measure(config: str, rounds: int, seconds: float, *, browser: bool) -> dict:
    result = Path(tempfile.mkdtemp(prefix="llmkit-bench-")) / "rates.json"
    cells = [
        PANEL.format(config=config),
        MEASURE.format(rounds=rounds, seconds=seconds, result=str(result)),
    ]
    (opened if browser else closed)(cells, result)
    rates = [pair for pair in json.loads(result.read_text()) if not any(map(math.isnan, pair))]
    if len(rates) < rounds:
        raise SystemExit(f"{rounds - len(rates)} of {rounds} rounds held too few steps: lengthen --seconds")
    ratios = [looking / held for looking, held in rates]
    return {
        "config": config,
        "browser": "open" if browser else "closed",
        "rounds": rounds,
        "steps_per_s_alone": round(statistics.median(held for _, held in rates), 3),
        "steps_per_s_watched": round(statistics.median(looking for looking, _ in rates), 3),
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--config", choices=("laptop", "tiny"), default="laptop")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    missed = False
    for browser in (False, True) if chosen.browser else (False,):
        found = measure(chosen.config, chosen.rounds, chosen.seconds, browser=browser)
        missed |= not browser and found["ratio"] < 0.95
        if chosen.json:
            print(json.dumps(found), flush=True)
        else:
            print(
                f"{found['config']}, browser {found['browser']}, {found['rounds']} rounds: "
                f"{found['steps_per_s_alone']} steps/s alone, {found['steps_per_s_watched']} watched, "
                f"ratio {found['ratio']} (quartiles {found['quartiles'][0]} to {found['quartiles'][2]})",
                flush=True,
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
