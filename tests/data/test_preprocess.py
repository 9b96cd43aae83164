"""Protects: each step does what its name says, says so in the manifest, and finds duplicates as Jaccard defines them.

python -m pytest tests/data/test_preprocess.py
"""

from __future__ import annotations

import random
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import Document, build
from llmkit.data.preprocess import (
    HASHES,
    DropDuplicates,
    DropNearDuplicates,
    Normalise,
    on_disk,
    rows_of,
    shingles,
    signature,
    through,
)
from llmkit.errors import ConfigError


def of(*texts: str) -> list[Document]:
    return [Document(i, f"file:{i}", text) for i, text in enumerate(texts)]


def texts_after(step, *texts: str) -> list[str]:
    return [d.text for d in step.run(iter(of(*texts)))]


# --------------------------------------------------------------------------------------------- what each does


def test_normalise_composes_characters_and_ends_lines_one_way():
    step = Normalise()
    assert texts_after(step, "nai\u0308ve\r\nx\ry", "plain") == ["na\u00efve\nx\ry", "plain"]
    assert step.settings["form"] == "NFC"


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text):
    once = texts_after(Normalise(), text)
    assert texts_after(Normalise(), *once) == once


@given(st.lists(st.sampled_from(["a", "b", "a ", "A", "\ud83d", ""]), max_size=12))
def test_of_equal_texts_the_first_stays(texts):
    assert texts_after(DropDuplicates(), *texts) == list(dict.fromkeys(texts))


def test_a_step_keeps_the_source_of_what_it_keeps():
    kept = list(DropDuplicates().run(iter(of("a", "a", "b"))))
    assert [d.source for d in kept] == ["file:0", "file:2"]


# -------------------------------------------------------------------------------------------- near duplicates


def jaccard(a: str, b: str) -> float:
    """By the definition, over sets of words."""
    sets = [
        {tuple(w[i : i + 5]) for i in range(max(1, len(w) - 4))}
        for w in (a.lower().split(), b.lower().split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def story(words: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice("abcdefghij") + str(draw.randrange(500)) for _ in range(words)]


def changed(words: list[str], places: int, seed: int) -> str:
    draw, copy = random.Random(seed), list(words)
    for place in draw.sample(range(len(copy)), places):
        copy[place] = "other"
    return " ".join(copy)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "C", "c"]), max_size=30))
def test_shingles_are_runs_of_five_words_in_lower_case(words):
    lower = [w.lower() for w in words]
    assert len(shingles(" ".join(words))) == len(
        {tuple(lower[i : i + 5]) for i in range(max(1, len(words) - 4))}
    )


def test_equal_numbers_of_two_signatures_estimate_their_jaccard_similarity():
    errors = []
    for seed in range(60):
        words = story(300, seed)
        a, b = " ".join(words), changed(words, seed % 20, seed)
        exact = jaccard(a, b)
        errors.append(
            (np.mean(signature(a) == signature(b)) - exact) / np.sqrt(exact * (1 - exact) / HASHES + 1e-9)
        )
    assert errors[0] == 0  # nothing changed
    assert (
        np.abs(errors).max() < 4 and 0.7 < np.std(errors) < 1.3
    )  # as many standard errors as there should be


def test_a_signature_does_not_depend_on_how_a_long_text_is_taken():
    text = " ".join(story(9000, 1))  # more shingles than one lot
    runs = shingles(text)
    assert len(runs) > 8192
    from llmkit.data.preprocess import FACTORS, SUMMANDS

    whole = ((FACTORS * runs + SUMMANDS) >> np.uint64(32)).min(axis=1).astype(np.uint32)
    assert (signature(text) == whole).all()


