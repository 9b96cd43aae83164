"""Exercise 03, the schema check: every violation in a JSONL file with line, field and what was found."""

from __future__ import annotations

from llmkit.grade.exercise import Exercise, Prediction

from .documents import DOCUMENT, TYPE
from .files import FILE

EXERCISE = Exercise(
    name="03_schema",
    version=1,
    title="The schema check",
    minutes=40,
    round="coding",
    difficulty=2,
    rows=("S15",),
    tasks=(TYPE, DOCUMENT, FILE),
    predictions={
        "numbers that pass": Prediction(
            answer=4.0,
            because=(
                "All four. Python reads NaN and Infinity, which are not JSON; 1e999 is JSON and becomes "
                "infinity; and True is an int. Each would enter a weighted loss as a sample weight."
            ),
        )
    },
    hides=("data",),
    shortcuts=("pydantic", "jsonschema"),
)
