"""Protects predictions: written down before the reveal, or not at all.

pytest tests/grade/test_predict.py
"""

from __future__ import annotations

import json

from llmkit.grade.predict import predict, predictions_file, reveal


def test_a_guess_is_kept_and_set_beside_the_outcome(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LLMKIT_HOME", str(tmp_path / "home"))
    predict("q", "B")
    reveal("q", "b", because="it is so")
    predict("q", "c")
    reveal("q", "b", because="it is so")
    assert capsys.readouterr().out.splitlines() == [
        "recorded: B", "you said B: right", "it was b: it is so",
        "recorded: c", "you said c: not this time", "it was b: it is so",
    ]  # fmt: skip
    kept = [json.loads(line) for line in predictions_file().read_text().splitlines()]
    assert [(k["question"], k["guess"]) for k in kept] == [("q", "B"), ("q", "c")]


def test_no_guess_records_nothing_and_run_all_works(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LLMKIT_HOME", str(tmp_path / "home"))
    predict("q", None)
    reveal("q", "b", because="it is so")
    assert capsys.readouterr().out.splitlines() == [
        "no prediction recorded: set `guess` and run this cell again",
        "no prediction was recorded",
        "it was b: it is so",
    ]
    assert not predictions_file().exists()
