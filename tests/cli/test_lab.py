"""Protects `llmkit lab`: it opens the first notebook, and what the notebooks link to is within reach.

pytest tests/cli/test_lab.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def answer(url: str) -> dict:
    """JSON from a server that says where it is before it listens there."""
    opener, limit = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 60
    while True:
        try:
            with opener.open(url, timeout=60) as found:
                return json.load(found)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.1)


def test_it_opens_the_first_notebook_and_links_reach_the_exercises_and_the_package(dataset, tmp_path):
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    server = subprocess.Popen(
        [sys.executable, "-m", "llmkit", "lab"],
        cwd=ROOT, env=os.environ | folders | {"BROWSER": "true"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = next(filter(None, (re.search(r"http://localhost\S+", line) for line in server.stderr)))[0]
        page, token = said.split("?token=")
        host, opened = page.split("/lab/tree/")
        assert opened == "notebooks/00_start_here.ipynb"
        for linked in (opened, "exercises/01_loss_scaler.ipynb", "llmkit/train/loop.py"):
            assert answer(f"{host}/api/contents/{linked}?content=0&token={token}")["path"] == linked
    finally:
        server.kill()
        server.stderr.close()
        server.wait()
