"""Protects `grade_me()` where it is used: in JupyterLab the verdict is shown, and a button brings the hints.

pytest tests/show/test_grade_me_browser.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmkit.grade.exercise import load

EXERCISE = Path(__file__).resolve().parents[2] / "exercises" / "24_young_daly.ipynb"
CELL = f"""
import os, shutil
from llmkit.grade import grade_me
os.environ["LLMKIT_HOME"] = "home"
shutil.copy({str(EXERCISE)!r}, ".")
grade_me("{EXERCISE.name}")
"""


@pytest.mark.browser
def test_the_verdict_is_shown_and_each_press_brings_one_hint(page, tmp_path):
    task = load(EXERCISE.stem).tasks[0]
    page.get_by_text("0 of 3 tasks passed in 1 notebook").wait_for()
    page.get_by_text(f"{task.name}: fill in about {task.lines} lines").wait_for()
    hints = page.get_by_role("button", name="a hint")
    assert hints.count() == 3
    for number, hint in enumerate(task.hints, 1):
        hints.first.click()
        page.get_by_text(f"{task.name}, hint {number} of 3: {hint}").wait_for()
    kept = json.loads((tmp_path / "home" / "progress.json").read_text())["exercises"]
    assert set(kept[EXERCISE.stem]["tasks"].values()) == {"NOT ATTEMPTED"}
    assert page.errors == []
