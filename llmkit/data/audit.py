"""Did these runs train on the same bytes, in the same order?

    print(audit("runs/a", "runs/b", "runs/c").text)

Every step's record holds a digest of what it was really served (llmkit.data.served), so equal digests in
every step *are* the answer, whatever the runs were told to read. Where two digests differ, run.json and the
manifests say why: another data set (which shard), seed, batch, context or skip list; and if all of these are
equal, other bytes came out of the same data set. A run without the records gets "not provable", never "same".

The runs are compared with the largest group of equal ones among them, so of twelve runs the odd one is named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data.checking import examine
from llmkit.data.dataset import TokenDataset
from llmkit.data.loader import Loader, Skip
from llmkit.data.served import row_sums, served_digest
from llmkit.errors import ConfigError, DataError
from llmkit.folder import RunFolder

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest

ORDER = ("split", "seed", "batch", "context")
SHOWN = 6  # names in a sentence; the fields have all


@dataclass(frozen=True)
class RunAudit:
    """One run against the baseline."""

    run: str
    verdict: str  # "same", "different" or "not provable"
    says: str
    step: int | None = None  # the first that was served something else
    why: tuple[str, ...] = ()  # data set, tokenizer, split, seed, batch, context, skip list, windows, bytes
    shards: tuple[str, ...] = ()  # those whose hash differs; else those that this step's windows lie in
    documents: tuple[int, ...] = ()  # of this step's targets (of rank 0's rows)


@dataclass(frozen=True)
class Audit:
    """The answer for all runs: "different" if one is, else "not provable" if one is not, else "same"."""

    verdict: str
    steps: int  # that every run has a digest of
    baseline: str
    runs: tuple[RunAudit, ...]

    @property
    def text(self) -> str:
        equal = sum(run.verdict == "same" for run in self.runs)
        head = f"{self.verdict}: {equal} of {len(self.runs)} runs are as `{self.baseline}`"
        lines = [f"{run.run}: {run.verdict}: {run.says}" for run in self.runs]
        return "\n".join([f"{head}; {self.steps:,} steps that all have", *lines])


@dataclass(frozen=True)
class _Ledger:
    """What one run folder says."""

    run: str
    data: dict[str, Any]
    served: list[str]
    skip: Skip
    gap: str  # why the records end before the run does; "" if they do not

    def manifest(self) -> Manifest | None:
        """Of the data set that it trained on, if that is still where it was."""
        from llmkit.data.manifest import read_manifest

        try:
            manifest = read_manifest(Path(self.data["path"]))
        except (DataError, KeyError):
            return None
        return manifest if manifest.digest == self.data.get("digest") else None


def audit(*runs: os.PathLike | str) -> Audit:
    """Compare what runs were served, step by step, and say where and why one leaves the others.

    Time and memory grow with steps x runs: about 60 us a step. Only where equally told runs were served other
    bytes is a data set read, and then hashed whole.

    Raises:
        ConfigError: fewer than two runs.
        RecordError: not a run folder, or one whose log cannot be read.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run to compare", expected="at least two")
    ledgers = [_ledger(run) for run in runs]
    steps = min(len(ledger.served) for ledger in ledgers)
    keys = [(not one.gap, *_identity(one), *one.served[:steps]) for one in ledgers]
    counts = Counter(keys)
    best = max(range(len(keys)), key=lambda i: (keys[i][0], counts[keys[i]], -i))
    found = tuple(_compare(ledgers[best], one) for one in ledgers)
    verdicts = {run.verdict for run in found}
    verdict = next(v for v in ("different", "not provable", "same") if v in verdicts)
    return Audit(verdict, steps, str(runs[best]), found)


def _identity(ledger: _Ledger) -> tuple[str, str]:
    return ledger.data.get("digest", ""), ledger.data.get("tokenizer_digest", "")


def _ledger(run: os.PathLike | str) -> _Ledger:
    folder, served, gap = RunFolder.open(run), [], ""
    data = folder.facts.get("data") or {}
    for record in folder.steps():
        if record.step != len(served) or not record.served:
            gap = f"step {len(served)} has no digest of what was served"
            break
        served.append(record.served)
    if missing := [key for key in ("digest", "tokenizer_digest") if not data.get(key)]:
        gap = f"run.json has no data {missing[0]}"
    skip = Skip.from_json(data.get("skip") or {"batches": (), "documents": ()})
    rescued = [batch for event in folder.events() for batch in event.data.get("skipped_batches", ())]
    skip = Skip(skip.batches.union(rescued), skip.documents)
    return _Ledger(str(run), data, served, skip, gap or ("" if served else "no step is recorded"))


