"""What changed between two versions of a data set, document by document.

    print(diff("data/v1", "data/v2").text)

A document is its source and the hash of its text, so the tokenizer plays no part and no shard is read. Those
equal in both are paired first; of the rest, an equal source is a changed document, an equal text a renamed
one. "Reordered" names as few as explain the new order: all but a longest increasing subsequence.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from llmkit.data.dataset import SPLITS, TokenDataset

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest

Pairs = list[tuple[int, int]]
KINDS = ("added", "removed", "changed", "renamed", "resplit", "reordered")
SHOWN = 10  # documents of a kind in `text`; the fields have all


@dataclass(frozen=True)
class Diff:
    """From `a` to `b`. Documents stand by source; `history` has tokenizer, preprocessing and parent."""

    a: str
    b: str
    history: tuple[str, ...]
    same: int  # documents with equal source and text
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]  # equal source, other text
    renamed: tuple[str, ...]  # equal text, "old -> new"
    resplit: tuple[str, ...]  # "source: train -> val", whether changed or not
    reordered: tuple[str, ...]  # equal, of one split, and out of order

    @property
    def text(self) -> str:
        lines = [f"{self.a[:12]} -> {self.b[:12]}: {self.same:,} documents are the same", *self.history]
        for kind in KINDS:
            names = getattr(self, kind)
            lines += [f"{kind}: {len(names):,}", *(f"  {name}" for name in names[:SHOWN])]
            lines += [f"  and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
        return "\n".join(lines)


def diff(a: os.PathLike | str, b: os.PathLike | str) -> Diff:
    """Compare two data-set folders. About 10 us and 300 bytes a document.

    Raises:
        DataError, IntegrityError: as opening them does.
    """
    one, two = (TokenDataset(path) for path in (a, b))
    (old, new), sources = ([*zip(d.sources, text_hashes(d), strict=True)] for d in (one, two)), one.sources
    same, gone, come = _pair(old, new, range(len(old)), range(len(new)), lambda key: key)
    changed, gone, come = _pair(old, new, gone, come, lambda key: key[0])
    renamed, gone, come = _pair(old, new, gone, come, lambda key: key[1])
    splits = {(i, j): (one.span(i)[0], two.span(j)[0]) for i, j in sorted([*same, *changed, *renamed])}
    stayed = [[pair for pair in sorted(same) if splits[pair] == (split, split)] for split in SPLITS]
    return Diff(
        a=one.digest,
        b=two.digest,
        history=_history(one.manifest, two.manifest),
        same=len(same),
        added=tuple(new[j][0] for j in come),
        removed=tuple(sources[i] for i in gone),
        changed=tuple(sources[i] for i, _ in changed),
        renamed=tuple(f"{sources[i]} -> {new[j][0]}" for i, j in renamed),
        resplit=tuple(f"{sources[i]}: {x} -> {y}" for (i, _), (x, y) in splits.items() if x != y),
        reordered=tuple(sources[i] for pairs in stayed for i in out_of_order(pairs)),
    )


def text_hashes(dataset: TokenDataset) -> list[bytes]:
    """SHA-256 of each document's text, 32 bytes, by id; no text is decoded."""
    content = (dataset.path / dataset.manifest.hashes.name).read_bytes()
    return [content[start : start + 32] for start in range(0, len(content), 32)]


def _pair(
    old: list, new: list, left: Iterable[int], right: Iterable[int], key: Callable[[Any], Any]
) -> tuple[Pairs, list[int], list[int]]:
    """Pair ids whose keys are equal, first with first; the pairs, and what is left over on both sides."""
    waiting, pairs, over = defaultdict(deque), [], []
    for i in left:
        waiting[key(old[i])].append(i)
    for j in right:
        if queue := waiting.get(key(new[j])):
            pairs.append((queue.popleft(), j))
        else:
            over.append(j)
    return pairs, sorted(i for queue in waiting.values() for i in queue), over


def out_of_order(pairs: Pairs) -> list[int]:
    """The fewest first members, ascending, without which the second members ascend.

    Pairs ascend by their first member. A longest increasing subsequence by patience sorting: `tops[k]` ends
    the best chain of k + 1 so far.
    """
    tops, ends, before = [], [], {}
    for i, j in pairs:
        k = bisect_left(tops, j)
        tops[k : k + 1], ends[k : k + 1] = [j], [i]
        before[i] = ends[k - 1] if k else None
    kept, at = set(), ends[-1] if ends else None
    while at is not None:
        kept.add(at)
        at = before[at]
    return [i for i, _ in pairs if i not in kept]


def _history(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """Parent, tokenizer and preprocessing, one sentence each where there is something to say."""
    parent = "neither names the other as its parent"
    if new.parent == old.digest:
        parent = "the second succeeds the first"
    elif old.parent == new.digest:
        parent = "the first succeeds the second"
    elif old.parent and old.parent == new.parent:
        parent = "both succeed " + old.parent[:12]
    words = [f"{m.tokenizer_digest[:12]} with {m.vocab_size:,} tokens" for m in (old, new)]
    lines = [parent] + ([f"tokenizer: {words[0]} -> {words[1]}"] if words[0] != words[1] else [])
    steps = [
        [f"{s.name} {s.version} {json.dumps(s.settings, sort_keys=True)}" for s in m.steps]
        for m in (old, new)
    ]
    for x, y in zip_longest(*steps, fillvalue="no step"):
        lines += [f"preprocessing: {x} -> {y}"] if x != y else []
    return tuple(lines)
