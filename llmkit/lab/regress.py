"""Which of the inputs that were seen before does the newer run predict worse?

    print(regress("runs/before", "runs/after", "pins.jsonl").text)

Each pinned text is read by the last good checkpoint of both runs. A loss per input is a deterministic number,
so "worse" is always true of about half of them; what there is to ask is whether the difference is more than
the luck of these few words. The test, per input:

    units       the tokens of the text; for runs with different tokenizers, whose tokens cannot be paired, the
                stretches between byte positions at which both cut, and everything in nats per byte
    statistic   sum over the text of (loss after - loss before), in nats
    null        after and before are exchangeable within each block of 8 units: swapping them there changes
                nothing. Blocks, since neighbouring differences are correlated
    p           sign flips of the block sums: (1 + as large or larger) / (1 + draws); with fewer blocks than
                could ever be significant an input is "not testable" (Tarone, Biometrics 46:515, 1990)
    threshold   Holm over the testable inputs: at most `alpha` chance that any input is named wrongly

It compares two sets of weights, not two recipes. Runs that differ in their seed alone do differ: of 100 pins
(76 testable), four pairs of tiny() seeds after 200 steps on the generated corpus had 17, 6, 1 and 10 worse
and 1, 4, 11 and 1 better. A recipe is judged by several seeds.

Holm's method: Scandinavian Journal of Statistics 6:65, 1979.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from itertools import count

import numpy as np
import torch

from llmkit.data import read_pins
from llmkit.data.tokenizer import END_ID
from llmkit.errors import CheckpointError, ConfigError
from llmkit.folder import RunFolder
from llmkit.lab.flight import check_data, config_of, open_data
from llmkit.train import Checkpoints, Run, build
from llmkit.train.checkpoint import problems

BLOCK = 8  # units that are flipped together; neighbours correlate by 0.02 (tiny(), two seeds)
DRAWS = 10_000  # sign flips at once, and at least; with n testable inputs at least 4 n / alpha
WORST = 10  # inputs in `text`

Losses = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Input:
    """One pinned input under both runs."""

    source: str
    sha256: str
    units: int  # tokens, or bytes between runs of different tokenizers
    before: float  # nats per unit
    after: float
    p: float  # one-sided, that it is not worse; 1 where not testable
    verdict: str  # "worse", "better", "no difference shown" or "not testable"


@dataclass(frozen=True)
class Regression:
    """All inputs, worst first."""

    unit: str  # "token" or "byte"
    alpha: float
    steps: tuple[int, int]  # of the checkpoints that were compared
    inputs: tuple[Input, ...]

    def count(self, verdict: str) -> int:
        return sum(one.verdict == verdict for one in self.inputs)

    @property
    def text(self) -> str:
        verdicts = ("worse", "better", "no difference shown", "not testable")
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in verdicts)
        total = sum(one.units for one in self.inputs)
        before, after = (
            sum(getattr(i, k) * i.units for i in self.inputs) / total for k in ("before", "after")
        )
        worse = [one for one in self.inputs if one.verdict == "worse"]
        lines = [
            f"{len(self.inputs)} inputs, steps {self.steps[0]} and {self.steps[1]}: {counts}",
            f"all of them: {before:.3f} -> {after:.3f} nats per {self.unit}",
            f"chance of any wrong name: {self.alpha:g} (Holm); weights are compared, not recipes",
        ]
        lines += [
            f"  {i.after - i.before:+.3f}  {i.before:.3f} -> {i.after:.3f}  {i.source}" for i in worse[:WORST]
        ]
        return "\n".join(lines + ([f"  and {len(worse) - WORST} more"] if len(worse) > WORST else []))


def regress(
    before: os.PathLike | str,
    after: os.PathLike | str,
    pins: os.PathLike | str,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> Regression:
    """Loss of every pinned input before and after, and those that got worse. Some 10 ms an input on tiny().

    Args:
        before, after: run folders with checkpoints and their data sets at hand (for the tokenizers).
        alpha: chance that any input is called worse (and as much, that any is called better) by luck.
        seed: of the sign flips.

    Raises:
        CheckpointError: a run without a whole checkpoint.
        ConfigError: no pins, or an alpha outside 0 to 1.
        RecordError, DataError, IntegrityError: a folder, pin file or data set is not what it should be.
    """
    kept = read_pins(pins)
    if not kept or not 0 < alpha < 1:
        raise ConfigError(f"{len(kept)} pins and alpha {alpha:g}", expected="at least one pin, 0 < alpha < 1")
    (one, step_a), (two, step_b) = (_last(run) for run in (before, after))
    same = one.dataset.tokenizer_digest == two.dataset.tokenizer_digest
    readings = [paired(_losses(one, pin.text), _losses(two, pin.text)) for pin in kept]
    p_worse, p_better, testable = flips([b - a for a, b in readings], alpha, seed)
    verdicts = np.where(testable, "no difference shown", "not testable").astype(object)
    for verdict, p in (("worse", p_worse), ("better", p_better)):
        verdicts[np.flatnonzero(testable)[holm(p[testable], alpha)]] = verdict
    rows = []
    for pin, (a, b), verdict, p in zip(kept, readings, verdicts, p_worse.tolist(), strict=True):
        units = len(a) if same else len(pin.text.encode()) + 1  # and the end of the text
        rows.append(
            Input(pin.source, pin.sha256, units, float(a.sum() / units), float(b.sum() / units), p, verdict)
        )
    rows.sort(key=lambda row: (row.verdict != "worse", row.before - row.after))
    return Regression("token" if same else "byte", alpha, (step_a, step_b), tuple(rows))


def paired(a: Losses, b: Losses) -> tuple[np.ndarray, np.ndarray]:
    """Losses (m,) of both over the m stretches at whose ends both cut the text; their sums are kept."""
    common = np.intersect1d(a[0], b[0])
    return tuple(
        np.diff(np.cumsum(loss)[np.searchsorted(ends, common)], prepend=0.0) for ends, loss in (a, b)
    )


def flips(
    differences: list[np.ndarray], alpha: float, seed: int, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The test of every input; see the top of this file.

    Args:
        differences: after - before in nats, (units,) each.

    Returns:
        p that it is not worse, p that it is not better (1 where not testable), and which are testable: (n,).
    """
    sums = [np.add.reduceat(d, np.arange(0, len(d), block)) for d in differences]
    blocks = np.array([len(s) for s in sums])
    least = next(m for m in count(1) if 2.0**-m * (blocks >= m).sum() <= alpha)
    testable, rng = blocks >= least, np.random.default_rng(seed)
    above, below, done, draws = np.zeros(len(sums)), np.zeros(len(sums)), 0, 4 * testable.sum() / alpha
    while done < max(draws, DRAWS):
        signs = 2.0 * rng.integers(0, 2, (DRAWS, blocks.max()), dtype=np.int8) - 1.0
        for i in np.flatnonzero(testable):
            drawn, seen = signs[:, : blocks[i]] @ sums[i], sums[i].sum()
            rounding = 1e-9 * np.abs(sums[i]).sum()
            above[i] += (drawn >= seen - rounding).sum()
            below[i] += (drawn <= seen + rounding).sum()
        done += DRAWS
    worse, better = (np.where(testable, (1 + k) / (1 + done), 1.0) for k in (above, below))
    return worse, better, testable


