"""Protects the check of a run's files: each damage under its own name, in the folder, where the doctor reads.

pytest tests/lab/test_data_check.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from llmkit.data import TokenDataset
from llmkit.diagnose import diagnose
from llmkit.errors import DataError, IntegrityError, RecordError
from llmkit.faults import apply
from llmkit.folder import RunFolder
from llmkit.lab import finish, fly, prepare, verify
from llmkit.lab.data_check import check_folder, problems_of
from llmkit.train import tiny


def shrink(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[1234] ^= 4
    path.write_bytes(content)


DAMAGES = {  # name -> what is done to train-00001.bin, the problem's kind, the finding
    "cut": (shrink, "truncated", "LK410"),
    "deleted": (lambda path: path.unlink(), "missing", "LK410"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"ab"), "extended", "LK411"),
    "flipped": (flip, "changed", "LK411"),
    "copied over": (lambda path: shutil.copy(path.with_name("train-00000.bin"), path), "duplicate", "LK412"),
}


@pytest.fixture
def copied(mixed, tmp_path):
    return shutil.copytree(mixed.path, tmp_path / "mixed")


@pytest.fixture(scope="module")
def flown(mixed, tmp_path_factory):
    """A healthy run and the data set that it read; read them, damage copies."""
    root = tmp_path_factory.mktemp("flown")
    data = shutil.copytree(mixed.path, root / "data")
    list(fly(tiny(steps=30, save_every=0, data=str(data)), root / "run", dataset=TokenDataset(data)))
    return root


@pytest.fixture
def case(flown, tmp_path):
    """A copy of the run and of its data set, which run.json names."""
    root = shutil.copytree(flown, tmp_path / "case")
    path = root / "run" / "run.json"
    facts = json.loads(path.read_text())
    facts["data"]["path"] = str(root / "data")
    path.write_text(json.dumps(facts))
    return root


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_has_a_name_and_a_place(copied, name):
    do, kind, _ = DAMAGES[name]
    assert problems_of(copied) == []
    do(copied / "train-00001.bin")
    (problem,) = problems_of(copied)
    assert (problem["file"], problem["kind"]) == ("train-00001.bin", kind)
    assert (problem["split"], problem["shard"], problem["itemsize"]) == ("train", 1, 2)
    size = 2 * 2**14
    ranges = {"cut": [[size - 1000, size]], "deleted": [[0, size]], "grown": [[size, size + 2]]}
    assert problem["ranges"] == ranges.get(name, [[0, size]])
    assert ("`train-00000.bin`" in problem["says"]) == (name == "copied over")


def test_a_damaged_manifest_and_a_damaged_index_are_changed_files(copied):
    (copied / "documents.idx").exists()
    index = TokenDataset(copied).manifest.index.name
    flip(copied / index)
    (problem,) = problems_of(copied)
    assert (problem["file"], problem["kind"]) == (index, "changed") and "shard" not in problem
    (copied / "manifest.json").write_text("{}")
    assert [p["file"] for p in problems_of(copied)] == ["manifest.json"]


@pytest.mark.parametrize("name", DAMAGES)
def test_the_doctor_names_it_from_the_folder_after_a_check(case, name):
    do, _, code = DAMAGES[name]
    do(case / "data" / "train-00001.bin")
    assert diagnose(case / "run").healthy  # nobody has looked yet
    event = check_folder(RunFolder.open(case / "run"))
    (finding,) = diagnose(case / "run").findings
    assert (finding.code, finding.cause) == (code, "train-00001.bin")
    assert finding.step <= event.step == 29 and finding.confidence == "certain"


def test_whole_files_are_ruled_out(case):
    event = check_folder(RunFolder.open(case / "run"))
    assert event.says == "every byte of the data set is as it was written"
    diagnosis = diagnose(case / "run")
    assert diagnosis.healthy and not [r for r in diagnosis.not_judged if r.code.startswith("LK4")]
    because = {r.code: r.because for r in diagnosis.ruled_out}
    assert because["LK411"] == "no file was so when they were checked, at step 29"


def test_what_cannot_be_checked_is_refused_word_for_word(case):
    shutil.rmtree(case / "data")
    with pytest.raises(DataError) as error:
        check_folder(RunFolder.open(case / "run"))
    assert str(error.value) == f"the data set of this run is not at `{case / 'data'}` any more"
    (case / "run" / "run.json").write_text("{}")
    with pytest.raises(RecordError, match="names no data set"):
        check_folder(RunFolder.open(case / "run"))


def test_the_command_line_checks_before_it_judges(case):
    flip(case / "data" / "train-00001.bin")
    command = [sys.executable, "-m", "llmkit", "diagnose", str(case / "run"), "--json"]
    before = subprocess.run(command, capture_output=True, text=True)
    assert before.returncode == 0
    after = subprocess.run([*command, "--check-data"], capture_output=True, text=True)
    assert after.returncode == 1 and "train-00001.bin" in after.stderr
    assert [f["code"] for f in json.loads(after.stdout)["findings"]] == ["LK411"]


def test_a_run_that_died_of_its_data_is_done_again_to_the_bit(mixed, tmp_path):
    data = {"name": "truncated-shard", "where": {"at": 6}}
    flight = prepare(
        tiny(steps=10, save_every=0, data=str(mixed.path)),
        tmp_path / "run",
        dataset=mixed,
        extra={"fault": data},
    )
    with apply("truncated-shard", flight.run, at=6), pytest.raises(IntegrityError):
        list(finish(flight))
    assert [e.kind for e in flight.folder.events()] == ["data", "died"]
    assert all(check.same for check in verify(tmp_path / "run"))
