"""Protects `llmkit grade --class`: nobody's grade is lost or doubled, junk stops nothing, pages and CSV say
what the journal says.

pytest tests/grade/test_class.py
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from collections import deque
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.cli.grade_verbs import _bar
from llmkit.errors import GradeError, StorageError
from llmkit.grade import gradebook
from llmkit.grade.classroom import ClassGrades, Room, grade_class, stands
from llmkit.grade.exercise import load
from llmkit.grade.gradebook import TaskStatistics, as_csv, file_name, statistics_of
from llmkit.grade.journal import Grade, Journal
from llmkit.grade.roll import Roll, call_the_roll
from llmkit.grade.sandbox import Isolation, Limits
from llmkit.grade.verdict import FAIL, MALFORMED, NOT_ATTEMPTED, PASS, Example, Report, Verdict

ROOT = Path(__file__).resolve().parents[2]
LIGHT = "24_young_daly"  # an exercise without torch
TASKS = [task.name for task in load(LIGHT).tasks]


def hand_in(folder: Path, learner: str, kind: str = "solutions", exercise: str = LIGHT) -> Path:
    """A submission in nbgrader's layout."""
    place = folder / "submitted" / learner / exercise
    place.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(ROOT / kind / f"{exercise}.ipynb", place))


# ------------------------------------------------------------------------------------- who handed in what


def test_three_layouts_are_one_roll_and_junk_is_named(tmp_path):
    hand_in(tmp_path, "ada").with_name("timestamp.txt").write_text("2026-11-28 09:00:00 UTC\nmore\n")
    root = tmp_path / "submitted"
    (root / "bob").mkdir()
    shutil.copy(ROOT / "solutions" / "05_bpe.ipynb", root / "bob" / "mine.ipynb")
    shutil.copy(ROOT / "solutions" / f"{LIGHT}.ipynb", root / "cyd.ipynb")
    roll = call_the_roll(tmp_path)
    assert [(p.learner, p.exercise, p.timestamp) for p in roll.papers] == [
        ("ada", LIGHT, "2026-11-28 09:00:00 UTC"), ("bob", "05_bpe", ""), ("cyd", LIGHT, ""),
    ]  # fmt: skip
    assert roll.junk == []
    assert call_the_roll(root).papers == roll.papers


def test_everything_that_can_lie_about_in_a_class_folder_is_junk_with_a_reason(tmp_path):
    good = hand_in(tmp_path, "ada")
    root = tmp_path / "submitted"
    (root / "ada" / "data.csv").write_text("x")
    (root / "ada" / LIGHT / "deeper").mkdir()
    (root / "README.md").write_text("x")
    (root / "latin.ipynb").write_bytes(b"\xff\xfe\x00")
    (root / "json.ipynb").write_text("{}")
    (root / "julia.ipynb").write_text('{"cells": [], "metadata": {"language_info": {"name": "julia"}}}')
    os.symlink(good, root / "link.ipynb")
    os.symlink(tmp_path, root / "loop")
    os.mkfifo(root / "pipe.ipynb")
    (root / os.fsdecode(b"name\xff.txt")).write_text("x")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "nothing here").mkdir()
    with open(root / "large.ipynb", "wb") as file:
        file.truncate(100 * 2**20)
    roll = call_the_roll(tmp_path)
    assert [paper.learner for paper in roll.papers] == ["ada"]
    assert {item.path: item.why for item in roll.junk} == {
        "README.md": "is no .ipynb file",
        "ada/data.csv": "is no .ipynb file",
        f"ada/{LIGHT}/deeper": "is a link, a folder or no regular file",
        "json.ipynb": "`json.ipynb` is not a notebook: no list of cells",
        "julia.ipynb": "`julia.ipynb` is a julia notebook",
        "large.ipynb": "`large.ipynb` has 100.0 MiB",
        "latin.ipynb": "`latin.ipynb` is not UTF-8 text",
        "link.ipynb": "is a link, a folder or no regular file",
        "loop": "is a link, a folder or no regular file",
        "name\N{REPLACEMENT CHARACTER}.txt": "is no .ipynb file",
        "pipe.ipynb": "is a link, a folder or no regular file",
    }
    assert {"ada", "latin", "large", "nothing here"} <= roll.learners


def test_of_two_notebooks_for_one_exercise_the_newer_is_graded_and_the_other_named(tmp_path):
    old = hand_in(tmp_path, "ada")
    new = Path(shutil.copy(old, old.with_name("again.ipynb")))
    os.utime(old, ns=(1, 1))
    roll = call_the_roll(tmp_path)
    assert [paper.path for paper in roll.papers] == [new]
    assert [item.why for item in roll.junk] == [f"is older than again.ipynb, another notebook for {LIGHT}"]


