"""Protects: the digest of a text tells apart whatever is different.

python -m pytest tests/data/test_corpus.py
"""

from __future__ import annotations

import pytest

from llmkit.data import Document
from llmkit.data.corpus import text_digest

TEXTS = [Document(0, "a", "one"), Document(1, "b", "two")]


@pytest.mark.parametrize(
    "other",
    [
        [TEXTS[1], TEXTS[0]],
        TEXTS[:1],
        [Document(0, "a", "one"), Document(1, "b", "twO")],
        [Document(0, "a", "one"), Document(1, "c", "two")],
        [Document(0, "ao", "ne"), Document(1, "b", "two")],  # the same letters, cut elsewhere
        [Document(0, "a", "oneb"), Document(1, "", "two")],
    ],
)
def test_any_change_of_text_name_order_or_border_changes_the_digest(other):
    assert text_digest(other) != text_digest(TEXTS)


def test_equal_texts_have_equal_digests():
    assert text_digest(iter(list(TEXTS))) == text_digest(TEXTS)
