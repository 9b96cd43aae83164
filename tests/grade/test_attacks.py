"""Protects: no notebook gets a PASS it did not earn, brings the examiner down, or leaves anything running.

    pytest tests/grade/test_attacks.py            # the dozen; `-m "slow or not slow"` for the whole corpus

The attacks themselves are in attacks.txt. What must come out is a verdict in words, in time.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import psutil
import pytest

from llmkit.grade import landlock
from llmkit.grade.examiner import Examiner
from llmkit.grade.grading import grade_one
from llmkit.grade.sandbox import Isolation, Limits
from llmkit.grade.verdict import DIED, ERROR, FAIL, PASS, STATUSES, TIMEOUT

pytestmark = pytest.mark.sandbox

SMALL, LARGE = 50 * 2**20, 200 * 2**20  # bytes: what one notebook may add to us, and the whole of the worker
ROOT = Path(__file__).resolve().parents[2]
WRONG = """
def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    return (scale * backoff if overflow else scale), 0
"""
RIGHT = """
def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good_steps + 1 < interval:
        return scale, good_steps + 1
    return (scale * growth if scale * growth <= 3.4028234663852886e38 else scale), 0
"""


def corpus(part: str) -> dict[str, tuple[list[str], set[str]]]:
    """name -> (cells, right verdicts) of one part of attacks.txt: "the dozen", "the rest", "odd but honest"."""
    text = Path(__file__).with_name("attacks.txt").read_text()
    found = {}
    for attack in text.split(f"######## {part}\n")[1].split("########")[0].split("\n=== ")[1:]:
        head, _, body = attack.partition("\n")
        name, _, verdicts = head.partition(" -> ")
        for word, source in (("WRONG", WRONG), ("RIGHT", RIGHT)):
            body = re.sub(rf"^{word}$", source, body, flags=re.MULTILINE)
        found[name] = (body.split("\n---\n"), set(verdicts.split(", ")))
    return found


DOZEN, REST, HONEST = corpus("the dozen"), corpus("the rest"), corpus("odd but honest")


def run_attack(cells, written, examiner, **more):
    began, before = time.monotonic(), psutil.Process().memory_info().rss
    report = grade_one(written(*cells, **more), examiner)
    took = time.monotonic() - began
    assert psutil.Process().memory_info().rss - before < SMALL
    verdict = next(v for v in report.verdicts if v.task in ("update", "notebook"))
    assert verdict.says
    assert took < examiner.limits.wall + 5
    assert report.isolation == "bubblewrap"
    left = [p for p in psutil.process_iter(["cmdline"]) if "31337" in (p.info["cmdline"] or [])]
    assert not left
    if examiner._server is not None:
        worker = psutil.Process(examiner._server.pid)
        assert not worker.children(recursive=True)
        assert worker.memory_info().rss < LARGE
    return report, verdict


def test_the_corpus_expects_no_pass_and_only_words_that_exist():
    assert len(DOZEN) >= 12
    assert len(DOZEN | REST) == len(DOZEN) + len(REST) >= 60
    assert len(HONEST) >= 15
    for _, right in (DOZEN | REST).values():
        assert right <= set(STATUSES) - {PASS}


@pytest.mark.parametrize("name", DOZEN)
def test_one_of_the_dozen_gets_the_verdict_it_deserves(name, written, examiner):
    cells, right = DOZEN[name]
    report, verdict = run_attack(cells, written, examiner)
    assert verdict.status in right, report


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_the_rest_of_the_corpus_gets_the_verdict_it_deserves(name, written, examiner):
    cells, right = REST[name]
    report, verdict = run_attack(cells, written, examiner)
    assert verdict.status in right, report


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_what_is_odd_but_honest_passes(name, written, patient):
    report, verdict = run_attack(HONEST[name][0], written, patient)
    assert verdict.status == PASS, report


def test_a_spy_finds_no_answers_no_history_no_network_and_no_way_out(written, patient, right_cells):
    spy = """
