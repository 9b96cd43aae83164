"""The drift lab: deal documents into shards, plant a drift of known kind and size in one, ask the test.

    world = on_text(open_dataset("docstrings"))
    tried = trial(world, "white space", share=0.003, tokens=300_000, seed=0)
    tried.compared.verdict, tried.planted_in, [c.name for c in tried.compared.subwords]
    power(world, "white space", share=0.003, tokens=300_000, trials=20)     # share of trials that find it
    reading = again(world, Reading("merges", share=0.003, tokens=300_000, seed=0), 20)
    reading.alarms, reading.interval                        # of 20 trials; llmkit.show.drift_lab shows it

Documents are dealt at random, so a clean trial is clean for certain. A simulated world, of which there is as
much as wanted, is in benchmarks/drift_power.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np

from llmkit.data import TokenDataset
from llmkit.data.compare import Comparison, compare
from llmkit.data.sketch import CLASSES, assemble, shard_documents, summary, token_bytes, token_classes
from llmkit.errors import ConfigError, closest

Shard = tuple[np.ndarray, np.ndarray]  # tokens (n,), first position (d,) of each document
KINDS = {
    "none": "nothing is planted: what alarms now is a false alarm",
    "special": "the end token is lost",
    "white space": "the commonest white-space token becomes the second",
    "merges": "five merges are missing, so that each of their tokens comes as its two parts",
    "casing": "words in capitals are written small",
    "diffuse": "any token becomes any other",
    "foreign": "whole documents with the tokens' meanings shuffled",
}


@dataclass(frozen=True)
class World:
    """Text to deal from. `victims` of a kind: (token, the tokens that stand in its place, none to two)."""

    draw: Callable[[int, int, np.random.Generator], list[Shard]]  # tokens a shard, shards, randomness
    victims: dict[str, list[tuple[int, tuple[int, ...]]]]
    table: np.ndarray  # (V, classes)
    sizes: np.ndarray  # (V,) bytes
    names: list[str]
    tokens: float = inf  # that there are to deal

    def touched(self, kind: str) -> set[int]:
        """Tokens that such a drift takes away or puts in; empty where it may be any."""
        return {t for token, instead in self.victims.get(kind, ()) for t in (token, *instead)}


@dataclass(frozen=True)
class Trial:
    """What the test said; and what was planted, by three measures, exact since both sides are known."""

    compared: Comparison
    planted_in: str
    reassigned: float  # share of that shard's tokens
    variation: float  # total variation between that shard before and after
    shift: float  # largest change of a class's share of the tokens between the two, signed
    shifted: str  # that class

    @property
    def outcome(self) -> str:
        """`named`: an alarm, for the shard that was touched. `alarm`: for another, or none was. `quiet`."""
        right = self.reassigned > 0 and self.compared.shard == self.planted_in
        return ("named" if right else "alarm") if self.compared.alarm else "quiet"


@dataclass(frozen=True)
class Reading:
    """One setting of the lab: its trials, of consecutive seeds."""

    kind: str
    share: float
    tokens: int
    seed: int
    trials: tuple[Trial, ...] = ()

    @property
    def alarms(self) -> int:
        return sum(t.compared.alarm for t in self.trials)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the power, from so few trials (Wilson's, `lab.Share`)."""
        from llmkit.lab.sweep import Share

        return Share(self.alarms, len(self.trials)).interval


def again(world: World, reading: Reading, times: int) -> Reading:
    """The reading with further trials, of the seeds that follow. Raises ConfigError as `trial` does."""
    done, what = len(reading.trials), {"share": reading.share, "tokens": reading.tokens}
    more = [trial(world, reading.kind, seed=reading.seed + done + i, **what) for i in range(times)]
    return replace(reading, trials=(*reading.trials, *more))


def trial(
    world: World,
    kind: str,
    *,
    share: float,
    tokens: int,
    seed: int,
    shards: int = 3,
    permutations: int = 1999,
) -> Trial:
    """Deal `shards` shards of about `tokens` tokens, plant a drift in one of them, compare. About 0.1 s.

    Raises:
        ConfigError: a kind that this world has no tokens for, or more tokens than it holds.
    """
    rng = np.random.default_rng([seed, tokens])
    parts = world.draw(tokens, shards, rng)
    ill = int(rng.integers(shards))
    before, (parts[ill], reassigned) = parts[ill], plant(world, kind, share, parts[ill], rng)
    blocks = [summary(*part, world.table, world.sizes) for part in parts]
    shares = [np.bincount(t, minlength=len(world.table)) / max(1, len(t)) for t in (before[0], parts[ill][0])]
    shift = (shares[1] - shares[0]) @ world.table
    most, variation = int(np.abs(shift).argmax()), float(np.abs(shares[1] - shares[0]).sum() / 2)
    truth = (f"shard {ill}", reassigned, variation, float(shift[most]), CLASSES[most])
    return Trial(verdict(world, blocks, seed, permutations), *truth)


