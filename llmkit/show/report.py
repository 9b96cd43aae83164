"""A run as one HTML file: what was asked, what happened, what was wrong, what it cost, how to have it again.

    path = write_report("runs/mine")        # runs/mine/report.html, readable without network, printable

Everything is read from the run folder; nothing is computed here beyond laying it out.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkit import __version__
from llmkit.cost import lost_to_rescues, reference_incident
from llmkit.diagnose import diagnose
from llmkit.errors import LLMKitError
from llmkit.folder import RunFolder, write_whole
from llmkit.records import Diagnosis, Event, Finding, StepRecord, StepTimes, summary
from llmkit.show.plots import MARKS, describe, draw

MOST_EVENTS, MOST_SCALES, MOST_TEXT = 40, 24, 600  # rows, rows, characters
QUIET = ("scale", "skip", "checkpoint")  # told elsewhere in the report, or too often


def write_report(run: RunFolder | os.PathLike | str, diagnosis: Diagnosis | None = None) -> Path:
    """Write report.html into the run folder.

    Args:
        run: a run folder or its path.
        diagnosis: None: made here.

    Returns:
        The path of the file.

    Raises:
        RecordError: not a run folder, or a log that cannot be read.
        StorageError: the file cannot be written.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    path = folder.path / "report.html"
    write_whole(path, render(folder, diagnosis or diagnose(folder)))
    return path


def render(folder: RunFolder, diagnosis: Diagnosis) -> str:
    """The report as HTML."""
    import jinja2
    import markupsafe

    def code(text: object) -> markupsafe.Markup:
        escaped = str(markupsafe.escape(text))
        return markupsafe.Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", escaped))

    def sentence(text: markupsafe.Markup) -> markupsafe.Markup:
        return text[:1].upper() + text[1:]

    loader = jinja2.PackageLoader("llmkit.show", ".")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(code=code, sentence=sentence)
    steps, times, events = folder.steps(), folder.times(), folder.events()
    return page.get_template("report.html.j2").render(
        **_top(folder, steps, diagnosis),
        **_picture(steps, times, events, diagnosis.findings, markupsafe.Markup),
        **_rescues(events, times),
        **_scales(events),
        **_events(events),
        documents=_documents(folder.facts, diagnosis.findings),
        version=__version__,
    )


# --------------------------------------------------------------------------------------------------- sections


def _top(folder: RunFolder, steps: Sequence[StepRecord], diagnosis: Diagnosis) -> dict[str, Any]:
    facts = folder.facts
    config = _mapping(facts.get("config"))
    return {
        "title": f"Run {folder.path.resolve().name}",
        "summary": summary(steps),
        "diagnosis": diagnosis,
        "header": _header(facts, config, len(steps)),
        "reproduce": _reproduce(facts, config),
        "again": f"llmkit verify {folder.path}",
    }


def _header(facts: Mapping[str, Any], config: Mapping[str, Any], steps: int) -> list[tuple[str, str]]:
    model, data, hardware = (
        _mapping(part) for part in (config.get("model"), facts.get("data"), facts.get("hardware"))
    )
    told = _mapping(facts.get("precision"))
    precision = str(told.get("name") or config.get("precision") or "")
    seed, planned = facts.get("seed", config.get("seed")), config.get("steps")
    said = [
        ("configuration", f"{config['name']}, seed {seed}" if config.get("name") else ""),
        ("model", _shape(model)),
        ("parameters", f"{facts['parameters']:,}" if isinstance(facts.get("parameters"), int) else ""),
        ("steps", f"{steps:,} of {planned:,}" if isinstance(planned, int) else f"{steps:,}"),
        ("tokens a step", _tokens(config, model)),
        ("precision", f"{precision} (emulated)" if told.get("emulated") else precision),
        ("data", str(data.get("name") or config.get("data") or "")),
        ("data digest", f"`{str(data['digest'])[:16]}`" if data.get("digest") else ""),
        ("commit", f"`{str(facts['git_commit'])[:12]}`" if facts.get("git_commit") else ""),
        ("hardware", _machine(hardware)),
    ]  # fmt: skip
    kept = [(name, value) for name, value in said if value]
    return kept + [("", "")] * (-len(kept) % 3)  # a full last row


