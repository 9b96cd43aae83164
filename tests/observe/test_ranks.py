"""Protects the recorder under several ranks: rank 0 writes, and names what only another rank saw.

pytest tests/observe/test_ranks.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit.folder import RunFolder

JOB = Path(__file__).with_name("ranks.py")


@pytest.mark.slow
def test_a_nan_on_the_last_rank_is_named_in_the_log_of_the_first(dataset, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(JOB),
        str(tmp_path),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    first, last = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["sites"] == last["sites"] and first["same"] and last["same"]

    folder = RunFolder.open(tmp_path / "run")
    told = [event for event in folder.events() if event.kind == "nonfinite"]
    assert [(e.step, e.data["module"], e.data["phase"]) for e in told] == [
        (1, "blocks.1.mlp", "forward"), (3, "blocks.0.mlp.up", "backward"),
    ]  # fmt: skip
    for event, served in zip(told, last["served"], strict=True):
        assert event.data["sequences"] == (5,)  # row 1 of the second four
        assert event.data["documents"] == tuple(dict.fromkeys(served))
    assert [r.step for r in folder.steps()] == list(range(5)) == [t.step for t in folder.times()]