def verdict(world: World, blocks: list[dict], seed: int, permutations: int) -> Comparison:
    """The comparison of shards given as `summary` gives them."""
    sketch = assemble({f"shard {i}": part for i, part in enumerate(blocks)})
    return compare(sketch, names=world.names, seed=seed, permutations=permutations)


def power(world: World, kind: str, *, share: float, tokens: int, trials: int = 20, seed: int = 0) -> float:
    """Share of trials with an alarm; of kind "none" or share 0, the false-alarm rate."""
    return again(world, Reading(kind, share, tokens, seed), trials).alarms / trials


def plant(
    world: World, kind: str, share: float, shard: Shard, rng: np.random.Generator
) -> tuple[Shard, float]:
    """The shard with `share` of its tokens re-assigned, or all victims if they are fewer; and that share.

    "unicode" and "foreign" strike whole documents, the others token by token.
    """
    tokens, starts = shard
    width, hit = len(world.table), np.zeros(len(tokens), bool)
    if kind not in (known := {"none", "diffuse", "foreign", *world.victims}):
        raise ConfigError(f"no drift `{kind}` here", remedy=closest(kind, known))
    into = np.full((width, 2), -1)
    for token, instead in world.victims.get(kind, ()):
        hit |= tokens == token
        into[token, : len(instead)] = instead
    pairs = np.stack([tokens.astype(np.int64), np.full(len(tokens), -1)], axis=1)
    if kind in ("diffuse", "foreign"):
        hit[:] = True
        into[:, 0] = rng.permutation(width)
    lottery = rng.random(len(tokens))
    if kind in ("unicode", "foreign"):
        lottery = np.repeat(rng.random(len(starts)), np.diff(starts, append=len(tokens)))
    hit &= lottery < share * len(tokens) / max(1, hit.sum())
    pairs[hit] = into[rng.integers(width, size=hit.sum()) if kind == "diffuse" else tokens[hit]]
    ends = np.concatenate([[0], np.cumsum((pairs >= 0).sum(1))])
    return (pairs[pairs >= 0], ends[starts]), float(hit.mean())


def on_text(dataset: TokenDataset) -> World:
    """The documents of a data set, all splits, dealt anew for each trial."""
    parts = [(tokens, starts) for _, _, starts, tokens in shard_documents(dataset)]
    pool = np.concatenate([tokens for tokens, _ in parts])
    lengths = np.concatenate([np.diff(starts, append=len(tokens)) for tokens, starts in parts])
    starts = np.cumsum(lengths) - lengths

    def draw(tokens: int, shards: int, rng: np.random.Generator) -> list[Shard]:
        order = rng.permutation(len(starts))
        cuts = np.searchsorted(np.cumsum(lengths[order]), tokens * np.arange(shards + 1))
        if cuts[-1] >= len(order):
            raise ConfigError(f"{shards} x {tokens:,} tokens", expected=f"less than {len(pool):,} in all")
        return [gather(order[a:b]) for a, b in pairwise(cuts)]

    def gather(documents: np.ndarray) -> Shard:
        size = lengths[documents]
        first = np.cumsum(size) - size
        return pool[np.repeat(starts[documents] - first, size) + np.arange(size.sum())], first

    table, sizes = token_classes(dataset.tokenizer)
    counts = np.bincount(pool, minlength=len(table))
    victims = victims_of(json.loads(dataset.tokenizer.text)["model"], counts / len(pool), table)
    names = [repr(b)[1:] for b in token_bytes(dataset.tokenizer)]
    return World(draw, victims, table, sizes, names, len(pool))


def victims_of(model: dict, share: np.ndarray, table: np.ndarray) -> dict[str, list]:
    """Of each kind, tokens of this vocabulary that are about 0.3 % of the text, or all there are."""
    vocab = model["vocab"]
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    merged = {vocab["".join(pair)]: tuple(vocab[part] for part in pair) for pair in merges}
    spaces = np.argsort(np.where(table[:, CLASSES.index("white space")], -share, 0), kind="stable")
    capitals = table[:, CLASSES.index("all capitals")]
    small = [(i, (vocab[t.lower()],)) for t, i in vocab.items() if capitals[i] and t.lower() in vocab]
    return {
        "special": [(0, ())],
        "white space": [(int(spaces[0]), (int(spaces[1]),))],
        "merges": [(t, merged[t]) for t in sorted(merged, key=lambda t: abs(share[t] - 0.0006))[:5]],
        "casing": small,
    }
