"""Protects the count that convicts a page of one repeated token.

pytest tests/observe/test_tokens.py
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from llmkit.observe import token_share


def test_it_equals_a_plain_count():
    x = np.random.default_rng(0).integers(0, 7, size=(5, 33))
    x[3, :20] = 6
    shares = [max(Counter(row).values()) / 33 for row in x.tolist()]
    assert token_share(x) == {"token_share_max": round(max(shares), 4), "token_share_row": 3}


def test_a_constant_row_is_all_of_it():
    rows = np.array([[1, 2, 3, 4], [9, 9, 9, 9]])
    assert token_share(rows) == {"token_share_max": 1.0, "token_share_row": 1}
