"""Protects the detector: silent on healthy runs, awake for spikes, and never poisoned by what it rejects.

pytest tests/rescue/test_detector.py
"""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.rescue import Detector
from llmkit.rescue.detector import BASE, ENOUGH, WINDOW, YOUNG, Gauge
from llmkit.train import train

KINDS = ("normal", "correlated", "heavy", "skewed")

# BLOOM-176B, 12 April 2022 (bigscience chronicles tr11): the norm warns four steps before the loss doubles
BLOOM_NORM = (0.24, 0.95, 2.4, 15.9, 145.0, 960.0)
BLOOM_LOSS = (2.20, 2.22, 2.60, 2.24, 2.35, 5.10)


def feed(detector, pairs, rows=()):
    """Judge and learn; the verdicts."""
    verdicts = []
    for loss, grad_norm in pairs:
        verdict = detector.judge(loss, grad_norm, rows)
        detector.learn(loss, grad_norm, verdict, rows)
        verdicts.append(verdict)
    return verdicts


def level(steps, seed=0, loss=2.3, spread=0.08, norm=0.24):
    """A run on its plateau."""
    rng = random.Random(seed)
    return [(rng.gauss(loss, spread), norm * math.exp(rng.gauss(0, 0.15))) for _ in range(steps)]


def grown(steps=100, seed=0, **how):
    detector = Detector()
    assert not any(v.sick for v in feed(detector, level(steps, seed, **how)))
    return detector


# ----------------------------------------------------------------------------------------------- what it says


def test_a_nan_is_named_from_the_first_step_on():
    assert Detector().judge(math.nan, 1.0).says == "the loss is nan"
    assert Detector().judge(2.0, math.inf).says == "the gradient norm is inf"
    assert Detector().judge(math.inf, math.nan).kind == "nan"


def test_a_spike_says_what_was_expected():
    detector = Detector()
    feed(detector, [(2.0 + 0.01 * (-1) ** i, 1.0) for i in range(100)])
    verdict = detector.judge(2.5, 1.0)
    assert (verdict.kind, verdict.lead) == ("spike", 0)
    assert verdict.says == "loss 2.5 where 2 was expected (z 33.7), gradient norm 1 (z 0.0)"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=0, max_size=90), st.floats(0.1, 20))
def test_z_is_the_change_from_the_last_eight_in_robust_deviations_of_the_last_64(values, new):
    """The oracle is numpy on whole lists, without a window in sight."""
    gauge = Gauge(0.005, relative=True)
    for value in values:
        gauge.learn(value)
    changes = [v - np.median(values[max(0, i - BASE) : i]) for i, v in enumerate(values) if i >= YOUNG][
        -WINDOW:
    ]
    if len(changes) < ENOUGH:
        assert math.isnan(gauge.z(new))
        return
    expected, n = np.median(values[-BASE:]), len(changes)
    spread = max(1.4826 * np.median(np.abs(changes - np.median(changes))), 0.005 * abs(expected), 1e-12)
    young = 1 + 2 * 1.17 * (n**-0.5 - WINDOW**-0.5)
    assert gauge.z(new) == pytest.approx((new - expected) / spread / young, rel=1e-9, abs=1e-9)


# ----------------------------------------------------------------------------------------- what it must catch


@pytest.mark.parametrize("seed", range(20))
def test_the_bloom_spike_is_caught_before_the_loss_moves(seed):
    verdicts = feed(grown(seed=seed), zip(BLOOM_LOSS, BLOOM_NORM, strict=True))
    first = next(i for i, v in enumerate(verdicts) if v.sick)
    assert first in (2, 3), "a loss of 2.60 after two warnings of the norm, or the third warning in a row"
    assert verdicts[first].lead == first - 1, "the first sign was the first of those warnings"
    assert verdicts[5].kind == "spike"
    assert verdicts[5].z > 15


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_of_twice_the_usual_is_caught_without_the_norm(seed):
    verdicts = feed(grown(seed=seed), [(loss, 0.24) for loss in BLOOM_LOSS])
    assert [v.kind for v in verdicts][3:] == ["ok", "ok", "spike"]


