"""llmkit cost: run, compare, calibrate, incident, serve, optimal, prices: what a job takes, with workings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, columns, next_command, result

app = typer.Typer(help="What a run takes: parameters, FLOPs, memory, time, dollars, and the working.")

JobFile = Annotated[str, typer.Argument(help="YAML file of a job, or a shipped one: 2.7b, 7b-dense, 7b-moe.")]
Explain = Annotated[bool, typer.Option(help="Print every term, its formula and its source.")]
Change = Annotated[list[str], typer.Option("--set", help="Change of a field, e.g. gpus=64.")]
NOTHING: list[str] = []


@app.command(epilog="Example: llmkit cost run 2.7b --set gpus=64 --explain")
def run(job: JobFile, changes: Change = NOTHING, explain: Explain = False, as_json: Json = False) -> None:
    """Memory of the fullest GPU, step time, GPU-hours, days, dollars; verdicts on the limits in the file."""
    from llmkit.cost import as_text, estimate

    found = estimate(*read_job(job, changes))
    terms = "\n".join(q.explain() for q in found.quantities)
    result(f"{as_text(found)}\n{terms}" if explain else as_text(found), found, as_json)
    next_command(f"llmkit diagram {job}")
    if any(verdict.answer == "no" for verdict in found.verdicts):
        raise typer.Exit(1)


@app.command(epilog="Example: llmkit cost compare 7b-dense 7b-moe --change-dollars 20000")
def compare(
    a: JobFile,
    b: JobFile,
    change_dollars: Annotated[float, typer.Option(help="What the change costs once.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Two jobs under the limits of a: what b saves, when the change is earned, what turns a verdict."""
    from llmkit.cost import as_text
    from llmkit.cost import compare as weigh

    (left, limits), (right, _) = read_job(a), read_job(b)
    found = weigh(left, right, limits, change_dollars=change_dollars)
    result(as_text(found), found, as_json)
    next_command(f"llmkit cost run {b} --explain")


@app.command(epilog="Example: llmkit cost calibrate 2.7b --step 3.4 --step 3.5 --step 3.4")
def calibrate(
    job: JobFile,
    step: Annotated[list[float], typer.Option(help="Seconds of a measured step; give three.")],
    changes: Change = NOTHING,
    as_json: Json = False,
) -> None:
    """From measured steps of your own run: its MFU, and an estimate with the narrower interval."""
    from llmkit.cost import as_text, calibrated, estimate, mfu

    plan, limits = read_job(job, changes)
    measured = calibrated(plan, step)
    reached, found = mfu(plan, sum(step) / len(step)), estimate(measured, limits)
    text = f"MFU {float(reached):.1%} ({reached.source}); {measured.efficiency:.1%} while computing"
    plain = {"mfu": asdict(reached), "efficiency": measured.efficiency, "estimate": asdict(found)}
    result(f"{text}\n{as_text(found)}", plain, as_json)
    next_command(f"llmkit cost run {job} --set efficiency={measured.efficiency:.4f}")


