"""Protects the command line: its surface, what goes to stdout and what to stderr, exit codes, refusals.

pytest tests/cli/test_cli.py
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest
import typer.main

from llmkit.cli import app

SURFACE = {
    "break": ["--config", "--json", "--out", "--set", "--steps", "--supervise", "--where", "fault"],
    "contracts": ["--json", "module"],
    "cost calibrate": ["--json", "--set", "--step", "job"],
    "cost compare": ["--change-dollars", "--json", "a", "b"],
    "cost incident": [
        "--chance",
        "--down",
        "--explain",
        "--instead",
        "--json",
        "--lost-steps",
        "--set",
        "--unseen",
        "job",
    ],
    "cost optimal": ["--json", "flops"],
    "cost prices": ["--json"],
    "cost run": ["--explain", "--json", "--set", "job"],
    "cost serve": ["--batch", "--context", "--explain", "--gpu", "--json", "--tp", "model"],
    "data build": [
        "--dedup",
        "--json",
        "--near",
        "--normalise",
        "--out",
        "--parent",
        "--val-share",
        "--vocab",
        "paths",
    ],
    "data check": ["--field", "--json", "--limit", "--max", "paths"],
    "data audit": ["--json", "runs"],
    "data croissant": ["--creator", "--json", "--licence", "--published", "--url", "folder"],
    "data diff": ["--json", "a", "b"],
    "data drift": [
        "--alpha",
        "--baseline",
        "--json",
        "--permutations",
        "--raw",
        "--seed",
        "--source-strata",
        "dataset",
    ],
    "data pin": ["--document", "--json", "--pins", "--sample", "--seed", "dataset"],
    "data regress": ["--alpha", "--json", "--pins", "after", "before"],
    "data show": ["--document", "--json", "dataset"],
    "data tokenizer": ["--baseline", "--json", "--text", "subject"],
    "data verify": ["--json", "dataset"],
    "diagram": ["--json", "--out", "--set", "job"],
    "demo": ["--json", "--out"],
    "diagnose": ["--check-data", "--follow", "--json", "--probe", "run"],
    "env": ["--json"],
    "explain": ["--json", "code"],
    "faults": ["--json"],
    "exercises check": ["--json", "--run", "exercise"],
    "exercises list": ["--json"],
    "exercises new": ["--json", "name"],
    "exercises status": ["--json"],
    "grade": [
        "--class",
        "--jobs",
        "--json",
        "--junit",
        "--out",
        "--regrade",
        "--require-sandbox",
        "notebooks",
    ],
    "lab": ["notebook"],
    "memory": [
        "--alloc",
        "--batch",
        "--checkpointing",
        "--config",
        "--factory",
        "--gpu",
        "--json",
        "--limit",
        "--optimizer",
        "--picture",
        "--precision",
        "--ranks",
        "--scale",
        "--seq",
        "--set",
        "--snapshot",
        "run",
    ],  # a run's and a rehearsal's
    "report": ["--json", "run"],
    "scale-log": ["--json", "run"],
    "sweep": [
        "--arm",
        "--config",
        "--json",
        "--out",
        "--seeds",
        "--set",
        "--steps",
        "--study",
        "--workers",
    ],
    "train": ["--config", "--json", "--out", "--resume", "--set", "--steps", "--supervise"],
    "verify": ["--json", "run"],
}


def surface():
    found = {}

    def visit(command, path):
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                visit(child, [*path, name])
        else:
            names = [p.opts[0] if p.opts[0].startswith("-") else p.name for p in command.params]
            found[" ".join(path)] = sorted(n for n in names if n != "--help")

    visit(typer.main.get_command(app), [])
    return found


def run(*words, code=0, cwd=None):
    """The command as a person types it; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "llmkit", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr


def test_the_surface_is_frozen():
    assert surface() == SURFACE
    assert all(len(names) <= 9 for verb, names in SURFACE.items() if verb != "memory")


def test_every_verb_has_a_purpose_and_an_example():
    def visit(command):
        for child in getattr(command, "commands", {}).values():
            if hasattr(child, "commands"):
                visit(child)
            else:
                assert child.help and (child.epilog or "").startswith("Example: llmkit "), child.name

    visit(typer.main.get_command(app))


def test_help_leads_with_what_it_is_for():
    out, _ = run("--help")
    assert "Build, break and fix a real LLM training run" in out and "Example: llmkit break" in out


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    return path, *run("train", "--steps", "12", "--set", "save_every=5", "--out", path)


def test_train_puts_its_result_on_stdout_and_its_talk_on_stderr(trained):
    path, out, err = trained
    assert out.splitlines()[0].startswith("loss 6.2") and out.splitlines()[1] == str(path)
    assert err.splitlines()[0].startswith("tiny, fp32 (exact), data ")
    assert err.splitlines()[-1] == f"next: llmkit report {path}"


def test_diagnose_of_a_healthy_run_is_good_news(trained):
    path, _, _ = trained
    out, _ = run("diagnose", path, "--json")
    assert json.loads(out)["findings"] == []


def test_report_writes_one_page(trained):
    path, _, _ = trained
    out, _ = run("report", path)
    assert out.strip() == str(path / "report.html") and (path / "report.html").stat().st_size > 10_000


def test_verify_does_the_run_again_bit_for_bit(trained):
    path, _, _ = trained
    out, _ = run("verify", path, "--json")
    checks = json.loads(out)
    assert checks["same"] and len(checks["checks"]) >= 5