def test_every_step_of_a_long_spike_is_caught():
    """OLMo-core, which lets outliers into its window, caught 4 of these 20 steps."""
    rng = random.Random(1)
    verdicts = feed(grown(loss=3.0, spread=0.1), [(rng.gauss(5.0, 0.1), 0.24) for _ in range(20)])
    assert all(v.kind == "spike" for v in verdicts)


def test_a_nan_does_not_blind_it():
    """llm.c's running sums keep the NaN for ever: a tenfold spike 300 steps later had z = nan and was not
    skipped."""
    detector = grown()
    for poison in (math.nan, math.inf, -math.inf):
        feed(detector, [(poison, 1.0), (2.3, poison)])
    assert not any(v.sick for v in feed(detector, level(300, seed=3)))
    assert detector.judge(23.0, 0.24).kind == "spike"


def test_it_sees_after_eleven_healthy_steps():
    detector = Detector()
    young = [detector.young]
    for loss, norm in level(YOUNG + ENOUGH):
        detector.learn(loss, norm, detector.judge(loss, norm))
        young.append(detector.young)
    assert young == [True] * 11 + [False]
    assert detector.judge(23.0, 0.24).kind == "spike"


def test_one_bad_sequence_of_eight_is_caught_with_three_witnesses():
    detector, rng = Detector(), random.Random(0)
    for _ in range(100):
        rows = [rng.gauss(3.0, 0.3) for _ in range(8)]
        loss, norm = sum(rows) / 8, math.exp(rng.gauss(0, 0.15))
        detector.learn(loss, norm, detector.judge(loss, norm, rows), rows)
    rows = [3.0] * 7 + [6.0]  # a document of garbage: the batch moves by 3 of its own deviations only
    assert detector.judge(3.375, 3.0, rows).kind == "spike"
    assert detector.judge(3.375, 3.0).kind == "ok", "without the sequences: several ranks"
    assert detector.judge(3.375, 1.0, rows).kind == "ok", "the norm does not agree"
    assert detector.judge(3.0, 3.0, [2.57] * 7 + [6.0]).kind == "ok", "the loss does not agree"


@pytest.mark.parametrize(
    ("norms", "caught"), [((5.0,), 0), ((5.0, 5.0), 0), ((5.0, 0.24, 5.0), 0), ((5.0,) * 3, 1)]
)
def test_the_norm_alone_has_to_insist_three_times(norms, caught):
    verdicts = feed(grown(), [(2.3, norm) for norm in norms])
    assert sum(v.sick for v in verdicts) == caught


@pytest.mark.parametrize(("wait", "kind"), [(0, "spike"), (1, "spike"), (8, "spike"), (9, "ok")])
def test_a_warning_of_the_norm_is_believed_for_eight_steps(wait, kind):
    detector = grown()
    loss = detector.loss.expected + 5 * (1.0 / detector.loss.z(detector.loss.expected + 1.0))  # z = 5 exactly
    assert detector.judge(loss, 0.24).kind == "ok"
    pairs = [(2.3, 0.24)] * wait
    if wait == 0:
        assert detector.judge(loss, 5.0).kind == "spike"
        return
    feed(detector, [(2.3, 5.0), *pairs[1:]])
    loss = detector.loss.expected + 5 * (1.0 / detector.loss.z(detector.loss.expected + 1.0))
    verdict = detector.judge(loss, 0.24)
    assert verdict.kind == kind
    assert verdict.lead == (wait if kind == "spike" else 0)


# ---------------------------------------------------------------------------- what must not enter the windows

WORLD = {"ok": (2.31, 0.25), "spike": (9.0, 0.25), "nan": (math.nan, math.nan), "skipped": (2.29, 0.23)}


def test_windows_hold_the_healthy_updates_and_nothing_else():
    """Every world of five steps: healthy, spike with its update made, NaN, healthy but skipped."""
    start = json.dumps(grown().state_dict())
    for world in itertools.product(WORLD, repeat=5):
        detector, healthy = Detector(), []
        detector.load_state_dict(json.loads(start))
        for kind in world:
            verdict = detector.judge(*WORLD[kind])
            assert verdict.kind == (kind if kind in ("spike", "nan") else "ok")
            if kind != "skipped":
                detector.learn(*WORLD[kind], verdict)
            if kind == "ok":
                healthy.append(WORLD[kind])
        reference = Detector()
        reference.load_state_dict(json.loads(start))
        feed(reference, healthy)
        assert (detector.loss.state(), detector.norm.state()) == (
            reference.loss.state(),
            reference.norm.state(),
        )