def _shape(model: Mapping[str, Any]) -> str:
    known = {"layers", "width", "heads"} <= model.keys()
    return f"{model['layers']} layers, width {model['width']}, {model['heads']} heads" if known else ""


def _tokens(config: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    batch, context = config.get("batch"), model.get("context")
    return f"{batch * context:,}" if isinstance(batch, int) and isinstance(context, int) else ""


def _machine(hardware: Mapping[str, Any]) -> str:
    gpus = hardware.get("gpus") or ()
    cores = f"{hardware['cores']} cores" if hardware.get("cores") else ""
    parts = [str(hardware.get("machine") or ""), cores, ", ".join(map(str, gpus)) if gpus else "no GPU"]
    return ", ".join(part for part in parts if part) if hardware else ""


def _reproduce(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = _mapping(facts.get("data"))
    rows = [
        ("data digest", data.get("digest")), ("tokenizer digest", data.get("tokenizer_digest")),
        ("left out", _flat(_mapping(data.get("skip")))), ("git commit", facts.get("git_commit")),
        ("packages", _flat(_mapping(facts.get("packages")))),
        ("fingerprint", _flat(_mapping(facts.get("fingerprint")))),
        ("config", _flat({k: v for k, v in config.items() if k != "model"})),
        ("model", _flat(_mapping(config.get("model")))),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value]


def _picture(
    steps: Sequence[StepRecord],
    times: Sequence[StepTimes],
    events: Sequence[Event],
    findings: Sequence[Finding],
    markup: type,
) -> dict[str, Any]:
    import matplotlib

    figure, file = draw(steps, times, events, findings), io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "llmkit", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    seen = {event.kind for event in events} | ({"finding"} if findings else set())
    marked = [MARKS[kind].label for kind in MARKS if kind in seen]
    caption = "Crosses: values that were not finite."
    if marked:
        caption += f" Vertical lines: {', '.join(marked)}."
    return {
        "figure": markup(svg[svg.index("<svg") :]),
        "alt": describe(steps, events, findings),
        "caption": caption,
    }


def _rescues(events: Sequence[Event], times: Sequence[StepTimes]) -> dict[str, Any]:
    rescues = [event for event in events if event.kind == "rescue"]
    if not rescues:
        return {"rescues": []}
    price = reference_incident(sum(int(e.data.get("lost_steps") or 0) for e in rescues))
    lost = lost_to_rescues(rescues, times)
    return {"rescues": rescues, "lost": str(lost), "reference": str(price), "working": price.explain()}


def _scales(events: Sequence[Event]) -> dict[str, Any]:
    changes = [
        {"step": e.step, "old": e.data["old"], "new": e.data["new"], "reason": e.data.get("reason", "")}
        for e in events
        if e.kind == "scale" and {"old", "new"} <= e.data.keys()
    ]
    half = MOST_SCALES // 2
    shown = changes if len(changes) <= MOST_SCALES else changes[:half] + changes[-half:]
    return {"scales": shown, "scales_left_out": len(changes) - len(shown)}


def _events(events: Sequence[Event]) -> dict[str, Any]:
    loud = [event for event in events if event.kind not in QUIET]
    return {"events": loud[:MOST_EVENTS], "events_left_out": max(0, len(loud) - MOST_EVENTS)}


def _documents(facts: Mapping[str, Any], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Name and first lines of the documents that findings accuse, when their data set is on this machine."""
    accused = [
        (f.code, int(i)) for f in findings if "document" in f.cause for i in re.findall(r"\d+", f.cause)
    ]
    path = _mapping(facts.get("data")).get("path")
    if not accused or not path or not Path(path).exists():
        return []
    from llmkit.data import open_dataset

    try:
        dataset = open_dataset(path)
        shown = [(code, number, dataset.document(number)) for code, number in accused]
    except (LLMKitError, LookupError):
        return []  # the data set was moved or rebuilt: ids alone must do
    return [
        {"code": code, "id": number, "source": document.source, "text": document.text[:MOST_TEXT]}
        for code, number, document in shown
    ]


def _mapping(value: object) -> Mapping[str, Any]:
    """Another trainer may have written anything into run.json."""
    return value if isinstance(value, Mapping) else {}


def _flat(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items() if value not in (None, "", [], {}))
