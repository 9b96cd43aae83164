"""The loss a healthy run of a configuration should show, so that a sick one can be seen.

    print(expected_loss(cfg, dataset).compare(records))

Two sources, and each band says which: theory (ln V at step 0; the unigram entropy of the data, which any
model that learned word frequencies is below) and measurement (seeds of this very configuration, by
benchmarks/bands.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from llmkit.data import TokenDataset
from llmkit.records import StepRecord
from llmkit.train import RunConfig

INIT_MARGIN = 0.2  # nats around ln V at step 0; weights of 0.02 give logits of 0.1 to 0.3
SEED_FIELDS = (
    "name",
    "seed",
    "init_seed",
    "data_seed",
    "dropout_seed",
    "data",
    "threads",
    "device",
    "patience",
)
KEPT_FIELDS = ("save_every", "keep_last", "keep_every", "micro_batch")  # these do not change what is learned


@dataclass(frozen=True)
class Band:
    """What the loss at one step should be between, in nats, and how that is known."""

    step: int
    low: float
    high: float
    why: str

    def __contains__(self, loss: float) -> bool:
        return self.low <= loss <= self.high


@dataclass(frozen=True)
class Expected:
    """Bands in the order of their steps."""

    bands: tuple[Band, ...]

    def compare(self, records: Sequence[StepRecord]) -> str:
        """One line a band: where this run's loss lies."""
        losses = {r.step: r.loss for r in records}
        lines = []
        for band in self.bands:
            if band.step in losses:
                place = "inside" if losses[band.step] in band else "OUTSIDE"
                low = f"{band.low:.2f} to " if math.isfinite(band.low) else "below "
                found = f"{losses[band.step]:.2f}"
                lines.append(
                    f"step {band.step:4d}: loss {found} is {place} {low}{band.high:.2f} ({band.why})"
                )
        return "\n".join(lines)

    def outside(self, records: Sequence[StepRecord]) -> list[int]:
        """Steps at which the loss is not in its band; NaN never is."""
        losses = {r.step: r.loss for r in records}
        return [b.step for b in self.bands if b.step in losses and losses[b.step] not in b]


def band_key(cfg: RunConfig, data_digest: str) -> str:
    """What decides the band: everything but seeds, place and bookkeeping. What is at its default is left out,
    so that a new setting moves no key; who changes a default measures again."""
    default = RunConfig().to_dict()
    plain = {k: v for k, v in cfg.to_dict().items() if k not in SEED_FIELDS + KEPT_FIELDS and v != default[k]}
    if shape := plain.get("model"):
        plain["model"] = {k: v for k, v in shape.items() if v != default["model"][k]}
    return hashlib.sha256(json.dumps([plain, data_digest], sort_keys=True).encode()).hexdigest()[:16]


def measured() -> dict[str, Any]:
    """bands.json: key -> {"seeds", "bands": [[step, low, high], ...], ...}."""
    return json.loads(files("llmkit.lab").joinpath("bands.json").read_text())


def expected_loss(cfg: RunConfig, dataset: TokenDataset) -> Expected:
    """The bands of a configuration on a data set; measured ones where there are any."""
    ln_v = math.log(cfg.model.vocab_size)
    bands = [Band(0, ln_v - INIT_MARGIN, ln_v + INIT_MARGIN, "ln V")]
    if known := measured().get(band_key(cfg, dataset.digest)):
        why = f"{known['seeds']} seeds"
        bands += [Band(step, low, high, why) for step, low, high in known["bands"]]
    else:
        unigram = dataset.manifest.splits["train"].unigram_entropy_nats
        bands.append(Band(cfg.steps - 1, -math.inf, unigram, "unigram entropy of the data"))
    return Expected(tuple(bands))
