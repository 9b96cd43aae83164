"""Checks that cannot raise a false alarm: the shards hold what the tokenizer makes of the text, or not.

A round trip (decode, compare with the text) misses another tokenizer: its tokens spell the same text.
Canonicality (decode, encode again, compare the ids) misses another text. A lost end token is seen by neither.
So all three are done, on a random sample of each shard: of 1,533 documents at least one is faulty with 99 %
chance if 0.3 % of the shard's are (ln 0.01 / ln 0.997).

    [check for check in exact_checks(open_dataset("generated")) if check.wrong]     # []
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmkit.data.dataset import TokenDataset
from llmkit.data.sketch import GOLDEN, Sketch, shard_documents, token_bytes
from llmkit.data.tokenizer import END_ID

SAMPLE = 1533


@dataclass(frozen=True)
class Check:
    """One exact check of one shard. `wrong` of `seen` documents, tokens or strings failed."""

    name: str  # "golden strings", "ids in range", "end tokens", "canonical", "round trip" or "raw text"
    shard: str  # "" for the tokenizer
    seen: int
    wrong: int = 0
    example: str = ""
    reassigned: float = 0.0  # share of the sampled tokens that are not what or where they should be


def exact_checks(
    dataset: TokenDataset,
    sketch: Sketch | None = None,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    raw: Mapping[str, str] | None = None,
) -> list[Check]:
    """All checks of all shards. About a second per 1,533 documents of 300 tokens.

    Args:
        sketch: holds the ids that the golden strings had when the data were written.
        raw: texts by source, as they were before the pipeline; adds the check "raw text" for those sampled.
    """
    checks = [golden(dataset, sketch)] if sketch is not None else []
    hashes = np.fromfile(dataset.path / dataset.manifest.hashes.name, np.uint8).reshape(-1, 32)
    sizes = np.array([len(b) for b in token_bytes(dataset.tokenizer)])
    rng = np.random.default_rng(seed)
    for name, ids, starts, tokens in shard_documents(dataset):
        beyond, ends = int((tokens >= dataset.vocab_size).sum()), np.append(starts[1:], len(tokens)) - 1
        lost = int((tokens[ends] != END_ID).sum() + abs((tokens == END_ID).sum() - len(ids)))
        checks.append(Check("ids in range", name, len(tokens), beyond))
        checks.append(Check("end tokens", name, len(ids), lost))
        drawn = np.sort(rng.choice(len(ids), min(sample, len(ids)), replace=False))
        stored = [tokens[starts[d] : ends[d] + (tokens[ends[d]] != END_ID)].tolist() for d in drawn]
        texts = [dataset.decode(t) for t in stored]
        again = dataset.tokenizer.encode_batch(texts)
        label = [f"document {i} ({dataset.sources[i]})" for i in ids[drawn].tolist()]
        checks.append(compared("canonical", name, label, stored, again, sizes))
        spoilt = [
            where
            for where, text, i in zip(label, texts, ids[drawn], strict=True)
            if hashlib.sha256(text.encode()).digest() != hashes[i].tobytes()
        ]
        checks.append(Check("round trip", name, len(drawn), len(spoilt), "".join(spoilt[:1])))
        known = [k for k, i in enumerate(ids[drawn]) if raw is not None and dataset.sources[i] in raw]
        if known:
            fresh = dataset.tokenizer.encode_batch([raw[dataset.sources[ids[drawn[k]]]] for k in known])
            mine, where = [stored[k] for k in known], [label[k] for k in known]
            checks.append(compared("raw text", name, where, mine, fresh, sizes))
    return checks


def golden(dataset: TokenDataset, sketch: Sketch) -> Check:
    """Does the tokenizer, with the library installed today, cut as it did when the data were written?"""
    ids = json.loads(sketch.golden)
    changed = [t for t, was in zip(GOLDEN, ids, strict=True) if dataset.encode(t) != was]
    return Check("golden strings", "", len(GOLDEN), len(changed), repr(changed[0]) if changed else "")


def compared(
    name: str,
    shard: str,
    label: Sequence[str],
    stored: Sequence[Sequence[int]],
    right: Sequence[Sequence[int]],
    sizes: np.ndarray,
) -> Check:
    """Stored ids against those that should stand there, document by document."""
    bad = [i for i, (a, b) in enumerate(zip(stored, right, strict=True)) if list(a) != list(b)]
    moved = sum(len(stored[i]) - kept(stored[i], right[i], sizes) for i in bad)
    example = label[bad[0]] if bad else ""
    return Check(name, shard, len(stored), len(bad), example, moved / max(1, sum(map(len, stored))))


def kept(stored: Sequence[int], right: Sequence[int], sizes: np.ndarray) -> int:
    """How many stored tokens stand as many bytes from the start or from the end of the text as they should.

    One token of another length moves all that follow it; what it moves is not re-assigned. Between two such
    tokens all counts as re-assigned: the share is an upper bound.
    """
    mine, due = places(stored, sizes), places(right, sizes)
    known = [set(zip(side, right, strict=True)) for side in due]
    return sum(
        (front, token) in known[0] or (back, token) in known[1]
        for front, back, token in zip(*mine, stored, strict=True)
    )


def places(ids: Sequence[int], sizes: np.ndarray) -> tuple[list[int], list[int]]:
    """Bytes before each token, and bytes after it."""
    known = np.array([i if i < len(sizes) else 0 for i in ids], np.int64)
    ends = np.cumsum(sizes[known])
    return (ends - sizes[known]).tolist(), (ends[-1:].sum() - ends).tolist()
