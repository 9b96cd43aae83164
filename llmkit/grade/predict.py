"""Predictions, written down before the outcome is known: the cheapest way to find out what one believes.

predict("first sign", guess="b")
...
reveal("first sign", "c", because="gradients are checked before the update")
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from llmkit.folder import storage

_SAID: dict[str, str] = {}


def predictions_file() -> Path:
    """Where predictions are kept: LLMKIT_HOME, or the user's data folder; one JSON line each."""
    import platformdirs

    return Path(os.environ.get("LLMKIT_HOME") or platformdirs.user_data_dir("llmkit")) / "predictions.jsonl"


def predict(question: str, guess: str | None) -> None:
    """Record a guess before the reveal; `None` records nothing, so that Run All works.

    Raises:
        StorageError: the file cannot be written.
    """
    _SAID.pop(question, None)
    if guess is None:
        print("no prediction recorded: set `guess` and run this cell again")
        return
    path = predictions_file()
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(json.dumps({"question": question, "guess": guess, "at": time.time()}) + "\n")
    _SAID[question] = guess
    print(f"recorded: {guess}")


def reveal(question: str, answer: str, *, because: str) -> None:
    """Set the recorded guess beside what happened."""
    said = _SAID.get(question)
    verdict = "no prediction was recorded" if said is None else f"you said {said}: {_judged(said, answer)}"
    print(f"{verdict}\nit was {answer}: {because}")


def _judged(said: str, answer: str) -> str:
    return "right" if said.strip().lower() == answer.strip().lower() else "not this time"
