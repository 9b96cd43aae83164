"""The drift lab: plant a drift of some kind and size in one of three shards, and see what the test names.

    lab = drift_lab()                               # sliders in JupyterLab; print(lab) is its text twin
    lab.turn(kind="merges", share=0.001)            # what a slider does
    lab.again(19)                                   # 19 further trials: how often is it found?

A trial takes a tenth of a second, so the picture follows the hand. The trials that tell the power are asked
for by the browser, one at a time, while the hand rests: there is no thread, and nothing to stop.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmkit.data import open_dataset
from llmkit.data.compare import FEWEST_DOCUMENTS, Change
from llmkit.lab.drift_lab import KINDS, Reading, Trial, World, again, on_text

SHARES = (0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03)
SIZES = (10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 700_000, 1_000_000)  # tokens a shard
SHARDS, TRIALS, BARS = 3, 20, 8  # shards; trials that the browser asks for; bars that are drawn


def drift_lab(dataset: os.PathLike | str = "docstrings") -> DriftLab:
    """The lab on the documents of a data set: 0.3 % of three shards of 300,000 tokens, or the most it has.

    Raises:
        DataError, IntegrityError: no such data set, or a damaged one.
    """
    return DriftLab(on_text(open_dataset(dataset)))


class DriftLab(anywidget.AnyWidget):
    """Three knobs, and what the test makes of them. All numbers are in `shown`, as they are printed.

    Attributes:
        reading: the trials at the present setting; the first is the one that is drawn.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    choices = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, world: World):
        sizes = [size for size in SIZES if 1.05 * SHARDS * size < world.tokens]
        kinds = [(name, says) for name, says in KINDS.items() if world.victims.get(name, True)]
        super().__init__(choices={"kinds": kinds, "shares": SHARES, "sizes": sizes, "trials": TRIALS})
        self.world = world
        self.reading = Reading("white space", 0.003, max(size for size in sizes if size <= 300_000), seed=0)
        self.on_msg(lambda _, message, buffers: self.handle(message))
        self.turn()

    def turn(self, **knobs: Any) -> None:
        """Set `kind`, `share` or `tokens` (a shard), keep the others, and do one trial.

        Raises:
            ConfigError: an unknown kind, or more tokens than there are.
        """
        self.again(1, replace(self.reading, trials=(), **knobs))

    def again(self, times: int = 1, reading: Reading | None = None) -> None:
        """Further trials at this setting (or at another), with other documents in the shards."""
        self.reading = again(self.world, reading or self.reading, times)
        self.shown = screen(self.reading, self.world.touched(self.reading.kind))

    def handle(self, message: dict[str, Any]) -> None:
        """What the browser sent: `{"again": 1}`, or knobs such as `{"kind": "none"}`."""
        self.again(message["again"]) if "again" in message else self.turn(**message)

    def __str__(self) -> str:
        return as_text(self.shown)

    def __repr__(self) -> str:
        """Short, and the same at every setting: notebooks store it."""
        return f"<drift lab: {len(self.choices['kinds'])} kinds of drift>"


# -------------------------------------------------------------------------------------------------- in words


def screen(reading: Reading, touched: set[int]) -> dict[str, Any]:
    """Everything that is shown, as plain values; numbers as they are printed, but for the bars' lengths."""
    first = reading.trials[0]
    found = first.compared
    ranked = sorted((*found.subwords, *found.classes), key=lambda c: (c.p, -abs(c.z) / c.limit))
    return {
        "kind": reading.kind, "share": reading.share, "tokens": reading.tokens,
        "verdict": found.verdict,
        "headline": headline(first),
        "facts": facts(first),
        "bars": [bar(change, change.token in touched) for change in ranked[:BARS]],
        "trials": [tried.outcome for tried in reading.trials],
        "power": power_line(reading),
    }  # fmt: skip


def headline(tried: Trial) -> str:
    """The verdict, and beside it the truth."""
    found, truth = tried.compared, f"it is in {tried.planted_in}" if tried.reassigned else "none is there"
    if found.verdict == "not testable":
        fewest = min(found.untested.values())
        return f"not testable: {fewest} documents in a shard, at least {FEWEST_DOCUMENTS} are needed"
    right = "found" if tried.outcome == "named" else truth
    return f"drift in {found.shard}: {right}" if found.alarm else f"no drift seen: {truth}"


def facts(tried: Trial) -> list[tuple[str, str]]:
    """What was planted, by its three measures, and what the test had to go by."""
    found, shifts = tried.compared, abs(tried.shift) >= 5e-5
    planted = [
        ("planted: re-assigned tokens", f"{tried.reassigned:.2%}"),
        ("planted: total variation, before to after", f"{tried.variation:.2%}"),
        ("planted: largest class change", f"{tried.shift:+.2%} {tried.shifted}" if shifts else "0.00%"),
    ]
    seen = [
        ("seen: total variation from the others", f"{found.variation:.2%}"),
        ("the same between clean shards, on average", f"{found.variation_floor:.2%}"),
        (f"p of common tokens and classes, limit {found.alpha / 2:g}", f"{found.p_common:.4f}"),
        (f"p of rarer tokens, limit {found.alpha / 2:g}", f"{found.p_rare:.4f}"),
        ("documents, in all shards", f"{found.documents:,}"),
        ("a token that vanishes is seen from a share of", f"{found.vanishing:.3%}"),
    ]
    return planted + seen * (found.verdict != "not testable")


def bar(change: Change, planted: bool) -> dict[str, Any]:
    """One subword or class: |z| against the |z| that chance reaches in alpha / 2 of all dealings."""
    size, limit = abs(change.z), change.limit
    says = (
        f"z {change.z:+.1f} {'beyond' if size > limit else 'within'} chance, limit {limit:.1f}; "
        f"{change.told(change.here)} here, {change.told(change.there)} there"
    )
    length = {"z": size, "limit": limit, "beyond": size > limit}
    return {"name": change.name, "says": says, "planted": planted} | length


def power_line(reading: Reading) -> str:
    """How often there was an alarm, and how well so few trials tell it."""
    n, (low, high) = len(reading.trials), reading.interval
    named = sum(tried.outcome == "named" for tried in reading.trials)
    what, more = f"power: alarm in {reading.alarms}", f"; the right shard named in {named}"
    if reading.kind == "none":
        what, more = f"false alarms: {reading.alarms}", f"; promised: {reading.trials[0].compared.alpha:.0%}"
    return f"{what} of {n} trial{'s' * (n > 1)} (95% interval {low:.0%} to {high:.0%}){more}"


def as_text(shown: dict[str, Any]) -> str:
    """The same screen as lines of text."""
    lines = [f"{shown['kind']}, {shown['share']:.2%}, {shown['tokens']:,} tokens a shard", shown["headline"]]
    lines += [f"  {one['name']}: {one['says']}{'; planted' * one['planted']}" for one in shown["bars"]]
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in shown["facts"]), shown["power"]])