def holm(p: np.ndarray, alpha: float) -> np.ndarray:
    """Which of the hypotheses (n,) fall, with at most `alpha` chance that a true one does. Any dependence."""
    order, fallen = np.argsort(p, kind="stable"), np.zeros(len(p), dtype=bool)
    fallen[order] = np.logical_and.accumulate(p[order] <= alpha / np.arange(len(p), 0, -1))
    return fallen


def _last(path: os.PathLike | str) -> tuple[Run, int]:
    """The run with the weights of its newest whole checkpoint; nothing in its folder is touched."""
    folder = RunFolder.open(path)
    cfg = config_of(folder)
    run, checkpoints = build(cfg, dataset=open_data(cfg)), Checkpoints(folder.checkpoints)
    check_data(folder, run)
    for step in reversed(checkpoints.steps()):
        if not problems(checkpoints.at(step)):
            weights = checkpoints.at(step) / "weights.pt"
            run.model.load_state_dict(torch.load(weights, map_location=run.device, weights_only=True))
            run.model.eval()
            return run, step
    raise CheckpointError(f"no whole checkpoint in `{path}`", remedy="train with save_every above 0")


@torch.no_grad()
def _losses(run: Run, text: str) -> Losses:
    """Byte position (n,) at which each target ends, ascending, and its loss (n,), nats.

    The text stands alone, between end tokens, in windows of the model's context. The end token's byte is the
    one after the text.
    """
    ids = run.dataset.encode(text)
    stream = torch.tensor([END_ID, *ids, END_ID], device=run.device)
    with run.precision.forward():
        losses = [
            run.model(x[None], y[None])[0].double().cpu()
            for x, y in zip(
                *(s.split(run.config.model.context) for s in (stream[:-1], stream[1:])), strict=True
            )
        ]
    ends = np.cumsum([*_sizes(run.dataset.tokenizer.text)[ids], 1])
    return ends, torch.cat(losses).numpy()


@cache
def _sizes(tokenizer: str) -> np.ndarray:
    """Bytes of each token (V,): in a byte-level vocabulary a character stands for a byte."""
    vocab = json.loads(tokenizer)["model"]["vocab"]
    return np.array([len(token) for token in sorted(vocab, key=vocab.get)])
