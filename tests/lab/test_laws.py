"""Protects the two laws of the doctor, on real runs: each fault is named, by its folder alone; a healthy run is not.

pytest tests/lab/test_laws.py
"""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.diagnose import diagnose
from llmkit.errors import NonFiniteError
from llmkit.faults import FAULTS, apply
from llmkit.lab import finish, prepare
from llmkit.train import tiny

PLACES = {  # fault -> settings of the run, where it is put, what the doctor must name
    "nan-division": ({}, {"at": 40, "module": "blocks.0.mlp"}, "blocks.0.mlp"),
    "fp16-overflow": ({"precision": "fp16"}, {"at": 40, "module": "blocks.1.mlp"}, "blocks.1.mlp.down"),
    "poisoned-document": ({}, {"at": 60}, "document"),
    "lr-glitch": ({}, {"at": 50}, "learning rate"),
    "oom": ({}, {"at": 40, "phase": "backward"}, ""),
    "stalled-loader": ({}, {"at": 50, "seconds": 0.6}, ""),
}


def flown(tmp_path, dataset, fault="", settings=None, place=None, steps=80, seed=0):
    cfg = tiny(
        **{"steps": steps, "seed": seed, "save_every": 0, "data": str(dataset.path)} | (settings or {})
    )
    flight = prepare(cfg, tmp_path / f"{fault or 'healthy'}-{seed}", dataset=dataset)
    if not fault:
        list(finish(flight))
        return flight
    with apply(fault, flight.run, **place):
        try:
            list(finish(flight))
        except (NonFiniteError, torch.OutOfMemoryError):
            assert fault in ("nan-division", "oom")
    return flight


def test_every_fault_has_its_place():
    assert PLACES.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_finds_it(fault, dataset, tmp_path):
    settings, place, culprit = PLACES[fault]
    flight = flown(tmp_path, dataset, fault, settings, place)
    diagnosis = diagnose(flight.folder)
    assert [f.code for f in diagnosis.findings] == [FAULTS[fault].code], diagnosis
    finding = diagnosis.findings[0]
    assert abs(finding.step - place["at"]) <= 1 and culprit in finding.cause
    assert finding.evidence and finding.confirm and finding.fix


def test_the_doctor_does_not_read_the_wreckers_notes(dataset, tmp_path):
    """run.json may say which fault was put in, so that `verify` can do it again; the diagnosis must not depend on it."""
    flight = flown(tmp_path, dataset, "nan-division", *PLACES["nan-division"][:2])
    before = diagnose(flight.folder)
    path = flight.folder.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fault": {"name": "oom", "where": {}}}))
    assert diagnose(flight.folder) == before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_doctor_stays_quiet(seed, precision, dataset, tmp_path):
    """fp16 starts from a scale that overflows first: that is healthy."""
    settings = {"precision": precision, "loss_scale": 2.0**24}
    flight = flown(tmp_path, dataset, settings=settings, seed=seed, steps=120)
    assert diagnose(flight.folder).healthy


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_the_doctor_stays_quiet_on_many_seeds(seed, dataset, tmp_path):
    assert diagnose(flown(tmp_path, dataset, seed=seed, steps=200).folder).healthy
