"""What a step of a run or a configuration needs of memory: by layer, category and line of code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli.out import Json, columns, next_command, result
from llmkit.cli.run_verbs import Set, settings
from llmkit.errors import ConfigError

EXAMPLE = "Example: llmkit memory runs/mine --alloc expandable_segments:True --snapshot memory.pickle"


def add_to(app: typer.Typer) -> None:
    app.command(name="memory", epilog=EXAMPLE)(memory)


def memory(
    run: Annotated[str, typer.Argument(help="Run folder, or a named configuration: tiny, laptop, ...")] = "",
    set_: Set = (),
    alloc: Annotated[
        list[str], typer.Option(help="Settings as in PYTORCH_ALLOC_CONF to compare; repeatable.")
    ] = (),
    limit: Annotated[str, typer.Option(help='A limit for the allocator: "24 GiB" or "H100-SXM".')] = "",
    scale: Annotated[int, typer.Option(help="As if tensors were that many times larger.")] = 1,
    snapshot: Annotated[Path | None, typer.Option(help="Write PyTorch's memory snapshot here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw memory over the two steps here (PNG).")] = None,
    config: Annotated[str, typer.Option(help="Rehearse this configuration instead, whatever its size.")] = "",
    factory: Annotated[str, typer.Option(help="Rehearse your own model: package.module:make.")] = "",
    batch: Annotated[int, typer.Option(help="Rehearsal: sequences of a step.")] = 1,
    seq: Annotated[int, typer.Option(help="Rehearsal: tokens of a sequence.")] = 2048,
    precision: Annotated[str, typer.Option(help="Rehearsal: fp32, or autocast to bf16 or fp16.")] = "bf16",
    optimizer: Annotated[
        str, typer.Option(help="Rehearsal: adamw, adamw-foreach, adamw-loop, adamw-8bit, sgd.")
    ] = "adamw",
    checkpointing: Annotated[str, typer.Option(help="Rehearsal: none, selective or full.")] = "none",
    ranks: Annotated[int, typer.Option(help="Rehearsal: cards that share the model out (FSDP2).")] = 1,
    gpu: Annotated[str, typer.Option(help='Rehearsal: a card, or a size such as "48 GiB".')] = "A100-80",
    as_json: Json = False,
) -> None:
    """Do two steps on this machine, and say who held what at the peak and what CUDA would have reserved.

    With --config or --factory: rehearse two steps of any size without the memory (7B takes ten seconds): does
    it fit on a card, where would it die, what would help. llmkit memory --config gpt-7b --gpu A100-80
    """
    if config or factory:
        from llmkit.cli.rehearse_verb import rehearsal

        changes = {"batch": batch, "model__context": seq, "model__checkpointing": checkpointing}
        changes |= {"precision": precision, **settings(list(set_))}
        return rehearsal(config, factory, changes, optimizer, gpu, as_json, ranks)
    if not run:
        raise ConfigError("nothing was named", expected="a run folder, a configuration, or --config")
    measured(run, settings(list(set_)), list(alloc), limit, scale, snapshot, picture, as_json)


def measured(
    run: str, changes: dict[str, Any], alloc: list[str], limit: str, scale: int, snapshot: Path | None,
    picture: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """The trace of two steps on this machine: table, lines and allocators, or JSON; files where asked for."""
    from llmkit.folder import RunFolder
    from llmkit.lab.flight import config_of, open_data
    from llmkit.memory import fragmentation, record, show_size, write_snapshot
    from llmkit.train import build, named

    folder = Path(run)
    cfg = config_of(RunFolder.open(folder)) if folder.is_dir() else named(run, **changes)
    trace = record(build(cfg, dataset=open_data(cfg)), as_stored=True)
    options = {"limit": limit} if limit else {}
    found = {one or "default": fragmentation(trace, one, scale=scale, **options) for one in ("", *alloc)}
    plain = {
        "config": cfg.name, "peak_bytes": max(trace.live), "scale": scale, "emulated": True,
        "held": [[*who, size] for who, size in trace.holders("module", "category").most_common()],
        "lines": [list(row) for row in trace.top(10)],
        "allocator": {name: vars(one) | {"lost": one.lost} for name, one in found.items()},
    }  # fmt: skip
    rows = [(show_size(n), category, line) for line, category, n in trace.top()]
    said = columns(list(found.items()), ("allocator", "(emulated)"))
    result("\n\n".join((trace.table(), columns(rows, ("bytes", "", "line")), said)), plain, as_json)
    if picture is not None:
        from llmkit.show.memory_timeline import memory_timeline

        memory_timeline(trace).savefig(picture)
    if snapshot is not None:
        write_snapshot(trace, snapshot, alloc[0] if alloc else "", scale=scale)
    next_command(
        f"python -m torch.cuda._memory_viz stats {snapshot}"
        if snapshot
        else f"llmkit memory {run} --snapshot memory.pickle"
    )
