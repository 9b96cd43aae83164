"""Protects several ranks: the same numbers as one process, decisions taken together, a clean end when one dies.

pytest tests/train/test_parallel.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

JOB = Path(__file__).with_name("ranks.py")
SCENARIOS = ("ragged", "mixture", "nan_on_the_last_rank", "stop_on_the_last_rank", "saved_and_resumed")


def launch(out, ranks, *scenarios):
    """torchrun on this machine; returns (exit code, stderr)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(JOB), str(out), *scenarios], capture_output=True, text=True, timeout=120, env=env
    )
    return done.returncode, done.stderr


def answers(out, name, ranks):
    return [json.loads((out / f"{name}.{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def outs(dataset, tmp_path_factory):
    """All scenarios on one process and on two."""
    found = {}
    for ranks in (1, 2):
        found[ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
        code, stderr = launch(found[ranks], ranks, *SCENARIOS)
        assert code == 0, stderr
    return found


@pytest.mark.parametrize("name", ["ragged", "mixture"])
def test_two_ranks_give_the_loss_of_one_process_with_unequal_shares(outs, name):
    [one], two = answers(outs[1], name, 1), answers(outs[2], name, 2)
    assert one["tokens"] == two[0]["tokens"] == 64 * 3 + 1 + 3 + 7 + 2 + 30
    for rank in two:
        assert rank["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert rank["norm"] == pytest.approx(one["norm"], rel=1e-4)
    assert two[0]["loss"] == two[1]["loss"] and two[0]["norm"] == two[1]["norm"]


def test_a_nan_on_one_rank_skips_the_step_on_all(outs):
    assert [a["skipped"] for a in answers(outs[2], "nan_on_the_last_rank", 2)] == [[2], [2]]


def test_one_rank_that_wants_to_stop_stops_all_at_the_same_step(outs):
    """Asked after step 1, agreed in the all-reduce of step 2."""
    assert [a["done"] for a in answers(outs[2], "stop_on_the_last_rank", 2)] == [[0, 1, 2], [0, 1, 2]]


def test_ranks_save_together_and_resume_bit_for_bit(outs):
    for answer in answers(outs[2], "saved_and_resumed", 2):
        assert answer["same"] and answer["step"] == 3
        assert answer["files"] == [
            "checkpoint.json", "optimizer.pt", "rank-00000.pt", "rank-00001.pt", "weights.pt",
        ]  # fmt: skip


def test_an_exception_on_one_rank_ends_the_job_and_is_named(dataset, tmp_path):
    code, stderr = launch(tmp_path, 2, "die_on_the_last_rank")
    assert code == 1
    assert "RuntimeError: planted on the last rank" in stderr
    assert not list(tmp_path.iterdir())
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]