def test_a_class_without_a_paper_is_refused_in_words(tmp_path):
    with pytest.raises(GradeError, match=r"no class folder at `.*no`"):
        call_the_roll(tmp_path / "no")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(GradeError) as caught:
        call_the_roll(tmp_path)
    assert caught.value.found == f"no submission in `{tmp_path}`: x.txt is no .ipynb file"


# ------------------------------------------------------------------------------------------ grades on disk


def a_grade(learner: str = "ada", status: str = PASS, exercise: str = LIGHT, **more) -> Grade:
    names = [task.name for task in load(exercise).tasks]
    verdicts = tuple(
        Verdict(task=name, status=status, failing="p" if status == FAIL else "", **more) for name in names
    )
    report = Report(
        path="x.ipynb", exercise=exercise, isolation="bubblewrap", verdicts=verdicts, notes=("n",)
    )
    facts = {"sha256": "0" * 64, "version": 1, "seed": "00", "graded": "2026-11-28T09:00:00+00:00"}
    return Grade(learner=learner, exercise=exercise, report=report, **facts)


def test_a_grade_is_read_back_as_it_was_written_and_the_last_one_counts(tmp_path):
    path = tmp_path / "new" / "g.jsonl"
    example = Example(input="\N{SNOWMAN}", yours="1", expected="2")
    grades = [a_grade("ada", FAIL, example=example), a_grade("bob"), a_grade("ada")]
    with Journal(path) as journal:
        for grade in grades[:2]:
            journal.append(grade)
    with Journal(path) as journal:
        assert journal.latest == {grade.key: grade for grade in grades[:2]}
        journal.append(grades[2])
    with open(path, "a") as file:
        file.write('{"learner": "cy')  # what a SIGKILL can leave
    with Journal(path) as journal:
        assert journal.latest == {grade.key: grade for grade in grades[1:]}
    assert path.read_bytes().count(b"\n") == 3
    assert [stat.S_IMODE(os.stat(p).st_mode) for p in (path, path.with_suffix(".secret"))] == [0o600] * 2


def test_a_line_that_is_no_grade_is_refused_with_its_number(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text('{"learner": "ada"}\n')
    with pytest.raises(GradeError, match=r"g.jsonl`, line 1: no grade: 'report'"):
        Journal(path)
    path.write_text("")
    Journal(path).close()  # the lock of the refused one is free


def test_one_grader_at_a_time(tmp_path):
    with Journal(tmp_path / "g.jsonl"), pytest.raises(GradeError) as caught:
        Journal(tmp_path / "g.jsonl")
    assert caught.value.found == f"another grader is writing `{tmp_path / 'g.jsonl'}`"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Journal(tmp_path / "file" / "g.jsonl")


def test_inputs_are_a_function_of_secret_learner_exercise_and_file(tmp_path):
    with Journal(tmp_path / "a.jsonl") as a, Journal(tmp_path / "b.jsonl") as b:
        pairs = [
            ("ada", "05", "ff"),
            ("ada", "05", "fe"),
            ("ada", "06", "ff"),
            ("bob", "05", "ff"),
            ("ada0", "5", "ff"),
        ]
        seeds = [journal.seed(*pair) for journal in (a, b) for pair in pairs]
    assert len(set(seeds)) == 10
    assert all(len(seed) == 32 for seed in seeds)
    with Journal(tmp_path / "a.jsonl") as again:
        assert [again.seed(*pair) for pair in pairs] == seeds[:5]
    drawn = [
        repr(load(LIGHT).tasks[0].hidden(random.Random(seed))) for seed in (seeds[0], seeds[0], seeds[2])
    ]
    assert drawn[0] == drawn[1] != drawn[2]


# ------------------------------------------------------------------------------------- the table and the pages


def a_class(*grades: Grade, junk=()) -> ClassGrades:
    roll = Roll(Path("class"), learners={grade.learner for grade in grades} | {"zoe"}, junk=list(junk))
    return ClassGrades(roll, list(grades))


def test_the_csv_has_nbgraders_columns_and_a_row_for_whoever_handed_in_nothing():
    broken = Verdict(task="notebook", status=MALFORMED, says="x")
    bad = replace(a_grade("bob"), report=replace(a_grade("bob").report, verdicts=(broken,)))
    text = as_csv(a_class(replace(a_grade("ada"), timestamp="2026-11-28, late"), bad))
    assert text.splitlines()[0] == (
        "assignment,duedate,timestamp,student_id,last_name,first_name,email,"
        "raw_score,late_submission_penalty,score,max_score"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["student_id"], r["timestamp"], r["score"], r["max_score"]) for r in rows] == [
        ("ada", "2026-11-28, late", "3.0", "3.0"), ("bob", "", "0.0", "3.0"), ("zoe", "", "0.0", "3.0"),
    ]  # fmt: skip


