"""Protects the report: one file, no network, nothing unescaped, the same bytes twice, the whole story.

pytest tests/show/test_report.py
"""

from __future__ import annotations

import dataclasses
import html.parser
import re

import pytest

from llmkit.errors import RecordError, StorageError
from llmkit.folder import RunFolder
from llmkit.records import Diagnosis, Event, Finding, StepRecord, StepTimes
from llmkit.show.report import write_report

FACTS = {
    "config": {
        "name": "tiny", "steps": 60, "batch": 8, "precision": "fp16", "lr": 3e-3,
        "model": {"layers": 2, "width": 64, "heads": 4, "context": 64, "vocab_size": 512},
    },
    "seed": 7, "data": {"name": "docstrings", "path": "", "digest": "9f2c" * 16, "skip": {"batches": [40]}},
    "git_commit": "0123456789abcdef", "packages": {"torch": "2.13.0"}, "parameters": 140_000,
    "hardware": {"machine": "x86_64", "system": "Linux", "cores": 2, "gpus": []},
    "precision": {"name": "fp16", "emulated": True, "why": "a CPU"},
    "fingerprint": {"threads": 1},
}  # fmt: skip
EVENTS = [
    Event(kind="scale", step=0, data={"old": 65536.0, "new": 32768.0, "reason": "overflow in backward"}),
    Event(
        kind="nonfinite", step=40, says="first NaN in the forward pass: `blocks.1.mlp` made it",
        data={"module": "blocks.1.mlp", "phase": "forward", "kind": "nan", "inputs_finite": True,
              "input_absmax": 4.0, "output_share": 1.0, "precision": "fp16"},
    ),
    Event(kind="alarm", step=40, says="the loss is nan", data={"kind": "nan"}),
    Event(
        kind="rescue", step=40, says="rollback-skip-data from step 40 to 25",
        data={"policy": "rollback-skip-data", "lost_steps": 15, "seconds": 1.25},
    ),
]  # fmt: skip


def make(path, *, facts=FACTS, events=EVENTS, sick=True):
    folder = RunFolder.create(path, facts)
    records = [
        StepRecord(step=s, loss=4 - s / 50, grad_norm=1.0, lr=1e-3, loss_scale=1024.0) for s in range(60)
    ]
    if sick:
        records[40] = dataclasses.replace(
            records[40], loss=float("nan"), grad_norm=float("nan"), skipped=True, nonfinite="loss"
        )
    folder.append("steps", *records)
    folder.append("times", *[StepTimes(step=s, data_s=0.01, forward_s=0.1, total_s=0.5) for s in range(60)])
    if events:
        folder.append("events", *events)
    folder.close()
    return folder


def words(page):
    """Text of a page without its tags, white space folded."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.S)
    return re.sub(r" ([.,])", r"\1", html.unescape(" ".join(re.sub(r"<[^>]*>", " ", page).split())))


def report(path, **more):
    return write_report(make(path, **more)).read_text(encoding="utf-8")


class Tags(html.parser.HTMLParser):
    """Opened and closed in order, and where anything points."""

    VOID = frozenset({"meta", "br", "path", "use", "rect", "img", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.points, self.names = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.points += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "srcset") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_file_needs_no_network_and_no_script(tmp_path):
    page = report(tmp_path / "run")
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and "script" not in tags.names and "link" not in tags.names
    assert all(point.startswith("#") for point in tags.points)
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(page) < 300_000


def test_every_part_of_the_story_is_told(tmp_path):
    text = words(report(tmp_path / "run"))
    for part in (
        "Run run", "tiny, seed 7", "2 layers, width 64, 4 heads", "140,000", "60 of 60", "512",
        "fp16 (emulated)", "docstrings", "9f2c9f2c9f2c9f2c", "0123456789ab", "x86_64, 2 cores, no GPU",
        "LK101 NaN made inside a module: blocks.1.mlp turned finite inputs into NaN values",
        "Evidence", "Confirm", "Predicted:", "Fix", "Confused with",
        "Rescue, and what it cost", "rollback-skip-data", "This run lost 8.75 s", "15 steps x 10 s",
        "Loss scale", "65,536", "32,768", "overflow in backward",
        "Ruled out, and not judged", "LK501", "What happened", "the loss is nan",
        "To have this run again", f"llmkit verify {tmp_path / 'run'}", "batches=[40]", "threads=1",
    ):  # fmt: skip
        assert part in text, part


def test_the_curves_have_words_for_those_who_do_not_see_them(tmp_path):
    page = report(tmp_path / "run")
    assert 'aria-label="loss 4.00 to 2.82 over 60 steps, LK101 at step 40' in page
    assert page.count("<svg") == 1


def test_a_healthy_run_says_so_and_has_no_empty_parts(tmp_path):
    text = words(report(tmp_path / "run", events=[], sick=False))
    assert "No finding." in text
    for absent in ("Finding", "Rescue", "What happened", "From", "Evidence"):
        assert f" {absent} " not in text.split("Curves")[1], absent


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = make(tmp_path / "run")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_nothing_from_the_folder_is_taken_for_markup(tmp_path):
    bad = "<script>alert(1)</script>`<img src=x onerror=y>`"
    facts = {"config": {"name": bad, "data": bad}, "git_commit": bad, "packages": {bad: bad}}
    events = [Event(kind=bad, step=3, says=bad), Event(kind="rescue", step=4, says=bad, data={"policy": bad})]
    path = make(tmp_path / "run", facts=facts, events=events)
    found = Finding(code="LK1", title=bad, says=bad, step=1, fix=bad, cause=bad, also_seen_with=(bad,))
    page = write_report(path, Diagnosis(findings=(found,), steps=60)).read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "facts", [{}, {"config": None}, {"config": {"steps": "many"}, "data": [], "hardware": 3}]
)
def test_another_trainers_facts_are_shown_as_far_as_they_go(tmp_path, facts):
    assert "Run run" in words(report(tmp_path / "run", facts=facts))


def test_the_accused_document_is_shown_when_its_data_set_is_here(tmp_path, dataset):
    facts = FACTS | {"data": FACTS["data"] | {"path": str(dataset.path)}}
    folder = make(tmp_path / "run", facts=facts)
    found = Finding(code="LK401", title="poisoned document", says="it", step=3, cause="document 17")
    text = words(write_report(folder, Diagnosis(findings=(found,), steps=60)).read_text())
    document = dataset.document(17)
    assert f"17, {document.source}, as it stands on disk" in text
    assert " ".join(document.text[:100].split()) in text
    missing = dataclasses.replace(found, cause="document 99999999")
    assert "as it stands on disk" not in write_report(folder, Diagnosis(findings=(missing,))).read_text()


def test_refusals(tmp_path):
    with pytest.raises(RecordError, match="is not a run folder"):
        write_report(tmp_path)
    folder = make(tmp_path / "run")
    (tmp_path / "run" / "report.html").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_report(folder)
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_many_events_and_scales_are_cut_short(tmp_path):
    events = [Event(kind="alarm", step=s, says=f"slow {s}", data={"kind": "slow"}) for s in range(59)]
    events += [Event(kind="scale", step=s, data={"old": 2.0, "new": 1.0, "reason": "r"}) for s in range(59)]
    text = words(report(tmp_path / "run", events=events))
    assert "19 more in events.jsonl" in text and "The first and last 12 of 59 changes:" in text
