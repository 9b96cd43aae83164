"""Protects the verbs on versions of a data set and the runs on them: exit codes, JSON, the next command.

pytest tests/cli/test_data_versions.py
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.cli.data_verbs import gigabytes
from llmkit.data import TokenDataset, build
from llmkit.data.synthetic import synthetic
from llmkit.lab import fly
from llmkit.train import tiny


def ask(*words, code=0):
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def world(dataset, tmp_path_factory):
    """Two equal runs, one of another seed, one on a tampered shard; two versions of a small data set; pins."""
    root = tmp_path_factory.mktemp("versions")
    cfg = {"data": "generated", "steps": 5, "save_every": 100, "warmup": 1}
    for name, seed in (("a", 0), ("b", 0), ("other-seed", 1)):
        list(fly(tiny(**cfg, seed=seed), root / name))
    shutil.copytree(dataset.path, root / "set")
    shard = root / "set" / dataset.shards("train")[0].name
    np.fromfile(shard, "<u2")[::-1].tofile(shard)  # as large, every id in range
    list(fly(tiny(**cfg), root / "tampered", dataset=TokenDataset(root / "set", check=False)))
    documents = synthetic(documents=20, seed=3)
    for name, kept in (("v1", documents[:19]), ("v2", documents)):
        build(kept, root / name, vocab_size=270, name="x", sources={}, val_share=0)
    return root


def test_audit_of_real_runs(world):
    done = ask("audit", world / "a", world / "b")
    assert done.stdout.startswith("same: 2 of 2 runs are as") and "next: llmkit verify" in done.stderr
    found = json.loads(ask("audit", world / "a", world / "other-seed", world / "b", "--json", code=1).stdout)
    assert (found["verdict"], found["baseline"], found["steps"]) == ("different", str(world / "a"), 5)
    assert [run["verdict"] for run in found["runs"]] == ["same", "different", "same"]
    assert found["runs"][1]["why"] == ["seed"] and found["runs"][1]["step"] == 0


def test_audit_of_a_run_on_a_tampered_shard_under_the_same_manifest(world, dataset):
    found = json.loads(ask("audit", world / "a", world / "b", world / "tampered", "--json", code=1).stdout)
    run, shard = found["runs"][2], dataset.shards("train")[0]
    assert (run["verdict"], run["why"], run["shards"], run["step"]) == (
        "different",
        ["bytes"],
        [shard.name],
        0,
    )
    assert f"bytes 0 to {shard.bytes - 1:,} differ" in run["says"]
    assert f"`{world / 'tampered'}` was served what is in `{world / 'set'}` now" in run["says"]


def test_audit_of_a_log_without_digests(world, tmp_path):
    shutil.copytree(world / "a", tmp_path / "old")
    steps = tmp_path / "old" / "steps.jsonl"
    lines = [json.loads(line) | {"served": ""} for line in steps.read_text().splitlines()]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "not provable: step 0 has no digest" in ask("audit", world / "a", tmp_path / "old", code=1).stdout


def test_diff(world):
    assert "added: 0" in ask("diff", world / "v1", world / "v1").stdout
    done = ask("diff", world / "v1", world / "v2", "--json", code=1)
    found = json.loads(done.stdout)
    assert found["added"] == ["generated/3/000019"] and found["same"] == 19
    assert done.stderr.strip() == f"next: llmkit data verify {world / 'v2'}"


def test_croissant_says_what_is_missing(world):
    done = ask("croissant", world / "v1", "--creator", "A. Author", "--json")
    assert json.loads(done.stdout)["missing"] == ["license", "url", "datePublished"]
    assert "the standard also requires: license, url, datePublished" in done.stderr
    assert json.loads((world / "v1" / "croissant.json").read_text())["creator"]["name"] == "A. Author"


def test_pin_and_regress(world, tmp_path):
    pins = tmp_path / "pins.jsonl"
    assert ask("pin", "generated", "--sample", 12, "--pins", pins).stdout == f"12 inputs are in {pins}\n"
    assert (
        json.loads(ask("pin", "generated", "--document", 3, "--pins", pins, "--json").stdout)["inputs"] == 13
    )
    done = ask("regress", world / "a", world / "b", "--pins", pins)
    assert done.stdout.startswith("13 inputs, steps 5 and 5: 0 worse, 0 better")
    untrained = tmp_path / "untrained"
    shutil.copytree(world / "a", untrained)
    shutil.rmtree(untrained / "checkpoints" / "step-00000005")
    found = json.loads(ask("regress", world / "a", untrained, "--pins", pins, "--json", code=1).stdout)
    assert found["steps"] == [5, 0] and {row["verdict"] for row in found["inputs"]} == {
        "worse",
        "not testable",
    }


def test_verify_gives_the_bytes_that_differ(world, dataset):
    found = json.loads(ask("verify", world / "set", "--json", code=1).stdout)
    (damage,) = found["damage"]
    assert damage["ranges"] == [[0, dataset.shards("train")[0].bytes]] and found["problems"] == [
        damage["says"]
    ]


def test_a_long_verification_says_how_far_it_is(capsys):
    more = gigabytes()
    for _ in range(5):
        more(6 * 10**9)
    assert capsys.readouterr().err == "12 GB read\n24 GB read\n30 GB read\n"
