"""Protects a run with its folder around it: whole after any death, resumed to the bit, done again and compared.

pytest tests/lab/test_flight.py
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from llmkit.errors import IntegrityError, NonFiniteError, RecordError
from llmkit.faults import apply
from llmkit.folder import RunFolder
from llmkit.lab import contracts, environment, expected_loss, finish, fly, fresh, prepare, verify
from llmkit.records import StepRecord
from llmkit.train import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cfg(dataset):
    return tiny(steps=20, save_every=5, data=str(dataset.path))


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_holds_everything_about_the_run(cfg, tmp_path):
    records = list(fly(cfg, tmp_path / "run"))
    folder = RunFolder.open(tmp_path / "run")
    assert [repr(r) for r in folder.steps()] == [repr(r) for r in records]
    known = folder.facts
    assert known["config"] == json.loads(json.dumps(cfg.to_dict())) and known["seed"] == 0
    assert len(known["data"]["digest"]) == 64 and known["packages"]["torch"] == torch.__version__
    assert known["fingerprint"]["threads"] == 1 and known["hardware"]["cores"] >= 1
    kinds = [e.kind for e in folder.events()]
    assert kinds == ["checkpoint"] * 5 + ["end"] and len(folder.times()) == 20
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step-00000015", "step-00000020"]


def test_a_run_that_died_and_was_resumed_equals_one_that_did_not(cfg, tmp_path):
    list(fly(cfg, tmp_path / "whole"))
    steps = fly(cfg, tmp_path / "cut")
    for _ in range(13):
        next(steps)
    steps.close()  # as an exception in the caller would
    assert RunFolder.open(tmp_path / "cut").events()[-1].kind == "died"
    list(fly(None, tmp_path / "cut", resume=True))
    whole, cut = ((tmp_path / name / "steps.jsonl").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_resuming_with_other_bytes_is_refused(cfg, tmp_path):
    list(fly(cfg, tmp_path / "run"))
    path = tmp_path / "run" / "run.json"
    known = json.loads(path.read_text())
    known["data"]["digest"] = "0" * 64
    path.write_text(json.dumps(known))
    with pytest.raises(
        IntegrityError, match=r"data set `generated` has digest .*, the run in `.*` was started with 0000"
    ):
        prepare(None, tmp_path / "run", resume=True)


def test_a_folder_without_a_configuration_cannot_be_resumed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append("steps", StepRecord(step=0, loss=1.0, grad_norm=1.0, lr=1.0))
    folder.close()
    with pytest.raises(RecordError) as refusal:
        prepare(None, tmp_path, resume=True)
    assert (
        str(refusal.value)
        == f"`{tmp_path}/run.json` has no configuration\n  expected: a run started by llmkit"
    )


def test_the_watchdog_barks_without_the_crew_and_the_run_dies(cfg, tmp_path):
    flight = prepare(cfg, tmp_path / "run")
    with apply("nan-division", flight.run, at=8, until=20), pytest.raises(NonFiniteError):
        list(finish(flight))
    kinds = [e.kind for e in flight.folder.events()]
    assert kinds.count("alarm") == 3 and kinds[-1] == "died" and "rescue" not in kinds


@pytest.mark.parametrize("supervised", [False, True])
def test_a_broken_run_is_verified_by_breaking_it_again(cfg, tmp_path, supervised):
    fault = {"name": "oom", "where": {"at": 7, "phase": "backward"}}
    flight = prepare(cfg, tmp_path / "run", extra={"supervised": supervised, "fault": fault})
    with apply(fault["name"], flight.run, **fault["where"]):
        try:
            list(finish(flight, supervised=supervised))
        except torch.OutOfMemoryError:
            assert not supervised
    assert [e.kind for e in flight.folder.events()].count("oom") == 1
    checks = verify(tmp_path / "run")
    assert all(check.same for check in checks), [vars(c) for c in checks]
    assert len(flight.folder.steps()) == (20 if supervised else 7)


def test_verify_names_a_flipped_weight(cfg, tmp_path):
    list(fly(cfg, tmp_path / "run"))
    path = tmp_path / "run/checkpoints/step-00000020/weights.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    wrong = [check for check in verify(tmp_path / "run") if not check.same]
    assert [(c.what, c.now) for c in wrong] == [
        ("checkpoint step-00000020", "weights.pt: SHA-256 differs from the one written")
    ]


def test_fresh_deletes_a_run_and_nothing_else(cfg, tmp_path):
    list(fly(cfg, tmp_path / "run"))
    assert not fresh(tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(RecordError) as refusal:
        fresh(tmp_path / "mine")
    assert (
        str(refusal.value)
        == f"`{tmp_path}/mine` holds files that are not a run\n  remedy: choose another folder"
    )
    assert (tmp_path / "mine/thesis.tex").exists()


def test_the_expected_band_starts_at_ln_v_and_notices_a_run_outside(dataset, cfg):
    expected = expected_loss(cfg, dataset)
    assert (expected.bands[0].low + expected.bands[0].high) / 2 == pytest.approx(math.log(512))
    well = [StepRecord(step=s, loss=6.3 - s / 10, grad_norm=1.0, lr=1.0) for s in range(20)]
    sick = [StepRecord(step=s, loss=math.nan, grad_norm=1.0, lr=1.0) for s in range(20)]
    assert expected.outside(well) == [] and expected.outside(sick) == [0, 19]
    assert "inside 6.04 to 6.44 (ln V)" in expected.compare(well) and "OUTSIDE" in expected.compare(sick)


def test_every_documented_error_of_a_contract_exists():
    import llmkit.errors

    known = set(dir(llmkit.errors)) | set(dir(__builtins__)) | {"OutOfMemoryError"}
    known |= set(vars(__import__("builtins")))
    read = contracts()
    assert len(read) > 40
    for contract in read:
        for name in re.findall(
            r"^\s*(?:torch\.)?(\w+(?:Error|Interrupt))\b", contract.sections.get("Raises", ""), re.M
        ):
            assert name in known, (contract.name, name)


def test_the_environment_says_what_a_missing_thing_costs():
    lines = environment()
    assert {"Python", "torch", "CPU", "cache", "GPU"} <= {line.what for line in lines}
    assert all(line.costs for line in lines if not line.needed)


def test_killed_at_random_instants_and_resumed_no_bit_differs(dataset, tmp_path):
    """The small brother of benchmarks/kill_resume.py."""
    outcome = benchmark("kill_resume").prove(kills=4, ranks=1, seed=1, scratch=tmp_path)
    assert outcome.kills >= 4 and outcome.chains >= 1
    assert (outcome.bits_different, outcome.logs_different) == (0, 0)


@pytest.mark.slow
def test_two_ranks_killed_at_random_instants_lose_no_bit(dataset, tmp_path):
    outcome = benchmark("kill_resume").prove(kills=4, ranks=2, seed=2, scratch=tmp_path)
    assert outcome.kills >= 4 and (outcome.bits_different, outcome.logs_different) == (0, 0)
