"""A report as a widget: a line per task, what failed, and hints when asked. Nothing is decided here.

card = Card(report, "01_loss_scaler.ipynb, saved at 14:03:22")
print(card)                         # its plain twin
card.ask("update")                  # what the button does: one more hint, up to the third
"""

from __future__ import annotations

from html import escape

import ipywidgets

from llmkit.grade.exercise import load
from llmkit.grade.report import details, legal, lines, summary
from llmkit.grade.verdict import Report, Verdict

COLOURS = {"PASS": "#00694d", "NOT ATTEMPTED": "#57606a"}  # else a dark red; the word stands beside it


class Card(ipywidgets.VBox):
    """The verdicts, and a button for hints at each task that is not passed."""

    def __init__(self, report: Report, saved: str):
        self.report, self.saved = report, saved
        self.hints: dict[str, int] = {}  # task -> how many were asked for
        self._said: dict[str, ipywidgets.HTML] = {}
        note = "; ".join(report.notes)
        head = f"<b>{escape(summary([report]))}</b> · {escape(saved)} · isolation: {escape(report.isolation)}"
        rows: list[ipywidgets.Widget] = [ipywidgets.HTML(head)]
        for verdict in report.verdicts:
            rows += [ipywidgets.HTML(_html(verdict)), *self._help(verdict)]
        rows += [ipywidgets.HTML(f"note: {escape(legal(note))}")] if note else []
        super().__init__(rows)

    def _help(self, verdict: Verdict) -> list[ipywidgets.Widget]:
        known = load(self.report.exercise).tasks if self.report.exercise else ()
        if verdict.passed or verdict.task not in [task.name for task in known]:
            return []
        button = ipywidgets.Button(description="a hint", tooltip=f"a hint for {verdict.task}")
        button.on_click(lambda _: self.ask(verdict.task))
        self._said[verdict.task] = ipywidgets.HTML()
        return [ipywidgets.HBox([button, self._said[verdict.task]])]

    def ask(self, task: str) -> str:
        """The next hint for a task that is not passed: it is shown, and returned."""
        self.hints[task] = min(3, self.hints.get(task, 0) + 1)
        said = self._hint(task)
        self._said[task].value = escape(said)
        return said

    def _hint(self, task: str) -> str:
        strength = self.hints[task]
        return f"{task}, hint {strength} of 3: {load(self.report.exercise).task(task).hints[strength - 1]}"

    def __str__(self) -> str:
        return "\n".join(
            [*lines(self.report), *map(self._hint, self.hints), self.saved, summary([self.report])]
        )

    def __repr__(self) -> str:
        return str(self)


def _html(verdict: Verdict) -> str:
    colour = COLOURS.get(verdict.status, "#b3001b")
    more = "\n".join(escape(legal(line)) for line in details(verdict) if not line.startswith("for a hint"))
    pre = f"<pre style='margin:2px 0 6px 24px;white-space:pre-wrap'>{more}</pre>" if more else ""
    word = f"<b style='color:{colour}'>{verdict.status}</b>"
    return f"{word} {escape(verdict.task)}: {escape(legal(verdict.says))}{pre}"
