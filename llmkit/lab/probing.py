"""The parts of a run, asked: what `llmkit diagnose RUN --probe` does.

    for event in probe_folder(RunFolder.open("runs/mine")):
        print(event.says)

A probe needs the code that trains, not only its log. So the run is built once more as run.json says, with the
fault that was put in and the weights and moments of its newest checkpoint, and asked at the step where the
log ends. Somebody with the run at hand calls `llmkit.observe.probe(run)` in its own process instead.
"""

from __future__ import annotations

from llmkit.folder import RunFolder
from llmkit.lab.flight import check_data, config_of, open_data
from llmkit.lab.verify import broken_as
from llmkit.observe import PROBES, probe
from llmkit.records import Event
from llmkit.train import Checkpoints, build


def probe_folder(folder: RunFolder) -> list[Event]:
    """Probe the run of a folder, and append the answers to its events.

    Without a checkpoint the weights are the initial ones, and its moments are not asked about.

    Raises:
        RecordError: run.json has no configuration. IntegrityError: the data is not what it was.
    """
    cfg, steps = config_of(folder), folder.steps()
    run = build(cfg, dataset=open_data(cfg))
    check_data(folder, run)
    checkpoints, told = Checkpoints(folder.checkpoints), []
    saved = bool(checkpoints.steps())
    now = checkpoints.load(run) if saved else steps[-1].step + 1 if steps else 0
    run.step = 0  # a fault is put in before its first step
    with broken_as(folder.facts, run):
        run.step = now
        run.sinks.append(told.append)
        probe(run, [name for name in PROBES if saved or name != "moments"])
    folder.append("events", *told)
    folder.close()
    return told
