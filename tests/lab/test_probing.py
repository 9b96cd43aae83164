"""Protects `llmkit diagnose RUN --probe`: the run that is asked is the one that wrote the folder, fault and all.

pytest tests/lab/test_probing.py
"""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.diagnose import diagnose
from llmkit.folder import RunFolder
from llmkit.lab import finish, prepare, probe_folder
from llmkit.lab.verify import broken_as
from llmkit.observe import PROBES
from llmkit.records import to_json
from llmkit.train import tiny


@pytest.fixture(scope="module")
def flown(dataset, tmp_path_factory):
    """flown(fault, where, **settings): the folder of a run of 12 steps, as `llmkit break` leaves it."""
    made = {}

    def make(fault="", where=None, **settings):
        key = (fault, json.dumps([where, settings]))
        if key not in made:
            facts = {"fault": {"name": fault, "where": where or {}}} if fault else {}
            settings = {"steps": 12, "save_every": 6, "data": str(dataset.path)} | settings
            path = tmp_path_factory.mktemp("runs") / "run"
            flight = prepare(tiny(**settings), path, dataset=dataset, extra=facts)
            with broken_as(facts, flight.run):
                list(finish(flight))
            made[key] = path
        return made[key]

    return make


@pytest.fixture
def folder(flown, tmp_path):
    """The same, as a copy that a test may write to."""
    return lambda *args, **more: RunFolder.open(shutil.copytree(flown(*args, **more), tmp_path / "run"))


def test_a_healthy_folder_gets_one_event_a_probe_and_nothing_else_changes(folder):
    run = folder()
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "events.jsonl"}
    told = probe_folder(run)
    assert [e.data["probe"] for e in told] == list(PROBES) and {e.step for e in told} == {12}
    assert [to_json(e) for e in run.events()[-len(told) :]] == [to_json(e) for e in told]
    assert {p: p.read_bytes() for p in before} == before
    diagnosis = diagnose(run)
    assert diagnosis.healthy
    assert "no probe was made" not in str(diagnosis.not_judged)


@pytest.mark.parametrize("fault", ["frozen-block", "missing-zero-grad", "untied-head"])
def test_the_fault_that_was_in_the_run_is_in_the_one_that_is_asked(folder, fault):
    from llmkit.faults import FAULTS

    run = folder(fault, {"at": 4})
    assert diagnose(run).healthy
    probe_folder(run)
    assert [f.code for f in diagnose(run).findings] == [FAULTS[fault].code]


def test_lost_moments_are_counted_from_the_checkpoint(folder):
    run = folder("optimizer-state-lost", {"at": 4})
    probe_folder(run)
    (finding,) = diagnose(run).findings
    assert (finding.code, finding.step) == ("LK313", 4)


def test_without_a_checkpoint_the_moments_are_not_asked_about(folder):
    run = folder("frozen-block", {"at": 4}, save_every=0)
    assert [e.data["probe"] for e in probe_folder(run)] == [name for name in PROBES if name != "moments"]
    diagnosis = diagnose(run)
    assert [f.code for f in diagnosis.findings] == ["LK312"]
    assert "LK313" in {r.code for r in diagnosis.not_judged}


def test_the_verb_probes_before_it_diagnoses(folder):
    run = folder("frozen-block", {"at": 4})
    done = CliRunner().invoke(app, ["diagnose", str(run.path), "--probe", "--json"])
    assert done.exit_code == 1, done.output
    assert [f["code"] for f in json.loads(done.stdout)["findings"]] == ["LK312"]
    assert "probe `moments`: updates 12" in done.stderr
