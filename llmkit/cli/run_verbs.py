"""Verbs that run something: train, break, demo, verify, lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, next_command, progress, result, talk
from llmkit.errors import ConfigError, FaultError, closest

Config = Annotated[str, typer.Option(help="Named configuration: tiny, laptop, gpt2, ...")]
Out = Annotated[Path, typer.Option(help="Run folder.")]
Set = Annotated[
    list[str],
    typer.Option("--set", help="A setting, e.g. --set lr=1e-3 --set model__dropout=0.1; repeatable."),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps; default: the configuration's.")]
Supervise = Annotated[
    bool, typer.Option(help="Put the crew aboard: skip, lower the scale, roll back, halve.")
]


def add_to(app: typer.Typer) -> None:
    app.command(name="train", epilog="Example: llmkit train --config tiny --steps 60 --out runs/mine")(train)
    app.command(
        name="break", epilog="Example: llmkit break lr-glitch --where at=40 --steps 80 --out runs/sick"
    )(break_)
    app.command(name="verify", epilog="Example: llmkit verify runs/mine")(verify)
    app.command(name="demo", epilog="Example: llmkit demo --out runs/demo")(demo)
    app.command(name="lab", epilog="Example: llmkit lab")(lab)


def settings(pairs: list[str], **fixed: Any) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they parse as JSON, else text."""
    chosen = {name: value for name, value in fixed.items() if value is not None}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"cannot read `{pair}`", expected="name=value")
        try:
            chosen[name] = json.loads(value)
        except ValueError:
            chosen[name] = value
    return chosen


def train(
    config: Config = "tiny",
    out: Out = Path("runs/train"),
    steps: Steps = None,
    set_: Set = (),
    resume: Annotated[bool, typer.Option(help="Go on in --out from its newest good checkpoint.")] = False,
    supervise: Supervise = False,
    as_json: Json = False,
) -> None:
    """Train a model; the run folder holds everything about it. Runs unchanged under torchrun."""
    from llmkit.lab import prepare
    from llmkit.train import named

    cfg = None if resume else named(config, **settings(list(set_), steps=steps))
    flight = prepare(cfg, out, resume=resume, extra={"supervised": supervise})
    drive(flight, supervise, as_json, f"llmkit report {out}")


def break_(
    fault: Annotated[str, typer.Argument(help="A fault; `llmkit faults` lists them.")],
    config: Config = "tiny",
    out: Out = Path("runs/break"),
    steps: Steps = None,
    set_: Set = (),
    where: Annotated[list[str], typer.Option(help="Where and when, e.g. --where at=40; repeatable.")] = (),
    supervise: Supervise = False,
    as_json: Json = False,
) -> None:
    """Train with a fault in it."""
    from llmkit.faults import FAULTS, apply
    from llmkit.lab import prepare
    from llmkit.train import named

    if fault not in FAULTS:
        raise FaultError(f"unknown fault `{fault}`", remedy=closest(fault, FAULTS))
    place = FAULTS[fault].parse(list(where))
    extra = {"supervised": supervise, "fault": {"name": fault, "where": place}}
    flight = prepare(named(config, **settings(list(set_), steps=steps)), out, extra=extra)
    with apply(fault, flight.run, **place):
        drive(flight, supervise, as_json, f"llmkit diagnose {out}")


def drive(flight: Any, supervised: bool, as_json: bool, then: str) -> None:
    """Run to the end; Ctrl-C finishes the step, keeps everything and says how to go on."""
    import torch

    from llmkit.errors import LLMKitError
    from llmkit.lab import finish, interruptible
    from llmkit.records import summary

    run, path = flight.run, flight.folder.path
    first = run.parallel.is_first
    says = f"{run.config.name}, {run.precision.name} ({run.precision.why}), data {run.dataset.digest[:12]}"
    if first:
        talk(f"{says}, step {run.step} of {run.config.steps} -> {path}")
    death = ""
    try:
        with interruptible(run):
            records = finish(flight, supervised=supervised)
            total = run.config.steps
            for _ in progress(records, total, lambda: run.step, max(1, total // 10)) if first else records:
                pass
    except (LLMKitError, torch.OutOfMemoryError) as error:
        death, then = str(error).splitlines()[0], f"llmkit diagnose {path}"
    if first:
        text = f"died: {death}" if death else summary(flight.folder.steps())
        facts = {
            "folder": str(path),
            "steps": run.step,
            "died": death,
            "summary": summary(flight.folder.steps()),
        }
        result(f"{text}\n{path}", facts | {"loss": run.found.get("loss")}, as_json)
        interrupted = not death and run.step < run.config.steps
        next_command(f"llmkit train --resume --out {path}" if interrupted else then)
    run.parallel.close()
    if death or run.step < run.config.steps:
        raise typer.Exit(1)


def verify(
    run: Annotated[Path, typer.Argument(help="Run folder to do again.")],
    as_json: Json = False,
) -> None:
    """Do a run again from its run.json and compare every digest and every bit."""
    from llmkit.cli.out import columns
    from llmkit.lab import verify as again

    checks = again(run)
    rows = [("ok" if c.same else "DIFFERS", c.what, c.then, c.now) for c in checks]
    plain = {"same": all(c.same for c in checks), "checks": [vars(c) for c in checks]}
    result(columns(rows, ("", "what", "then", "now")), plain, as_json)
    next_command(f"llmkit report {run}")
    if not plain["same"]:
        raise typer.Exit(1)


def demo(out: Out = Path("runs/demo"), as_json: Json = False) -> None:
    """Real text in, train, poison, NaN, rescue, diagnosis, report out; about a minute."""
    from llmkit.lab import demo as fly_demo
    from llmkit.show import write_report

    outcome = fly_demo(out, talk)
    page = write_report(outcome.folder)
    result(f"{outcome.text}\nreport: {page}", outcome.plain | {"report": str(page)}, as_json)
    next_command("llmkit lab")


def lab(
    notebook: Annotated[str, typer.Argument(help="Notebook to open.")] = "notebooks/00_start_here.ipynb",
) -> None:
    """Open JupyterLab on the first notebook (builds the embedded data set first)."""
    import os
    import sys

    from llmkit.data import embedded

    if not Path(notebook).exists():
        raise ConfigError(
            f"no notebook `{notebook}` here", remedy="call `llmkit lab` in the folder of the kit"
        )
    talk(f"data set {embedded().digest[:12]} is ready")
    here, place = Path.cwd(), Path(notebook).absolute()
    base = here if here in place.parents else place.parent  # what links may reach: exercises, the package
    os.execv(sys.executable, [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={base}",
        f"--LabApp.default_url=/lab/tree/{place.relative_to(base).as_posix().replace(' ', '%20')}",
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),  # in a container
    ])  # fmt: skip
