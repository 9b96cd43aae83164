"""Protects our own BPE: the same merges, vocabulary and ids as the `tokenizers` library, on any text.

pytest tests/data/test_bpe.py
"""

from __future__ import annotations

import random
import types
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from llmkit.data import bpe
from llmkit.data.docstrings import package_files, scopes
from llmkit.data.synthetic import synthetic
from llmkit.data.tokenizer import END, END_ID, Tokenizer, train_tokenizer
from llmkit.errors import ConfigError

BYTE = {drawn: byte for byte, drawn in bpe.DRAWN.items()}
SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
KNOWN = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
HARD = [
    "",
    " ",
    "  two  spaces \n\n  and lines\r\n",
    "it's they'RE 'tis ''s don't'll",
    "x\u00a0\u2003y\x85z\u3000\x1c\x1d !\x1c!",
    "½ ² Ⅷ 一二 ٣٤ 12ab34",
    "nai\u0308ve \U0001f469\u200d\U0001f52c 北京\ufeff",
    END,
]


def docstring_texts():
    """The docstrings of jinja2, a thirtieth of the embedded corpus."""
    return [text for _, content in package_files("jinja2")[0] for _, text in scopes(content)]


@pytest.fixture(scope="module", params=["generated", "docstrings"])
def trained(request):
    """Texts, our own tokenizer and the library's."""
    texts = [d.text for d in synthetic(300)] if request.param == "generated" else docstring_texts()
    return texts, bpe.train(texts, 700), train_tokenizer(texts, 700)


def test_merges_and_vocabulary_are_the_library_s(trained):
    _, own, library = trained
    assert Tokenizer(own.to_json()).digest == library.digest  # tokens by id, merges by rank, specials, cut
    assert len(own.merges) == 700 - 257


def test_ids_are_the_library_s(trained):
    texts, own, library = trained
    assert [own.encode(text) for text in texts + HARD] == library.encode_batch(texts + HARD)
    assert [own.decode(own.encode(text)) for text in texts + HARD] == texts + HARD


def test_a_text_that_spells_the_end_is_no_end(trained):
    assert END_ID not in trained[1].encode(f"one{END}two")


@given(st.lists(st.text(alphabet="ab ", max_size=30), min_size=1, max_size=6), st.integers(257, 290))
@settings(max_examples=120, deadline=None)
def test_any_small_text_trains_as_the_library_does(texts, vocab_size):
    """Few letters make what is hard: ties, overlaps (aaa), pairs that vanish, a text that runs out."""
    own = bpe.train(texts, vocab_size)
    assert Tokenizer(own.to_json()).digest == train_tokenizer(texts, vocab_size).digest
    assert len(set(own.tokens)) == len(own.tokens)


def any_text(rng: random.Random) -> str:
    """Random characters, random bytes read as UTF-8, or pieces of ordinary text, up to 60 of them."""
    n = rng.randrange(60)
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(rng.choices(KNOWN, k=n))
    if kind == 1:
        return rng.randbytes(n).decode(errors="replace")
    return "".join(rng.choices([" ", "\n", "'s", "'", "the", "The", "12", "é", "_", "\t", "  "], k=n))


def disagreements(own, library, n, seed):
    rng = random.Random(seed)
    texts = [any_text(rng) for _ in range(n)]
    return [t for t, ids in zip(texts, library.encode_batch(texts), strict=True) if own.encode(t) != ids]


def test_five_hundred_random_texts_have_the_library_s_ids(trained):
    assert disagreements(*trained[1:], n=500, seed=0) == []


@pytest.mark.slow
def test_ten_thousand_random_texts_have_the_library_s_ids(trained):
    assert disagreements(*trained[1:], n=10_000, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [512, 4096])
def test_the_whole_embedded_corpus_is_trained_and_encoded_alike(cache, vocab_size):
    from llmkit.data import embedded

    dataset = embedded(vocab_size)
    texts = [dataset.document(i).text for i in range(dataset.n_documents)]
    own = bpe.train(texts, vocab_size)
    assert Tokenizer(own.to_json()).digest == dataset.tokenizer_digest
    assert [own.encode(text) for text in texts] == dataset.tokenizer.encode_batch(texts)


def library_cut(text: str) -> list[str]:
    pieces = (piece for piece, _ in SPLIT.pre_tokenize_str(text))
    return [bytes(BYTE[c] for c in piece).decode() for piece in pieces]


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_are_cut_as_the_library_cuts_them(text):
    assert bpe.cut(text) == library_cut(text)


@pytest.mark.slow
def test_every_character_that_this_python_knows_is_cut_alike():
    """The two Unicode tables differ by their age only: what is cut otherwise, one of them does not know."""
    differ = [c for c in KNOWN if bpe.cut(t := f"a{c}1{c}{c}!{c} {c}") != library_cut(t)]
    assert differ == []


def test_a_long_run_is_no_trap(trained):
    _, own, library = trained
    for text in ("a" * 30_000, "ab" * 5_000, " " * 10_000):
        assert own.encode(text) == library.encode(text)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ConfigError, match="a vocabulary of 256 is too small"):
        bpe.train(["text"], 256)


# ------------------------------------------------------------------------------------------ planted mutants


SOURCE = Path(bpe.__file__).read_text()
MUTANTS = {
    "stale counts are believed": ("if -count != counts[pair]:", "if False:"),
    "pairs seen once are joined": ("if -count < 2:", "if -count < 1:"),
    "a word counts once": ("times = list(pieces.values())", "times = [1] * len(pieces)"),
    "new pairs are not in line": ("made.add(other)", "pass"),
    "old pairs keep their counts": ("counts[other] -= times[w]", "pass"),
    "bytes are in their own order": ("BYTES = [*VISIBLE, *HIDDEN]", "BYTES = [*range(256)]"),
    "the last space is not left to the word": ("[S]+(?![^S])|[S]+", "[S]+"),
    "white space is Python's": ('WHITE = "\\t-\\r ', 'WHITE = "\\t-\\r\\x1c-\\x1f '),
    "encoding joins the first pair it knows": ("self.ranks.get(pair, inf)", "pair not in self.ranks"),
    "the pair is overlooked at the end": ("i + 1 < len(word) and", "i + 2 < len(word) and"),
}


def differs_from_the_library(source: str) -> bool:
    """Whether a trainer and encoder of this source differ from the library on a small corpus."""
    made = types.ModuleType("planted")
    exec(compile(source, "planted", "exec"), made.__dict__)
    texts = [d.text for d in synthetic(60)] + HARD
    if any(made.cut(text) != library_cut(text) for text in HARD):
        return True
    own, library = made.train(texts, 3000), train_tokenizer(texts, 3000)  # more than there are pairs
    if Tokenizer(own.to_json()).digest != library.digest:
        return True
    return [own.encode(text) for text in texts] != library.encode_batch(texts)


def test_without_a_mutant_nothing_differs():
    assert not differs_from_the_library(SOURCE)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mutant_is_caught(name):
    before, after = MUTANTS[name]
    assert SOURCE.count(before) == 1
    assert differs_from_the_library(SOURCE.replace(before, after))
