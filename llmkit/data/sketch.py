"""A shard in 64 histograms: all that the drift test needs, so that it never reads the tokens again.

The documents of a shard are ordered by a hash of their tokens and dealt into 64 *blocks* of whole documents.
A block keeps how often each token occurs, how many of its tokens are white space, capitals, digits and so on,
and how many of its documents hold any such token. Whole documents, because words come in bursts: the tokens
of one document are not independent, and a test that pretends so raises an alarm on every clean shard.

For the same reason the hundredth token of a document tells less than the first. A document of N tokens enters
with weight 256 / (256 + N), so it never counts for more than 256 tokens; where words are as bursty as in the
docstrings that is near the weight of least variance, and a tenth to a third more z for the same drift.

    sketch = sketch_of(open_dataset("generated"))
    load_sketch(sketch.to_bytes()) == sketch        # the bytes are the same on every machine

About 0.8 MB a shard of a million tokens and 4,096 token types: only counts above 0 are kept.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from llmkit.data.order import GOLDEN as ODD
from llmkit.data.order import mix
from llmkit.data.tokenizer import END_ID, Tokenizer
from llmkit.errors import DataError, IntegrityError

if TYPE_CHECKING:
    from llmkit.data.dataset import TokenDataset

BLOCKS = 64
MOST = 256  # tokens that a document counts for at most
UNIT = 256  # steps in which weighted counts are kept
LETTER = r"[^\W\d_]"
PATTERNS = {  # a token may be in several classes; the end token is in "special" alone
    "special": "(?!)",
    "white space": r"^\s+$",
    "newline": r"\n",
    "word start": f"^ {LETTER}",
    "inside word": f"^{LETTER}",
    "capital": "[A-Z]",
    "all capitals": "^[^a-z]*[A-Z][^a-z]*[A-Z][^a-z]*$",
    "digit": r"\d",
    "punctuation": r"^\s*([^\w\s]|_)+\s*$",
    "foreign letter": r"[^\W\d_\x00-\x7f]",
    "foreign sign": r"[^\w\x00-\x7f\ufffd]",  # curly quotes, dashes, symbols, no-break spaces
    "torn": "\ufffd",  # bytes that are no whole character
}
CLASSES = tuple(PATTERNS)
GOLDEN = (  # what a normaliser, another merge list or another library version would cut otherwise
    "The quick brown fox, 1,234.5 times; it's HIS 3rd.",
    "na\u00efve nai\u0308ve \u4eac\u90fd \U0001f469\u200d\U0001f52c",
    "a\tb\r\nc\n\n\n  d\u00a0e   ",
    "<|end|> is text here",
    "xxxxxxxxxxxxxxxx================",
)


@dataclass(frozen=True, eq=False)
class Sketch:
    """The n blocks of all shards of a data set, in shard order, with m triples (block, token, count)."""

    shards: np.ndarray  # (s,) names
    strata: np.ndarray  # source groups; one, "", unless the documents were told apart by source
    tokenizer: str  # digest of the tokenizer
    golden: str  # JSON: the ids of each of GOLDEN when the data were written
    totals: np.ndarray  # (s, V) how often each token occurs, unweighted
    shard: np.ndarray  # (n,) index into shards
    stratum: np.ndarray  # (n,) index into strata
    documents: np.ndarray  # (n,) documents in the block
    tokens: np.ndarray  # (n,) its tokens, unweighted
    nbytes: np.ndarray  # (n,) bytes of text, weighted, in steps of 1 / UNIT
    classes: np.ndarray  # (n, classes) tokens in each class, likewise
    holding: np.ndarray  # (n, classes) documents with any such token, unweighted
    block: np.ndarray  # (m,) of each triple, ascending
    token: np.ndarray  # (m,)
    count: np.ndarray  # (m,) weighted, in steps of 1 / UNIT

    def to_bytes(self) -> bytes:
        """The sketch as an uncompressed .npz file, the same bytes for the same sketch."""
        file = io.BytesIO()
        np.savez(file, **{f.name: _least(np.asarray(getattr(self, f.name))) for f in fields(self)})
        return file.getvalue()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self.to_bytes() == other.to_bytes()


def _least(values: np.ndarray) -> np.ndarray:
    """Numbers in the smallest little-endian type that holds them."""
    if values.dtype.kind == "U":
        return values
    kinds = ("<u1", "<u2", "<u4", "<u8")
    return values.astype(next(t for t in kinds if values.max(initial=0) <= np.iinfo(t).max))


def load_sketch(content: bytes) -> Sketch:
    """The sketch of `Sketch.to_bytes`.

    Raises:
        IntegrityError: bytes that are no sketch.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {f.name: file[f.name] for f in fields(Sketch)}
    except Exception as error:  # a damaged archive fails in any of a dozen ways
        raise IntegrityError(
            "the sketch beside the shards cannot be read", remedy="build the data set again"
        ) from error
    wide = {k: a if a.dtype.kind == "U" else a.astype(np.int64) for k, a in found.items()}
    return Sketch(**wide | {k: wide[k].item() for k in ("tokenizer", "golden")})


def sketch_of(dataset: TokenDataset, *, by_source: bool = False) -> Sketch:
    """Read every shard once; a document belongs to the shard in which it starts.

    Args:
        by_source: no block mixes source groups, so that the test can compare like with like.

    Raises:
        DataError: a shard holds ids beyond the vocabulary.
    """
    table, sizes = token_classes(dataset.tokenizer)
    names = source_groups(dataset.sources) if by_source else np.zeros(dataset.n_documents, "U1")
    strata, codes = np.unique(names, return_inverse=True)
    parts = {}
    for name, ids, starts, tokens in shard_documents(dataset):
        if tokens.max() >= len(table):
            raise DataError(
                f"shard `{name}` holds token {tokens.max():,}, the vocabulary ends at {len(table) - 1:,}",
                remedy="build the data set again",
            )
        parts[name] = summary(tokens, starts, table, sizes, codes[ids])
    return assemble(parts, strata, dataset.tokenizer)


