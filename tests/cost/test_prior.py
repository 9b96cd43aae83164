"""Protects what the calculator assumes of a machine: taken from published rows, never from the family asked
about, with an interval that was measured to cover.

pytest tests/cost/test_prior.py
"""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cost import gpu, hardware
from llmkit.cost.prior import active_of, run_mfu, run_ratios, run_utilisation, step_utilisation
from llmkit.cost.tables import quantile, table
from llmkit.errors import ConfigError

TABLES = ("runs", "steps", "memory", "decode", "interruptions")


@pytest.mark.parametrize("name", TABLES)
def test_every_published_row_says_where_it_stands(name):
    rows = table(f"published/{name}")
    assert rows and all(row["source"] and row["verified"] for row in rows)
    assert not [key for key in rows[0] if key.startswith("d_")]  # nothing that we derived


def test_every_run_names_a_machine_that_is_known():
    machines = {
        row["gpu"]
        for name in ("runs", "steps", "decode")
        for row in table(f"published/{name}")
        if "gpu" in row
    }
    assert machines <= set(hardware())


def test_a_step_is_the_median_of_rows_of_its_size_and_machine():
    rows = [r["mfu"] for r in table("published/steps") if r["gpu"] == "H100-SXM" and r["precision"] == "bf16"]
    near = [
        r["mfu"]
        for r in table("published/steps")
        if r["gpu"] == "H100-SXM" and r["precision"] == "bf16" and 7e9 / 3 <= r["params"] <= 7e9 * 3
    ]
    found = step_utilisation("H100-SXM", 7e9)
    assert min(near) / 100 <= float(found) <= max(near) / 100
    assert (
        f"of {len(rows)} Hopper rows" in found.formula
        and found.interval[0] < float(found) < found.interval[1]
    )
    assert step_utilisation("H800-SXM", 7e9) == found  # the same chip
    assert float(step_utilisation("A100-SXM-80", 7e9)) > float(found)


def test_a_run_reaches_less_than_a_step_and_the_family_asked_about_is_left_out():
    step, run = step_utilisation("A100-SXM-80", 6.7e9), run_utilisation("A100-SXM-80", 6.7e9)
    assert float(run) < float(step) and run["MFU of a step"] == step
    assert "13 families" in run.formula
    assert "12 families" in run_utilisation("A100-SXM-80", 6.7e9, ("pythia",)).formula


def test_a_row_that_contradicts_itself_teaches_nothing():
    (row,) = (r for r in table("published/runs") if r["id"] == "llmc-gpt3-125m")
    assert run_mfu(row) > 1 and row["id"] not in [r["id"] for r, _ in run_ratios()]
    assert all(0 < run_mfu(r) < 1 for r, _ in run_ratios())


def test_rows_that_were_looked_up_last_feed_nothing():
    assert {r["kind"] for r, _ in run_ratios()} == {"full_run"}
    assert all(active_of(r) <= r["parameters"] for r, _ in run_ratios())


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_has_its_share_at_or_below_it(values, share):
    found = quantile(values, share)
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) <= share * len(values)


def test_an_old_price_says_so_and_the_peak_is_dense():
    h100 = gpu("H100-SXM")
    assert "older than a year" not in h100.price(date(2027, 5, 31)).source
    assert "older than a year" in h100.price(date(2027, 6, 1)).source
    assert h100.price().interval == (h100.dollars_low, h100.dollars_high)
    assert (h100.peak(), h100.peak("fp8"), gpu("RTX-A6000").peak()) == (989e12, 1979e12, 154.85e12)
    with pytest.raises(ConfigError) as caught:
        gpu("A100-SXM-80").peak("fp8")
    assert str(caught.value) == "`A100-SXM-80` has no fp8\n  remedy: set precision to bf16"
    assert all(m.matmul_tflops <= m.bf16_dense_tflops for m in hardware().values())
