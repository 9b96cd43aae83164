"""Protects the cost labs' front end: sliders moved in JupyterLab, lights and numbers read off the page.

    pytest tests/show/test_cost_lab_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from IPython.display import display
from llmkit.show.cost_lab import cost_lab
display(cost_lab("scaling"), cost_lab("serving"))
"""


def press(page, name: str, key: str, times: int, lab: int = 0) -> None:
    page.get_by_label(name, exact=True).nth(lab).focus()
    for _ in range(times):
        page.keyboard.press(f"Arrow{key}")


def test_sliders_move_verdicts_dollars_and_the_point_on_the_roof(page):
    first, second = page.locator(".llmkit-cost").first, page.locator(".llmkit-cost").nth(1)
    first.locator(".lights li").first.wait_for()
    before = first.locator(".headline").inner_text()
    press(page, "GPUs", "Right", 6)  # to 4,096
    page.wait_for_function(
        "document.querySelector('.llmkit-cost .headline').textContent.includes('on 4,096 ')"
    )
    assert first.locator(".headline").inner_text() != before
    assert first.locator('.bar[data-name="data parallel"] .says').inner_text().endswith("%)")
    press(page, "tokens", "Left", 3)  # to 10B: within a month's budget
    first.locator('li.yes[data-light="budget"]').wait_for()
    press(page, "tokens", "Right", 6)
    first.locator('li.no[data-light="budget"]').wait_for()
    place = second.locator("circle").get_attribute("cx")
    press(page, "sequences at once", "Right", 8)
    page.wait_for_function(f"document.querySelector('.llmkit-cost circle').getAttribute('cx') > {place}")
    assert page.errors == []