def shard_documents(dataset: TokenDataset) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each shard with documents: name, document ids (d,), their starts (d,) in the tokens, tokens (n,)."""
    for split in ("train", "val"):
        (ids, lengths), starts = dataset.lengths(split), dataset.starts(split)
        first = 0
        for entry in dataset.shards(split):
            a, b = np.searchsorted(starts, [first, first + entry.tokens])
            first += entry.tokens
            if a < b:
                tokens = dataset.tokens(split)[int(starts[a]) : int(starts[b - 1] + lengths[b - 1])]
                yield entry.name, ids[a:b], starts[a:b] - starts[a], tokens


def document_hashes(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A 64-bit hash (d,) of the tokens of each document: the sum of mixed (token, place) pairs."""
    places = np.arange(len(tokens)) - np.repeat(starts, np.diff(starts, append=len(tokens)))
    mixed = mix((tokens.astype(np.uint64) << np.uint64(32)) + places.astype(np.uint64) + np.uint64(ODD))
    return mix(np.add.reduceat(mixed, starts))


def deal(hashes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block of each document (d,), and stratum of each block: equal numbers of documents, in hash order.

    Each stratum gets blocks in proportion to its documents, at least one, and none that is empty.
    """
    home, strata = np.empty(len(hashes), np.int64), []
    for code in np.unique(codes):
        mine = np.flatnonzero(codes == code)
        k = min(len(mine), max(1, round(BLOCKS * len(mine) / len(hashes))))
        ranked = mine[np.argsort(hashes[mine], kind="stable")]
        home[ranked] = len(strata) + np.arange(len(mine)) * k // len(mine)
        strata += [code] * k
    return home, np.array(strata)


def summary(
    tokens: np.ndarray, starts: np.ndarray, table: np.ndarray, sizes: np.ndarray, codes: np.ndarray | int = 0
) -> dict[str, np.ndarray]:
    """The arrays of a Sketch for one shard.

    Args:
        tokens: (m,) document by document; starts: (d,) where each begins.
        table, sizes: as `token_classes` gives them.
        codes: (d,) stratum of each document.
    """
    home, stratum = deal(document_hashes(tokens, starts), np.broadcast_to(codes, starts.shape))
    n, width, places = len(stratum), len(table), np.arange(len(CLASSES))
    lengths = np.diff(starts, append=len(tokens))
    keys = np.repeat(home, lengths) * width + tokens
    weighted = np.bincount(keys, np.repeat(UNIT * MOST / (MOST + lengths), lengths), n * width)
    counts = np.rint(weighted).astype(np.int64).reshape(n, width)
    held = np.bitwise_or.reduceat((table @ (1 << places))[tokens], starts)  # (d,) one bit a class
    holding = np.zeros((n, len(CLASSES)), np.int64)
    np.add.at(holding, home, held[:, None] >> places & 1)
    block, token = np.nonzero(counts)
    return {
        "totals": np.bincount(tokens, minlength=width)[None],
        "stratum": stratum,
        "documents": np.bincount(home, minlength=n),
        "tokens": np.bincount(home, lengths, n).astype(np.int64),
        "nbytes": counts @ sizes,
        "classes": counts @ table,
        "holding": holding,
        "block": block,
        "token": token,
        "count": counts[block, token],
    }


def assemble(
    parts: dict[str, dict[str, np.ndarray]],
    strata: np.ndarray | None = None,
    tokenizer: Tokenizer | None = None,
) -> Sketch:
    """One sketch of the `summary` of each shard. Without a tokenizer (simulated tokens) nothing is golden."""
    all_parts = list(parts.values())
    sizes = [len(part["stratum"]) for part in all_parts]
    joined = {name: np.concatenate([part[name] for part in all_parts]) for name in all_parts[0]}
    joined["block"] += np.repeat(np.cumsum([0, *sizes[:-1]]), [len(part["block"]) for part in all_parts])
    return Sketch(
        shards=np.array(list(parts)),
        strata=np.array([""]) if strata is None else strata,
        tokenizer=tokenizer.digest if tokenizer else "",
        golden=json.dumps([tokenizer.encode(text) for text in GOLDEN] if tokenizer else []),
        shard=np.repeat(np.arange(len(parts)), sizes),
        **joined,
    )


def source_groups(sources: list[str]) -> np.ndarray:
    """First folder (or file of many documents) below what all sources share; below 20 documents, "other"."""
    low, high = min(sources), max(sources)  # what these two share, all share
    shared = low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)]
    at = shared.rfind("/") + 1
    first = [re.split("[/:#]", source[at:], maxsplit=1)[0] for source in sources]
    sizes = Counter(first)
    return np.array([name if sizes[name] >= 20 else "other" for name in first])


def token_classes(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Of each token of the vocabulary (V,): its classes (V, classes) as booleans, and its bytes (V,)."""
    raw = token_bytes(tokenizer)
    found = [[bool(re.search(p, b.decode(errors="replace"))) for p in PATTERNS.values()] for b in raw]
    found[END_ID] = [name == "special" for name in CLASSES]
    return np.array(found), np.array([len(b) for b in raw])


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each token, by id. A vocabulary spells a byte as a printable character, as GPT-2 did."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    byte = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
    content = json.loads(tokenizer.text)
    special = {t["id"] for t in content["added_tokens"]}
    vocab = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    return [t.encode() if i in special else bytes(byte[c] for c in t) for t, i in vocab]
