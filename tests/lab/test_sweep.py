"""Protects the sweep: every cell once, kept when it is done, found again by what decides it, and the intervals.

pytest tests/lab/test_sweep.py
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmkit.train
from llmkit.errors import ConfigError
from llmkit.lab.sweep import Cell, Share, Sweep, code_digest, curves, share
from llmkit.records import read_jsonl
from llmkit.train import build, tiny, train

pytestmark = pytest.mark.usefixtures("dataset")

SMALL = {"data": "generated", "model__width": 8, "model__heads": 1, "model__layers": 1}
SMALL |= {"model__context": 8, "batch": 2, "steps": 3}
ARMS = {"base": {}, "hot": {"lr": 0.1}}


def plan(arms=ARMS, seeds=range(3), **changes):
    return Sweep(tiny(**SMALL | changes), arms, seeds)


def counting(cfg, dataset):
    return {"seed": cfg.seed}


def refusing(cfg, dataset):
    if cfg.seed == 1:
        raise ConfigError("no")
    return {"seed": cfg.seed}


def test_every_arm_meets_every_seed_once_and_the_second_time_nothing_is_left(tmp_path):
    file = tmp_path / "new" / "cells.jsonl"
    done = [(cell.arm, cell.seed) for cell in plan().run(file, workers=1)]
    assert done == [(arm, seed) for seed in range(3) for arm in ARMS]
    assert list(plan().run(file, workers=1)) == [] and plan().missing(file) == []
    assert [[cell.seed for cell in cells] for cells in plan().cells(file).values()] == [[0, 1, 2]] * 2


def test_a_cell_is_the_run_that_its_configuration_says(tmp_path, dataset):
    (cell,) = plan({"hot": {"lr": 0.1}}, [7]).run(tmp_path / "cells", workers=1)
    records = list(train(build(tiny(**SMALL, lr=0.1, seed=7, save_every=0), dataset=dataset)))
    assert cell.outcome["losses"] == [float(f"{r.loss:.5g}") for r in records]
    assert cell.outcome["grad_norms"] == [float(f"{r.grad_norm:.5g}") for r in records]


def test_a_run_that_dies_is_a_cell_with_the_curve_up_to_its_death(tmp_path):
    sweep = plan({"absurd": {"lr": 1e30, "min_lr": 0, "warmup": 0, "clip": math.inf}}, [0], steps=20)
    list(sweep.run(tmp_path / "cells", workers=1))
    ((cell,),) = sweep.cells(tmp_path / "cells").values()
    assert cell.outcome["died"] and len(cell.outcome["losses"]) < 20
    assert not math.isfinite(cell.outcome["losses"][-1])


def test_cells_are_known_by_what_decides_them_and_not_by_the_name_of_their_arm(tmp_path):
    file = tmp_path / "cells"
    list(plan().run(file, workers=1))
    more = plan({"warm": {"lr": 0.1}, "cold": {"lr": 1e-3}}, range(4))
    assert [(c.arm, c.seed) for c in more.missing(file)] == [("cold", s) for s in range(3)] + [
        ("warm", 3),
        ("cold", 3),
    ]
    assert len(plan(steps=4).missing(file)) == 6
    assert len(Sweep(tiny(**SMALL), ARMS, range(3), measure=counting).missing(file)) == 6


def test_a_torn_last_line_is_cut_off_and_its_cell_run_again(tmp_path):
    file = tmp_path / "cells"
    list(plan().run(file, workers=1))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert [(c.arm, c.seed) for c in plan().run(file, workers=1)] == [("hot", 2)]
    assert file.read_bytes() == whole


def test_what_a_cell_raises_ends_the_sweep_and_what_was_done_before_is_kept(tmp_path):
    sweep = Sweep(tiny(**SMALL), {"base": {}}, range(3), measure=refusing)
    with pytest.raises(ConfigError):
        list(sweep.run(tmp_path / "cells", workers=1))
    assert [cell.seed for cell in sweep.missing(tmp_path / "cells")] == [1, 2]


def test_tidy_drops_what_the_sweep_does_not_know(tmp_path):
    file = tmp_path / "cells"
    list(plan(seeds=range(2)).run(file, workers=1))
    plan(seeds=[1]).tidy(file)
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [1, 1]


@pytest.mark.parametrize(
    ("arms", "measure", "says"),
    [
        ({"a": {"heads": 3}}, curves, "unknown setting `heads`"),
        ({"a": {"model__heads": 3}}, curves, "heads (3) do not divide width (8)"),
        ({"a": {}}, lambda cfg, dataset: {}, "is not a function of a module"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(arms, measure, says):
    with pytest.raises(ConfigError) as refused:
        Sweep(tiny(**SMALL), arms, [0], measure=measure)
    assert says in str(refused.value)


# ------------------------------------------------------------------------------------------- what code says


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("if run.stuck >= run.config.patience:", "if run.stuck  >= run.config.patience:  # why", True),
        ('"""Train `run` from', '"""Trains a `run` from', True),
        ("if run.stuck >= run.config.patience:", "if run.stuck > run.config.patience:", False),
        ('else "grad" if', 'else "gradient" if', False),
    ],
    ids=["layout and comment", "docstring", "operator", "string that is no docstring"],
)
def test_the_key_moves_with_what_train_does_and_with_nothing_else(monkeypatch, tmp_path, then, now, same):
    before = code_digest(curves)
    shutil.copytree(Path(llmkit.train.__file__).parent, tmp_path / "train")
    loop = tmp_path / "train" / "loop.py"
    assert loop.read_text().count(then) == 1
    loop.write_text(loop.read_text().replace(then, now))
    monkeypatch.setattr(llmkit.train, "__file__", str(tmp_path / "train" / "__init__.py"))
    assert (code_digest(curves) == before) is same


def test_the_key_moves_with_the_measure():
    assert len({code_digest(curves), code_digest(counting), code_digest(refusing)}) == 3


# ---------------------------------------------------------------------------------- processes and interruption


@pytest.fixture
def start():
    """Starts a sweep as from a terminal (a shell's background jobs ignore Ctrl-C), and leaves none behind."""
    started = []

    def begin(file):
        settings = [f"--set={name}={value}" for name, value in SMALL.items() if name != "steps"]
        words = ["sweep", *settings, "--steps=30", "--seeds=400", "--workers=2", f"--out={file}", "--json"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "llmkit", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[0]

    yield begin
    for child in started:
        child.kill()
        child.communicate()


def lines(file):
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def wait_for(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def children(pid):
    """Process ids of its workers, on Linux."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_keeps_every_cell_and_processes_give_the_bits_of_one(start, tmp_path):
    file = tmp_path / "cells"
    child = start(file)
    wait_for(lambda: lines(file) >= 5)
    child.send_signal(signal.SIGINT)
    told, says = child.communicate(timeout=60)
    kept = read_jsonl(file, Cell)
    assert child.returncode == 1 and json.loads(told)["base"]["cells"] == len(kept), says
    assert 5 <= len(kept) < 400 and file.read_bytes().endswith(b"\n")
    again = Sweep(tiny(**SMALL | {"steps": 30}), {"base": {}}, [cell.seed for cell in kept[:5]])
    assert [c.outcome for c in again.run(tmp_path / "one", workers=1)] == [
        {name: list(v) if isinstance(v, tuple) else v for name, v in cell.outcome.items()}
        for cell in kept[:5]
    ]
    assert again.missing(file) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_sigkill_leaves_no_worker_and_no_half_line_that_hurts(start, tmp_path):
    file = tmp_path / "cells"
    child = start(file)
    wait_for(lambda: lines(file) >= 5)
    workers = [
        pid for pid in children(child.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    child.kill()
    child.wait()
    wait_for(lambda: not any(map(alive, workers)))
    assert len(read_jsonl(file, Cell)) >= 5


# --------------------------------------------------------------------------------------------- the intervals


def test_wilsons_bounds_are_the_rates_at_which_the_count_is_just_not_surprising():
    for of in range(1, 30):
        for count in range(of + 1):
            low, high = Share(count, of).interval
            assert 0 <= low <= count / of + 1e-12 and count / of - 1e-12 <= high <= 1
            for p in (low, high):
                assert (count / of - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / of, abs=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.07, 0.5])
def test_of_300_runs_the_interval_covers_the_rate_in_about_95_of_100_studies(rate):
    def chance(count):
        return math.comb(300, count) * rate**count * (1 - rate) ** (300 - count)

    covers = sum(
        chance(n) for n in range(301) if Share(n, 300).interval[0] <= rate <= Share(n, 300).interval[1]
    )
    assert 0.93 < covers < 0.98


@pytest.mark.parametrize(
    ("after", "before", "known"),
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))],
)
def test_differences_are_newcombes(after, before, known):
    """Newcombe 1998, table II, contrasts (a) and (b), method 10."""
    assert Share(*after).minus(Share(*before)) == pytest.approx(known, abs=5e-5)


def test_a_difference_turned_round_has_the_interval_turned_round():
    for a, b in itertools.product(range(6), repeat=2):
        low, high = Share(a, 5).minus(Share(b, 5))
        assert Share(b, 5).minus(Share(a, 5)) == pytest.approx((-high, -low))


def test_a_share_of_nothing_is_refused():
    assert str(share([True, False, True])) == "66.7% (20.8% to 93.9%), 2 of 3"
    with pytest.raises(ConfigError):
        share([])
