"""Exercise 06, packing: documents to windows, the label shift, borders, padding, and the loss over it all."""

from __future__ import annotations

from llmkit.grade.exercise import Exercise, Prediction

from .loss import LOSS, MASK
from .windows import PACK, SAMPLE

EXERCISE = Exercise(
    name="06_packing",
    version=1,
    title="Packing and label shift",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S1", "S4"),
    tasks=(PACK, SAMPLE, MASK, LOSS),
    predictions={
        "percent of padding": Prediction(
            answer=100 * (1 - 300 / 1024),
            because=(
                "724 of 1,024 places are padding: 70.7 percent of the floating-point operations are spent on "
                "nothing. Packed, the same machine trains on 3.4 times as many tokens in the same time."
            ),
        )
    },
    hides=("data", "train"),
    shortcuts=("cross_entropy", "nll_loss", "CrossEntropyLoss"),
)