import os, sys, socket, importlib, subprocess
found = []
for name in ("grade.compare", "grade.verdict", "grade.exercise", "train"):
    try:
        importlib.import_module(f"llmkit.{name}"); found.append(name)
    except ImportError:
        pass
for root, folders, files in os.walk("/"):
    if root.startswith(("/proc", "/usr", "/dev", sys.base_prefix)) or "site-packages" in root:
        folders[:] = []
        continue
    secret = [n for n in [*folders, *files] if "loss_scaler" in n or n in (".git", "solutions", "tests")]
    found += [f"{root}/{n}" for n in secret]
found += [name for name in os.environ if "SECRET" in name or "PYTEST" in name]
for address in (("127.0.0.1", 22), ("127.0.0.1", 8888)):
    try:
        socket.create_connection(address, timeout=0.2); found.append(address)
    except OSError as error:
        if "refused" not in str(error) and "unreachable" not in str(error): found.append(str(error))
if len(os.listdir("/sys") if os.path.isdir("/sys") else []): found.append("/sys")
if len([p for p in os.listdir("/proc") if p.isdigit()]) > 4: found.append("processes")
package = os.path.dirname(importlib.import_module("llmkit").__file__)
for place in ("/", "/usr", package, os.path.dirname(package)):
    try:
        open(os.path.join(place, "spy"), "w"); found.append(f"wrote {place}")
    except OSError:
        pass
if subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode == 0: found.append("namespaces")
if found: raise RuntimeError(str(found))
"""
    report, verdict = run_attack([right_cells["setup"], spy, right_cells["update"]], written, patient)
    assert verdict.status == PASS, report
    assert report.notes == ()


@pytest.mark.skipif(landlock.abi() == 0, reason="this Linux has no Landlock")
def test_behind_landlock_a_spy_reads_no_answer_and_an_honest_notebook_passes(written, right_cells):
    """bubblewrap is passed over here; what it hides, Landlock has to refuse."""
    secrets = ["solutions/01_loss_scaler.ipynb", "exercises_src/01_loss_scaler/tasks.py", "README.md"]
    secrets += [
        "llmkit/grade/verdict.py",
        "llmkit/train/precision.py",
        "tests/grade/attacks.txt",
        ".git/HEAD",
    ]
    assert all((ROOT / path).exists() for path in secrets)
    spy = f"""
import importlib, os, signal, socket
found, paths = [], {[str(ROOT / path) for path in secrets]} + ["/etc/passwd"]
paths += [f"/proc/{{os.getppid()}}/environ", f"/proc/{{os.getppid()}}/mem"]
for path in paths:
    try: open(path, "rb").read(1); found.append(path)
    except OSError: pass
for place in ("/", "/tmp", "/proc", "/home", "/root", {str(ROOT)!r}, {str(ROOT / "exercises_src")!r}):
    try: os.listdir(place); found.append(place)
    except OSError: pass
    try: open(os.path.join(place, "spy"), "w"); found.append("wrote " + place)
    except OSError: pass
for name in ("grade.verdict", "grade.exercise", "train"):
    try: importlib.import_module("llmkit." + name); found.append(name)
    except ImportError: pass
if {landlock.abi()} >= 4:
    try: socket.create_connection(("127.0.0.1", 1), timeout=1)
    except PermissionError: pass
    except OSError as error: found.append(repr(error))
if {landlock.abi()} >= 6:
    try: os.kill(os.getppid(), signal.SIGTERM); found.append("signal")
    except PermissionError: pass
