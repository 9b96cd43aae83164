"""Protects the film strip's front end: moment and setting are moved in JupyterLab, rows and words follow.

pytest tests/show/test_film_strip_browser.py
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from llmkit.memory import record
from llmkit.show.film_strip import film_strip
from llmkit.train import build, tiny
strip = film_strip(record(build(tiny(steps=3, data="generated"))), scale=32, frames=9)
strip
"""
LAST = """() => {
  const strip = document.querySelector(".llmkit-strip");
  return strip.dataset.at === strip.querySelector("input").max;
}"""


def test_the_moment_and_the_settings_are_chosen_and_the_rows_follow(page):
    page.wait_for_selector('.llmkit-strip[data-settings=""] .row')
    before = page.locator(".llmkit-strip .says").inner_text()
    assert "in use" in before and page.locator(".llmkit-strip .activations").count() > 5
    page.get_by_label("moment", exact=True).focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(LAST)
    assert page.locator(".llmkit-strip .says").inner_text() != before
    assert page.locator(".llmkit-strip .row .activations").count() <= 2  # the step is over
    assert page.locator(".llmkit-strip .row .free").count() > 5
    rows = page.locator(".llmkit-strip .row").count()
    page.get_by_label("allocator settings", exact=True).select_option("expandable_segments:True")
    page.wait_for_selector('.llmkit-strip[data-settings="expandable_segments:True"]')
    assert page.locator(".llmkit-strip .row").count() < rows  # one segment for each pool
    assert page.errors == []
