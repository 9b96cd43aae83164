"""Protects the loss-scale log: each change beside its cause, from a run whose scale really went from 2^8 to 2^6.

pytest tests/diagnose/test_scale_log.py
"""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from llmkit.diagnose.scale_log import as_text, scale_log
from llmkit.folder import RunFolder
from llmkit.lab import finish, prepare
from llmkit.records import Event, StepRecord
from llmkit.train import tiny

HALVING = {"old": 256.0, "new": 128.0, "reason": "overflow in backward: a and 1 more", "parameter": "a"}


@pytest.fixture(scope="module")
def natural(dataset, tmp_path_factory):
    """Nothing is planted: at a peak learning rate of 5e-3 the attention of block 0 learns in a few steep steps."""
    cfg = tiny(
        precision="fp16", loss_sum=True, lr=5e-3, seed=1, steps=24, data="generated", model__context=128
    )
    flight = prepare(cfg, tmp_path_factory.mktemp("natural") / "run", dataset=dataset)
    list(finish(flight))
    return flight.folder


def test_a_real_run_goes_from_2_8_to_2_6_and_the_log_says_where(natural):
    changes = scale_log(natural)
    *search, eighth, seventh = changes
    assert [c.new for c in changes] == [
        2.0**k for k in range(15, 5, -1)
    ]  # torch's 2^16 was searched down from
    assert (eighth.old, seventh.new, seventh.step - eighth.step) == (2.0**8, 2.0**6, 1)
    assert {c.module for c in search[:7]} == {"head"}
    assert all(c.phase == "backward" and c.parameter.startswith("blocks.0.attention") for c in changes[-2:])
    assert all(c.module.startswith("blocks.") and 0.1 < c.largest < 10 for c in changes[-2:])
    steps = natural.steps()
    skipped = [s.step for s in steps if s.skipped]
    assert [c.step for c in changes] == skipped and [c.skipped for c in changes] == list(range(1, 11))
    for change in changes:
        assert steps[change.step].loss_scale == change.old and steps[change.step + 1].loss_scale == change.new


def folder(path, *events, steps=()):
    run = RunFolder.create(path / "run", {})
    run.append("events", *events)
    run.append("steps", *steps)
    run.close()
    return run


def test_the_words_of_every_reason(tmp_path):
    module = {"module": "blocks.1.mlp.down", "input_absmax": 3e4}
    run = folder(
        tmp_path,
        Event(kind="skip", step=3),
        Event(kind="scale", step=3, data=HALVING | {"phase": "backward", "largest": 1.5}),
        Event(kind="nonfinite", step=3, data=module | {"module": "blocks.1.attention"}),
        Event(kind="skip", step=7),
        Event(kind="scale", step=7, data=HALVING | {"phase": "forward", "largest": 0.0, "old": 128.0, "new": 64.0}),
        Event(kind="nonfinite", step=7, data=module),
        Event(kind="scale", step=9, data=HALVING | {"phase": "backward", "old": 64.0, "new": 32.0}),
        Event(kind="scale", step=20, data={"old": 32.0, "new": 64.0, "reason": "9 good steps in a row", "phase": ""}),
        Event(kind="nonfinite", step=21, data=module),
    )  # fmt: skip
    assert as_text(scale_log(run)).splitlines() == [
        "loss scale 2^8 -> 2^6 in 4 changes; 2 steps skipped until the last",
        "    step  scale            skipped  reason",
        "       3  2^8 -> 2^7             1  overflow in backward: `blocks.1.attention` (a); largest finite gradient 1.5",
        "       7  2^7 -> 2^6             2  overflow in forward: `blocks.1.mlp.down`; largest finite input 30,000",
        "       9  2^6 -> 2^5             2  overflow in backward: `a`",
        "      20  2^5 -> 2^6             2  9 good steps in a row",
    ]


def test_a_log_with_steps_alone_has_changes_without_reasons(tmp_path):
    scales = (256.0, 256.0, 128.0, 128.0, 256.0)
    steps = [
        StepRecord(step=i, loss=1.0, grad_norm=1.0, lr=1.0, loss_scale=s, skipped=i == 1)
        for i, s in enumerate(scales)
    ]
    changes = scale_log(folder(tmp_path, steps=steps))
    assert [(c.step, c.old, c.new, c.skipped) for c in changes] == [
        (1, 256.0, 128.0, 1),
        (3, 128.0, 256.0, 1),
    ]
    assert [c.says for c in changes] == ["reason not recorded"] * 2


def test_a_run_that_never_changed_says_so(tmp_path):
    assert as_text(scale_log(folder(tmp_path))) == "the loss scale never changed"


def test_the_verb_prints_the_same_changes_as_json(natural, capsys):
    from llmkit.cli.scale_verbs import scale_log as verb

    verb(natural.path, as_json=True)
    assert json.loads(capsys.readouterr().out) == [asdict(change) for change in scale_log(natural)]
    verb(natural.path)
    assert capsys.readouterr().out.strip() == as_text(scale_log(natural))
