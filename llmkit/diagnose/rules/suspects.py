"""Which document: in every bad sequence, and in no good one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmkit.diagnose.words import listing

MOST = 3  # documents named one by one; more are "one of"


def suspects(bad: Sequence[frozenset[int]], healthy: Counter[int]) -> list[list[int]]:
    """Who was in the bad sequences and not in the good ones.

    Each group explains some of the bad sequences; documents of one group cannot be told apart by the log. A
    document may touch a good sequence with a few of its tokens, so that a good sequence speaks for it but
    does not clear it.

    Args:
        bad: documents of each bad sequence.
        healthy: in how many good sequences each document was seen.

    >>> suspects([frozenset({7, 8}), frozenset({8, 9})], Counter())
    [[8]]
    >>> suspects([frozenset({7, 8})], Counter({7: 1}))
    [[8]]
    >>> suspects([frozenset({7, 8})], Counter())
    [[7, 8]]
    """
    left, groups = [row for row in bad if row], []
    while left:
        score = {d: (sum(d in row for row in left) - healthy[d], -healthy[d]) for row in left for d in row}
        best = max(score.values())
        group = sorted(d for d, s in score.items() if s == best)
        first = next(row for row in left if group[0] in row)
        group = [d for d in group if d in first]
        groups.append(group)
        left = [row for row in left if group[0] not in row]
    return groups


def names(groups: list[list[int]]) -> tuple[str, bool]:
    """The culprits in words, and whether each is one document."""
    if not groups:
        return "", False
    if all(len(group) == 1 for group in groups) and len(groups) <= MOST:
        ids = [str(group[0]) for group in groups]
        return (f"document {ids[0]}" if len(ids) == 1 else f"documents {listing(ids)}"), True
    every = sorted({document for group in groups for document in group})
    shown = listing([str(document) for document in every[:6]], "or")
    return f"one of documents {shown}{' ...' if every[6:] else ''}", False
