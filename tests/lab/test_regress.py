"""Protects the regression set: an exact test where it can be enumerated, its level, planted losses, two tokenizers.

pytest tests/lab/test_regress.py
"""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch

from llmkit.data import generated, pin
from llmkit.errors import CheckpointError, ConfigError, IntegrityError
from llmkit.lab import fly, regress
from llmkit.lab.regress import BLOCK, DRAWS, flips, holm, paired
from llmkit.train import tiny

# ---------------------------------------------------------------------------------------------------- the test


def test_p_is_that_of_all_sign_flips():
    rng = np.random.default_rng(0)
    differences = [rng.normal(0.1, 1.0, BLOCK * blocks + 5) for blocks in (7, 8, 9)]
    worse, better, testable = flips(differences, 0.1, seed=1)
    assert testable.all()
    for d, up, down in zip(differences, worse, better, strict=True):
        sums = [d[i : i + BLOCK].sum() for i in range(0, len(d), BLOCK)]
        drawn = np.array([np.dot(s, sums) for s in itertools.product((-1, 1), repeat=len(sums))])
        for p, exact in (
            (up, (drawn >= sum(sums) - 1e-9).mean()),
            (down, (drawn <= sum(sums) + 1e-9).mean()),
        ):
            assert abs(p - exact) <= 4 * np.sqrt(exact * (1 - exact) / DRAWS) + 1 / DRAWS


def test_no_difference_has_no_evidence():
    worse, better, testable = flips([np.zeros(200)] * 3, 0.05, seed=0)
    assert worse.tolist() == better.tolist() == [1.0] * 3 and testable.all()


def test_inputs_too_short_to_be_significant_are_left_out_and_make_room_for_the_others():
    short, long = [np.ones(BLOCK)] * 50, [np.ones(BLOCK * 7)]
    worse, _, testable = flips(short + long, 0.05, seed=0)
    assert testable.tolist() == [False] * 50 + [True]  # 51 * 2**-7 is above 0.05, one times it is not
    assert worse[:50].tolist() == [1.0] * 50 and worse[50] <= 0.05
    assert not flips([np.ones(BLOCK)] * 3, 0.05, seed=0)[2].any()


def test_holm_steps_down():
    """Holm 1979: compared with alpha/n, alpha/(n-1), ...; the first that fails keeps the rest."""
    assert holm(np.array([0.011, 0.02, 0.001, 0.9]), 0.05).tolist() == [True, True, True, False]
    assert holm(np.array([0.013, 0.02, 0.02]), 0.05).tolist() == [True, True, True]
    assert holm(np.array([0.04, 0.03, 0.001]), 0.05).tolist() == [False, False, True]
    assert holm(np.array([]), 0.05).tolist() == []


def correlated(rng, units, shift=0.0, share=0.3):
    """Differences whose neighbours correlate, as those of real text do (by less)."""
    noise = rng.normal(size=units)
    for i in range(1, units):
        noise[i] += share * noise[i - 1]
    return noise + shift


def false_families(families, block, share):
    """How many families of eight equal inputs have one that is called worse."""
    rng, wrong = np.random.default_rng(5), 0
    for seed in range(families):
        worse, _, testable = flips([correlated(rng, 250, share=share) for _ in range(8)], 0.1, seed, block)
        wrong += holm(worse[testable], 0.1).any()
    return wrong


def test_a_family_of_equal_inputs_is_called_worse_no_more_often_than_promised():
    """Nominal 10 %: of 100 families at most 19 (binomial, 99.8 %)."""
    assert false_families(100, BLOCK, 0.3) <= 19


def test_flipping_single_tokens_would_break_the_promise():
    assert false_families(25, 1, 0.5) > 10


def test_planted_losses_are_found_and_no_other():
    rng = np.random.default_rng(2)
    differences = [correlated(rng, 400, shift=1.0 if i % 10 == 0 else 0.0) for i in range(40)]
    worse, better, testable = flips(differences, 0.01, seed=0)
    assert np.flatnonzero(holm(worse, 0.01)).tolist() == [0, 10, 20, 30] and testable.all()
    assert not holm(better, 0.01).any()


def test_pairing_keeps_every_nat_and_needs_no_equal_cuts():
    a = np.array([2, 5, 6, 9]), np.array([1.0, 2.0, 4.0, 8.0])
    b = np.array([1, 5, 8, 9]), np.array([0.5, 0.5, 3.0, 7.0])
    first, second = paired(a, b)
    assert first.tolist() == [3.0, 12.0] and second.tolist() == [1.0, 10.0]


