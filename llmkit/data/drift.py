"""Drift, in three layers: exact checks, a permutation test over shards, and documents that do not belong.

"0.3 %" of drift has three meanings, and the report gives all three: the share of *re-assigned* tokens (exact,
from encoding a sample again), the *total variation* between a shard and the others (never held against a
limit: clean shards differ by more), and the change of a *class share*, such as capitals, with its interval.

    report = drift(open_dataset("generated"))
    print(as_text(report))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmkit.data.compare import BASELINE, FEWEST_DOCUMENTS, Comparison, compare
from llmkit.data.dataset import TokenDataset
from llmkit.data.exact import SAMPLE, Check, exact_checks
from llmkit.data.outliers import exceedance, surprises
from llmkit.data.sketch import Sketch, load_sketch, shard_documents, sketch_of, token_bytes

OUTLIERS_ALPHA = 0.1  # of alpha, over all shards: the document layer's own share of false alarms


@dataclass(frozen=True)
class Outliers:
    """Documents of one shard above the others' 99.9 % quantile of surprise."""

    shard: str
    documents: tuple[int, ...]  # ids, most surprising first
    p: float  # chance of so many, times the number of shards


@dataclass(frozen=True)
class Report:
    verdict: str  # "drift", "no drift seen" or "not testable" (then the exact checks alone were made)
    exact: tuple[Check, ...]
    compared: Comparison | None  # None: the ids of the two sets mean different tokens
    outliers: tuple[Outliers, ...]
    carriers: tuple[int, ...]  # documents of the shard in question that carry most of the difference
    baseline: str

    @property
    def reassigned(self) -> float:
        """Largest share of re-assigned tokens in the sample of a shard."""
        return max((check.reassigned for check in self.exact), default=0.0)


def stored_sketch(dataset: TokenDataset, *, by_source: bool = False) -> Sketch:
    """The sketch in the data set's folder; made from its shards if there is none, or by source."""
    entry = dataset.manifest.sketch
    if entry is None or by_source:
        return sketch_of(dataset, by_source=by_source)
    return load_sketch((dataset.path / entry.name).read_bytes())


def drift(
    dataset: TokenDataset,
    baseline: TokenDataset | None = None,
    *,
    by_source: bool = False,
    seed: int = 0,
    permutations: int = 1999,
    alpha: float = 0.01,
    sample: int = SAMPLE,
    raw: Mapping[str, str] | None = None,
) -> Report:
    """All three layers. A clean set of exchangeable documents alarms in at most 1.1 alpha of cases.

    Shards in source order are *not* exchangeable: they differ without any fault. Shuffle documents before
    sharding, compare within source groups (`by_source`), or compare with a frozen baseline.

    Args:
        raw: texts by source, as they were before the pipeline; see `exact_checks`.

    Raises:
        ConfigError: too few permutations for alpha.
    """
    stored = None if dataset.manifest.sketch is None else stored_sketch(dataset)
    checks = exact_checks(dataset, stored, sample=sample, seed=seed, raw=raw)
    other = baseline is not None and baseline.tokenizer_digest != dataset.tokenizer_digest
    if baseline is not None:
        checks.insert(0, Check("tokenizer", "", 1, int(other), "not the baseline's" if other else ""))
    compared, outliers, carriers = None, (), ()
    if not other and not any(check.wrong for check in checks if check.name == "ids in range"):
        sketches = [stored_sketch(d, by_source=by_source) for d in (dataset, baseline) if d is not None]
        names = [repr(b)[1:] for b in token_bytes(dataset.tokenizer)]
        compared = compare(*sketches, names=names, seed=seed, permutations=permutations, alpha=alpha)
        outliers = documents(dataset, baseline, compared.shards, sketches)
        carriers = carrying(dataset, compared) if compared.alarm else ()
    ill = any(check.wrong for check in checks) or (compared is not None and compared.alarm)
    ill = ill or any(found.p <= OUTLIERS_ALPHA * alpha for found in outliers)
    verdict = "drift" if ill else compared.verdict
    return Report(verdict, tuple(checks), compared, outliers, carriers, baseline.name if baseline else "")


def documents(
    dataset: TokenDataset, baseline: TokenDataset | None, shards: tuple[str, ...], sketches: list[Sketch]
) -> tuple[Outliers, ...]:
    """The document layer for the shards that were tested."""
    total = sum(sketch.totals.sum(0) for sketch in sketches)
    scored = {
        (name, d is baseline): (ids, surprises(tokens, starts, total))
        for d in (dataset, baseline)
        if d is not None
        for name, ids, starts, tokens in shard_documents(d)
    }
    found = []
    for name in shards:
        ids, here = scored[name, False]
        there = [s for key, (_, s) in scored.items() if (key[1] if baseline else key[0] != name)]
        high, p = exceedance(here, np.concatenate(there))
        ranked = high[np.argsort(-here[high])]
        found.append(Outliers(name, tuple(ids[ranked].tolist()), min(1.0, p * len(shards))))
    return tuple(found)


