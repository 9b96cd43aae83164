"""Texts to shards: encode, set validation apart, pack, and count, a MiB of text at a time.

    packed = pack(folder, spool, tokenizer, val_share=0.02, shard_tokens=2**20)
    packed.splits["train"].tokens

Nothing here grows with the data but the list of shards (and 32 bytes for each of their MiB).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.data.dataset import SPLITS
from llmkit.data.shards import FileWriter, ShardWriter
from llmkit.data.tokenizer import END_ID
from llmkit.errors import DataError

if TYPE_CHECKING:
    from llmkit.data.manifest import FileEntry, ShardEntry, SplitEntry
    from llmkit.data.spool import Spool
    from llmkit.data.tokenizer import Tokenizer

LARGEST_UINT16 = 2**16  # vocabularies up to here have ids of two bytes
PIECE = 4096  # characters: texts are cut to about that, so that one long text uses every core
CUT = re.compile(r"(?<=[!-~])(?=[ \n])")  # between a printing ASCII character and a blank
LOT = 256  # pieces that are encoded together, about a MiB

Progress = Callable[[str, int, int], None]  # stage, documents done, documents in all


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote."""

    index: FileEntry
    splits: dict[str, SplitEntry]
    shards: list[ShardEntry]
    leaves: bytes  # SHA-256 of each MiB of each shard, in the order of `shards`


def pack(
    folder: Path, spool: Spool, tokenizer: Tokenizer, val_share: float, shard_tokens: int, progress: Progress
) -> Packed:
    """Write documents.i64 and the shards of both splits.

    Raises:
        DataError: the texts are all equal, so that nothing would be left to train on.
        StorageError: the disk is full.
    """
    from llmkit.data.manifest import SplitEntry

    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= LARGEST_UINT16 else np.uint32)
    cut = split_cut(lambda: (keys[:, 0] for keys in spool.hashes()), spool.documents, val_share)
    codes = (code for keys in spool.hashes() for code in split_codes(keys[:, 0], cut).tolist())
    with ExitStack() as files:
        index = files.enter_context(FileWriter(folder, "documents.i64"))
        writers = [
            files.enter_context(ShardWriter(folder, split, dtype, shard_tokens, tokenizer.vocab_size))
            for split in SPLITS
        ]
        document = 0
        for texts in spool.batches():
            rows = np.zeros((len(texts), 3), dtype="<i8")
            rows[:, 0] = list(islice(codes, len(texts)))
            tokens = encode(tokenizer, texts, dtype)
            rows[:, 2] = [len(ids) for ids in tokens]
            for code, writer in enumerate(writers):
                of = np.flatnonzero(rows[:, 0] == code)
                rows[of, 1] = writer.add(document + of, [tokens[i] for i in of])
            index.write(rows.tobytes())
            document += len(texts)
            progress("encode", document, spool.documents)
        if not writers[0].documents:
            raise DataError(
                f"all {spool.documents:,} documents are equal", expected="at least two different texts"
            )
        shards = {split: writer.finish() for split, writer in zip(SPLITS, writers, strict=True)}
        splits = {
            split: SplitEntry(
                documents=writer.documents,
                tokens=writer.tokens,
                unigram_entropy_nats=unigram_entropy(writer.counts),
            )
            for split, writer in zip(SPLITS, writers, strict=True)
        }
        leaves = b"".join(leaf for writer in writers for leaf in writer.leaves)
        return Packed(index.finish(), splits, [s for split in SPLITS for s in shards[split]], leaves)


# ------------------------------------------------------------------------------------------------ encoding


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of about 4,096 characters that encode, one by one, to the ids of the whole.

    The pre-tokenizer never joins a printing character with the blank after it (its words may begin with a
    blank, never end with one), so a cut between the two is one that it would make itself.
    """
    start = 0
    while len(text) - start > PIECE and (cut := CUT.search(text, start + PIECE)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def encode(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype) -> list[np.ndarray]:
    """Token ids of each text, its end token last."""
    counts, parts = [], []
    for text in texts:
        before = len(parts)
        parts += pieces(text) if tokenizer.cuts_at_blanks else [text]
        counts.append(len(parts) - before)
    ids = [
        np.array(i, dtype=dtype)
        for lot in range(0, len(parts), LOT)
        for i in tokenizer.encode_batch(parts[lot : lot + LOT])
    ]
    end, each = np.array([END_ID], dtype=dtype), iter(ids)
    return [np.concatenate([*islice(each, count), end]) for count in counts]


# -------------------------------------------------------------------------------------------------- splits


def split_cut(keys: Callable[[], Iterable[np.ndarray]], documents: int, val_share: float) -> int | None:
    """The largest key that goes to validation, so that about `val_share` of the documents do; None for none.

    A document's key is the first 64 bits of its text's SHA-256. Content decides, so a text keeps its split
    when others are added or reordered (but for the few at the cut), and equal texts never sit on both sides.

    Args:
        keys: gives all keys, array by array. It is called twice: once to count them by their first 16 bits,
            once to sort the few that share those of the wanted one. So no more than those are in memory.
    """
    wanted = min(max(1, round(val_share * documents)), documents - 1) if val_share else 0
    if not wanted:
        return None
    counts = np.zeros(2**16, dtype=np.int64)
    for lot in keys():
        counts += np.bincount((lot >> np.uint64(48)).astype(np.int64), minlength=2**16)
    below = np.cumsum(counts)
    bucket = int(np.searchsorted(below, wanted))
    near = np.concatenate([lot[lot >> np.uint64(48) == bucket] for lot in keys()])
    rank = wanted - int(below[bucket] - counts[bucket]) - 1
    return int(np.partition(near, rank)[rank])


def split_codes(keys: np.ndarray, cut: int | None) -> np.ndarray:
    """0 (train) or 1 (val) for each key (n,)."""
    return (np.zeros(len(keys)) if cut is None else keys <= np.uint64(cut)).astype(np.int64)


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy of token counts (vocabulary,), -sum p ln p, in nats, to six places; 0 for no tokens."""
    p = counts[counts > 0] / max(1, int(counts.sum()))
    return round(float(-(p * np.log(p)).sum()), 6) + 0.0  # + 0.0 turns -0.0 into 0.0
