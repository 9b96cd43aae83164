"""Verbs that read a run folder or the code: diagnose, report, explain, faults, contracts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli.out import Json, columns, next_command, result, talk
from llmkit.folder import RunFolder

RunPath = Annotated[Path, typer.Argument(help="Run folder.")]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: llmkit diagnose runs/sick --json")(diagnose)
    app.command(epilog="Example: llmkit report runs/sick")(report)
    app.command(epilog="Example: llmkit explain LK101")(explain)
    app.command(epilog="Example: llmkit faults")(faults)
    app.command(epilog="Example: llmkit contracts train")(contracts)


def diagnose(
    run: RunPath,
    follow: Annotated[bool, typer.Option(help="Keep watching a run under way; Ctrl-C ends.")] = False,
    check_data: Annotated[bool, typer.Option(help="First hash the files of its data set (torch).")] = False,
    probe: Annotated[
        bool, typer.Option(help="First build the run again and probe its parts (torch).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Name what is wrong with a run, with the evidence. Works without torch, on any trainer's log."""
    from llmkit.diagnose import as_text
    from llmkit.diagnose import diagnose as examine

    folder = RunFolder.open(run)
    if check_data:
        from llmkit.lab.data_check import check_folder

        talk(check_folder(folder).says)
    if probe:
        from llmkit.lab.probing import probe_folder

        for event in probe_folder(folder):
            talk(event.says)
    if follow:
        watch(folder)
    diagnosis = examine(folder)
    result(as_text(diagnosis), diagnosis, as_json)
    next_command(f"llmkit report {run}")
    if not diagnosis.healthy:
        raise typer.Exit(1)


def watch(folder: RunFolder) -> None:
    """Say each finding once, as soon as the log supports it, until the run ends or Ctrl-C."""
    from llmkit.diagnose import Doctor

    doctor, said = Doctor(folder), set()
    try:
        while True:
            for finding in doctor.look().findings:
                if (key := (finding.code, finding.step, finding.cause)) not in said:
                    said.add(key)
                    talk(f"step {finding.step}: {finding.code} {finding.says}")
            events = folder.events()
            if events and events[-1].kind in ("end", "died"):
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def report(run: RunPath, as_json: Json = False) -> None:
    """Write report.html into the run folder: curves, events, loss scale, findings, facts."""
    from llmkit.show import write_report

    page = write_report(RunFolder.open(run))
    result(str(page), {"report": str(page)}, as_json)
    next_command(f"llmkit verify {run}")


def explain(
    code: Annotated[str, typer.Argument(help="Code of a finding, e.g. LK101.")], as_json: Json = False
) -> None:
    """What a rule sees, why it hurts, how to confirm it, how to fix it, what it is confused with."""
    from llmkit.diagnose import explain as page

    text = page(code)
    result(text, {"code": code.upper(), "text": text}, as_json)
    next_command("llmkit faults")


def faults(as_json: Json = False) -> None:
    """The faults: by which door each enters, what it looks like, whether it is real or emulated."""
    from llmkit.faults import FAULTS

    rows = [(f.name, f.door, "emulated" if f.emulated else "real", f.symptom) for f in FAULTS.values()]
    plain = {f.name: {"door": f.door, "emulated": f.emulated, "symptom": f.symptom} for f in FAULTS.values()}
    result(columns(rows, ("fault", "door", "kind", "symptom")), plain, as_json)
    next_command("llmkit break nan-division --out runs/sick")


def contracts(
    module: Annotated[str, typer.Argument(help="A room or module, e.g. train or train.loop.")] = "",
    as_json: Json = False,
) -> None:
    """What each module takes and gives: shapes, dtypes, units, errors, taken from the code."""
    from llmkit.lab import contracts as read

    found = read(module)
    result("\n\n".join(c.text for c in found), [vars(c) for c in found], as_json)
    next_command("llmkit contracts train.loop" if not module else "llmkit contracts")
