"""Protects the digest of what a step was served: every bit and the order count, the number of ranks does not.

pytest tests/data/test_served.py
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import numpy as np
import pytest

from llmkit.data import Loader, Skip, row_sums, served_digest


def served(batch, rank=0):
    return served_digest(*row_sums(batch, rank))


def test_it_is_what_the_documentation_says(loader):
    batch, total = loader.batch(4), 0
    for number, (x, y, weight) in enumerate(zip(batch.x, batch.y, batch.weight, strict=True)):
        content = struct.pack("<Q16q16q16f", number, *x, *y, *weight)
        total += int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    assert served(batch) == f"{total % 2**64:016x}"


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_it_does_not_depend_on_the_number_of_ranks(small, loader, world):
    for step in (0, 3, 50):
        ranks = [Loader(small, batch=8, context=16, seed=1, rank=r, world=world) for r in range(world)]
        parts = [row_sums(one.batch(step), r) for r, one in enumerate(ranks)]
        lower, upper = (sum(part) for part in zip(*parts, strict=True))
        assert served_digest(lower, upper) == served(loader.batch(step))


def test_the_sums_stay_exact_up_to_the_ranks_that_are_promised():
    largest, ranks = float(2**32 - 1), 2**21
    assert served_digest(largest * ranks, largest * ranks) == f"{(2**64 - 1) * ranks % 2**64:016x}"


def test_every_bit_of_every_token_and_every_weight_counts(loader):
    batch = loader.batch(0)
    seen = {served(batch)}
    for name in ("x", "y", "weight"):
        for row, column in ((0, 0), (3, 7), (7, 15)):
            changed = getattr(batch, name).copy()
            changed[row, column] = changed[row, column] + 1 if name != "weight" else 0
            seen.add(served(dataclasses.replace(batch, **{name: changed})))
    assert len(seen) == 10


def test_the_order_of_rows_counts_and_the_layout_in_memory_does_not(loader):
    batch = loader.batch(0)
    parts = {name: getattr(batch, name) for name in ("x", "y", "weight")}
    swapped = dataclasses.replace(batch, **{n: a[::-1] for n, a in parts.items()})
    assert served(swapped) != served(batch)
    wide = dataclasses.replace(batch, x=np.asfortranarray(batch.x), y=batch.y.astype(np.int32))
    assert served(wide) == served(batch)


def test_a_removed_document_changes_the_steps_that_show_it_and_no_other(small, loader):
    document = int(loader.batch(0).documents[0, 0])
    without = Loader(small, batch=8, context=16, seed=1, skip=Skip(documents=frozenset({document})))
    for step in range(30):
        shown = document in loader.batch(step).documents or document in small.documents_at(
            "train", loader.samples(step)[:, None] * 16 + np.arange(17)
        )
        assert (served(without.batch(step)) != served(loader.batch(step))) == shown