def carrying(dataset: TokenDataset, compared: Comparison, most: int = 5) -> tuple[int, ...]:
    """Documents of the shard that stands out, by how far their subwords lie towards its side."""
    gain, due = np.zeros(dataset.vocab_size), 0.0
    for change in compared.subwords:
        gain[change.token] = np.sign(change.z)
        due += np.sign(change.z) * change.there
    (found,) = (part for part in shard_documents(dataset) if part[0] == compared.shard)
    _, ids, starts, tokens = found
    excess = np.add.reduceat(gain[tokens], starts) - due * np.diff(starts, append=len(tokens))
    return tuple(ids[np.argsort(-excess, kind="stable")[:most]].tolist())


def as_text(report: Report) -> str:
    """The report for people."""
    lines = [f"verdict: {report.verdict}", "", "exact checks (no false alarms)"]
    for name in dict.fromkeys(check.name for check in report.exact):
        mine = [check for check in report.exact if check.name == name]
        lines.append(f"  {name}: {sum(c.seen for c in mine):,} seen, {sum(c.wrong for c in mine):,} wrong")
        lines += [
            f"    {c.shard or 'tokenizer'}: {c.wrong:,} of {c.seen:,}; {c.example}" for c in mine if c.wrong
        ]
    found = report.compared
    if found is None:
        return "\n".join([*lines, "", "shards: not compared, their ids are not all known to one tokenizer"])
    lines += ["", f"shards, each against {BASELINE if report.baseline else 'the others'}"]
    for name, n in found.untested.items():
        lines.append(f"  not testable: {name}, {n} documents, at least {FEWEST_DOCUMENTS} are needed")
    if found.verdict == "not testable":
        return "\n".join([*lines, "  not testable: fewer than two groups of documents to compare"])
    lines += verdict_lines(report, found)
    return "\n".join([*lines, *meaning_lines(report, found)])


def verdict_lines(report: Report, found: Comparison) -> list[str]:
    lines = [
        f"  {found.verdict}, limit p {found.alpha / 2:g} each: {found.p_common:.4f} for features and common "
        f"tokens, {found.p_rare:.4f} for rarer ones ({found.documents:,} documents, {found.tokens:,} tokens)",
        f"  {'carried by' if found.alarm else 'nearest to it'}, in {found.shard}:",
    ]
    for c in (*found.classes[:5], *found.subwords[:8]):
        lines.append(
            f"    {c.name}: {c.told(c.here)} here, {c.told(c.there)} there, "
            f"change {c.told(c.low, '+')} to {c.told(c.high, '+')}, z {c.z:+.1f}, p {c.p:.4f}"
        )
    if report.carriers:
        lines.append("    most in documents " + ", ".join(map(str, report.carriers)))
    if found.alarm and not any(check.wrong for check in report.exact):
        lines.append(
            "  the exact checks are clean, so one pipeline wrote all of it: does the text differ, because "
            "shards are in source order? Try --source-strata, or --baseline"
        )
    for ill in report.outliers:
        some = f" ({', '.join(map(str, ill.documents[:5]))})" if ill.documents else ""
        lines.append(f"  {ill.shard}: surprising documents: {len(ill.documents)}{some}, p {ill.p:.4f}")
    return lines


def meaning_lines(report: Report, found: Comparison) -> list[str]:
    """What 0.3 % means here, what could be seen, and what not."""
    change = max((abs(c.here - c.there) for c in found.classes if c.name.endswith(" tokens")), default=0.0)
    shown = [f"{name} {v:.2%}" for name, v in found.detectable.items() if name.endswith("tokens") and v > 0]
    return [
        "",
        "three meanings of 0.3 %",
        f"  re-assigned tokens in the samples: {report.reassigned:.2%}",
        f"  total variation of {found.shard}: {found.variation:.2%}, if clean {found.variation_floor:.2%}",
        f"  largest change of a class share: {change:.2%}",
        "",
        "smallest drift that this much data shows with 95 % chance, in its smallest shard",
        f"  a token vanishes that had a share of {found.vanishing:.3%}",
        f"  a class changes its share by: {', '.join(shown)}",
        f"  blind: 0.3 % spread over all tokens, below {found.diffuse_tokens:.0e} tokens a shard",
        "  blind: order within documents; foreign documents fewer than chance gives",
    ]
