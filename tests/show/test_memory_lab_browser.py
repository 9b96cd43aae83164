"""Protects the memory lab's front end: sliders moved in JupyterLab, the stack and the rehearsal read off it.

    pytest tests/show/test_memory_lab_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from llmkit.show.memory_lab import memory_lab
memory_lab(model="gpt2", layers=12, sequence=512, batch=1, card="24 GiB")
"""


def press(page, name: str, key: str, times: int) -> None:
    page.get_by_label(name, exact=True).focus()
    for _ in range(times):
        page.keyboard.press(f"Arrow{key}")


def test_the_stack_follows_the_hand_and_the_button_rehearses(page):
    lab = page.locator(".llmkit-memory")
    page.wait_for_selector('.llmkit-memory[data-fits="true"]')
    page.get_by_text("rehearse this setting").click()
    page.wait_for_function(
        "document.querySelector('.llmkit-memory .said').textContent.startsWith('rehearsed:')"
    )
    press(page, "sequences at once", "Right", 5)  # to 32
    press(page, "sequence", "Right", 4)  # to 8,192
    page.wait_for_selector('.llmkit-memory[data-fits="false"]')
    assert "too much" in lab.locator(".headline").inner_text()
    assert lab.locator(".said").inner_text() == ""
    wide = "document.querySelector('.llmkit-memory .stack .logits').getBoundingClientRect().width"
    before = page.evaluate(wide)
    press(page, "loss", "Right", 1)
    page.wait_for_function(f"{wide} < {before} / 2")
    assert page.errors == []