# ---------------------------------------------------------------------------------------------------- on runs


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A run of 60 steps; one of equal settings and another seed; one that learned for 6 steps; other words."""
    root = tmp_path_factory.mktemp("regress")
    small = {"data": "generated", "save_every": 100, "warmup": 3}
    settings = {
        "one": {"steps": 60}, "seed": {"steps": 60, "seed": 1}, "early": {"steps": 6},
        "words": {"steps": 60, "model__vocab_size": 300},
    }  # fmt: skip
    for name, options in settings.items():
        list(fly(tiny(**small, **options), root / name))
    pin(dataset, root / "pins.jsonl", sample=24)
    return root


def test_a_run_against_itself_has_no_difference(runs):
    found = regress(runs / "one", runs / "one", runs / "pins.jsonl")
    assert found.unit == "token" and found.steps == (60, 60) and len(found.inputs) == 24
    assert found.count("worse") == found.count("better") == 0
    assert all(one.before == one.after and one.p == 1.0 for one in found.inputs)


def test_losses_are_those_of_the_model_token_by_token(runs, dataset):
    from llmkit.data import read_pins
    from llmkit.folder import RunFolder
    from llmkit.lab.flight import config_of
    from llmkit.train import build

    folder = RunFolder.open(runs / "one")
    run = build(config_of(folder), dataset=dataset)
    run.model.load_state_dict(
        torch.load(folder.checkpoints / "step-00000060" / "weights.pt", weights_only=True)
    )
    by_hash = {one.sha256: one for one in regress(runs / "one", runs / "early", runs / "pins.jsonl").inputs}
    for one in read_pins(runs / "pins.jsonl")[:3]:
        stream, losses = [0, *dataset.encode(one.text), 0], []
        for i in range(len(stream) - 1):  # one target at a time, each with what its window holds before it
            start = i - i % run.config.model.context
            logits = run.model.logits(torch.tensor([stream[start : i + 1]]))[0, -1]
            losses.append(-torch.log_softmax(logits, 0)[stream[i + 1]].item())
        assert by_hash[one.sha256].before == pytest.approx(np.mean(losses), abs=1e-5)
        assert by_hash[one.sha256].units == len(losses)


def test_what_was_unlearned_is_named_worse_and_what_was_learned_better(runs):
    back = regress(runs / "one", runs / "early", runs / "pins.jsonl")
    testable = 24 - back.count("not testable")
    assert testable >= 12 and back.count("worse") == testable and back.count("better") == 0
    assert [i.before - i.after for i in back.inputs[:testable]] == sorted(
        i.before - i.after for i in back.inputs[:testable]
    )
    forth = regress(runs / "early", runs / "one", runs / "pins.jsonl")
    assert forth.count("better") == testable and forth.count("worse") == 0
    lines = back.text.splitlines()
    assert lines[0].startswith(f"24 inputs, steps 60 and 6: {testable} worse, 0 better")
    assert len([line for line in lines if line.startswith("  +")]) == min(10, testable)


def test_other_tokenizers_are_compared_per_byte(runs):
    found = regress(runs / "one", runs / "words", runs / "pins.jsonl")
    tokens = regress(runs / "one", runs / "seed", runs / "pins.jsonl")
    nats = [{i.sha256: i.before * i.units for i in answer.inputs} for answer in (found, tokens)]
    assert found.unit == "byte" and nats[0] == pytest.approx(nats[1])
    assert all(0.2 < one.after < 5 for one in found.inputs)


def test_a_damaged_checkpoint_is_passed_over_and_nothing_is_touched(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with open(tmp_path / "run" / "checkpoints" / "step-00000060" / "weights.pt", "r+b") as file:
        file.seek(5000)
        file.write(b"x" * 100)
    found = regress(runs / "one", tmp_path / "run", runs / "pins.jsonl")
    assert found.steps == (60, 0) and found.count("worse") > 12
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        regress(runs / "one", tmp_path / "run", runs / "pins.jsonl")


def test_refusals(runs, dataset, tmp_path):
    with pytest.raises(ConfigError, match="alpha 0"):
        regress(runs / "one", runs / "one", runs / "pins.jsonl", alpha=0.0)
    pin(dataset, tmp_path / "none.jsonl", documents=[])
    with pytest.raises(ConfigError, match="0 pins"):
        regress(runs / "one", runs / "one", tmp_path / "none.jsonl")
    shutil.copytree(runs / "one", tmp_path / "run")
    facts = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(facts.replace(generated().digest, "0" * 64))
    with pytest.raises(IntegrityError, match="was started with 000000000000"):
        regress(runs / "one", tmp_path / "run", runs / "pins.jsonl")
