"""Protects the two laws of the doctor, on real runs: each fault is named, by its folder alone; a healthy run is not.

pytest tests/lab/test_laws.py
"""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from llmkit.diagnose import diagnose
from llmkit.errors import IntegrityError, NonFiniteError
from llmkit.faults import FAULTS, apply
from llmkit.faults.catalog_memory import LATE_MEMORY
from llmkit.lab import finish, prepare
from llmkit.observe import probe
from llmkit.train import tiny

MIXTURE = {"model__experts": 8, "model__top_k": 2, "model__expert_hidden": 128}
PLACES = {  # fault -> settings of the run, where it is put, what the doctor must name
    "nan-division": ({}, {"at": 40, "module": "blocks.0.mlp"}, "blocks.0.mlp"),
    "fp16-overflow": ({"precision": "fp16"}, {"at": 40, "module": "blocks.1.mlp"}, "blocks.1.mlp.down"),
    "poisoned-document": ({}, {"at": 60}, "document"),
    "lr-glitch": ({}, {"at": 50}, "learning rate"),
    "oom": ({}, {"at": 40, "phase": "backward"}, ""),
    "stalled-loader": ({}, {"at": 50, "seconds": 0.6}, ""),
    "corrupt-shard": ({}, {"at": 40}, "shard 0"),
    "unshuffled-order": ({}, {"at": 40}, "order"),
    "shifted-labels": ({}, {"at": 40}, "targets"),
    "double-shift": ({}, {"at": 40}, "targets"),
    "tokenizer-swap": ({}, {"at": 40}, "tokenizer"),
    "pads-not-masked": ({}, {"at": 40}, "pads"),
    "val-leak": ({}, {"at": 40}, "validation split"),
    "source-missing": ({}, {"at": 40}, "south"),
    "truncated-shard": ({}, {"at": 40}, "train-00000.bin"),
    "clip-before-unscale": ({"precision": "fp16"}, {"at": 40}, "clipping"),
    "step-on-overflow": ({"precision": "fp16", "loss_scale": 2.0**40}, {"at": 0}, "optimizer step"),
    "bf16-master-weights": ({}, {"at": 4}, "master weights"),
    "attention-growth": ({}, {"at": 20}, "attention scores"),
    "residual-growth": ({}, {"at": 40}, "residual stream"),
    "double-softmax": ({}, {"at": 4}, "head"),
    "missing-zero-grad": ({}, {"at": 4}, "zero_grad"),
    "summed-accumulation": ({"micro_batch": 2}, {"at": 4}, "gradient accumulation"),
    "schedule-per-micro-batch": ({"micro_batch": 2}, {"at": 40}, "learning rate"),
    "decay-on-norms": ({}, {"at": 4}, "weight decay"),
    "beta2-too-high": ({}, {"at": 4}, "beta2"),
    "eps-too-large": ({}, {"at": 4}, "eps"),
    "no-warmup": ({}, {"at": 2}, "learning rate"),
    "lr-times-ten": ({}, {"at": 40}, "learning rate"),
    "untied-head": ({}, {"at": 4}, "head"),
    "dropout-in-eval": ({"model__dropout": 0.1}, {"at": 4}, "evaluation"),
    "frozen-block": ({}, {"at": 4, "module": "blocks.0"}, "blocks.0"),
    "optimizer-state-lost": ({}, {"at": 4}, "optimizer state"),
    "lr-reset": ({}, {"at": 40}, "learning rate"),
    "router-collapse": (MIXTURE, {"at": 40}, "balance loss"),
    "expert-imbalance": (MIXTURE, {"at": 40}, "router scores"),
    "dropped-tokens": (MIXTURE, {"at": 40}, "capacity factor"),
    # silent: the files are hashed when the run ends, and the step is the first that served them
    "flipped-byte": ({}, {"at": 0}, "train-00002.bin"),
    "duplicate-shard": ({}, {"at": 0}, "train-00002.bin"),
}

PROBED = {  # a probe alone tells, and of its own step; but AdamW's count says when its state was lost
    name for name, spec in FAULTS.items()
    if spec.code in "LK105 LK108 LK302 LK303 LK305 LK306 LK307 LK310 LK311 LK312 LK313".split()
}  # fmt: skip
GROWS = {"attention-growth", "router-collapse"}


