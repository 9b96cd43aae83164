"""Protects: exercise 05's reference cuts words as the `tokenizers` library does, given the same merges.

pytest tests/grade/test_05_reference.py
"""

from __future__ import annotations

import random

import pytest
from tokenizers.models import BPE

from llmkit.grade.exercise import load, source


@pytest.mark.parametrize("seed", range(20))
def test_the_reference_encodes_as_the_library_does(seed):
    rng = random.Random(seed)
    training = source("05_bpe", "training")
    pieces = training.some_pieces(rng, 14, 9)
    merges = training.learn(pieces, 25)
    letters = sorted(set("".join(pieces)))
    names = [*letters, *("".join(pair) for pair in merges)]
    assert len(set(names)) == len(names)  # no token is made in two ways
    library = BPE({name: i for i, name in enumerate(names)}, merges)
    encode = load("05_bpe").task("encode").reference
    for _ in range(40):
        piece = "".join(rng.choice([*letters, *pieces]) for _ in range(rng.randint(1, 8)))
        assert encode(piece, merges).value == [token.value for token in library.tokenize(piece)]


def test_the_prediction_is_what_the_reference_learns():
    exercise = load("05_bpe")
    learned = exercise.task("train").reference({"ab" * 64: 1}, 1000).value
    assert len(learned) == exercise.predictions["merges of a repetition"].answer