def test_asking_changes_nothing():
    detector = grown()
    before = repr(detector.state_dict())
    for pair in WORLD.values():
        detector.judge(*pair, rows=[pair[0]] * 8)
    assert repr(detector.state_dict()) == before


def test_a_new_level_is_accepted_after_32_updates():
    """A planned change of data: the alarm does not ring for the rest of the run."""
    detector = grown()
    verdicts = feed(detector, level(32, seed=5, loss=3.5))
    assert all(v.sick for v in verdicts)
    assert not any(v.sick for v in feed(detector, level(100, seed=6, loss=3.5)))
    assert detector.judge(5.0, 0.24).kind == "spike"


# ----------------------------------------------------------------------------------------------------- resume


def test_a_restored_detector_is_the_same_detector():
    pairs = [
        *level(40),
        (math.nan, 1.0),
        (9.0, 30.0),
        *level(30, seed=2),
        (2.3, 5.0),
        (2.3, 0.24),
        (2.72, 0.24),
    ]
    whole = feed(Detector(), pairs)
    assert [v.kind for v in whole][-3:] == ["ok", "ok", "spike"], "the warning counts two steps later"
    for cut in range(len(pairs)):
        first, second = Detector(), Detector()
        verdicts = feed(first, pairs[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert repr(verdicts + feed(second, pairs[cut:])) == repr(whole)


def test_a_resumed_detector_is_not_blind():
    """OLMo-core and llm.c do not save theirs: a loss of 100 at step 30 after a resume passes."""
    detector = Detector()
    detector.load_state_dict(grown().state_dict())
    assert detector.judge(100.0, 0.24).kind == "spike"


# -------------------------------------------------------------------------------------------- healthy silence


def alarms(plant, seeds, steps=300):
    """Steps and false alarms on the noise models."""
    count, false = 0, 0
    for kind, seed in itertools.product(KINDS, seeds):
        detector = Detector()
        for loss, norm, rows in plant.noise(seed, steps, kind):
            verdict = detector.judge(loss, norm, rows)
            detector.learn(loss, norm, verdict, rows)
            count, false = count + 1, false + verdict.sick
    return count, false


def test_it_is_silent_on_healthy_noise(plant):
    count, false = alarms(plant, range(10))
    assert count == 12_000
    assert false <= 3  # one in 4,000 at most; the measured rate is in the slow test


@pytest.mark.slow
def test_it_is_silent_on_200_healthy_seeds(plant):
    count, false = alarms(plant, range(200))
    assert count == 240_000
    assert false <= 60, f"{false} false alarms in {count} steps"


def test_it_is_silent_on_a_real_run(small_run):
    detector = Detector()
    for record in train(small_run(steps=80)):
        verdict = detector.judge(record.loss, record.grad_norm, record.sequence_losses)
        detector.learn(record.loss, record.grad_norm, verdict, record.sequence_losses)
        assert verdict.kind == "ok"


# ---------------------------------------------------------------------------------------------------- mutants


class LearnsOutliers(Detector):
    def learn(self, loss, grad_norm, verdict, rows=()):
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.loss.learn(loss)
            self.norm.learn(math.log(grad_norm))


class ForgetsTheNorm(Detector):
    def state_dict(self):
        return super().state_dict() | {"norm_zs": []}


@pytest.mark.parametrize(
    ("name", "mutant", "test"),
    [
        ("Detector", LearnsOutliers, test_every_step_of_a_long_spike_is_caught),
        ("Detector", LearnsOutliers, test_windows_hold_the_healthy_updates_and_nothing_else),
        ("Detector", ForgetsTheNorm, test_a_restored_detector_is_the_same_detector),
    ],
)
def test_a_planted_defect_is_caught(monkeypatch, name, mutant, test):
    monkeypatch.setitem(globals(), name, mutant)
    with pytest.raises(AssertionError):
        test()
