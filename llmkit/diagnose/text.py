"""A diagnosis as plain text (terminal) and as markdown (notebook, report). As JSON it is `records.to_json`.

print(as_text(diagnose("runs/mine")))
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from llmkit.diagnose.words import plural
from llmkit.records import Diagnosis, Evidence, Finding, RuledOut

WIDTH = 96  # columns


def as_text(diagnosis: Diagnosis) -> str:
    """Findings first; then what was ruled out and what could not be judged, one line each."""
    blocks = [_headline(diagnosis)]
    blocks += [_finding_text(finding) for finding in diagnosis.findings]
    if diagnosis.ruled_out:
        blocks.append("\n".join(["ruled out:", *map(_item, _ruled(diagnosis.ruled_out))]))
    if diagnosis.not_judged:
        blocks.append("\n".join(["not judged:", *map(_item, _ruled(diagnosis.not_judged))]))
    return "\n\n".join(blocks)


def as_markdown(diagnosis: Diagnosis) -> str:
    """The same, in the same order."""
    blocks = [_headline(diagnosis)]
    blocks += [_finding_markdown(finding) for finding in diagnosis.findings]
    if diagnosis.ruled_out:
        blocks.append("**Ruled out**\n\n" + "\n".join(f"- {r}" for r in _ruled(diagnosis.ruled_out)))
    if diagnosis.not_judged:
        blocks.append("**Not judged**\n\n" + "\n".join(f"- {r}" for r in _ruled(diagnosis.not_judged)))
    return "\n\n".join(blocks) + "\n"


def _headline(diagnosis: Diagnosis) -> str:
    steps = plural(diagnosis.steps, "step")
    if diagnosis.findings:
        return f"{plural(len(diagnosis.findings), 'finding')} in {steps}"
    judged = len(diagnosis.ruled_out)
    rules = judged + len(diagnosis.not_judged)
    return f"no finding in {steps}: {judged} of {rules} rules could judge, and are quiet"


def _finding_text(finding: Finding) -> str:
    lines = [
        f"{finding.code} {finding.title} (step {finding.step}, {finding.confidence})",
        _wrap(finding.says, "  "),
        *(
            _wrap(_quoted(e), "  evidence: " if i == 0 else " " * 12, " " * 12)
            for i, e in enumerate(finding.evidence)
        ),
    ]
    if finding.confirm:
        lines.append(_wrap(finding.confirm.says, "  confirm:  ", " " * 12))
        lines.append(_wrap(f"predicted: {finding.confirm.predicts}", " " * 12))
        if finding.confirm.command:
            lines.append(" " * 12 + finding.confirm.command)
    lines.append(_wrap(finding.fix, "  fix:      ", " " * 12))
    if finding.also_seen_with:
        lines.append(_wrap(", ".join(finding.also_seen_with), "  confused: ", " " * 12))
    return "\n".join(lines)


def _finding_markdown(finding: Finding) -> str:
    lines = [
        f"### {finding.code} {finding.title}",
        "",
        f"{finding.says}. *Step {finding.step}, {finding.confidence}.*",
        "",
    ]
    lines += ["**Evidence**", "", *(f"- {_quoted(e)}" for e in finding.evidence), ""]
    if finding.confirm:
        command = f" `{finding.confirm.command}`" if finding.confirm.command else ""
        lines += [f"**Confirm**: {finding.confirm.says}. Predicted: {finding.confirm.predicts}.{command}", ""]
    lines.append(f"**Fix**: {finding.fix}.")
    if finding.also_seen_with:
        lines += ["", f"**Confused with**: {', '.join(finding.also_seen_with)}."]
    return "\n".join(lines)


def _quoted(evidence: Evidence) -> str:
    return f"{evidence.says} [{evidence.source}]" if evidence.source else evidence.says


def _ruled(items: Sequence[RuledOut]) -> list[str]:
    """One line a reason: rules that say the same share it."""
    by: dict[str, list[str]] = {}
    for item in items:
        by.setdefault(item.because, []).append(f"{item.code} {item.title}")
    return [f"{', '.join(rules)}: {because}" for because, rules in by.items()]


def _item(says: str) -> str:
    return _wrap(says, "  ", " " * 8)


def _wrap(says: str, first: str, rest: str | None = None) -> str:
    return textwrap.fill(
        says,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
    )