def flown(tmp_path, dataset, fault="", settings=None, place=None, steps=80, seed=0):
    cfg = tiny(
        **{"steps": steps, "seed": seed, "save_every": 0, "data": str(dataset.path)} | (settings or {})
    )
    flight = prepare(cfg, tmp_path / f"{fault or 'healthy'}-{seed}", dataset=dataset)
    with apply(fault, flight.run, **place) if fault else nullcontext():
        try:
            list(finish(flight))
        except (NonFiniteError, IntegrityError, torch.OutOfMemoryError):
            assert fault in ("nan-division", "truncated-shard", "oom", "step-on-overflow")
        if not fault or fault in PROBED:
            flight.blind = diagnose(flight.folder)
            probe(flight.run)
            flight.folder.close()
    return flight


def test_every_fault_has_its_place():
    assert PLACES.keys() == FAULTS.keys() - LATE_MEMORY.keys()  # those: test_memory_laws.py


@pytest.mark.parametrize("fault", PLACES)
def test_the_doctor_finds_it(fault, dataset, mixed, tmp_path):
    settings, place, culprit = PLACES[fault]
    shards_and_sources = "LK401" < FAULTS[fault].code < "LK500"
    steps = 12 if fault in PROBED else 80
    flight = flown(tmp_path, mixed if shards_and_sources else dataset, fault, settings, place, steps)
    diagnosis = diagnose(flight.folder)
    assert [f.code for f in diagnosis.findings] == [FAULTS[fault].code], diagnosis
    finding = diagnosis.findings[0]
    if fault in PROBED:
        assert flight.blind.healthy  # no curve shows it
        assert FAULTS[fault].code in {r.code for r in flight.blind.not_judged}
    at = place["at"] if fault not in PROBED or fault == "optimizer-state-lost" else flight.run.step
    assert at - 1 <= finding.step <= at + (40 if fault in GROWS else 1)
    assert culprit in finding.cause
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


@pytest.mark.parametrize(
    "settings",
    [
        MIXTURE,
        MIXTURE | {"lr": 3e-3, "model__capacity_factor": 1.25},
        {"model__experts": 8, "micro_batch": 2},
    ],
    ids=["dropless", "with a capacity", "top 1"],
)
def test_the_doctor_stays_quiet_on_a_young_mixture(settings, dataset, tmp_path):
    """Whose routers send most tokens to one expert at first, and drop up to half of them."""
    flight = flown(tmp_path, dataset, settings=settings, steps=60)
    diagnosis = diagnose(flight.folder)
    assert diagnosis.healthy, diagnosis
    assert max(r.stats["router_load_max"] for r in flight.folder.steps()) > 2.9
    assert {"LK315", "LK316", "LK317"} <= {r.code for r in diagnosis.ruled_out}


def test_the_doctor_stays_quiet_on_two_languages_in_five_shards(mixed, tmp_path):
    diagnosis = diagnose(flown(tmp_path, mixed, settings={"micro_batch": 4}, steps=120).folder)
    assert diagnosis.healthy
    # whole files are told of only when somebody asks
    unjudged = {r.code for r in diagnosis.not_judged if not r.code.startswith("LK2")}
    assert unjudged == {"LK410", "LK411", "LK412"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_doctor_stays_quiet_on_real_text(seed, cache, tmp_path):
    """But for what is there: four windows of 54,786 are a page of one repeated token (recurring decimals in
    sympy), which moves the gradient as the planted one does; seed 1 meets one of them at step 237."""
    from llmkit.data import embedded

    data = embedded(512)
    diagnosis = diagnose(flown(tmp_path, data, seed=seed, steps=250).folder)
    assert [(f.code, f.cause) for f in diagnosis.findings] == [("LK401", "document 3203")] * (seed == 1)
    assert "sympy" in next(r.because for r in diagnosis.ruled_out if r.code == "LK409")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in FAULTS if "LK401" < FAULTS[name].code < "LK500"])
def test_the_doctor_finds_faults_of_the_data_in_real_text(fault, cache, tmp_path):
    from llmkit.data import embedded

    place = {"at": 0 if fault in ("flipped-byte", "duplicate-shard") else 60}
    flight = flown(tmp_path, embedded(512), fault, {"lr": 3e-3}, place, steps=120)
    findings = diagnose(flight.folder).findings
    assert [f.code for f in findings] == [FAULTS[fault].code]
    # a source with 28 % of the tokens may be away from the 24 sequences before it went missing
    assert findings[0].step == place["at"] or (fault == "source-missing" and 57 <= findings[0].step <= 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_the_doctor_stays_quiet_on_many_seeds(seed, dataset, tmp_path):
    assert diagnose(flown(tmp_path, dataset, seed=seed, steps=200).folder).healthy
