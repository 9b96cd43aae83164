"""Protects `llmkit data build` and `check`, and that what docs/data-check.md says can be pasted.

pytest tests/cli/test_data_check.py
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llmkit.cli import app, main
from llmkit.data import Document, TokenDataset
from llmkit.data.synthetic import synthetic

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "data-check.md").read_text()


def run(*words, code=0):
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


def write(path: Path, documents: list[Document]) -> Path:
    path.write_text("".join(json.dumps({"text": d.text}) + "\n" for d in documents))
    return path


@pytest.fixture
def corpus(tmp_path):
    """Thirty documents, one of them twice, and one with a word changed."""
    made = synthetic(30, seed=5)
    long = max(made, key=lambda d: len(d.text)).text
    words = long.split(" ")
    extra = [Document(30, "copy", made[3].text), Document(31, "near", " ".join([*words[:-1], "other"]))]
    return write(tmp_path / "corpus.jsonl", [*made, *extra])


@pytest.mark.parametrize(
    ("options", "names", "left"),
    [
        ([], [], 32),
        (["--normalise", "--dedup", "exact"], ["normalise", "drop-duplicates"], 31),
        (["--dedup", "near"], ["drop-duplicates", "drop-near-duplicates"], 30),
    ],
)
def test_build_applies_the_steps_that_are_asked_for_and_records_them(corpus, tmp_path, options, names, left):
    out, talk = run(
        "build", corpus, "--out", tmp_path / "a", "--vocab", 300, "--val-share", 0.1, "--json", *options
    )
    facts = json.loads(out)
    assert [step["name"] for step in facts["steps"]] == names and facts["documents"] == left
    assert facts["splits"]["val"]["documents"] == 3
    assert talk.splitlines()[:2] == [f"train 0 of {left} documents", f"encode {left} of {left} documents"]


def test_a_later_version_names_its_parent_and_keeps_its_tokenizer(corpus, tmp_path):
    run("build", corpus, "--out", tmp_path / "a", "--vocab", 300)
    more = write(tmp_path / "more.jsonl", synthetic(10, seed=6))
    for name, vocab in (("b", []), ("c", ["--vocab", 290])):
        run("build", corpus, more, "--out", tmp_path / name, "--parent", tmp_path / "a", *vocab)
    a, b, c = (TokenDataset(tmp_path / name) for name in "abc")
    assert b.manifest.parent == c.manifest.parent == a.digest and b.n_documents == 42
    assert (b.tokenizer_digest == a.tokenizer_digest, c.vocab_size) == (True, 290)


def test_check_prints_violations_and_exits_1(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n{"text": "\\ud83d", "id": []}\n')
    out, talk = run("check", path, code=1)
    assert out.splitlines() == [
        f"{path}:2: text: is empty (expected: text)",
        f"{path}:3: text: holds half a character, U+D83D, at 0 (expected: Unicode text)",
        f"{path}:3: id: [] (expected: a string that is not empty, or an integer from 0 to 2^63 - 1)",
    ]
    assert talk == f"3 violations in 3 documents of 1 files\nnext: llmkit data check {path}\n"
    out, talk = run("check", path, "--json", "--max", 1, code=1)
    expected = {"file": str(path), "line": 2, "field": "text", "found": "is empty", "expected": "text"}
    assert [json.loads(line) for line in out.splitlines()] == [expected]
    assert "stopped after 1 violations" in talk


def test_check_of_good_text_or_a_good_data_set_prints_nothing_and_exits_0(corpus, tmp_path, dataset):
    write(corpus, synthetic(30, seed=5))
    out, talk = run("check", corpus)
    assert (out, talk.splitlines()[0]) == ("", "0 violations in 30 documents of 1 files")
    assert run("check", dataset.path)[0] == ""


def test_nothing_to_check_and_an_impossible_threshold_are_usage_errors(tmp_path, corpus, monkeypatch, capsys):
    for words in (
        ["check", tmp_path / "none"],
        ["build", corpus, "--out", tmp_path / "a", "--dedup", "near", "--near", "2"],
    ):
        monkeypatch.setattr(sys, "argv", ["llmkit", "data", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2 and "error: " in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- what can be pasted


@pytest.fixture
def shell(tmp_path):
    """Run a line in a repository with a corpus, with `llmkit` on the path; its exit code and output."""
    command = tmp_path / "bin" / "llmkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llmkit "$@"\n')
    command.chmod(0o755)
    home = tmp_path / "home"
    (home / "corpus" / "deep").mkdir(parents=True)
    paths = {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }

    def call(line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", line],
            cwd=home,
            env=os.environ | paths,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return home / "corpus", call


def test_the_ci_step_passes_good_text_and_fails_on_bad(shell):
    corpus, call = shell
    workflow = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", DOCS, re.S)[0])
    (line,) = [s["run"] for s in workflow["jobs"]["check"]["steps"] if s.get("run", "").startswith("llmkit")]
    (corpus / "deep" / "a.txt").write_text("good")
    assert call(line)[0] == 0
    (corpus / "deep" / "b.jsonl").write_text("{}\n")
    assert call(line) == (
        1,
        "corpus/deep/b.jsonl:1: text: is missing (expected: a string)\n"
        "1 violations in 2 documents of 2 files\nnext: llmkit data check corpus\n",
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_hook_checks_what_is_staged_and_nothing_else(shell):
    corpus, call = shell
    (line,) = re.findall(r"```sh\n(.*?)\n```", DOCS, re.S)
    call("git init -q .")
    assert call(line)[0] == 0  # nothing is staged
    (corpus / "deep" / "a.txt").write_text("good")
    (corpus / "bad.jsonl").write_text("{}\n")
    (corpus.parent / "notes.txt").write_text("")
    call("git add corpus/deep/a.txt notes.txt")
    assert call(line)[0] == 0
    call("git add corpus/bad.jsonl")
    code, said = call(line)
    assert code != 0 and "corpus/bad.jsonl:1: text: is missing" in said


def test_the_schema_in_the_docs_is_the_one_that_is_checked():
    from llmkit.data.schema import FIELDS

    assert re.findall(r"^\| `(\w+)` \| (yes|no) \|", DOCS, re.M) == [
        (f, "yes" if f == "text" else "no") for f in FIELDS
    ]
