"""Protects: the made-up language is the same bytes for ever, and has what the kit needs it to have.

python -m pytest tests/data/test_synthetic.py
"""

from __future__ import annotations

from llmkit.data.building import REFERENCE_TEXT
from llmkit.data.corpus import text_digest
from llmkit.data.synthetic import CURIOSITIES, SplitMix, synthetic


def test_the_corpus_has_the_same_bytes_on_every_python():
    documents = synthetic()
    assert len(documents) == 2000
    assert text_digest(documents) == REFERENCE_TEXT["generated"]
    assert text_digest(documents) == "feb9a4c359d8cfaa22e66924ab6888b5ac8f1deb6d2acbb152e7b49a7633ff28"


def test_splitmix_draws_what_its_authors_published():
    # java.util.SplittableRandom's and xoshiro's reference output for seed 1234567
    draw = SplitMix(1234567)
    assert [draw.below(2**64) for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_ids_count_from_zero_and_sources_differ():
    documents = synthetic(documents=50)
    assert [d.id for d in documents] == list(range(50))
    assert len({d.source for d in documents}) == 50


def test_another_seed_is_another_language():
    one = {w for d in synthetic(50, seed=0) for w in d.text.split() if len(w) > 6}
    two = {w for d in synthetic(50, seed=1) for w in d.text.split() if len(w) > 6}
    assert len(one & two) < 0.02 * len(one)


def test_what_a_careless_pipeline_would_change_is_in_the_text():
    text = "\n".join(d.text for d in synthetic())
    for curiosity in CURIOSITIES:
        assert curiosity in text


def test_more_documents_leave_the_first_ones_alone():
    assert synthetic(documents=30)[:10] == synthetic(documents=10)
