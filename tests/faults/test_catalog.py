"""Protects the catalogue as people meet it: what cannot be is refused before anything is touched.

Run it: python -m pytest tests/faults/test_catalog.py -q
"""

from __future__ import annotations

import math

import pytest

from llmkit.errors import FaultError
from llmkit.faults import FAULTS, apply

REFUSED = {
    ("nan-divison", ()): "unknown fault `nan-divison`\n  remedy: use `nan-division`",
    ("lr-glitch", (("fcator", 3),)): "`lr-glitch` has no parameter `fcator`\n  remedy: use `factor`",
    ("lr-glitch", (("at", 4),)): "step 4 is over: the run is at step 5\n  remedy: choose a later step",
    ("lr-glitch", (("at", 20),)): (
        "step 20 is never reached: the run has 20 steps, 0 to 19\n  remedy: choose an earlier step"
    ),
    ("lr-glitch", (("at", 7), ("until", 7))): "`lr-glitch` ends at step 7, before it starts at 7",
}


@pytest.mark.parametrize(("asked", "says"), REFUSED.items(), ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_is_refused_word_for_word(tiny_run, asked, says):
    run = tiny_run()
    run.step = 5
    parts = dict(vars(run))
    with pytest.raises(FaultError) as error:
        apply(asked[0], run, **dict(asked[1]))
    assert str(error.value) == says
    assert vars(run) == parts


def test_no_step_means_the_next_one_and_no_end_means_what_the_fault_says(mixed_run):
    run = mixed_run(precision="fp16", micro_batch=4, warmup=20, model__dropout=0.1, model__position="rotary")
    mixture = mixed_run(model__experts=4)
    run.step = mixture.step = 5
    runs = {name: mixture if spec.factory.startswith("llmkit.faults.routing") else run
            for name, spec in FAULTS.items()}  # fmt: skip
    spans = {name: (fault.at, fault.until) for name in FAULTS for fault in [apply(name, runs[name])]}
    brief = {"nan-division", "fp16-overflow", "lr-glitch", "stalled-loader"}
    brief |= {"residual-growth", "optimizer-state-lost"}
    assert spans == {name: (5, 6 if name in brief else math.inf) for name in FAULTS}
    assert apply("oom", run, phase="optimizer").until == 6


@pytest.mark.parametrize(
    ("name", "where", "says"),
    [
        ("router-collapse", {"weight": 1.0}, "weight is 1: the routers would balance"),
        ("expert-imbalance", {"expert": 4}, "expert 4 cannot be preferred by 2"),
        ("expert-imbalance", {"bias": 0.0}, "expert 0 cannot be preferred by 0"),
        ("dropped-tokens", {"factor": 1.0}, "factor is 1"),
    ],
)
def test_a_router_fault_that_would_do_nothing_is_refused(tiny_run, name, where, says):
    with pytest.raises(FaultError, match=says):
        apply(name, tiny_run(model__experts=4), **where)
    with pytest.raises(FaultError, match="this model has no routers\n  remedy: set model__experts"):
        apply(name, tiny_run())


def test_an_entry_is_a_factory(tiny_run):
    run = tiny_run()
    with FAULTS["lr-glitch"](run, at=2, factor=3.0) as fault:
        assert fault.factor == 3 and run.schedule(2) == pytest.approx(3 * 0.00045)


def test_a_command_line_is_read_by_the_kinds_in_the_catalogue():
    spec = FAULTS["nan-division"]
    assert spec.parse(["at=40", "module=blocks.1.mlp", "until=inf", "row=-1"]) == {
        "at": 40, "module": "blocks.1.mlp", "until": math.inf, "row": -1,
    }  # fmt: skip
    assert FAULTS["oom"].parse(["limit=24 MiB"]) == {"limit": "24 MiB"}
    for pairs, says in (
        (["at"], "`at` sets nothing\n  expected: NAME=VALUE, for example `at=40`"),
        (["att=3"], "`nan-division` has no parameter `att`\n  remedy: use `at`"),
        (["at=soon"], "`at=soon` cannot be read\n  expected: at as int"),
    ):
        with pytest.raises(FaultError) as error:
            spec.parse(pairs)
        assert str(error.value) == says
