"""How often `llmkit data drift` cries wolf, and how often it finds 0.3 %: its statistical layer on shards with
a known drift, simulated and real.

    python benchmarks/drift_power.py [--trials 300] [--permutations 199] [--cache FILE] [--json]

Three shards a trial; the drift is planted in one. Each trial is one line in the cache file, so an interrupted
run goes on where it stopped. Clean and drifted trials of one row share the documents they were dealt. The
number of permutations moves the power, not the level: with 199, p = (1 + k) / 200 <= 0.005 needs k = 0. The
default is that of the verb. The real text (the embedded docstrings, 2.2M tokens,
dealt at random) ends before casing and clustered Unicode become detectable; those are simulated.

Rows without a goal show where sight ends: mass that moves between two common tokens, drift spread over all
tokens (each kind of token becoming another one), and foreign documents, which need the document layer (`llmkit.data.outliers`, a column of its own).
"""

from __future__ import annotations

import argparse
import json
import sys
from math import comb
from pathlib import Path

import numpy as np

from llmkit.data import open_dataset
from llmkit.data.outliers import exceedance, surprises
from llmkit.data.sketch import CLASSES, summary
from llmkit.lab.drift_lab import Shard, World, on_text, plant, verdict

SHARE, SHARDS, ALPHA = 0.003, 3, 0.01
#        world,       tokens a shard, planted kinds, goal for their power
ROWS = [
    ("simulated", 100_000, ("none", "special"), 0.95),
    ("real", 100_000, ("none", "special"), 0.95),
    ("simulated", 300_000, ("none", "white space", "merges"), 0.95),
    ("simulated", 300_000, ("among spaces",), None),
    ("real", 300_000, ("none", "white space", "merges"), 0.95),
    ("real", 700_000, ("none",), None),
    ("simulated", 1_200_000, ("none", "casing", "unicode"), 0.95),
    ("simulated", 1_200_000, ("diffuse", "foreign"), None),
]


