"""Protects docs/doctor.md: its sums are the sums of its rows, and a run of each fault is named as it says.

pytest tests/lab/test_doctor_survey.py
pytest tests/lab/test_doctor_survey.py -m slow      # every fault once more, at another step
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from llmkit.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()
COUNT = re.compile(r"(\d+) of (\d+)")
CLOCK = {"stalled-loader"}  # told by seconds, so that a busy machine can hide it


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("doctor", ROOT / "benchmarks" / "doctor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    """fault -> what the page's table says of it, as `survey` gives it."""
    found = {}
    for name, code, *cells in re.findall(
        r"^\| `([\w-]+)` \| (LK\d+) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M
    ):
        counts = [tuple(map(int, COUNT.fullmatch(cell).groups())) for cell in cells]
        alone, probed, beside = (count for count, _ in counts)
        found[name] = {"code": code, "runs": counts[0][1], "alone": alone, "probed": probed, "beside": beside}
    return found


def test_the_page_has_every_fault_and_its_sums_are_those_of_its_rows(benchmark, rows):
    assert {name: row["code"] for name, row in rows.items()} == {n: spec.code for n, spec in FAULTS.items()}
    healthy = re.search(
        r"^\| healthy runs with a finding \| \| (\d+) of (\d+) .*? \| (\d+) of \d+ ", PAGE, re.M
    )
    alone, of, probed = map(int, healthy.groups())
    found = {"faults": rows, "healthy": of, "false alone": alone, "false probed": probed}
    assert benchmark.table(found) in PAGE and benchmark.by_fault(found) in PAGE


def test_a_probe_never_hides_what_the_log_says(rows):
    assert {name for name, row in rows.items() if row["probed"] < row["alone"]} == set()


def test_every_setting_of_the_survey_belongs_to_a_fault(benchmark):
    assert {*benchmark.NEEDS, *benchmark.FIRST, *benchmark.WHERE} <= FAULTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - CLOCK))
def test_a_run_of_each_fault_is_named_as_the_page_says(benchmark, rows, name, tmp_path, dataset, mixed):
    spec, row = FAULTS[name], rows[name]
    at = 0 if name in benchmark.FIRST else 36  # later than the 32 steps that LK204 needs
    world = mixed if "LK401" < spec.code < "LK500" else dataset
    alone, probed = benchmark.fly(
        tmp_path / "run", world, {"seed": 7} | benchmark.NEEDS.get(name, {}), name, at
    )
    if row["alone"] in (0, row["runs"]):
        assert (spec.code in alone) == (row["alone"] > 0)
    if row["probed"] in (0, row["runs"]):
        assert (spec.code in probed) == (row["probed"] > 0)
