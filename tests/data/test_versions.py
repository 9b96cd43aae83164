"""Protects the diff of two versions: planted changes are found exactly, in a small world all of them.

pytest tests/data/test_versions.py
"""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import Document, build, diff
from llmkit.data.manifest import Manifest, StepEntry
from llmkit.data.versions import KINDS, out_of_order

WORDS = "the loss fell and the norm rose while a batch of tokens went by".split()


def text(number: int) -> str:
    return " ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(12)) + f" {number}."


@pytest.fixture
def made(tmp_path):
    """made([(source, text), ...]) is the folder of a data set of these documents, in this order."""
    names = (tmp_path / f"{i}" for i in itertools.count())

    def make(pairs, vocab_size=270, val_share=0.2):
        documents = [Document(i, source, words) for i, (source, words) in enumerate(pairs)]
        options = {"vocab_size": vocab_size, "name": "x", "sources": {}, "val_share": val_share}
        return build(documents, next(names), **options).path

    return make


BASE = [(f"doc-{i}", text(i)) for i in range(20)]


def found(a, b):
    """Kind -> documents, of the kinds that there are any of."""
    answer = diff(a, b)
    return {kind: getattr(answer, kind) for kind in KINDS if getattr(answer, kind)}


def test_equal_sets_have_no_difference(made):
    a, b = made(BASE), made(BASE)
    answer = diff(a, b)
    assert found(a, b) == {} and answer.same == 20 and answer.a == answer.b
    assert answer.history == ("neither names the other as its parent",)
    assert answer.text.splitlines()[0].endswith(": 20 documents are the same")


def test_each_kind_of_change_is_found_and_nothing_else(made):
    a = made(BASE, val_share=0)
    assert found(a, made([*BASE, ("new", text(77))], val_share=0)) == {"added": ("new",)}
    assert found(a, made(BASE[:7] + BASE[8:], val_share=0)) == {"removed": ("doc-7",)}
    changed = [(s, t + " More." if s == "doc-3" else t) for s, t in BASE]
    assert found(a, made(changed, val_share=0)) == {"changed": ("doc-3",)}
    renamed = [("moved/" + s if s == "doc-3" else s, t) for s, t in BASE]
    assert found(a, made(renamed, val_share=0)) == {"renamed": ("doc-3 -> moved/doc-3",)}
    last = BASE[:4] + BASE[5:] + BASE[4:5]
    assert found(a, made(last, val_share=0)) == {"reordered": ("doc-4",)}


def test_a_document_that_changes_its_split_is_named_with_both(made):
    a, b = made(BASE, val_share=0.2), made(BASE, val_share=0.25)
    (only,) = diff(a, b).resplit
    assert only.endswith(": train -> val") and found(a, b) == {"resplit": (only,)}
    assert diff(b, a).resplit == (only.replace("train -> val", "val -> train"),)


def test_equal_documents_are_paired_off_one_by_one(made):
    twice = [*BASE, BASE[3]]
    a = made(BASE, val_share=0)
    assert found(a, made(twice, val_share=0)) == {"added": ("doc-3",)}
    assert found(made(twice, val_share=0), a) == {"removed": ("doc-3",)}


def test_texts_that_swap_their_sources_are_two_changed_documents(made):
    swapped = [("doc-0", text(1)), ("doc-1", text(0)), *BASE[2:]]
    assert found(made(BASE, val_share=0), made(swapped, val_share=0)) == {"changed": ("doc-0", "doc-1")}


def test_another_tokenizer_is_said_and_changes_no_document(made):
    a, b = made(BASE), made(BASE, vocab_size=280)
    assert found(a, b) == {} and diff(a, b).a != diff(a, b).b
    assert any("270 tokens -> " in line and line.startswith("tokenizer: ") for line in diff(a, b).history)


def history(path, **changes):
    """Write history into a manifest; it is no part of the digest."""
    manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(manifest.model_copy(update=changes).model_dump_json())
    return manifest.digest


def step(version, form):
    counts = {"documents_in": 20, "documents_out": 20, "bytes_in": 9, "bytes_out": 9}
    return StepEntry(name="normalise", version=version, settings={"form": form}, **counts)


def test_parents_and_preprocessing_are_said(made):
    a, b, c = made(BASE), made([*BASE, ("new", text(77))]), made(BASE[:-1])
    first = history(a, steps=[step(1, "NFC")])
    history(b, parent=first, steps=[step(2, "NFC")])
    history(c, parent=first, steps=[])
    assert diff(a, b).history[0] == "the second succeeds the first"
    assert diff(b, a).history[0] == "the first succeeds the second"
    assert diff(b, c).history[0] == f"both succeed {first[:12]}"
    assert 'preprocessing: normalise 1 {"form": "NFC"} -> normalise 2 {"form": "NFC"}' in diff(a, b).history
    assert 'preprocessing: normalise 1 {"form": "NFC"} -> no step' in diff(a, c).history


def test_the_text_is_short_and_the_fields_are_complete(made):
    more = [*BASE, *((f"new-{i}", text(100 + i)) for i in range(30))]
    answer = diff(made(BASE, val_share=0), made(more, val_share=0))
    assert len(answer.added) == 30
    assert "added: 30" in answer.text and "  and 20 more" in answer.text and "new-29" not in answer.text
    json.dumps(vars(answer))


@settings(max_examples=200, deadline=None)
@given(st.permutations(range(7)))
def test_as_few_are_out_of_order_as_a_search_over_all_subsets_finds(order):
    left = out_of_order(list(enumerate(order)))
    kept = [j for i, j in enumerate(order) if i not in left]
    assert kept == sorted(kept)
    chains = (c for k in range(8) for c in itertools.combinations(order, k) if list(c) == sorted(c))
    assert len(kept) == max(map(len, chains))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_planted_mixture_is_found_exactly(tmp_path_factory, data):
    """Documents are dealt a fate each; the diff gives every one back."""
    fates = data.draw(
        st.lists(st.sampled_from(["same", "gone", "changed", "renamed"]), min_size=4, max_size=12)
    )
    fates[0] = "same"
    old = [(f"doc-{i}", text(i)) for i in range(len(fates))]
    new = [
        (f"r-{i}" if fate == "renamed" else f"doc-{i}", text(i) + ("!" if fate == "changed" else ""))
        for i, fate in enumerate(fates)
        if fate != "gone"
    ]
    new += [(f"new-{i}", text(50 + i)) for i in range(data.draw(st.integers(1, 3)))]
    root = tmp_path_factory.mktemp("mix")
    for name, pairs in (("a", old), ("b", new)):
        documents = [Document(i, *pair) for i, pair in enumerate(pairs)]
        build(documents, root / name, vocab_size=257, name="x", sources={}, val_share=0)
    answer = diff(root / "a", root / "b")
    assert answer.removed == tuple(f"doc-{i}" for i, f in enumerate(fates) if f == "gone")
    assert answer.changed == tuple(f"doc-{i}" for i, f in enumerate(fates) if f == "changed")
    assert answer.renamed == tuple(f"doc-{i} -> r-{i}" for i, f in enumerate(fates) if f == "renamed")
    assert answer.added == tuple(s for s, _ in new if s.startswith("new-"))
    assert answer.same == fates.count("same") and answer.reordered == answer.resplit == ()