def test_statistics_count_papers_and_name_what_stopped_most_of_them():
    grades = [
        a_grade("a"),
        a_grade("b", FAIL),
        a_grade("c", FAIL),
        a_grade("d", "TIMEOUT"),
        a_grade("e", NOT_ATTEMPTED),
    ]
    assert statistics_of(grades)[0] == TaskStatistics(
        exercise=LIGHT, task=TASKS[0], papers=5, passed=1, attempted=4, often="p", times=2
    )
    assert statistics_of(grades[:1])[0].often == ""
    assert statistics_of([]) == []


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_pages_are_self_contained_and_escape_whatever_a_learner_wrote(tmp_path):
    evil = "<script>alert(1)</script>"
    example = Example(input=evil, yours=evil, expected="2")
    done = a_class(a_grade(evil, FAIL, says=evil, asks="why?", example=example), a_grade("ada"))
    index = gradebook.write(done, tmp_path / "grades.csv")
    pages = sorted(index.parent.glob("*.html"))
    assert [page.name for page in pages] == sorted(["index.html", "ada.html", "zoe.html", file_name(evil)])
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
        links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
        assert all((index.parent / link).is_file() for link in links)
    assert len(links) == 0  # a learner's page leads to nobody else's
    told = Page((index.parent / file_name(evil)).read_text(encoding="utf-8")).text
    assert told.count(evil) >= 4 and "Ask yourself: why?" in told
    assert "1 of 2" in Page(index.read_text(encoding="utf-8")).text


@pytest.mark.parametrize("name", ["../../etc/passwd", "index", "..", "", "a/b", "\N{SNOWMAN}", "x" * 200])
def test_a_page_never_lies_outside_its_folder_or_over_another(name):
    assert "/" not in file_name(name) and file_name(name) not in ("index.html", ".html")
    assert file_name(name) != file_name(f"{name} ")
    assert len(file_name(name)) < 80


# -------------------------------------------------------------------------- a whole class, killed in the middle


def grader(
    folder: Path, *words: str, until: str = "", send: int = 0
) -> tuple[int, str, list[psutil.Process]]:
    """(exit code, stderr, its child processes when `until` was read on stderr and the signal was sent)."""
    command = [sys.executable, "-m", "llmkit", "grade", "--class", str(folder), "--jobs", "1"]
    command += ["--out", str(folder / "grades.csv")]
    said, children = "", []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            said += line
            if send and until in line:
                children = psutil.Process(run.pid).children(recursive=True)
                run.send_signal(send)
                send = 0
    return run.returncode, said, children


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "grades.jsonl").read_text().splitlines()]


def rows(folder: Path, name: str = "grades.csv") -> dict[str, str]:
    with open(folder / name) as file:
        return {row["student_id"]: row["score"] for row in csv.DictReader(file)}