def simulated(vocab: int = 2048) -> World:
    """Zipf-Mandelbrot(1.05, 2.7) types; bursty documents, log-normal with median 500 and mean 820 tokens.

    Token i of a document is a copy of one of the i before it with chance i / (250 + i), else a fresh draw: a
    Polya urn, so a document's counts are Dirichlet-multinomial with concentration 250. The last 40 types are
    foreign signs and foreign letters; each 20 occur in one document in twenty only, there as 6 % of the fresh
    draws. The capitals hold as many tokens that no drift touches. "white space" moves mass from a token of 3 %
    to one of 0.3 %, "among spaces" to one of 1 %, which is harder to see.
    """
    ranks = np.arange(1, vocab + 1)
    share = np.where(ranks <= vocab - 40, (ranks + 2.7) ** -1.05, 0)
    share /= share.sum()
    taken: set[int] = set()

    def near(wanted: float, k: int) -> list[int]:
        chosen = [int(t) for t in np.argsort(np.abs(share - wanted), kind="stable") if t not in taken][:k]
        taken.update(chosen)
        return chosen

    special, space, wide, often = near(0.003, 1), near(0.03, 1), near(0.003, 1), near(0.01, 1)
    merged = near(0.0006, 15)
    rare = near(0.003 / 22, 66)
    capitals, small, others = rare[::3], rare[1::3], rare[2::3]
    exotic = list(range(vocab - 40, vocab))
    lottery = np.random.default_rng(0).random((vocab, len(CLASSES)))
    chance = dict.fromkeys(CLASSES, 0.0) | {
        "word start": 0.5, "inside word": 0.3, "capital": 0.1, "digit": 0.05, "punctuation": 0.1
    }  # fmt: skip
    table = lottery < np.array([chance[name] for name in CLASSES])
    spaces = space + wide + often
    plain = special + spaces + rare + exotic
    table[plain] = False
    for name, members in (
        ("special", special), ("white space", spaces), ("capital", capitals + others),
        ("all capitals", capitals + others), ("word start", small), ("foreign sign", exotic[:20]),
        ("foreign letter", exotic[20:]),
    ):  # fmt: skip
        table[members, CLASSES.index(name)] = True
    victims = {
        "special": [(special[0], ())],
        "white space": [(space[0], (wide[0],))],
        "among spaces": [(space[0], (often[0],))],
        "merges": [(c, (a, b)) for c, a, b in zip(merged[:5], merged[5:10], merged[10:], strict=True)],
        "casing": [(a, (b,)) for a, b in zip(capitals, small, strict=True)],
        "unicode": [(t, (small[i % 22],)) for i, t in enumerate(exotic[:20])],
    }
    cumulated = np.cumsum(share)

    def shard(tokens: int, rng: np.random.Generator) -> Shard:
        lengths = np.maximum(16, rng.lognormal(np.log(500), 1.0, tokens // 824)).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        n = int(lengths.sum())
        place = np.arange(n) - np.repeat(starts, lengths)
        copies = rng.random(n) < place / (250 + place)
        source = np.where(
            copies, np.arange(n) - place + (rng.random(n) * place).astype(np.int64), np.arange(n)
        )
        while copies.any():  # follow copies of copies to the fresh draw
            further = source[source]
            copies = further != source
            source = further
        fresh = np.minimum(np.searchsorted(cumulated, rng.random(n)), vocab - 41)
        kind = np.repeat(rng.random(len(lengths)), lengths)
        hit = (kind < 0.1) & (rng.random(n) < 0.06)
        fresh[hit] = vocab - 40 + 20 * (kind[hit] >= 0.05) + rng.integers(20, size=int(hit.sum()))
        return fresh[source], starts

    def draw(tokens: int, shards: int, rng: np.random.Generator) -> list[Shard]:
        return [shard(tokens, rng) for _ in range(shards)]

    return World(draw, victims, table, np.full(vocab, 4), [f"token {i}" for i in range(vocab)])


def documents_alarm(parts: list[Shard], width: int) -> bool:
    """The document layer, at a tenth of alpha over all shards."""
    total = sum(np.bincount(tokens, minlength=width) for tokens, _ in parts)
    scored = [surprises(tokens, starts, total) for tokens, starts in parts]
    rest = [np.concatenate(scored[:i] + scored[i + 1 :]) for i in range(len(scored))]
    return min(exceedance(h, r)[1] for h, r in zip(scored, rest, strict=True)) <= ALPHA / 10 / len(parts)


def trials(world: World, name: str, tokens: int, kinds: tuple[str, ...], seed: int, permutations: int):
    """One dealing, once with each kind of drift: lines for the cache."""
    rng = np.random.default_rng([seed, tokens, len(name)])
    parts = world.draw(tokens, SHARDS, rng)
    ill = int(rng.integers(SHARDS))
    clean = [summary(*part, world.table, world.sizes) for part in parts]
    for kind in kinds:
        planted, reassigned = plant(world, kind, SHARE, parts[ill], rng)
        mixed = [*parts[:ill], planted, *parts[ill + 1 :]]
        blocks = [*clean[:ill], summary(*planted, world.table, world.sizes), *clean[ill + 1 :]]
        found = verdict(world, blocks, seed, permutations)
        touched = {t for token, instead in world.victims.get(kind, ()) for t in (token, *instead)}
        line = {
            "row": [name, tokens, kind], "seed": seed, "permutations": permutations,
            "p_rare": found.p_rare, "p_common": found.p_common, "alarm": found.alarm,
            "right_shard": found.shard == f"shard {ill}", "reassigned": reassigned,
            "right_subword": bool(found.subwords) and found.subwords[0].token in touched,
        }  # fmt: skip
        if kind in ("none", "foreign"):
            line["documents"] = documents_alarm(mixed, len(world.table))
        yield line


def interval(k: int, n: int) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval for a share k / n, by bisection."""

    def tail(p: float, low: int, high: int) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(low, high + 1))

    def solve(test) -> float:
        a, b = 0.0, 1.0
        for _ in range(40):
            a, b = ((a + b) / 2, b) if test((a + b) / 2) else (a, (a + b) / 2)
        return a

    low = solve(lambda p: tail(p, k, n) < 0.025) if k else 0.0
    high = solve(lambda p: tail(p, 0, k) > 0.025) if k < n else 1.0
    return low, high


def table(lines: list[dict], wanted: int) -> list[dict]:
    """A summary of each row: share of alarms with its interval, and whether the goal is met."""
    rows = []
    for name, tokens, kinds, goal in ROWS:
        for kind in kinds:
            mine = [x for x in lines if x["row"] == [name, tokens, kind]][:wanted]
            if not mine:
                continue
            n, k = len(mine), sum(x["alarm"] for x in mine)
            low, high = interval(k, n)
            needed = None if goal is None else (low <= ALPHA if kind == "none" else k / n >= goal)
            rows.append({
                "world": name, "tokens": tokens, "drift": kind, "trials": n, "alarms": k, "share": k / n,
                "low": low, "high": high, "goal": goal if kind != "none" else ALPHA, "met": needed,
                "by_rare": sum(x["p_rare"] <= ALPHA / 2 for x in mine) / n,
                "by_common": sum(x["p_common"] <= ALPHA / 2 for x in mine) / n,
                "by_documents": sum(x["documents"] for x in mine) / n if "documents" in mine[0] else None,
                "right_shard": sum(x["right_shard"] for x in mine) / max(1, k),
                "right_subword": sum(x["alarm"] and x["right_subword"] for x in mine) / max(1, k),
                "reassigned": sum(x["reassigned"] for x in mine) / n,
            })  # fmt: skip
    return rows


def show(rows: list[dict]) -> None:
    print("text       tokens/shard  drift        re-assigned  trials  alarms          95 % interval   goal"
          "       rare     common  documents  right shard, subword first")  # fmt: skip
    for r in rows:
        goal = (
            ""
            if r["met"] is None
            else f"{'<=' if r['drift'] == 'none' else '>='} {r['goal']:g} {'met' if r['met'] else 'MISSED'}"
        )
        documents = "" if r["by_documents"] is None else f"{r['by_documents']:.3f}"
        named = "" if r["drift"] == "none" else f"{r['right_shard']:.3f}  {r['right_subword']:.3f}"
        print(f"{r['world']:10} {r['tokens']:>12,}  {r['drift']:12} {r['reassigned']:>10.2%}  {r['trials']:>6}  "
              f"{r['alarms']:>4} = {r['share']:.3f}  {r['low']:.3f} to {r['high']:.3f}  {goal:14} "
              f"{r['by_rare']:.3f}    {r['by_common']:.3f}   {documents:9}  {named}")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--permutations", type=int, default=1999)
    parser.add_argument("--cache", type=Path, help="JSON lines, one a trial; read and added to.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    lines = []
    if asked.cache and asked.cache.exists():
        lines = [json.loads(x) for x in asked.cache.read_text().splitlines() if x.endswith("}")]
    lines = [x for x in lines if x["permutations"] == asked.permutations]
    done = {(*x["row"], x["seed"]) for x in lines}
    worlds = {"simulated": simulated(), "real": on_text(open_dataset("docstrings"))}
    out = asked.cache.open("a") if asked.cache else None
    for name, tokens, kinds, _ in ROWS:
        for seed in range(asked.trials):
            todo = tuple(kind for kind in kinds if (name, tokens, kind, seed) not in done)
            for line in trials(worlds[name], name, tokens, todo, seed, asked.permutations) if todo else ():
                lines.append(line)
                if out:
                    print(json.dumps(line), file=out, flush=True)
            share = (seed + 1) / asked.trials
            if sys.stderr.isatty() or (seed + 1) % 25 == 0 or share == 1:
                bar = "#" * round(30 * share)
                end = "" if sys.stderr.isatty() else "\n"
                print(
                    f"\r{name:9} {tokens:>9,} [{bar:30}] {seed + 1}/{asked.trials}",
                    end=end,
                    file=sys.stderr,
                    flush=True,
                )
    rows = table(lines, asked.trials)
    if asked.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    return int(any(r["met"] is False for r in rows))


if __name__ == "__main__":
    sys.exit(main())
