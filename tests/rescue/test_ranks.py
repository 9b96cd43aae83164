"""Protects a crew of several ranks: what one rank suffers is treated by all, alike and at the same step.

pytest tests/rescue/test_ranks.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit.folder import RunFolder

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def launch(out, scenario):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    return subprocess.run(
        [*command, str(HERE / "ranks.py"), str(out), scenario],
        capture_output=True, text=True, timeout=240, env=env,
    )  # fmt: skip


def test_all_ranks_treat_the_illness_of_one(dataset, tmp_path):
    done = launch(tmp_path, "ill_on_the_last_rank")
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"ill_on_the_last_rank.{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert one["alarms"] == [[20, "spike"], [33, "nan"], [34, "nan"], [35, "nan"]]
    assert one["rescues"] == [
        [20, "skip-step", 21],
        [33, "skip-step", 34],
        [34, "skip-step", 35],
        [35, "rollback-skip-data", 30],
    ]
    assert one["observers"] == 0
    folder = RunFolder(tmp_path / "run")
    assert [r.step for r in folder.steps()] == list(range(44))
    assert [r.step for r in folder.steps() if r.skipped] == [20]


def test_out_of_memory_on_one_rank_ends_the_job(dataset, tmp_path):
    """Its peers wait in an all-reduce: nothing can be cured here, and nothing hangs."""
    done = launch(tmp_path, "out_of_memory_on_the_last_rank")
    assert done.returncode != 0
    assert "OutOfMemoryError: CUDA out of memory" in done.stderr
