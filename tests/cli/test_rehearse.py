"""Protects `llmkit memory --config`: the verdict, the refusals, one JSON object, a model of the user's own.

pytest tests/cli/test_rehearse.py
"""

from __future__ import annotations

import json

from typer.testing import CliRunner

from llmkit.cli import app

SMALL = ["memory", "--config", "tiny", "--batch", "2", "--seq", "64"]


def run(*words: str):
    return CliRunner().invoke(app, words)


def test_what_fits_says_so_and_what_does_not_says_where_and_what_would_help():
    fits = run(*SMALL, "--gpu", "48 GiB", "--json")
    plain = json.loads(fits.stdout)
    assert fits.exit_code == 0 and plain["fits"] and plain["died"] is None and plain["emulated"]
    full = run(*SMALL, "--gpu", "2 MiB")
    assert full.exit_code == 1
    assert "would die in " in full.stdout and "8-bit moments" in full.stdout
    assert "FSDP over" in full.stdout and "too much" in full.stdout


def test_on_many_ranks_it_speaks_of_one_of_them():
    alone, shared = (json.loads(run(*SMALL, *more, "--json").stdout) for more in ((), ("--ranks", "8")))
    assert (alone["ranks"], shared["ranks"]) == (1, 8)
    assert alone["parameters"] == shared["parameters"]
    for what in ("parameters", "optimizer state"):
        assert shared["peak"]["by_category"][what] < alone["peak"]["by_category"][what] / 7
    assert "shared out over 8 cards (FSDP2), of which this is one" in run(*SMALL, "--ranks", "8").stdout


def test_a_factory_by_dotted_path_is_rehearsed(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from llmkit.train import GPT, tiny\ndef make():\n    return GPT(tiny().model)\n"
    )
    monkeypatch.chdir(tmp_path)
    own = run("memory", "--factory", "mine:make", "--batch", "2", "--seq", "64", "--json")
    kit = run(*SMALL, "--json")
    assert json.loads(own.stdout)["peak"] == json.loads(kit.stdout)["peak"]


def test_the_impossible_is_refused_in_words():
    assert run("memory").exception.found == "nothing was named"
    assert "unknown card `A100-8`" in str(run(*SMALL, "--gpu", "A100-8").exception)
    assert "cannot import `nowhere:make`" in str(run("memory", "--factory", "nowhere:make").exception)
