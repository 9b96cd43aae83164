"""Protects: the road of `llmkit grade`: right is PASS, wrong is not, odd but honest is; reports, exit codes.

pytest tests/grade/test_grading.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from rich.console import Console

from llmkit.errors import GradeError, MissingDependency, StorageError
from llmkit.grade import exit_code, grade, print_plain, print_rich
from llmkit.grade import sandbox as boxes
from llmkit.grade.examiner import ENDINGS, STOPS, Examiner, Run, _read_result
from llmkit.grade.grading import ENDINGS as WORDS
from llmkit.grade.grading import grade_one
from llmkit.grade.report import to_dict, write_junit
from llmkit.grade.verdict import (
    ERROR,
    FAIL,
    MALFORMED,
    MEMORY,
    NOT_ATTEMPTED,
    PASS,
    TIMEOUT,
    Example,
    Report,
    Verdict,
)

ROOT = Path(__file__).resolve().parents[2]


def statuses(report: Report) -> list[str]:
    return [verdict.status for verdict in report.verdicts]


@pytest.mark.sandbox
def test_the_road_from_files_to_reports_and_junit(sandboxed, tmp_path, capsys):
    paths = [ROOT / "solutions" / "01_loss_scaler.ipynb", ROOT / "exercises" / "01_loss_scaler.ipynb"]
    junk = tmp_path / "01_junk.ipynb"
    junk.write_text("junk")
    seen: list[Report] = []
    reports = grade(
        [*paths, junk], json=True, junit=tmp_path / "g.xml", require_sandbox=True, told=seen.append
    )
    assert seen == reports
    assert [statuses(report) for report in reports] == [[PASS] * 4, [NOT_ATTEMPTED] * 4, [MALFORMED]]
    assert reports[0].notes == reports[1].notes == ()
    assert reports[2].verdicts[0].says == (
        "`01_junk.ipynb` is not a notebook: Expecting value: line 1 column 1 (char 0); "
        "expected: a notebook saved by Jupyter"
    )
    assert exit_code(reports[:1]) == 0
    assert exit_code(reports) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["reports"][0]["verdicts"][1]["status"] == PASS
    suites = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert [len(suite.findall("testcase/skipped")) for suite in suites] == [0, 4, 0]


@pytest.mark.sandbox
def test_right_but_odd_is_pass_and_the_oddities_are_noted(patient, written, right_cells):
    odd = [
        "import sys, warnings, logging\nwarnings.warn('careful'); logging.error('loud')\n"
        "print('noise', file=sys.stderr)",
        right_cells["setup"] + "\nlist = [1]; json = str = callable = None  # shadowed names",
        "%matplotlib_is_no_magic",
        "undefined_name",
        "raise ValueError('an experiment')",
        right_cells["unscale"]
        .replace("def unscale(grads, scale)", "def unscale(gradients, s)")
        .replace("in grads", "in gradients")
        .replace("div_(scale)", "div_(s)"),
        "def helper(scale, backoff): return scale * backoff\nimport numpy as np",
        "def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):\n"
        "    print('called'); warnings.warn('again')\n"
        "    if overflow: return [np.float64(helper(scale, backoff)), np.int64(0)]\n"
        "    if good_steps + 1 < interval: return scale, good_steps + 1\n"
        "    return torch.tensor(scale * growth if scale * growth <= FP32_MAX else scale), torch.tensor(0)",
        "class Scaler:\n    def step(self, *a): return right(*a)\n"
        "def right(scale, n, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):\n"
        "    scale, n = (float(x) for x in update(scale, n, overflow, growth, backoff, interval))\n"
        "    return max(scale, floor), int(n), np.bool_(overflow and scale <= floor)\n"
        "update_with_floor = Scaler().step",
        "from functools import partial\nimport time",
        "def slow(pause, grads, scale, max_norm):\n    time.sleep(pause)\n    unscale(grads, scale)\n"
        "    parameters = []\n    for g in grads:\n        if g is not None:\n"
        "            parameters.append(torch.zeros_like(g).requires_grad_()); parameters[-1].grad = g\n"
        "    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)\n"
        "clip_after_unscale = partial(slow, 0.02)",
    ]
    report = grade_one(written(*odd), patient)
    assert statuses(report) == [PASS] * 4, report
    assert report.notes == (
        "code cell 3 raised UsageError: Line magic function `%matplotlib_is_no_magic` not found.",
        "code cell 4 raised NameError: name 'undefined_name' is not defined",
        "code cell 5 raised ValueError: an experiment",
        "uses `clip_grad_norm_`, which the exercise asks you to write",
    )


@pytest.mark.sandbox
def test_each_kind_of_trouble_gets_its_own_word_and_costs_no_other_task(patient, written, right_cells):
    cells = [
        right_cells["setup"],
        "def unscale(grads, scale)\n    return True",
        right_cells["update"],
        "x = [0] * 10**13\ndef update_with_floor(*a): ...",
        "def clip_after_unscale(grads, scale, max_norm):\n    return undefined",
    ]
    old = {"llmkit": {"exercise": "01_loss_scaler", "version": 99}}
    report = grade_one(written(*cells, metadata=old), patient)
    assert statuses(report) == [ERROR, PASS, MEMORY, ERROR]
    assert (
        report.verdicts[0].says
        == "code cell 2, which defines `unscale`, raised SyntaxError: expected ':'"
        + (report.verdicts[0].says.partition("expected ':'")[2])
    )
    assert report.verdicts[3].says == "raised NameError: name 'undefined' is not defined"
    assert report.notes[0] == "the notebook was made for version 99 of the exercise; graded by version 1"


@pytest.mark.sandbox
def test_right_on_the_public_examples_only_is_told_so_without_a_hidden_input(patient, written, right_cells):
    learnt = (
        "SEEN = {(8.0, 0, True, 4): (4.0, 0)}\n"
        + right_cells["update"].replace("def update", "def right").replace("check(update)", "")
        + "def update(scale, n, overflow, growth=2.0, backoff=0.5, interval=2000):\n"
        "    if scale in (8.0, 4.0, 16.0, 32.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 2.0**127):\n"
        "        return right(scale, n, overflow, growth, backoff, interval)\n"
        "    return scale, n\n"
    )
    verdict = grade_one(written(right_cells["setup"], learnt), patient).verdicts[1]
    assert verdict.status == FAIL
    assert verdict.example is None
    assert verdict.says.endswith("; the public examples are right, some hidden inputs are not")


@pytest.mark.sandbox
def test_the_time_limit_of_a_whole_notebook_holds(patient, written, right_cells):
    patient.limits = boxes.Limits(wall=4.0)
    report = grade_one(written(right_cells["setup"], "import time; time.sleep(60)"), patient)
    assert statuses(report) == [TIMEOUT] * 4
    assert report.verdicts[0].says == "code cell 2 was running when the notebook's time was up"
    assert report.seconds < 4 + 5


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"result.json": "[" * 99},
        {"result.json": "[]", "progress": "7"},
        {"result.json": '{"cells": [{"position": "x"}], "bundles": {}, "ended": "done", "because": ""}'},
        {"result.json": '{"cells": [], "bundles": [], "ended": "done", "because": ""}'},
        {"result.json": '{"cells": [], "bundles": {}, "ended": "PASS", "because": ""}', "progress": "x"},
    ],
)
def test_a_result_that_is_missing_or_forged_is_a_lost_run(files, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = Run()
    _read_result(tmp_path, run, "")
    assert (run.ended, run.bundles) == ("lost", {})


@pytest.mark.slow
def test_without_a_sandbox_the_same_verdicts_come_with_the_word_rlimits(written, right_cells):
    weak = boxes.Isolation("rlimits", "bubblewrap is not installed")
    daemon = "import subprocess\nsubprocess.Popen(['sleep', '31338'], start_new_session=True)"
    with Examiner(weak, boxes.Limits(wall=40.0)) as examiner:
        right = grade_one(written(*right_cells.values(), daemon), examiner)
        wrong = grade_one(written("import os; os.kill(os.getppid(), 9)"), examiner)
    assert statuses(right) == [PASS] * 4
    assert right.isolation == "rlimits"
    assert right.notes[0] == "no sandbox, resource limits only: bubblewrap is not installed"
    assert PASS not in statuses(wrong)
    left = [p for p in psutil.process_iter(["cmdline"]) if "31338" in (p.info["cmdline"] or [])]
    assert left == []


@pytest.mark.slow
@pytest.mark.sandbox
def test_the_examiner_stays_small_whatever_is_thrown_at_it(sandboxed, written):
    path = written("def update(*a): ...\nprint('x' * 200_000_000)\nwhile True: print('x' * 100_000)")
    code = (
        "import sys\nfrom llmkit.grade import grade\n"
        f"grade([{str(path)!r}], timeout=30)\n"
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(int(peak) / 1024, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    mib, torch = done.stdout.split()
    assert float(mib) < 200
    assert torch == "False"


def test_every_way_a_run_can_end_has_a_word():
    assert set(WORDS) | {"done"} == {*ENDINGS, *STOPS, "lost"}


# ------------------------------------------------------------------------------------ refusals, word for word


def test_paths_that_are_not_there_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(GradeError) as caught:
        grade([])
    assert str(caught.value) == (
        "no notebook to grade\n  remedy: name at least one, e.g. `exercises/01_loss_scaler.ipynb`"
    )
    with pytest.raises(GradeError) as caught:
        grade([tmp_path / "no.ipynb"])
    assert str(caught.value) == (
        f"no notebook at `{tmp_path / 'no.ipynb'}`\n  remedy: name a notebook in `exercises/`"
    )


def test_a_missing_sandbox_that_is_required_is_refused_with_the_remedy():
    with pytest.raises(MissingDependency) as caught:
        boxes.require(boxes.Isolation("rlimits", "bubblewrap is not installed"))
    assert str(caught.value) == (
        "no sandbox: bubblewrap is not installed\n"
        "  expected: bubblewrap, able to make user namespaces\n"
        "  remedy: apt-get install bubblewrap; on Ubuntu 24.04 also: "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    )


# ------------------------------------------------------------------------------------------------ the report

EXAMPLE = Example(input="x=[1.0]", yours="returns [red]", expected="returns 2")
REPORT = Report(
    path="a.ipynb",
    exercise="01_loss_scaler",
    isolation="bubblewrap",
    seconds=3.21,
    verdicts=(
        Verdict(task="one", status=PASS, says="right on 9 inputs"),
        Verdict(
            task="three",
            status=FAIL,
            says="does not hold: p",
            failing="p",
            asks="why?",
            example=EXAMPLE,
            hint="hint(three, 1)",
        ),
        Verdict(task="two", status=ERROR, says="raised E: \x1b[31m"),
    ),
    notes=("a note",),
)
PLAIN = """a.ipynb   isolation: bubblewrap   3.2 s
  PASS           one    right on 9 inputs
  FAIL           three  does not hold: p
      input     x=[1.0]
      yours     returns [red]
      expected  returns 2
      ask yourself: why?
      for a hint: hint(three, 1)
  ERROR          two    raised E: ?[31m
  note: a note
1 of 3 tasks passed in 1 notebook
"""


def test_the_plain_report_word_for_word(capsys):
    print_plain([REPORT])
    assert capsys.readouterr().out == PLAIN


def test_the_rich_report_has_the_same_words(capsys):
    print_rich([REPORT], Console(highlight=False, width=200, color_system=None))
    assert capsys.readouterr().out == PLAIN


def test_junit_counts_failures_errors_and_skips_and_is_xml_whatever_the_learner_wrote(tmp_path):
    write_junit([REPORT], tmp_path / "g.xml")
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()[0]
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"]]
    assert suite[1][0].get("message") == "FAIL: does not hold: p"
    with pytest.raises(StorageError):
        write_junit([REPORT], tmp_path / "no" / "g.xml")


def test_json_has_everything_and_an_empty_list_is_no_pass():
    found = to_dict([REPORT])
    assert found["passed"] is False
    assert found["reports"][0]["verdicts"][1]["example"]["input"] == "x=[1.0]"
    assert to_dict([])["passed"] is False
    assert exit_code([]) == 1
