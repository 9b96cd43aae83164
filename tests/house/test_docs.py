"""Protects what a stranger reads first: links lead somewhere, named files exist, the README's code runs.

pytest tests/house/test_docs.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PATTERN = ("NN_name", "/name.py")  # names to be filled in by whoever follows the recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_inside_the_house_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


def test_every_file_that_the_recipe_names_exists():
    where = {"numeric.py", "data.py", "optimizer.py", "memory.py", "optimization.py", "throughput.py"}
    where |= {"memory_growth.py", "gradients.py", "model.py"}
    where |= {"scaling.py", "schedule.py", "updates.py", "architecture.py"}
    where |= {f"data_{part}.py" for part in ("targets", "tokens", "order", "files")}
    named = set(re.findall(r"`((?:llmkit|tests|docs|exercises_src)/[\w./]+)`", CONTRIBUTING))
    assert {n for n in named if not (ROOT / n).exists() and not any(p in n for p in PATTERN)} == set()
    for folder, files in re.findall(r"`(llmkit/(?:faults|diagnose/rules)/)` \(([^)]+)\)", CONTRIBUTING):
        files = set(re.findall(r"`(\w+\.py)`", files))
        assert files <= where
        assert {f for f in files if not (ROOT / folder / f).exists()} == set()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_readme_draws_the_rooms_that_stand():
    drawn = set(re.findall(r"^  (\w+)(?:/|\.py) ", README, re.M))
    rooms = {p.stem for p in (ROOT / "llmkit").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert drawn == rooms - {"__init__", "__main__"}


def test_the_code_of_the_readme_runs_and_the_doctor_reads_what_it_wrote(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    code += "from llmkit.diagnose import diagnose\nprint(diagnose(RunFolder.open('runs/mine')).healthy)\n"
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_words_of_style_that_a_reader_can_do_without_are_not_there():
    words = re.compile(r"\b(simply|obviously|just|easily|powerful|seamless\w*|blazing\w*|robustly)\b", re.I)
    assert {p.name: words.findall(p.read_text()) for p in PAGES if words.findall(p.read_text())} == {}