def test_verify_names_what_differs(trained, tmp_path):
    import shutil

    path, _, _ = trained
    forged = tmp_path / "forged"
    shutil.copytree(path, forged)
    lines = (forged / "steps.jsonl").read_text().splitlines()
    record = json.loads(lines[7])
    lines[7] = json.dumps(record | {"loss": record["loss"] - 0.5}, separators=(",", ":"))
    (forged / "steps.jsonl").write_text("\n".join(lines) + "\n")
    out, _ = run("verify", forged, code=1)
    assert "DIFFERS" in out and "steps.jsonl, line 8" in out


def test_a_broken_run_dies_with_code_1_and_the_doctor_names_it(dataset, tmp_path):
    path = tmp_path / "sick"
    where = ["--where", "at=6", "--where", "until=20", "--where", "module=blocks.0.mlp"]
    out, err = run("break", "nan-division", "--steps", "15", *where, "--out", path, code=1)
    assert out.startswith("died: 3 steps in a row were non-finite") and f"next: llmkit diagnose {path}" in err
    out, _ = run("diagnose", path, code=1)
    assert "LK101" in out and "blocks.0.mlp" in out
    out, _ = run("verify", path, "--json")
    assert json.loads(out)["same"]


REFUSALS = [
    (("train", "--config", "laptp"), 2, "error: unknown configuration `laptp`\n  remedy: use `laptop`"),
    (("train", "--set", "lr"), 2, "error: cannot read `lr`\n  expected: name=value"),
    (
        ("train", "--steps", "5", "--set", "warmup=9"),
        2,
        "error: warmup (9 steps) is longer than the run (5 steps)\n  remedy: lower warmup or raise steps",
    ),
    (("break", "nan-divison"), 2, "error: unknown fault `nan-divison`\n  remedy: use `nan-division`"),
    (("explain", "LK999"), 2, "error: unknown finding `LK999`"),
    (("contracts", "trian"), 2, "error: no module `trian`\n  remedy: use `train`"),
    (
        ("diagnose", "nowhere"),
        2,
        "error: `nowhere` is not a run folder\n  expected: a folder with run.json and steps.jsonl\n"
        "  remedy: name the folder that `llmkit train --out FOLDER` wrote",
    ),
]


@pytest.mark.parametrize(
    ("words", "code", "says"), REFUSALS, ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_a_refusal_says_found_expected_remedy(words, code, says, dataset, tmp_path):
    out, err = run(*words, code=code, cwd=tmp_path)
    assert out == "" and says in err
    assert list(tmp_path.glob("runs/*/steps.jsonl")) == []


def test_a_folder_that_holds_a_run_is_not_overwritten(trained):
    path, _, _ = trained
    before = (path / "steps.jsonl").read_bytes()
    _, err = run("train", "--out", path, code=2)
    assert f"error: `{path}` already holds a run\n  remedy: add --resume, or choose another folder" in err
    assert (path / "steps.jsonl").read_bytes() == before


def test_ctrl_c_keeps_everything_and_says_how_to_resume(dataset, tmp_path):
    path = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "llmkit",
        "train",
        "--steps",
        "5000",
        "--set",
        "save_every=7",
        "--out",
        str(path),
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (path / "steps.jsonl").exists() or (path / "steps.jsonl").read_bytes().count(b"\n") < 10:
        assert child.poll() is None
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1 and err.splitlines()[-1] == f"next: llmkit train --resume --out {path}"
    done = (path / "steps.jsonl").read_bytes()
    stopped = done.count(b"\n")
    assert (path / "checkpoints" / f"step-{stopped:08d}").is_dir()
    (path / "run.json").write_text(
        (path / "run.json").read_text().replace('"steps": 5000', f'"steps": {stopped + 20}')
    )
    run("train", "--resume", "--out", path)
    assert (path / "steps.jsonl").read_bytes().startswith(done)
    assert (path / "steps.jsonl").read_bytes().count(b"\n") == stopped + 20


def test_faults_explain_contracts_and_env_answer():
    out, _ = run("faults", "--json")
    assert json.loads(out)["nan-division"]["door"]
    assert "Confirm" in run("explain", "lk101")[0]
    out, _ = run("contracts", "train.loop")
    assert "train.loop.train(" in out and "NonFiniteError" in out
    assert any(line["what"] == "torch" for line in json.loads(run("env", "--json")[0]))


def test_memory_says_who_holds_what_and_writes_pytorchs_snapshot(tmp_path):
    text, _ = run("memory", "tiny", "--scale", "32", "--snapshot", "m.pickle", cwd=tmp_path)
    assert "MiB at the peak" in text and "train/model.py" in text and "reserved" in text
    assert pickle.loads((tmp_path / "m.pickle").read_bytes())["segments"]
    told = json.loads(run("memory", "tiny", "--alloc", "max_split_size_mb:20", "--json")[0])
    assert sum(size for *_, size in told["held"]) == told["peak_bytes"]
    assert told["allocator"].keys() == {"default", "max_split_size_mb:20"}


def test_your_own_text_is_built_verified_and_trained_on(tmp_path):
    (tmp_path / "notes").mkdir()
    for i in range(40):
        (tmp_path / "notes" / f"{i}.txt").write_text(
            f"note {i}: " + "the loss fell, the norm rose, " * (20 + i)
        )
    run("data", "build", "notes", "--out", "mine", "--vocab", "270", cwd=tmp_path)
    run("data", "verify", "mine", cwd=tmp_path)
    assert "note " in run("data", "show", "mine", "--document", "3", cwd=tmp_path)[0]
    settings = ["--set", "data=mine", "--set", "model__vocab_size=270", "--set", "batch=2"]
    run("train", "--steps", "3", *settings, "--out", "run", cwd=tmp_path)
    shard = next((tmp_path / "mine").glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    out, _ = run("data", "verify", "mine", code=1, cwd=tmp_path)
    assert shard.name in out
