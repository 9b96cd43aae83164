"""Protects the front ends of the loss-scale lab and of the number line: knobs moved, words read off the page.

    pytest tests/show/test_scale_lab_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

WATCH = """() => {
  const lab = document.querySelector(".llmkit-scale");
  window.seen = [];
  new MutationObserver(() => window.seen.push(lab.dataset.played)).observe(lab, { attributeFilter: ["data-played"] });
}"""
CELL = """
from IPython.display import display
from llmkit.observe.exponents import Exponents
from llmkit.show import number_line, scale_lab
from llmkit.train import build, tiny, train
run = build(tiny(precision="bf16", steps=12, data="generated"))
run.observers.append(watch := Exponents())
list(train(run))
display(scale_lab(watch.looks), number_line())
"""


def slide(page, name: str, key: str) -> None:
    page.get_by_label(name, exact=True).focus()
    page.keyboard.press(key)


def shares(page) -> list[float]:
    words = page.locator(".llmkit-scale .headline").first.inner_text()
    return [float(part.split("%")[0]) for part in words.split(", ")]


def test_the_scale_is_dragged_and_a_policy_chases_the_limit(page):
    page.wait_for_selector('.llmkit-scale[data-power="0"]')
    window = page.locator(".llmkit-scale .window")
    right, unscaled = window.bounding_box()["x"] + window.bounding_box()["width"], shares(page)
    slide(page, "loss scale, power of two", "End")
    page.wait_for_selector('.llmkit-scale[data-power="32"]')
    assert shares(page)[0] < unscaled[0] and shares(page)[1] > unscaled[1] == 0
    assert window.bounding_box()["x"] + window.bounding_box()["width"] < right  # the window has moved left
    slide(page, "loss scale, power of two", "Home")
    page.wait_for_selector('.llmkit-scale[data-power="-8"]')
    assert shares(page)[0] > unscaled[0]
    assert page.locator(".llmkit-scale .strip").count() == 18
    page.get_by_label("policy", exact=True).select_option("opt")
    page.wait_for_selector('.llmkit-scale[data-policy="opt"][data-played="12"]')
    assert page.locator(".llmkit-scale .outcome").inner_text().startswith("opt: ")
    page.evaluate(WATCH)  # a step lasts a quarter of a second: to look for one from here would be a race
    page.get_by_text("play", exact=True).click()
    page.wait_for_function("window.seen.at(-1) === '12'")
    assert page.evaluate("window.seen") == [str(step) for step in range(1, 13)]
    assert page.errors == []


def test_a_number_is_moved_out_of_the_range_of_every_small_format(page):
    page.wait_for_selector('.llmkit-number[data-power="0"]')
    assert page.locator('.llmkit-number [data-verdict="exact"]').count() == 5
    slide(page, "power of two", "Home")
    page.wait_for_selector('.llmkit-number[data-power="-45"]')
    assert page.locator('.llmkit-number [data-verdict="becomes"]').count() == 3
    slide(page, "power of two", "End")
    page.wait_for_selector('.llmkit-number[data-power="39"]')
    assert page.locator('[data-format="fp16"] .says').inner_text() == "becomes inf"
    assert page.locator('[data-format="bf16"]').get_attribute("data-verdict") == "exact"
    slide(page, "mantissa", "ArrowRight")
    page.wait_for_selector('.llmkit-number [data-format="fp8 e4m3"][data-verdict="saturated"]')
    assert page.errors == []
