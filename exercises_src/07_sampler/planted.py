"""Wrong solutions of exercise 07, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["order"]["adds seed and epoch"]
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from itertools import count, islice

import numpy as np
import torch

# --------------------------------------------------------------------------------------- wrong: the order


def _keyed(key):
    def order(n, seed, epoch):
        rows = list(range(n))
        random.Random(key(seed, epoch)).shuffle(rows)
        return rows

    return order


def _global(n, seed, epoch):
    rows = list(range(n))
    random.shuffle(rows)
    return rows


def _reseeds(n, seed, epoch):
    random.seed(f"{seed} {epoch}")
    return random.sample(range(n), n)


def _numpy_global(n, seed, epoch):
    np.random.seed([seed, epoch])
    return np.random.permutation(n)


def _with_replacement(n, seed, epoch):
    return random.Random(f"{seed} {epoch}").choices(range(n), k=n)


def _pieces(n, seed, epoch):
    """As a stream with a small shuffle buffer does."""
    generator, rows = random.Random(f"{seed} {epoch}"), list(range(n))
    return [
        row for at in range(0, n, 4) for row in generator.sample(rows[at : at + 4], len(rows[at : at + 4]))
    ]


def _rotated(n, seed, epoch):
    turn = random.Random(f"{seed} {epoch}").randrange(n)
    return [(row + turn) % n for row in range(n)]


def _strided(n, seed, epoch):
    generator = random.Random(f"{seed} {epoch}")
    stride = next(s for s in iter(lambda: generator.randrange(1, n + 1), None) if np.gcd(s, n) == 1)
    start = generator.randrange(n)
    return [(start + stride * row) % n for row in range(n)]


def _continues(n, seed, epoch, generators={}):  # noqa: B006 (the fault: it remembers)
    return generators.setdefault(seed, random.Random(seed)).sample(range(n), n)


_right = _keyed(lambda seed, epoch: f"{seed} {epoch}")

WRONG_ORDER = {
    "shuffles with the global generator": (_global, "pure"),
    "draws on from epoch to epoch": (_continues, "pure"),
    "seeds the global generator": (_reseeds, "global"),
    "seeds numpy's global generator": (_numpy_global, "global"),
    "ignores the epoch": (_keyed(lambda seed, epoch: seed), "key"),
    "ignores the seed": (_keyed(lambda seed, epoch: epoch), "key"),
    "adds seed and epoch": (_keyed(lambda seed, epoch: seed + epoch), "key"),
    "xors seed and epoch": (_keyed(lambda seed, epoch: seed ^ epoch), "key"),
    "multiplies seed and epoch": (_keyed(lambda seed, epoch: seed * epoch), "key"),
    "multiplies the seed by 1000": (_keyed(lambda seed, epoch: 1000 * seed + epoch), "key"),
    "draws with replacement": (_with_replacement, "once"),
    "drops the last row": (lambda n, s, e: _right(n, s, e)[: n - 1], "once"),
    "counts rows from 1": (lambda n, s, e: [row + 1 for row in _right(n, s, e)], "once"),
    "does not shuffle": (lambda n, s, e: list(range(n)), "shuffled"),
    "turns the list round": (_rotated, "shuffled"),
    "takes every k-th row": (_strided, "shuffled"),
    "shuffles pieces of four": (_pieces, "shuffled"),
    "returns floats": (lambda n, s, e: [float(row) for row in _right(n, s, e)], "form"),
    "returns what shuffle returns": (
        lambda n, s, e: random.Random(f"{s} {e}").shuffle(list(range(n))),
        "form",
    ),
    "seeds with a tuple": (_keyed(lambda seed, epoch: (seed, epoch)), ""),
}

# ------------------------------------------------------------------------------------------- wrong: the batch


def _unsorted(step, skip):
    for skipped in dict.fromkeys(skip):
        step += skipped <= step
    return step


def _one_jump(step, skip):
    return step + sum(skipped <= step for skipped in set(skip))


def _doubles(step, skip):
    for skipped in sorted(skip):
        step += skipped <= step
    return step


def _strictly(step, skip):
    for skipped in sorted(set(skip)):
        step += skipped < step
    return step


def _only_over(step, skip):
    while step in skip:
        step += 1
    return step


def _all_of_them(step, skip):
    return step + len(set(skip))


def _backwards(step, skip):
    return step - sum(skipped <= step for skipped in set(skip))


def _from_one(step, skip):
    return next(islice((n for n in count(1) if n not in skip), step, None))


def _as_bool(step, skip):
    return step not in skip


WRONG_BATCH = {
    "takes the list as it comes": (_unsorted, "never"),
    "counts once and jumps": (_one_jump, "never"),
    "counts a doubled number twice": (_doubles, "all"),
    "compares with <": (_strictly, "never"),
    "ignores the list": (lambda step, skip: step, "never"),
    "steps over and forgets": (_only_over, "twice"),
    "leaves out batch 0 when it skips": (lambda s, k: batch_walk(s + bool(k), k), "all"),
    "adds the whole list": (_all_of_them, "never"),
    "goes backwards": (_backwards, "never"),
    "counts batches from 1": (_from_one, "none"),
    "says whether to skip": (_as_bool, "form"),
    "returns None for a skipped step": (lambda s, k: None if s in k else s, "form"),
    "takes the next on the list": (lambda s, k: sorted(k)[s], ""),
}

# ---------------------------------------------------------------------------------------- wrong: the rows


def _stream(number, batch, n, order_of):
    return [order_of(p // n)[p % n] for p in range(number * batch, (number + 1) * batch)]


def _rows(share=lambda rows, rank, world: rows[rank::world], stream=_stream):
    def rank_rows(number, rank, world, batch, n, order_of):
        return share(stream(number, batch, n, order_of), rank, world)

    return rank_rows


def _blocks(rows, rank, world):
    size = -(-len(rows) // world)
    return rows[rank * size : (rank + 1) * size]


def _floor(rows, rank, world):
    return rows[rank::world][: len(rows) // world]


def _padded(rows, rank, world):
    return [rows[(rank + world * i) % len(rows)] for i in range(-(-len(rows) // world))]


def _stays(number, batch, n, order_of):
    return [order_of(number * batch // n)[p % n] for p in range(number * batch, (number + 1) * batch)]


def _first_epoch(number, batch, n, order_of):
    return [order_of(0)[p % n] for p in range(number * batch, (number + 1) * batch)]


def _cut_short(number, batch, n, order_of):
    start = number * batch % n
    return order_of(number * batch // n)[start : start + batch]


def _drops_the_rest(number, batch, n, order_of):
    per = max(1, n // batch)
    order = order_of(number // per)
    return (order * batch)[number % per * batch :][:batch]


def _one_late(number, batch, n, order_of):
    return _stream(number + 1, batch, n, order_of)


def _per_rank(number, rank, world, batch, n, order_of):
    """Each rank reads a batch of its own: the global batch has become world times as large."""
    return _stream(number * world + rank, batch, n, order_of)


def _local_batches(number, rank, world, batch, n, order_of):
    """The epoch is cut by rank first, then into batches: another world size reads other batches."""
    mine = order_of(0)[rank::world] + order_of(1)[rank::world] + order_of(2)[rank::world]
    size = -(-batch // world)
    return mine[number * size : (number + 1) * size]


def _keeps_its_place(number, rank, world, batch, n, order_of, served={}):  # noqa: B006 (the fault)
    """Goes on from where it stands instead of looking at the number."""
    key = (rank, world, batch, n)
    served[key] = served.get(key, -1) + 1
    return _stream(served[key], batch, n, order_of)[rank::world]


WRONG_ROWS = {
    "gives every rank the batch": (_rows(lambda rows, rank, world: rows), "overlap"),
    "leaves out what does not divide": (_rows(_floor), "overlap"),
    "pads with rows of the batch": (_rows(_padded), "overlap"),
    "gives ranks blocks": (_rows(_blocks), "share"),
    "swaps the ranks": (_rows(lambda rows, rank, world: rows[world - 1 - rank :: world]), "share"),
    "sorts the rows": (_rows(lambda rows, rank, world: sorted(rows[rank::world])), "share"),
    "reads a batch per rank": (_per_rank, "overlap"),
    "cuts by rank before it cuts batches": (_local_batches, "stream"),
    "begins with batch 1": (_rows(stream=_one_late), "stream"),
    "begins the epoch again": (_rows(stream=_stays), "border"),
    "never changes the epoch": (_rows(stream=_first_epoch), "border"),
    "ends the batch with the epoch": (_rows(stream=_cut_short), "border"),
    "drops the rest of an epoch": (_rows(stream=_drops_the_rest), "border"),
    "keeps its place": (_keeps_its_place, "pure"),
    "returns positions, not rows": (
        _rows(stream=lambda b, size, n, of: [*range(b * size, b * size + size)]),
        "stream",
    ),
    "returns the set": (lambda *a: set(_rows()(*a)), "form"),
    "crashes at the border": (
        lambda b, r, w, size, n, of: [of(0)[p] for p in range(b * size + r, (b + 1) * size, w)],
        "",
    ),
}

WRONG = {"order": WRONG_ORDER, "batch_number": WRONG_BATCH, "rank_rows": WRONG_ROWS}

# ----------------------------------------------------------------------------------- right ones, other styles


def order_numpy(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def order_torch(n, seed, epoch):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_000 + epoch)).tolist()


def order_hash(n, seed, epoch):
    return sorted(range(n), key=lambda row: hashlib.sha256(f"{seed}/{epoch}/{row}".encode()).digest())


def batch_filter(step, skip):
    return next(islice((n for n in count() if n not in skip), step, None))


def batch_while(step, skip):
    listed, number = sorted(set(skip)), step
    while number != (number := step + bisect_right(listed, number)):
        pass
    return number


def batch_walk(step, skip):
    listed, number = set(skip), -1
    for _ in range(step + 1):
        number += 1
        while number in listed:
            number += 1
    return number


def rows_sliced(number, rank, world, batch, n, order_of):
    first, last = number * batch // n, ((number + 1) * batch - 1) // n
    stream = [row for epoch in range(first, last + 1) for row in order_of(epoch)]
    start = number * batch - first * n
    return stream[start : start + batch][rank::world]


def rows_numpy(number, rank, world, batch, n, order_of):
    at = np.arange(number * batch + rank, (number + 1) * batch, world)
    return np.array([order_of(int(p) // n)[int(p) % n] for p in at], dtype=np.int64)


def rows_divmod(number, rank, world, batch, n, order_of):
    found = []
    for i in range(rank, batch, world):
        epoch, place = divmod(number * batch + i, n)
        found.append(order_of(epoch)[place])
    return tuple(found)


RIGHT = {
    "order": [order_numpy, order_torch, order_hash],
    "batch_number": [batch_filter, batch_while, batch_walk],
    "rank_rows": [rows_sliced, rows_numpy, rows_divmod],
}
