"""Protects the drift lab's front end: sliders moved in JupyterLab, verdict and culprit read off the page.

    pytest tests/show/test_drift_lab_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from llmkit.show.drift_lab import drift_lab
lab = drift_lab("generated")
lab.turn(kind="none")
lab
"""
NAMES = "[...document.querySelectorAll('.llmkit-drift .bar.beyond')].map((bar) => bar.dataset.name)"


def slide(page, name: str, end: str) -> None:
    """By keyboard, as by hand: one event for each place that the slider passes."""
    page.get_by_label(name, exact=True).focus()
    for _ in range(8):
        page.keyboard.press(f"Arrow{end}")


def until(page, **is_: str) -> None:
    page.wait_for_selector(".llmkit-drift" + "".join(f'[data-{k}="{v}"]' for k, v in is_.items()))


def test_a_slider_is_moved_and_verdict_power_and_culprit_follow(page):
    until(page, verdict="no drift seen", trials="1")  # an untouched lab leaves the kernel alone
    assert page.get_by_label("size of drift").is_disabled()
    page.get_by_label("kind of drift", exact=True).select_option("merges")
    until(page, verdict="drift")
    names = page.locator(".llmkit-drift dt").all()  # JupyterLab's own style gives each a fifth of the width
    assert min(name.bounding_box()["width"] for name in names) > 150
    slide(page, "size of drift", "Left")  # to 0.03 %
    until(page, verdict="no drift seen")
    assert "it is in shard" in page.locator(".llmkit-drift .headline").inner_text()
    slide(page, "size of drift", "Right")  # to 3 %
    until(page, verdict="drift", trials="20")  # the hand rests: the power comes by itself
    assert ": found" in page.locator(".llmkit-drift .headline").inner_text()
    assert "alarm in 20 of 20 trials" in page.locator(".llmkit-drift .power").inner_text()
    assert page.locator(".llmkit-drift .dots .named").count() == 20
    culprits = page.evaluate(NAMES)
    assert "◆" in page.locator(".llmkit-drift .bar.beyond .name").first.inner_text()
    page.get_by_label("kind of drift", exact=True).select_option("special")
    page.wait_for_selector(".llmkit-drift .bar.beyond[data-name*=end]")
    assert set(page.evaluate(NAMES)).isdisjoint(culprits)
    slide(page, "tokens a shard", "Left")
    until(page, verdict="not testable")
    assert "at least 100 are needed" in page.locator(".llmkit-drift .headline").inner_text()
    assert page.errors == []
