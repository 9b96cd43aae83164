"""Protects: named data sets are built once, kept in the cache, and opened by name or folder.

python -m pytest tests/data/test_library.py
"""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from llmkit.data import embedded, generated, open_dataset
from llmkit.data.building import REFERENCE
from llmkit.data.library import cache_folder
from llmkit.errors import ConfigError, DataError, IntegrityError


def test_a_data_set_is_built_once(tmp_path):
    first = generated(vocab_size=300, documents=20, cache=tmp_path)
    written = {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}
    again = generated(vocab_size=300, documents=20, cache=tmp_path)
    assert again.path == first.path
    assert {p: p.stat().st_mtime_ns for p in first.path.rglob("*")} == written


def test_each_recipe_has_its_own_folder(tmp_path):
    recipes = [(300, 20, 0), (301, 20, 0), (300, 21, 0), (300, 20, 1)]
    made = [generated(v, documents=d, seed=s, cache=tmp_path) for v, d, s in recipes]
    assert len({d.path for d in made}) == len({d.digest for d in made}) == 4


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LLMKIT_CACHE")
    assert cache_folder() == Path(platformdirs.user_cache_dir("llmkit"))


def test_a_corrupt_cache_is_refused_and_not_silently_used(tmp_path):
    made = generated(vocab_size=300, documents=20, cache=tmp_path)
    shard = made.path / "train-00000.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(IntegrityError, match="is corrupt: SHA-256"):
        generated(vocab_size=300, documents=20, cache=tmp_path)


def test_open_dataset_takes_a_name_or_a_folder(dataset, small):
    assert open_dataset("generated").path == dataset.path
    assert open_dataset(small.path).digest == open_dataset(str(small.path), vocab_size=300).digest
    with pytest.raises(ConfigError, match="vocabulary mismatch: data set `small` has 300, not 512"):
        open_dataset(small.path, vocab_size=512)


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(DataError) as error:
        open_dataset("generate")
    assert str(error.value) == (
        "no data set `generate`\n"
        "  expected: `docstrings`, `generated`, or a folder with manifest.json\n"
        "  remedy: use `generated`"
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no data set in `.*nowhere`"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_docstrings_are_the_reference_and_every_one_comes_back_bit_for_bit(cache):
    """12 s the first time: parsing 21 MB of source."""
    from llmkit.data.docstrings import docstrings

    dataset = embedded(vocab_size=4096)
    assert dataset.manifest.reference is True
    assert dataset.digest == REFERENCE["docstrings", 4096]
    documents, sources = docstrings()
    assert sources == dataset.manifest.sources
    assert [dataset.document(i) for i in range(dataset.n_documents)] == documents
    assert dataset.tokenizer.encode_batch([d.text for d in documents]) == [
        dataset.encode(d.text) for d in documents
    ]
