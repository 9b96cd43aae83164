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
    architecture,
    data,
    data_files,
    data_order,
    data_targets,
    data_tokens,
    memory,
    memory_growth,
    numeric,
    optimization,
    routing,
    scaling,
    schedule,
    throughput,
    updates,
)
from llmkit.errors import ConfigError, closest
from llmkit.folder import RunFolder
from llmkit.records import Diagnosis, Finding, RuledOut

RULES: tuple[Rule, ...] = (
    Rule("LK101", "NaN made inside a module", numeric.nan_in_module),
    Rule("LK102", "fp16 overflow", numeric.fp16_overflow),
    Rule("LK103", "clip before unscale", scaling.clip_before_unscale),
    Rule("LK104", "step on overflow", scaling.step_on_overflow),
    Rule("LK105", "bf16 master weights", updates.bf16_master_weights),
    Rule("LK106", "attention growth", architecture.attention_growth),
    Rule("LK107", "residual growth", architecture.residual_growth),
    Rule("LK108", "double softmax", architecture.double_softmax),
    Rule("LK201", "out of memory", memory.out_of_memory),
    Rule("LK202", "graph kept", memory_growth.graph_kept),
    Rule("LK203", "growing list", memory_growth.growing_list),
    Rule("LK204", "longer batch than any before", memory_growth.long_sequence),
    Rule("LK205", "fragmentation", memory_growth.fragmented),
    Rule("LK206", "evaluation keeps its graphs", memory_growth.evaluation_kept),
    Rule("LK207", "second optimizer state", memory_growth.second_state),
    Rule("LK208", "logits", memory_growth.big_logits),
    Rule("LK301", "learning-rate glitch", optimization.learning_rate_glitch),
    Rule("LK302", "gradients not cleared", updates.missing_zero_grad),
    Rule("LK303", "summed accumulation", updates.summed_accumulation),
    Rule("LK304", "schedule per micro-batch", schedule.schedule_per_micro_batch),
    Rule("LK305", "weight decay on norms", updates.decay_on_norms),
    Rule("LK306", "second moment too slow", updates.beta2_too_high),
    Rule("LK307", "eps too large", updates.eps_too_large),
    Rule("LK308", "no warmup", schedule.no_warmup),
    Rule("LK309", "learning rate too high", schedule.learning_rate_too_high),
    Rule("LK310", "untied head", architecture.untied_head),
    Rule("LK311", "dropout in evaluation", architecture.dropout_in_eval),
    Rule("LK312", "frozen block", updates.frozen_block),
    Rule("LK313", "optimizer state lost", updates.optimizer_state_lost),
    Rule("LK314", "learning-rate reset", schedule.learning_rate_reset),
    Rule("LK315", "router collapse", routing.router_collapse),
    Rule("LK316", "expert imbalance", routing.expert_imbalance),
    Rule("LK317", "dropped tokens", routing.dropped_tokens),
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
CONSEQUENCES = {
    "LK102": ("LK107",),
    "LK104": ("LK101", "LK102"),
    "LK301": ("LK101", "LK102", "LK106", "LK107", "LK401"),
    "LK309": ("LK101", "LK102", "LK106", "LK107", "LK401"),
    "LK401": ("LK102", "LK107"),
}
AFTERMATH = 16  # steps
GROWTH = tuple(f"LK20{n}" for n in range(2, 9))  # memory that grows brings LK201, however much later
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
    if cause.code in GROWTH:
        return effect.code == "LK201" and cause.step <= effect.step
    named = effect.code in CONSEQUENCES.get(cause.code, ())
    return named and 0 <= effect.step - cause.step <= AFTERMATH
