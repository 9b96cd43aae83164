"""Exercise 04, drift: has one shard another share of some tokens, or was that chance?"""

from __future__ import annotations

import math

from llmkit.grade.exercise import Exercise, Prediction

from .permutations import DEAL, TEST
from .shares import ERROR, GAPS

EXERCISE = Exercise(
    name="04_drift",
    version=1,
    title="A drift statistic",
    minutes=40,
    round="deep dive",
    difficulty=3,
    rows=("S3",),
    tasks=(GAPS, ERROR, DEAL, TEST),
    predictions={
        "how much wider": Prediction(
            answer=math.sqrt((1 - 0.01) / (0.1 * (1 - 0.1 / 500))),
            because=(
                "Hits per document: mean 0.1, mean square 0.01 * 100 = 1, so variance 0.99. Tokens drawn one "
                "by one would give 0.1. The root of the ratio is 3.15: a test with tokens as its units "
                "sees five standard errors where there are 1.6."
            ),
        )
    },
    hides=("data",),
    shortcuts=("permutation_test", "ks_2samp", "chi2_contingency"),
)
