"""Protects: exercise 04's test keeps its false-alarm rate on bursty documents, and its prediction is computed.

pytest tests/grade/test_04_reference.py
"""

from __future__ import annotations

import random

import pytest

from llmkit.grade.exercise import load, source


def test_clean_bursty_documents_ring_the_alarm_as_often_as_promised():
    outcome = source("04_drift", "permutations").outcome_of
    documents = source("04_drift", "shares").some_documents
    alarms = 0
    for seed in range(200):
        rng = random.Random(seed)
        clean = documents(rng, 14, 3)
        dealings = [rng.sample(clean["shards"], 14) for _ in range(19)]
        alarms += outcome(**clean, dealings=dealings)[2] <= 0.1
    assert 8 <= alarms <= 34  # 20 expected, standard deviation 4.2


def test_the_prediction_is_what_the_two_formulas_give():
    shares = source("04_drift", "shares")
    hits, tokens = [10] * 1000 + [0] * 99_000, [500] * 100_000
    wider = shares.error_of(hits, tokens) / shares.WRONG_ERRORS["documents"](hits, tokens)
    assert load("04_drift").predictions["how much wider"].answer == pytest.approx(wider, rel=1e-4)
