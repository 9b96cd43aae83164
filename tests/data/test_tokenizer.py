"""Protects: any text comes back bit for bit, training is deterministic, the digest is what decides the ids.

python -m pytest tests/data/test_tokenizer.py
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data.tokenizer import END, END_ID, Tokenizer, digest, load_tokenizer, train_tokenizer
from llmkit.errors import ConfigError, IntegrityError

TRAIN = """
from llmkit.data.synthetic import synthetic
from llmkit.data.tokenizer import train_tokenizer
texts = [d.text for d in synthetic(documents=40, seed=3)]
tokenizer = train_tokenizer(texts, 400)
print(tokenizer.digest, sum(map(sum, tokenizer.encode_batch(texts))))
"""


@pytest.fixture(scope="module")
def tokenizer(documents) -> Tokenizer:
    return train_tokenizer([d.text for d in documents], 400)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_bit_for_bit(text):
    tokenizer = _SHARED.setdefault("tokenizer", train_tokenizer(["the cat sat on the mat"] * 3, 270))
    assert tokenizer.decode(tokenizer.encode(text)) == text


_SHARED: dict[str, Tokenizer] = {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\r\n",
        "\x00",
        "a" * 30_000,
        "nai\u0308ve",
        "\u00a0\u2028",
        "\U0001f469\u200d\U0001f52c",
        END,
        f"a{END}b",
    ],
)
def test_hard_texts_come_back_bit_for_bit(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert END_ID not in ids  # not even where the text spells the end token


def test_a_batch_is_encoded_as_its_texts_are(tokenizer, documents):
    texts = [d.text for d in documents] + [END, ""]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(t) for t in texts]


def test_the_end_token_is_shown_by_decode(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("one"), END_ID, *tokenizer.encode("two")]) == "one<|end|>two"


def test_training_depends_on_no_thread_and_no_hash_seed():
    outputs = set()
    for parallel, threads, seed in [("true", "3", "0"), ("false", "1", "1")]:
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": parallel,
            "RAYON_NUM_THREADS": threads,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_training_does_not_depend_on_the_order_of_texts(documents):
    texts = [d.text for d in documents]
    assert train_tokenizer(texts, 350).digest == train_tokenizer(texts[::-1], 350).digest


def swap_two_ids(content):
    vocab = content["model"]["vocab"]
    one, two = sorted(vocab, key=vocab.get)[100:102]
    vocab[one], vocab[two] = vocab[two], vocab[one]


def swap_two_merges(content):
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def cut_with_a_leading_space(content):
    content["pre_tokenizer"]["add_prefix_space"] = True


def normalise(content):
    content["normalizer"] = {"type": "NFC"}


def rename_the_end(content):
    content["added_tokens"][0]["content"] = "<|stop|>"


@pytest.mark.parametrize(
    "change", [swap_two_ids, swap_two_merges, cut_with_a_leading_space, normalise, rename_the_end]
)
def test_whatever_changes_the_ids_changes_the_digest(tokenizer, change):
    content = json.loads(tokenizer.text)
    change(content)
    assert digest(content) != tokenizer.digest


def test_the_file_format_does_not_change_the_digest(tokenizer):
    content = json.loads(tokenizer.text)
    content["version"] = "2.0"
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # as it once was
    assert digest(json.loads(json.dumps(content, indent=4))) == tokenizer.digest


def test_a_pickled_tokenizer_is_the_same(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("the end") == tokenizer.encode("the end")


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ConfigError) as error:
        train_tokenizer(["text"], 256)
    assert str(error.value) == (
        "a vocabulary of 256 is too small for byte-level BPE\n"
        "  expected: at least 257: 256 bytes and the end token\n"
        "  remedy: raise vocab_size"
    )


def test_a_small_text_gives_a_smaller_vocabulary_than_asked_for():
    assert 257 <= train_tokenizer(["ab"], 5000).vocab_size < 5000


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"tokenizer.json` is not a tokenizer this kit can read: "):
        load_tokenizer(tmp_path / "tokenizer.json")
