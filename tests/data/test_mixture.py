"""Protects the names of sources: the first part of a path that tells documents apart.

pytest tests/data/test_mixture.py
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmkit.data.mixture import MOST, composition, sources_of


def names_of(*paths):
    names, ids = sources_of(SimpleNamespace(name="set", n_documents=len(paths), sources=list(paths)))
    return [names[i] for i in ids]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["sympy/core/add.py:Add", "jinja2/x.py", "sympy/b.py"], ["sympy", "jinja2", "sympy"]),
        (["/home/me/web/1.txt", "/home/me/books/a/2.txt"], ["web", "books"]),
        (["a/b/1", "a/b/2"], ["set", "set"]),  # one folder is one source
        (["a/1", "2"], ["a", ""]),
        (["ab/1", "ac/2"], ["ab", "ac"]),  # whole parts, not letters
        (["only"], ["set"]),
        ([f"{n}/x" for n in range(MOST + 1)], ["set"] * (MOST + 1)),  # files, not sources
    ],
)
def test_the_first_part_that_differs_is_the_source(paths, expected):
    assert names_of(*paths) == expected


def test_shares_are_of_the_training_tokens(mixed):
    found = composition(mixed)
    assert found["shards"] == {"tokens": 2**14, "count": 5}
    tokens = {"north": 0, "south": 0}
    for document in range(mixed.n_documents):
        split, _, length = mixed.span(document)
        tokens[mixed.sources[document].split("/")[0]] += length * (split == "train")
    assert found["sources"] == pytest.approx(
        {k: v / sum(tokens.values()) for k, v in tokens.items()}, abs=1e-6
    )
