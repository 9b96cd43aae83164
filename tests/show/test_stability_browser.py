"""Protects the stability explorer's front end: cells clicked and walked in JupyterLab, curves read off the page.

    pytest tests/show/test_stability_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from llmkit.show.stability import stability_explorer
explorer = stability_explorer()
explorer
"""


def cell(page, lr: str, warmup: int):
    return page.locator(f'.llmkit-stability button[data-lr="{lr}"][data-warmup="{warmup}"]')


def until(page, name: str) -> None:
    page.wait_for_selector(f'.llmkit-stability[data-picked="{name}"]')


def test_a_cell_is_clicked_and_its_curves_come_and_the_ones_before_turn_grey(page):
    until(page, "lr 0.001, warmup 0")
    assert page.locator(".llmkit-stability button").count() == 32
    assert page.locator(".llmkit-stability > svg .curve").count() == 3
    assert page.locator(".llmkit-stability > svg .old").count() == 0
    drawn = page.locator(".llmkit-stability > svg .curve").first.get_attribute("d")
    cell(page, "0.128", 0).click()
    until(page, "lr 0.128, warmup 0")
    headline = page.locator(".llmkit-stability .headline").inner_text()
    assert "diverged" in headline and headline.startswith("lr 0.128, warmup 0: final loss ")
    assert page.locator(".llmkit-stability > svg .old").first.get_attribute("d") == drawn
    assert page.locator(".llmkit-stability > svg .curve").first.get_attribute("d") != drawn
    assert "lr 0.001, warmup 0" in page.locator(".llmkit-stability .before").inner_text()
    label = cell(page, "0.128", 0).get_attribute("aria-label")
    assert headline.partition(": ")[2] == label.partition(": ")[2]  # one text for eye and screen reader
    page.keyboard.press("ArrowDown")
    until(page, "lr 0.128, warmup 5")
    page.keyboard.press("ArrowLeft")
    until(page, "lr 0.064, warmup 5")
    page.keyboard.press("ArrowDown")
    until(page, "lr 0.064, warmup 20")
    assert page.locator('.llmkit-stability button[aria-pressed="true"]').count() == 1
    assert page.locator(".llmkit-stability li").count() == 3
    assert page.errors == []
