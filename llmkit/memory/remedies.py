"""What would make it fit, cheapest first; and the micro-batch that does.

The one idea: layers are alike, so what is live at one point of a step is linear in the number of layers. Two
rehearsals of three and four layers give that of eighty, in a second.

    found = rehearse(config, card="A100-80")
    for remedy in remedies(config, found): print(remedy.name, remedy.peak, remedy.fits, remedy.cost)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmkit.cost import training_flops
from llmkit.errors import ConfigError
from llmkit.memory.measure import measure
from llmkit.memory.rehearsal import Moment, Rehearsal, rehearse
from llmkit.memory.sizes import parse_size
from llmkit.train import Run, RunConfig, vary

CHUNK = 1024  # positions whose logits are held at once
SELECTIVE = (
    0.08  # share of a step's time; benchmarks/rehearsal.py on this kit's model. Its products are not redone
)
RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LAYER = re.compile(r"^blocks\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way to need less. Bytes."""

    name: str
    peak: int
    fits: bool
    slower: float  # share of a step's compute that comes on top; 0.33: a third
    cards: int = 1

    @property
    def cost(self) -> str:
        more = f"{self.slower:+.0%} compute" if self.slower else "no compute"
        return f"{self.cards} cards, {more}" if self.cards > 1 else more


def peak_at_depth(config: RunConfig, **options: Any) -> tuple[int, tuple[str, str]]:
    """(peak in bytes, (phase, module)) of a configuration, from rehearsals of three and four of its layers.

    Args:
        options: as for `rehearse`.
    """
    layers = config.model.layers
    if layers <= 4:
        moments = rehearse(config, brief=True, **options).moments
        return max((moment.live, place) for place, moment in moments.items())
    few, more = (_by_end(config, depth, options) for depth in (3, 4))
    both = few.keys() & more.keys()
    return max((few[at].live + (layers - 3) * (more[at].live - few[at].live), at) for at in both)


def _by_end(config: RunConfig, depth: int, options: dict[str, Any]) -> dict[tuple[str, str], Moment]:
    """Moments by place, layers named by their distance from the nearer end: the first two and the last two.
    Between them what is live is linear in the layer's number, so the fullest is at an end."""
    found = rehearse(vary(config, model__layers=depth), brief=True, **options)
    named: dict[tuple[str, str], Moment] = {}
    for (phase, module), moment in found.moments.items():
        layer = LAYER.match(module)
        ends = [""]
        if layer:
            i = int(layer[1])
            ends = [f"layer {i}"] * (i < 2) + [f"layer -{depth - i}"] * (depth - i <= 2)
        for end in ends:
            named[phase, LAYER.sub(end, module)] = moment
    return named


def sharded(found: Rehearsal, ranks: int, stage: int = 3) -> int:
    """Peak bytes of one of `ranks` devices with ZeRO, by formula on the rehearsed moments; stage 3 is
    rehearsed, not stated, by `rehearse(..., ranks=n)`, which says less (docs/memory-check.md).

    Stage 1 divides the optimizer's state by the ranks, 2 the gradients too, 3 (FSDP) the weights too: then a
    layer in use, the next one and what is in no layer are gathered, in half precision if there is autocast,
    with the whole gradient of one layer in backward. Rajbhandari et al. 2020 (arXiv 1910.02054), section 3;
    buckets and the collectives' buffers are not in it.
    """
    weights, state = found.stored["parameters"], found.stored["optimizer state"]
    number = weights / found.parameters
    held = weights / ranks if stage == 3 else weights
    peak = 0.0
    for (phase, _), moment in found.moments.items():
        gradients = moment.gradients / (ranks if stage >= 2 else 1)
        rest = moment.live - weights - state - moment.gradients
        if phase == "optimizer":
            rest /= ranks
        elif stage == 3:
            half = 2 if moment.copies else number
            rest += half * (found.rest + 2 * found.block) - moment.copies
            rest += number * found.block if phase == "backward" else 0
        peak = max(peak, held + state / ranks + gradients + rest)
    return int(peak)


def remedies(config: RunConfig, found: Rehearsal, **options: Any) -> list[Remedy]:
    """Single changes, then all of them together, then sharding, cheapest first.

    Args:
        found: `rehearse(config, card=...)`.
        options: as for `rehearse`, without the card.

    Raises:
        ConfigError: no card was named.
    """
    if found.limit is None:
        raise ConfigError("the rehearsal has no card to fit", remedy="rehearse(config, card=...)")
    flops, changes = training_flops(config.model), []
    step = float(flops["forward"]) + float(flops["backward"])
    size = config.micro_batch or config.batch
    if size > 1:
        changes.append((f"micro-batch 1 of {config.batch}", {"micro_batch": 1}, 0.0))
    if options.get("optimizer", "adamw").startswith("adamw") and options.get("optimizer") != "adamw-8bit":
        changes.append(("8-bit moments", {"optimizer": "adamw-8bit"}, 0.0))
    if not config.model.loss_chunk and size * config.model.context > CHUNK:
        head = float(flops["forward"]["head"]) / step
        changes.append((f"loss in chunks of {CHUNK}", {"model__loss_chunk": CHUNK}, head))
    if config.model.checkpointing == "none":
        changes.append(("checkpointing: selective", {"model__checkpointing": "selective"}, SELECTIVE))
    if config.model.checkpointing != "full":
        again = float(training_flops(config.model, recompute=True)) / step - 1
        changes.append(("checkpointing: full", {"model__checkpointing": "full"}, again))
    changes.sort(key=lambda change: change[2])
    if len(changes) > 1:
        both = {key: value for _, change, _ in changes for key, value in change.items()}
        slower = sum(cost for what, _, cost in changes if not what.endswith("selective"))
        changes.append(("all of these", both, slower))
    out = []
    for name, change, slower in changes:
        how = options | ({"optimizer": change["optimizer"]} if "optimizer" in change else {})
        changed = vary(config, **{key: value for key, value in change.items() if key != "optimizer"})
        peak, _ = peak_at_depth(changed, **how)
        out.append(Remedy(name=name, peak=peak, fits=peak <= found.limit, slower=slower))
    ranks = next((n for n in RANKS if sharded(found, n) <= found.limit), RANKS[-1])
    peak = sharded(found, ranks)
    return [
        *out,
        Remedy(name=f"FSDP over {ranks} cards", peak=peak, fits=peak <= found.limit, slower=0.0, cards=ranks),
    ]


def largest_micro_batch(what: Run | RunConfig, card: int | str, **options: Any) -> int:
    """The largest micro-batch that fits and divides the batch: the global batch stays what it is, every
    target keeps its weight (the loop sums over micro-batches) and no random number is drawn.

    Args:
        what: a Run is measured on a copy of itself and stays as it is; a configuration is rehearsed.

    Raises:
        ConfigError: not even one sequence fits.
    """
    limit = parse_size(card)
    config = what.config if isinstance(what, Run) else what
    share = config.batch // (what.parallel.world if isinstance(what, Run) else 1)
    for size in (n for n in range(share, 0, -1) if share % n == 0):
        if isinstance(what, Run):
            before, what.micro_batch = what.micro_batch, size
            try:
                peak = measure(what, steps=2, **options).bytes
            finally:
                what.micro_batch = before
        else:
            peak, _ = peak_at_depth(vary(config, micro_batch=size), **options)
        if peak <= limit:
            return size
    raise ConfigError(
        f"one sequence of {config.model.context} tokens needs {peak:,} bytes of {limit:,}",
        remedy="shorten the context, checkpoint, or shard",
    )