if found: raise RuntimeError(str(found))
"""
    box = Isolation("landlock", "asked for")
    with Examiner(box, Limits()) as examiner:
        report = grade_one(written(right_cells["setup"], spy, *list(right_cells.values())[1:]), examiner)
    assert [verdict.status for verdict in report.verdicts] == [PASS] * 4, report
    assert (report.isolation, report.notes) == ("landlock", ("locked in by Landlock: asked for",))


def test_one_task_that_kills_its_kernel_costs_no_other(written, patient, right_cells):
    cells = [
        right_cells["setup"],
        right_cells["update"].replace("check(update)", ""),
        right_cells["update_with_floor"],
    ]
    killer = "def unscale(grads, scale):\n    import os; os._exit(1)"
    report = grade_one(written(*cells, killer), patient)
    assert {v.task: v.status for v in report.verdicts} == {
        "unscale": DIED,
        "update": PASS,
        "update_with_floor": PASS,
        "clip_after_unscale": ERROR,
    }
    assert report.verdicts[0].says == "`unscale` ended the kernel"
    assert report.verdicts[3].says == "no function `clip_after_unscale` in the notebook"


def test_a_cell_that_hangs_is_left_out_and_the_others_are_graded(written, examiner, right_cells):
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    hang = f"def unscale(*a): ...\n{ignore}\nwhile True: pass"
    report = grade_one(written(right_cells["setup"], hang, right_cells["update"]), examiner)
    verdicts = {v.task: v for v in report.verdicts}
    assert verdicts["update"].status == PASS
    assert verdicts["unscale"].status == TIMEOUT
    assert verdicts["unscale"].says == "code cell 2 ran past its time limit and could not be interrupted"


def test_what_the_file_says_about_running_it_is_dropped(make_notebook, tmp_path, examiner):
    tricks = {"tags": ["raises-exception", "parameters", "injected-parameters", "skip-execution"]}
    book = make_notebook(
        WRONG, cell_metadata=tricks, metadata={"kernelspec": {"name": "bash", "language": "python"}}
    )
    forged = '{"nonce": "", "task": "update", "answers": []}'
    book["cells"][0]["outputs"] = [
        {"output_type": "display_data", "data": {"application/vnd.llmkit.answers": forged}, "metadata": {}}
    ]
    path = tmp_path / "01_loss_scaler.ipynb"
    path.write_text(json.dumps(book))
    verdict = grade_one(path, examiner).verdicts[1]
    assert (verdict.task, verdict.status) == ("update", FAIL)


def test_no_right_answer_exists_while_anything_of_the_learners_is_alive(
    written, patient, right_cells, monkeypatch
):
    from dataclasses import replace

    import llmkit.grade.grading as grading
    from llmkit.grade.exercise import load

    asked = []

    def watched(task):
        def reference(**inputs):
            asked.append(psutil.Process(patient._server.pid).children(recursive=True))
            return task.reference(**inputs)

        return replace(task, reference=reference)

    found = load("01_loss_scaler")
    found = replace(found, tasks=tuple(watched(task) for task in found.tasks))
    monkeypatch.setattr(grading, "load", lambda name: found)
    daemon = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)"
    report = grade_one(written(right_cells["setup"], daemon, right_cells["update"]), patient)
    assert report.verdicts[1].status == PASS
    assert len(asked) > 10
    assert all(alive == [] for alive in asked)


def test_inputs_of_a_task_that_is_asked_apart_are_in_no_kernel_that_answers_another(
    written, patient, monkeypatch
):
    import llmkit.grade.grading as grading
    from llmkit.grade.exercise import Answer, Case, Exercise, Property, Task

    def task(name: str, apart: bool) -> Task:
        return Task(
            name=name,
            lines=1,
            reference=lambda secret: Answer(value=[name]),
            judge=lambda inputs, got, want: "" if got.value == want.value else "alone",
            properties={"alone": Property("it sees its own inputs alone")},
            public=(Case(secret=f"for {name}"),),
            hidden=lambda rng: [],
            hints=("1", "2", "3"),
            apart=apart,
        )

    made = Exercise(
        name="01_loss_scaler", version=1, title="", minutes=15, round="coding", difficulty=1, rows=("C4",),
        tasks=(task("fixes", False), task("tests", True)), predictions={},
    )  # fmt: skip
    monkeypatch.setattr(grading, "load", lambda name: made)
    spy = "import json\ndef fixes(secret): return list(json.loads(get_ipython().user_ns['llmkit_inputs']))\n"
    report = grade_one(written(spy + "tests = fixes"), patient)
    assert [(v.task, v.status) for v in report.verdicts] == [("fixes", PASS), ("tests", PASS)], report