@pytest.mark.sandbox
def test_a_grader_that_is_interrupted_and_killed_goes_on_without_losing_or_doubling_a_grade(
    sandboxed, tmp_path
):
    for learner in ("ada", "bob", "cyd", "dan"):
        hand_in(tmp_path, learner, "exercises" if learner == "dan" else "solutions")
    (tmp_path / "submitted" / "junk.txt").write_text("x")

    code, said, _ = grader(tmp_path, until="1 of 4", send=signal.SIGINT)
    assert code == 1
    assert "interrupted: what was graded is kept; the same command goes on from here" in said
    kept = journal(tmp_path)
    assert 1 <= len(kept) <= 2  # the one that was told, and the one that was running
    assert list(rows(tmp_path)) == ["ada", "bob", "cyd", "dan"]

    code, said, children = grader(tmp_path, until=f"1 of {4 - len(kept)}", send=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert children and psutil.wait_procs(children, timeout=20)[1] == []  # nothing of it is left running
    assert journal(tmp_path)[: len(kept)] == kept and len(journal(tmp_path)) > len(kept)
    kept = journal(tmp_path)

    code, said, _ = grader(tmp_path)
    assert code == 1 and "not graded: junk.txt is no .ipynb file" in said
    assert journal(tmp_path)[: len(kept)] == kept
    assert [line["learner"] for line in journal(tmp_path)] == ["ada", "bob", "cyd", "dan"]
    assert rows(tmp_path) == {"ada": "3.0", "bob": "3.0", "cyd": "3.0", "dan": "0.0"}


@pytest.mark.sandbox
def test_only_what_changed_is_graded_again_and_regrading_uses_the_same_inputs(sandboxed, tmp_path):
    hand_in(tmp_path, "ada")
    wrong = hand_in(tmp_path, "bob")
    wrong.write_text(wrong.read_text().replace(f'"exercise": "{LIGHT}"', '"exercise": "05_bpe"'))
    out, told = tmp_path / "grades.csv", []
    first = grade_class(tmp_path, out, jobs=2, told=lambda grade, done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert [grade.report.passed for grade in first.grades] == [True, False]
    (verdict,) = first.grades[1].report.verdicts
    assert verdict.status == MALFORMED
    assert verdict.says == "`24_young_daly.ipynb` is exercise `05_bpe`; expected: `24_young_daly`"
    assert grade_class(tmp_path, out).fresh == 0
    shutil.rmtree(tmp_path / "submitted" / "ada")  # from here on nothing needs a kernel
    wrong.write_text(wrong.read_text() + "\n")
    second = grade_class(tmp_path, out, jobs=1)
    assert second.fresh == 1
    assert [grade.learner for grade in second.grades] == ["bob"]
    assert second.grades[0].sha256 != first.grades[1].sha256
    third = grade_class(tmp_path, out, regrade=True)
    assert third.fresh == 1
    assert third.grades[0].seed == second.grades[0].seed != first.grades[1].seed


def test_an_exercise_that_got_a_new_version_is_graded_again(tmp_path):
    paper = replace(call_the_roll(hand_in(tmp_path, "ada").parents[2]).papers[0], sha256="0" * 64)
    with Journal(tmp_path / "g.jsonl") as kept:
        assert not stands(paper, kept)
        kept.append(replace(a_grade("ada"), version=load(LIGHT).version))
        assert stands(paper, kept)
        assert not stands(replace(paper, sha256="1" * 64), kept)
        kept.append(replace(a_grade("ada"), version=load(LIGHT).version - 1))
        assert not stands(paper, kept)


def test_the_command_answers_with_json_and_junit_and_a_bar_on_a_terminal(tmp_path, monkeypatch):
    wrong = hand_in(tmp_path, "ada")  # of another exercise: no kernel is needed
    wrong.write_text(wrong.read_text().replace(f'"exercise": "{LIGHT}"', '"exercise": "05_bpe"'))
    (tmp_path / "submitted" / "bob.ipynb").write_text("x")
    words = ["grade", "--class", str(tmp_path), "--out", str(tmp_path / "g.csv"), "--json"]
    done = CliRunner().invoke(app, [*words, "--junit", str(tmp_path / "g.xml")], catch_exceptions=False)
    plain = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (plain["learners"], plain["notebooks"], plain["graded_now"]) == (2, 1, 1)
    assert [item["path"] for item in plain["junk"]] == ["bob.ipynb"]
    assert [line["passed"] for line in plain["tasks"]] == [0, 0, 0]
    assert "1 of 1  ada  24_young_daly" in done.stderr
    (suite,) = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert suite.get("name") == f"ada/{LIGHT}/{LIGHT}.ipynb" and suite[0][0].tag == "error"
    assert "bob.ipynb" in (tmp_path / "g" / "bob.html").read_text()

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    with _bar() as told:
        told(a_grade("[red]ada"), 1, 2)
    assert "1/2" in terminal.getvalue() and "[red]ada" in terminal.getvalue()


def test_a_paper_on_which_the_grader_itself_fails_is_told_and_gets_no_grade(tmp_path):
    hand_in(tmp_path, "ada")
    roll = call_the_roll(tmp_path)
    room = Room(Isolation("rlimits", ""), Limits(), lambda *_: b"seed", deque())
    grade, why = room._grade(roll.papers[0], None)  # no examiner to run it with
    assert grade is None and why.startswith("AttributeError: ")
    index = gradebook.write(ClassGrades(roll, [], troubles=[f"ada: {why}"]), tmp_path / "g.csv")
    assert "ada: AttributeError" in index.read_text() and rows(tmp_path, "g.csv") == {}


def test_a_class_is_asked_for_in_one_way(tmp_path):
    for words in (["--class", "x"], ["--class", "x", "--out", "g.csv", "a.ipynb"], ["a.ipynb", "--regrade"]):
        with pytest.raises(GradeError, match=r"a class is graded|are for a class"):
            CliRunner().invoke(app, ["grade", *words], catch_exceptions=False)
    with pytest.raises(GradeError, match="-1 jobs"):
        grade_class(tmp_path, tmp_path / "g.csv", jobs=-1)