def _compare(base: _Ledger, other: _Ledger) -> RunAudit:
    """One run against the baseline, which may be itself."""
    both = zip(base.served, other.served, strict=False)
    step = next((number for number, (a, b) in enumerate(both) if a != b), None)
    alone = _identity(base) != _identity(other) and all((*_identity(base), *_identity(other)))
    if step is None and not alone:
        if gap := base.gap or other.gap:
            return RunAudit(other.run, "not provable", gap + ("" if other.gap else f" in `{base.run}`"))
        says, rest = f"the same bytes in the same order, {len(other.served):,} steps", len(base.served)
        if len(other.served) != rest:
            says += f", of which {min(rest, len(other.served)):,} can be compared"
        return RunAudit(other.run, "same", says)
    reasons, shards = _reasons(base, other)
    where = f"from step {step}" if step is not None else "not in the steps that both have"
    touched, documents = _place(other, step) if step is not None else ((), ())
    if touched:
        where += f", whose windows lie in {_few(touched)} and documents {_few(documents)}"
    if not reasons and not all(one.data.get("order") for one in (base, other)):
        reasons = {"unknown": "run.json does not say in which order (`data.order`)"}
    elif not reasons:
        reasons, shards = _same_orders(base, other, step)
    says = "; ".join([where, *reasons.values()])
    return RunAudit(other.run, "different", says, step, tuple(reasons), shards or touched, documents)


def _reasons(base: _Ledger, other: _Ledger) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the two runs were told that differs, and the shards that do."""
    found, shards = {}, ()
    (set_a, words_a), (set_b, words_b) = _identity(base), _identity(other)
    if set_a and set_b and set_a != set_b:
        manifests = [one.manifest() for one in (base, other)]
        says = "whose manifests are not where the runs read them, so that no shard can be named"
        if all(manifests):
            hashes = [{s.name: s.sha256 for s in m.shards} for m in manifests]
            names = sorted(hashes[0].keys() | hashes[1].keys())
            shards = tuple(name for name in names if hashes[0].get(name) != hashes[1].get(name))
            says = f"whose hashes differ in {_few(shards)}" if shards else "with equal shards"
        found["data set"] = f"other data set, {set_b[:12]} and not {set_a[:12]}, {says}"
    if words_a and words_b and words_a != words_b:
        found["tokenizer"] = f"other tokenizer, {words_b[:12]} and not {words_a[:12]}"
    orders = [one.data.get("order") or {} for one in (base, other)]
    for key in ORDER if all(orders) else ():
        if orders[0].get(key) != orders[1].get(key):
            found[key] = f"other {key}, {orders[1].get(key)} and not {orders[0].get(key)}"
    for name in ("batches", "documents"):
        if more := getattr(base.skip, name) ^ getattr(other.skip, name):
            says = f"other skip list: {name} {_few(sorted(more))} skipped by one of the two"
            found["skip list"] = "; ".join(filter(None, (found.get("skip list"), says)))
    return found, shards


def _same_orders(base: _Ledger, other: _Ledger, step: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Equal orders, unequal bytes: which of the two was served what the data set holds, and is that whole?"""
    windows = [RunFolder.open(one.run).steps()[step].samples for one in (base, other)]
    if windows[0] != windows[1]:
        says = f"told the same, and served windows {_few(windows[1])} instead of {_few(windows[0])}"
        return {"windows": says}, ()
    says, shards, look = ["told the same, and served the same windows with other bytes"], [], cache(examine)
    for one in (base, other):
        if one.manifest() is None:
            says.append(f"the data set of `{one.run}` is no longer at `{one.data.get('path')}`")
            continue
        path, damaged = one.data["path"], look(one.data["path"])
        says += [damage.says for damage in damaged[:SHOWN]]
        shards += [Path(damage.file).name for damage in damaged]
        with suppress(DataError):  # a file is gone or cut: there is nothing to serve from
            loader = Loader(TokenDataset(path, check=False), **one.data["order"], skip=one.skip)
            right = served_digest(*row_sums(loader.batch(step), 0)) == one.served[step]
            says.append(f"`{one.run}` was {'' if right else 'not '}served what is in `{path}` now")
    return {"bytes": "; ".join(dict.fromkeys(says))}, tuple(dict.fromkeys(shards))


def _place(ledger: _Ledger, step: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Shards and documents that a step's windows lie in; no shards where the manifest is gone."""
    record, order, manifest = (
        RunFolder.open(ledger.run).steps()[step],
        ledger.data.get("order"),
        ledger.manifest(),
    )
    documents = tuple(sorted({document for row in record.documents for document in row}))
    if not order or manifest is None:
        return (), documents
    names = [shard.name for shard in manifest.shards if shard.split == order["split"]]
    ends = [(s * order["context"], (s + 1) * order["context"]) for s in record.samples]
    size = manifest.shard_tokens
    touched = {number for a, b in ends for number in range(a // size, b // size + 1)}
    return tuple(names[number] for number in sorted(touched)), documents


def _few(names: Iterable[object]) -> str:
    names = list(names)
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
