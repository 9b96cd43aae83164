"""First flight without a browser: real text in, train, poison, NaN, rescue, diagnosis.

    outcome = demo("runs/demo", print)

Three documents of the data set make a normalisation in block 1 divide by a count of zero. The run meets them
in three steps in a row, dies of it, is rolled back and goes on without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmkit.cost import lost_to_rescues, reference_incident
from llmkit.diagnose import as_text, diagnose
from llmkit.faults import apply
from llmkit.folder import RunFolder
from llmkit.lab.expected import expected_loss
from llmkit.lab.flight import finish, fresh, open_data, prepare
from llmkit.records import Event, summary
from llmkit.train import tiny

POISONED = (110, 111, 112)  # steps whose first document is poisoned
STEPS = 200


@dataclass(frozen=True)
class Outcome:
    """What the demo leaves."""

    folder: RunFolder
    text: str
    plain: dict[str, Any]


def demo(path: os.PathLike | str, talk: Callable[[str], None]) -> Outcome:
    """Fly it; `talk` gets a line when something happens.

    Raises:
        RecordError: `path` holds files that are not a run.
    """
    cfg = tiny(steps=STEPS, save_every=25)
    dataset = open_data(cfg)
    tokens = dataset.n_tokens("train")
    talk(f"data: {dataset.n_documents} docstrings, {tokens} tokens, digest {dataset.digest[:12]}")
    flight = prepare(cfg, fresh(path), dataset=dataset, extra={"supervised": True})
    poisoned = [int(flight.run.loader.batch(step).documents[0, 0]) for step in POISONED]
    flight.run.sinks.append(lambda event: _matters(event) and talk(event.says))
    with apply("nan-division", flight.run, module="blocks.1.mlp", documents=poisoned):
        for record in finish(flight, supervised=True):
            if record.step % 50 == 0:
                talk(f"step {record.step}: loss {record.loss:.2f}")
    return _told(flight.folder, expected_loss(cfg, dataset).compare(flight.folder.steps()))


def _matters(event: Event) -> bool:
    return event.kind in ("alarm", "nonfinite", "rescue", "died", "resume", "end")


def _told(folder: RunFolder, band: str) -> Outcome:
    diagnosis = diagnose(folder)
    rescues = [event for event in folder.events() if event.kind == "rescue"]
    lost = sum(event.data["lost_steps"] for event in rescues)
    here, there = lost_to_rescues(rescues, folder.times()), reference_incident(lost)
    price = f"{lost} steps lost: {here.value:.1f} s here; on 1,024 H100 at 10 s a step, ${there.value:,.0f}"
    facts = {"rescues": len(rescues), "lost_steps": lost, "lost_s": here.value, "price": there.value}
    text = f"{summary(folder.steps())}\n{band}\n\n{as_text(diagnosis)}\n\n{price}"
    return Outcome(folder, text, facts | {"findings": [finding.code for finding in diagnosis.findings]})
