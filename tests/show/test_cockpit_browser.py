"""Protects the cockpit's front end: JupyterLab in a real Chromium, buttons pressed, values read off the page.

    pytest tests/show/test_cockpit_browser.py

Every wait is for something in the page.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """
from llmkit.show.cockpit import cockpit
from llmkit.train import tiny
cockpit(tiny(steps=5000, precision="fp16", data="generated"))
"""


class Panel:
    """What a person sees and presses."""

    def __init__(self, page):
        self.page, self.root = page, page.locator(".llmkit-cockpit")

    def reaches(self, state: str) -> None:
        self.page.wait_for_selector(f'.llmkit-cockpit[data-state="{state}"]')

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def choose(self, fault: str) -> None:
        """By keyboard, from its first letters: JupyterLab must not take the keys for itself."""
        self.root.get_by_label("fault", exact=True).focus()
        self.page.keyboard.type(fault[:6])
        assert self.root.get_by_label("fault", exact=True).input_value() == fault

    def until(self, script: str) -> None:
        self.page.wait_for_function(script)

    def path(self, layer: str) -> str:
        return self.page.locator(f".llmkit-cockpit figure >> nth=0 >> .{layer}").get_attribute("d") or ""

    def enabled(self) -> list[str]:
        return self.root.locator('button[aria-disabled="false"]').all_inner_texts()


LOSS = "document.querySelector('[data-curve=loss]').textContent"

# Changes of the step that is shown, in three seconds; the line's node must be the same one afterwards.
CHANGES = """async () => {
    const where = document.querySelector('.llmkit-cockpit .where');
    const line = document.querySelector('.llmkit-cockpit .line');
    let changes = 0;
    const observer = new MutationObserver(() => { changes += 1; });
    observer.observe(where, { childList: true, characterData: true, subtree: true });
    await new Promise((done) => setTimeout(done, 3000));
    observer.disconnect();
    return [changes, line.isConnected];
}"""


def test_a_stranger_breaks_the_run_sees_why_has_it_rescued_kills_it_and_brings_it_back(page):
    panel = Panel(page)
    panel.reaches("paused")
    assert panel.enabled()[:2] == ["Go", "Step once"]
    panel.root.get_by_role("button", name="Go", exact=True).focus()
    page.keyboard.press("Enter")  # by keyboard: JupyterLab must not take the key for itself
    panel.reaches("running")

    # the curves move, at least twice a second, and their nodes are not replaced
    panel.until("document.querySelector('.llmkit-cockpit .line').getAttribute('d').split('L').length > 20")
    changes, same_line = page.evaluate(CHANGES)
    assert changes / 3 >= 2
    assert same_line

    # broken: the readout, the curve, the watchdog, the doctor
    panel.choose("nan-division")
    assert panel.root.locator(".symptom").inner_text().startswith("loss and gradient norm are NaN")
    panel.press("Put in")
    panel.reaches("dead")
    panel.until(f"{LOSS} === 'NaN'")
    panel.until("document.querySelector('.llmkit-cockpit figure .bad text').textContent === '✕ NaN'")
    assert panel.root.locator("li.fault .glyph").first.inner_text() == "✕"
    assert "the loss is nan" in panel.root.locator("li.alarm").first.inner_text()
    assert "NonFiniteError" in panel.root.locator("li.died").inner_text()
    finding = panel.root.locator('.finding[data-code="LK101"]')
    finding.wait_for()
    assert "blocks.1.mlp" in finding.inner_text()
    assert panel.enabled() == ["Go", "Rescue", "Kill −9", "Repair"]
    assert panel.path("line").count("M") == 1

    # mended: the line goes on behind a gap
    panel.press("Repair")
    panel.until("document.querySelectorAll('.llmkit-cockpit li.repair').length === 1")
    panel.press("Rescue")
    panel.reaches("running")
    panel.until(f"{LOSS} !== 'NaN'")
    panel.until("document.querySelector('.llmkit-cockpit .line').getAttribute('d').split('M').length === 3")
    assert "crew aboard" in panel.root.locator(".where").inner_text()

    # killed and brought back: the lost steps stay as a branch
    panel.press("Kill −9")
    panel.reaches("killed")
    assert panel.enabled() == ["Bring back"]
    panel.press("Bring back")
    panel.reaches("paused")
    panel.until("document.querySelectorAll('.llmkit-cockpit li.resume').length === 1")
    assert panel.path("branch").startswith("M")
    panel.press("Go")
    panel.reaches("running")
    assert page.errors == []