@app.command(epilog="Example: llmkit cost incident 2.7b --unseen 3d --instead 30m --chance 0.2")
def incident(
    job: JobFile,
    lost_steps: Annotated[int, typer.Option(help="Steps done in vain: rolled back, or skipped.")] = 0,
    down: Annotated[str, typer.Option(help="An outage, a restart or a repair, such as 90s, 15m, 4h.")] = "0s",
    unseen: Annotated[str | None, typer.Option(help="Bad data is trained on so long, such as 3d.")] = None,
    instead: Annotated[str | None, typer.Option(help="The same, detected after another time.")] = None,
    chance: Annotated[float, typer.Option(help="That the bad data happens to this run, 0 to 1.")] = 1.0,
    changes: Change = NOTHING,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """The price of an outage, of a rollback, or of bad data that is detected late, in dollars."""
    from llmkit.cost.mishap import mishap, saved, seconds
    from llmkit.errors import ConfigError

    plan, _ = read_job(job, changes)
    if unseen is None and (instead is not None or chance != 1):
        raise ConfigError("--instead and --chance speak of bad data", remedy="give --unseen as well")
    delays = [None if text is None else seconds(text) for text in (unseen, instead)]
    what = {"lost_steps": lost_steps, "down_s": seconds(down), "chance": chance}
    found = [mishap(plan, delay_s=delays[0], **what)]
    if instead is not None:
        found += [mishap(plan, delay_s=delays[1], **what)]
        found += [saved(*found)]
    lines = [q.explain() if explain else q.explain().splitlines()[0] for q in found]
    result("\n".join(lines), [asdict(q) for q in found], as_json)
    next_command(f"llmkit cost run {job} --explain")


@app.command(epilog="Example: llmkit cost serve llama3-8b --gpu H100-SXM --context 8192 --batch 16")
def serve(
    model: Annotated[str, typer.Argument(help="Published shape, e.g. llama3-8b.")],
    gpu: Annotated[str, typer.Option(help="Accelerator.")] = "H100-SXM",
    context: Annotated[int, typer.Option(help="Tokens of prompt and answer.")] = 4096,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    tp: Annotated[int, typer.Option(help="GPUs that share the model.")] = 1,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Milliseconds to the first token and of every further one; memory of a GPU."""
    from llmkit.cost import decode_latency, prefill_latency, serving_memory, shape_named

    shape = shape_named(model)
    found = (
        prefill_latency(shape, gpu, prompt=context, batch=batch, tp=tp),
        decode_latency(shape, gpu, context=context, batch=batch, tp=tp),
        serving_memory(shape, context=context, batch=batch, tp=tp),
    )
    lines = [q.explain() if explain else q.explain().splitlines()[0] for q in found]
    result("\n".join(lines), [asdict(q) for q in found], as_json)
    next_command(f"llmkit cost serve {model} --explain")


@app.command(epilog="Example: llmkit cost optimal 5.76e23")
def optimal(
    flops: Annotated[float, typer.Argument(help="FLOPs of the whole run.")], as_json: Json = False
) -> None:
    """Parameters and tokens of the lowest loss for a budget, by both fits of Chinchilla's data."""
    from llmkit.cost import compute_optimal
    from llmkit.cost.scaling import LAWS

    found = {name: compute_optimal(flops, name) for name in LAWS}
    rows = [(name, n, d, f"{float(d) / float(n):.0f}", n.source) for name, (n, d) in found.items()]
    plain = {name: [asdict(q) for q in pair] for name, pair in found.items()}
    result(columns(rows, ("fit", "size", "data", "tokens each", "source")), plain, as_json)
    next_command("llmkit cost run 2.7b")


@app.command(epilog="Example: llmkit cost prices")
def prices(as_json: Json = False) -> None:
    """Accelerators: dense peak, memory, dollars of an hour with range, date and source."""
    from llmkit.cost import hardware

    rows = []
    for name, hw in hardware().items():
        price = hw.price()
        cost = f"{hw.dollars_low:g} to {hw.dollars_high:g}, typical {hw.dollars_typical:g}"
        rows.append(
            (name, f"{hw.bf16_dense_tflops:g}", f"{hw.memory_gb:g}", f"{hw.hbm_gbs:g}", cost, price.source)
        )
    head = ("accelerator", "TFLOP/s", "GB", "GB/s", "$ an hour", "source of the price")
    result(columns(rows, head), {name: vars(hw) for name, hw in hardware().items()}, as_json)
    next_command("llmkit cost run 2.7b --set dollars_per_gpu_hour=2")


def read_job(name: str, changes: list[str] = NOTHING) -> Any:
    """(job, limits) of a YAML file or a shipped job.

    Raises:
        ConfigError: no such file, not YAML, an unknown field, a plan that cannot be.
    """
    from importlib import resources

    import yaml

    from llmkit.cost import Limits, job_of
    from llmkit.cost.job import number
    from llmkit.cost.params import SHAPE_FIELDS
    from llmkit.errors import ConfigError, closest

    shipped = {p.name.removesuffix(".yaml"): p for p in (resources.files("llmkit.cost") / "jobs").iterdir()}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(f"no job `{name}`", expected="a YAML file", remedy=closest(name, shipped))
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        given |= {key: yaml.safe_load(value) for key, _, value in (c.partition("=") for c in changes)}
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read `{name}` as YAML: {str(error).splitlines()[0]}") from error
    shape = given.get("model") if isinstance(given, dict) else None
    for key in set(shape) - set(SHAPE_FIELDS) if isinstance(shape, dict) else ():
        raise ConfigError(f"a model has no `{key}`", remedy=closest(key, SHAPE_FIELDS))
    limits = {key: number(key, value) for key, value in (given.pop("limits", None) or {}).items()}
    known = Limits.__dataclass_fields__
    for key in limits:
        if key not in known:
            raise ConfigError(f"a limit has no `{key}`", remedy=closest(key, known))
    return job_of(given), Limits(**limits)


def add_to(root: typer.Typer) -> None:
    root.add_typer(app, name="cost")
    root.command(epilog="Example: llmkit diagram 2.7b --out run.svg")(diagram)


def diagram(
    job: JobFile,
    out: Annotated[
        Path | None, typer.Option(help="A .svg, .png or .pdf; default: both of the first.")
    ] = None,
    changes: Change = NOTHING,
    as_json: Json = False,
) -> None:
    """Draw a run on one page: shards to checkpoints, with bytes, FLOPs, seconds and GB at every station."""
    from llmkit.show.diagram import diagram as draw

    plan, _ = read_job(job, changes)
    paths = [
        str(draw(plan, path))
        for path in ([out] if out else [Path(f"{plan.name}.svg"), Path(f"{plan.name}.png")])
    ]
    result("\n".join(paths), {"files": paths}, as_json)
    next_command(f"llmkit cost run {job} --explain")
