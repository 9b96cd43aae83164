"""The doctor: runs every rule over a chart, orders what they found, and says what was ruled out or not
judged.

diagnose("runs/mine").findings[0].says
doctor = Doctor("runs/mine"); doctor.look()      # again and again, while the run goes on
"""

from __future__ import annotations

import inspect
import os

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, Rule
from llmkit.diagnose.rules import (
    data,
    data_files,
    data_order,
    data_targets,
    data_tokens,
    memory,
    numeric,
    optimization,
    throughput,
)
from llmkit.errors import ConfigError, closest
from llmkit.folder import RunFolder
from llmkit.records import Diagnosis, Finding, RuledOut

RULES: tuple[Rule, ...] = (
    Rule("LK101", "NaN made inside a module", numeric.nan_in_module),
    Rule("LK102", "fp16 overflow", numeric.fp16_overflow),
    Rule("LK201", "out of memory", memory.out_of_memory),
    Rule("LK301", "learning-rate glitch", optimization.learning_rate_glitch),
    Rule("LK401", "poisoned document", data.poisoned_document),
    Rule("LK402", "corrupt shard", data_tokens.corrupt_shard),
    Rule("LK403", "unshuffled order", data_order.unshuffled_order),
    Rule("LK404", "shifted labels", data_targets.shifted_labels),
    Rule("LK405", "double shift", data_targets.double_shift),
    Rule("LK406", "tokenizer swap", data_tokens.tokenizer_swap),
    Rule("LK407", "pads not masked", data_targets.pads_not_masked),
    Rule("LK408", "train/val leak", data_order.val_leak),
    Rule("LK409", "source missing", data_order.source_missing),
    Rule("LK410", "truncated shard", data_files.truncated_shard),
    Rule("LK411", "flipped byte", data_files.flipped_byte),
    Rule("LK412", "duplicate shard", data_files.duplicate_shard),
    Rule("LK501", "stalled loader", throughput.stalled_loader),
)

# A cause and what it brings about within AFTERMATH steps: reported once, under the cause.
CONSEQUENCES = {"LK301": ("LK101", "LK102", "LK401"), "LK401": ("LK102",)}
AFTERMATH = 16  # steps
CERTAINTY = ("certain", "likely", "possible")


def diagnose(run: RunFolder | Chart | os.PathLike | str) -> Diagnosis:
    """What is wrong with a run, by its records alone.

    Args:
        run: a run folder, its path, or a chart of records in memory (`Chart.of`).

    Returns:
        Findings, most certain and earliest first; none for a healthy run.

    Raises:
        RecordError: not a run folder, or a log line that cannot be read.
    """
    chart = run if isinstance(run, Chart) else Chart.open(run)
    opinions = [(rule, _judge(rule, chart)) for rule in RULES]
    found = [finding for _, opinion in opinions for finding in opinion.findings]
    causes, follow = _untangle(found)
    order = sorted(causes, key=lambda f: (CERTAINTY.index(f.confidence), f.step, f.code))
    ruled_out = [
        RuledOut(code=r.code, title=r.title, because=o.ruled_out) for r, o in opinions if o.ruled_out
    ]
    unjudged = [
        RuledOut(code=r.code, title=r.title, because=o.not_judged) for r, o in opinions if o.not_judged
    ]
    return Diagnosis(
        findings=tuple(order),
        ruled_out=tuple(sorted([*ruled_out, *follow], key=lambda r: r.code)),
        not_judged=tuple(unjudged),
        steps=len(chart.steps),
    )


class Doctor:
    """Looks at a run folder again and again, at the cost of what was appended and one pass over the rules."""

    def __init__(self, folder: RunFolder | os.PathLike | str):
        self.chart = Chart.open(folder)
        self.diagnosis = diagnose(self.chart)

    def look(self) -> Diagnosis:
        """The diagnosis as of now."""
        if self.chart.refresh():
            self.diagnosis = diagnose(self.chart)
        return self.diagnosis


def explain(code: str) -> str:
    """What a rule sees, why it matters, how to confirm and fix it: its docstring.

    Raises:
        ConfigError: no rule has that code.
    """
    rules = {rule.code: rule for rule in RULES}
    if code.upper() not in rules:
        raise ConfigError(f"unknown finding `{code}`", remedy=closest(code.upper(), rules))
    return inspect.getdoc(rules[code.upper()].judge) or ""


def _judge(rule: Rule, chart: Chart) -> Opinion:
    if not chart.steps and not chart.events:
        return Opinion(not_judged="no steps are recorded")
    return rule.judge(chart)


def _untangle(found: list[Finding]) -> tuple[list[Finding], list[RuledOut]]:
    """Causes, and findings that only follow from one of them."""
    causes, follow = [], []
    for finding in found:
        by = next((c for c in found if _brings(c, finding)), None)
        if by is None:
            causes.append(finding)
        else:
            because = f"{finding.says}; it follows from {by.code} at step {by.step}"
            follow.append(RuledOut(code=finding.code, title=finding.title, because=because))
    return causes, follow


def _brings(cause: Finding, effect: Finding) -> bool:
    named = effect.code in CONSEQUENCES.get(cause.code, ())
    return named and 0 <= effect.step - cause.step <= AFTERMATH
