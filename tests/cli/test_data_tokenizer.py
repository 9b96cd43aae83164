"""Protects `llmkit data tokenizer`: what it prints, its exit codes, and what it takes for a tokenizer.

pytest tests/cli/test_data_tokenizer.py
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.data import build
from llmkit.data.synthetic import synthetic


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mine"
    return build(synthetic(30, seed=5), folder, vocab_size=300, name="mine", sources={})


def run(*words, code):
    done = CliRunner().invoke(app, ["data", "tokenizer", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


def test_a_data_set_is_proven_against_a_tokenizer_trained_anew(dataset):
    out, talk = run(dataset.path, "--baseline", "again", code=0)
    assert out.count("fine") == 11 and "FLAW" not in out
    assert "0.0000 by id, 0.0000 by spelling" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("all ")]
    assert row[1] == "30" and row[3] == row[4]  # as many tokens as the baseline makes
    assert talk == f"next: llmkit data verify {dataset.path}\n"


def test_a_file_is_compared_with_a_data_set_and_the_flaw_is_named(dataset, tmp_path):
    content = json.loads(dataset.tokenizer.text)
    vocab = content["model"]["vocab"]
    one, two = sorted(vocab, key=vocab.get)[-2:]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    out, _ = run(tmp_path / "tokenizer.json", "--baseline", dataset.path, code=1)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("FLAW")] == ["ids"]
    plain, _ = run(tmp_path / "tokenizer.json", "--baseline", dataset.path, "--json", code=1)
    (flaw,) = json.loads(plain)["flaws"]
    assert (flaw["check"], flaw["where"], flaw["count"], flaw["of"]) == ("ids", "token 298", 2, 299)


def test_without_a_baseline_the_next_command_names_one(dataset):
    out, talk = run(dataset.path, code=0)
    assert "merges" not in out and "distance" not in out
    assert talk == f"next: llmkit data tokenizer {dataset.path} --baseline again\n"


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    from llmkit.errors import IntegrityError

    (tmp_path / "t.json").write_text("{}")
    done = CliRunner().invoke(app, ["data", "tokenizer", str(tmp_path / "t.json")])
    assert isinstance(done.exception, IntegrityError)