@pytest.mark.parametrize(("threshold", "rows"), [(0.3, 2), (0.5, 3), (0.8, 6), (0.9, 10), (1.0, 32)])
def test_bands_find_a_pair_at_the_threshold_with_99_percent(threshold, rows):
    assert rows_of(threshold) == rows
    found = lambda r: 1 - (1 - threshold**r) ** (HASHES // r)  # noqa: E731
    assert found(rows) >= 0.99 and (rows == 32 or found(rows + 1) < 0.99)


def test_near_duplicates_go_and_what_is_only_alike_stays():
    kept, near, alike = [], [], []
    for seed in range(40):
        words = story(200, seed)
        kept.append(" ".join(words))
        near.append(changed(words, 2, seed))  # Jaccard about 0.90
        alike.append(changed(words, 25, seed))  # about 0.40
    assert min(jaccard(a, b) for a, b in zip(kept, near, strict=True)) > 0.88
    assert max(jaccard(a, b) for a, b in zip(kept, alike, strict=True)) < 0.62
    texts = [*kept, *near, *alike]
    random.Random(0).shuffle(texts)
    left = texts_after(DropNearDuplicates(0.8), *texts)
    assert sorted(left) == sorted(
        [
            *(t for t in texts if t in alike),
            *(next(t for t in texts if t in pair) for pair in zip(kept, near, strict=True)),
        ]
    )


def test_equal_and_short_texts_are_near_duplicates_too():
    assert texts_after(DropNearDuplicates(), "one two", "One  two", "one three", "", " ") == [
        "one two",
        "one three",
        "",
    ]


@pytest.mark.parametrize("threshold", [0.29, 1.01, float("nan")])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"for near duplicates\n  expected: 0\.3 to 1"):
        DropNearDuplicates(threshold)


# --------------------------------------------------------------------------------------------- in the manifest


def test_steps_are_recorded_with_their_counts(tmp_path):
    documents = of("nai\u0308ve one", "na\u00efve one", "na\u00efve one", "two")
    built = build(
        documents, tmp_path / "a", vocab_size=300, name="a", sources={}, steps=[Normalise(), DropDuplicates()]
    )
    one, two = built.manifest.steps
    assert (one.name, one.version, one.documents_in, one.documents_out) == ("normalise", 1, 4, 4)
    assert (one.bytes_in, one.bytes_out) == (11 + 10 + 10 + 3, 10 * 3 + 3)
    assert (two.name, two.documents_in, two.documents_out, two.bytes_in, two.bytes_out) == (
        "drop-duplicates",
        4,
        2,
        33,
        13,
    )
    assert built.sources == ["file:0", "file:3"] and [built.document(i).text for i in (0, 1)] == [
        "na\u00efve one",
        "two",
    ]
    assert two.settings == {"hash": "sha256, first 128 bits"}


def test_no_step_is_the_default(small):
    assert small.manifest.steps == []


def test_steps_run_one_document_at_a_time():
    """Nothing waits for the end of the text: that is what keeps memory bounded."""
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield Document(i, "s", f"text {i} " * 7)

    documents, _ = through(endless(), [Normalise(), DropDuplicates(), DropNearDuplicates()])
    assert next(documents).id == 0 and taken == [0]
    documents.close()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_neither_equal_nor_near_texts_sit_on_both_sides_of_the_split(tmp_path_factory, seed):
    """Planted copies: some equal, some with one word of 120 changed."""
    words = [story(120, seed + i) for i in range(12)]
    texts = [" ".join(w) for w in words] * 2 + [changed(w, 1, seed) for w in words]
    random.Random(seed).shuffle(texts)
    folder = tmp_path_factory.mktemp("split") / "a"
    options = {"vocab_size": 300, "name": "a", "sources": {}, "val_share": 0.3}
    built = build(of(*texts), folder, steps=[DropNearDuplicates(0.8)], **options)
    sides = {
        split: [built.document(int(i)).text for i in built.lengths(split)[0]] for split in ("train", "val")
    }
    assert len(sides["train"]) + len(sides["val"]) == 12 and sides["val"]
    assert max(jaccard(a, b) for a in sides["train"] for b in sides["val"]) < 0.5


def test_the_table_of_hashes_is_one_transaction():
    """A commit for each text walks every page that was changed: 900 MB took an hour that take a minute now."""
    with closing(on_disk("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")) as seen:
        seen.execute("INSERT INTO seen VALUES (x'00')")
        assert seen.in_transaction
