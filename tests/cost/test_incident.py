"""Protects the price of an incident: published arithmetic, linearity, dated prices, shown working, no torch.

pytest tests/cost/test_incident.py
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmkit.cost
from llmkit.cost import data_incident, gpu, hardware, incident, lost_to_rescues, reference_incident
from llmkit.cost.quantity import Quantity, amount
from llmkit.errors import ConfigError
from llmkit.records import Event, StepTimes


def test_a_rollback_of_a_large_job():
    """PaLM's remedy, 100 steps back: at 10 s a step, 15 minutes to restart and 1,024 GPUs, 540 GPU-hours."""
    cost = incident(lost_steps=100, step_s=10, restart_s=900, gpus=1024, dollars_per_gpu_hour=2.0)
    assert cost["GPU-hours lost"].value == pytest.approx(540.4, abs=0.1)
    assert cost.value == pytest.approx(1080.9, abs=0.1) and str(cost) == "$1,081"


@given(st.integers(0, 10**4), st.floats(0, 100), st.floats(0, 1e4), st.integers(1, 10**5), st.integers(2, 9))
def test_the_price_is_linear(steps, step_s, restart_s, gpus, times):
    once = incident(lost_steps=steps, step_s=step_s, restart_s=restart_s, gpus=gpus, dollars_per_gpu_hour=3)
    more = incident(
        lost_steps=steps * times,
        step_s=step_s,
        restart_s=restart_s * times,
        gpus=gpus,
        dollars_per_gpu_hour=3,
    )
    assert more.value == pytest.approx(times * once.value)
    wider = incident(
        lost_steps=steps, step_s=step_s, restart_s=restart_s, gpus=gpus * times, dollars_per_gpu_hour=3
    )
    assert wider.value == pytest.approx(times * once.value)


def test_the_working_is_shown():
    text = incident(lost_steps=12, step_s=0.5, restart_s=4, dollars_per_gpu_hour=3600).explain()
    assert (
        text
        == """\
incident: $10  = GPU-hours lost x price
  GPU-hours lost: 0.00278 GPU-hours  = time lost x 1 GPU / 3600
    time lost: 10 s  = steps again + stand-still
      steps again: 6 s  = 12 steps x 0.5 s
      stand-still: 4 s
  price: 3,600 $/GPU-hour  [given]"""
    )


def test_the_price_of_hardware_carries_source_and_date():
    for name, machine in hardware().items():
        assert machine.gpu == name and machine.price_source and machine.spec_source
        assert re.fullmatch(r"20\d\d(-\d\d)?", machine.price_date), name
        assert machine.dollars_low <= machine.dollars_typical <= machine.dollars_high
        assert machine.price_date in machine.price().source
    cost = reference_incident(0)
    assert cost.value == pytest.approx(0.25 * 1024 * gpu("H100-SXM").dollars_typical)
    assert "2026" in cost.explain()


def test_refusals():
    with pytest.raises(ConfigError) as caught:
        gpu("H100")
    assert str(caught.value) == "unknown accelerator `H100`\n  remedy: use `H100-SXM`"
    with pytest.raises(ConfigError, match="lost_steps is -1"):
        incident(lost_steps=-1, step_s=1)


BAD_DATA = {"delay_s": 3 * 86400, "tokens_per_s": 4e6, "gpus": 1024, "dollars_per_gpu_hour": 2.95}


def test_three_days_of_bad_data_on_a_thousand_gpus_cost_two_hundred_thousand_dollars():
    """72 h x 1,024 GPUs x $2.95 = $217,498; the claim "silent drift could cost $200k" is of this size."""
    cost = data_incident(**BAD_DATA)
    assert cost.value == pytest.approx(72 * 1024 * 2.95) == pytest.approx(217_497.6)
    bad = cost["data incident"]["GPU-hours lost"]["time lost"]["training on bad data"]["bad tokens"]
    assert bad.value == 3 * 86400 * 4e6
    assert data_incident(**BAD_DATA, chance=0.2).value == pytest.approx(0.2 * cost.value)


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1), st.integers(1, 10**5))
def test_bad_data_costs_in_proportion_to_delay_chance_and_cluster(delay_s, repair_s, chance, gpus):
    def price(**changes):
        given = {"delay_s": delay_s, "repair_s": repair_s, "chance": chance, "gpus": gpus} | changes
        return data_incident(tokens_per_s=1e6, dollars_per_gpu_hour=2, **given).value

    assert price() == pytest.approx(chance * (delay_s + repair_s) * gpus / 1800)
    assert price(delay_s=2 * delay_s, repair_s=2 * repair_s) == pytest.approx(2 * price())
    assert price(chance=chance / 2) == pytest.approx(price() / 2)
    assert price(gpus=2 * gpus) == pytest.approx(2 * price())


def test_the_working_of_bad_data_is_shown():
    text = data_incident(
        delay_s=3600, tokens_per_s=1000, repair_s=1800, gpus=2, dollars_per_gpu_hour=3, chance=0.5
    )
    assert (
        text.explain()
        == """\
expected cost: $4.5  = chance x data incident
  chance: 0.5
  data incident: $9  = GPU-hours lost x price
    GPU-hours lost: 3 GPU-hours  = time lost x 2 GPUs / 3600
      time lost: 5,400 s  = training on bad data + repair
        training on bad data: 3,600 s
          bad tokens: 3.6 M tokens  = 3,600 s x 1,000 tokens/s
        repair: 1,800 s
    price: 3 $/GPU-hour  [given]"""
    )


@pytest.mark.parametrize(
    "wrong", [{"delay_s": -1.0}, {"chance": 1.1}, {"chance": -0.1}, {"repair_s": float("nan")}]
)
def test_bad_data_is_refused_where_it_cannot_be_priced(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        data_incident(**(BAD_DATA | wrong))


def test_rescues_are_priced_at_the_median_step():
    rescues = [
        Event(kind="rescue", step=9, data={"lost_steps": 3, "seconds": 1.5}),
        Event(kind="rescue", step=20, data={"lost_steps": 1}),
    ]
    times = [StepTimes(step=s, total_s=2.0 if s < 9 else 40.0) for s in range(10)]
    assert lost_to_rescues(rescues, times).value == 4 * 2.0 + 1.5
    assert lost_to_rescues(rescues, []).value == 1.5
    assert lost_to_rescues([], times).value == 0


def test_quantities_read_well():
    assert [amount(v) for v in (124439808, 0.25, 3.14e23, 1234.5, float("inf"))] == [
        "124,439,808", "0.25", "314 Z", "1,234", "inf",
    ]  # fmt: skip
    seconds = Quantity(name="t", value=2.5, unit="s")
    assert (float(seconds), int(seconds), str(seconds)) == (2.5, 2, "2.5 s")


def test_the_calculator_needs_no_torch_and_its_names_are_sorted():
    assert sorted(llmkit.cost.__all__) == sorted(set(llmkit.cost.__all__))
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from llmkit.cost import hardware\n"
        "print(len(hardware()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) >= 6
