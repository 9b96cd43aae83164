"""Protects pinned inputs: drawn by content, never lost, refused when a byte of them changed.

pytest tests/data/test_pins.py
"""

from __future__ import annotations

import hashlib
import json

import pytest

from llmkit.data import Document, build, pin, read_pins
from llmkit.errors import ConfigError, DataError, IntegrityError


def test_pins_hold_the_texts_under_their_hashes(small, documents, tmp_path):
    pins = pin(small, tmp_path / "pins.jsonl", documents=[3, 17, 5])
    texts = {d.text: d.source for d in documents}
    assert {(p.source, p.text) for p in pins} == {
        (documents[i].source, documents[i].text) for i in (3, 5, 17)
    }
    assert all(
        p.sha256 == hashlib.sha256(p.text.encode()).hexdigest() and texts[p.text] == p.source for p in pins
    )
    assert read_pins(tmp_path / "pins.jsonl") == pins == sorted(pins, key=lambda p: p.sha256)


def test_a_sample_is_drawn_by_seed_and_text_alone(small, documents, tmp_path):
    order = [Document(i, d.source, d.text) for i, d in enumerate(reversed(documents))]
    options = {"vocab_size": 257, "name": "other", "sources": {}, "val_share": 0.1}
    other = build(order, tmp_path / "other", **options)
    drawn = [
        {p.sha256 for p in pin(dataset, tmp_path / f"{name}.jsonl", sample=6, seed=seed)}
        for name, dataset, seed in (("a", small, 0), ("b", other, 0), ("c", small, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == len(drawn[2]) == 6
    train = {small.document(i).text for i in small.lengths("train")[0].tolist()}
    assert {p.text for p in read_pins(tmp_path / "a.jsonl")} <= train


def test_every_document_has_the_same_chance(small, tmp_path):
    ids = small.lengths("train")[0].tolist()
    times = dict.fromkeys((small.document(i).text for i in ids), 0)
    for seed in range(120):
        for one in pin(small, tmp_path / f"{seed}.jsonl", sample=9, seed=seed):
            times[one.text] += 1
    mean = 120 * 9 / len(ids)
    assert sum(times.values()) == 120 * 9 and all(mean / 3 < n < 2 * mean for n in times.values())


def test_pinning_more_loses_none_and_repeats_none(small, tmp_path):
    path = tmp_path / "pins.jsonl"
    first = pin(small, path, documents=[3, 17])
    more = pin(small, path, documents=[17, 8])
    assert set(first) < set(more) and len(more) == 3
    before = path.read_bytes()
    assert pin(small, path, documents=[3]) == more and path.read_bytes() == before


def test_any_changed_byte_is_noticed(small, tmp_path):
    path = tmp_path / "pins.jsonl"
    pin(small, path, documents=[3])
    content = path.read_bytes()
    for at in range(content.index(b"\n") + 1, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(IntegrityError, match="is no pin file, or a damaged one"):
            read_pins(path)
    path.write_bytes(content[:-20])
    with pytest.raises(IntegrityError):
        pin(small, path, documents=[4])
    assert path.read_bytes() == content[:-20]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]\n", b'"text"\n', b"\xff\n", b'{"sha256": 3}\n{}\n'])
def test_what_is_no_pin_file_is_refused(tmp_path, content):
    (tmp_path / "pins.jsonl").write_bytes(content)
    with pytest.raises(IntegrityError):
        read_pins(tmp_path / "pins.jsonl")


def test_lines_with_a_right_hash_and_no_pin_in_them_are_refused(tmp_path):
    body = b'{"text": "x"}\n'
    head = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()
    (tmp_path / "pins.jsonl").write_bytes(head + b"\n" + body)
    with pytest.raises(IntegrityError):
        read_pins(tmp_path / "pins.jsonl")


def test_refusals(small, tmp_path):
    with pytest.raises(DataError, match="no pin file"):
        read_pins(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigError, match="no document 999"):
        pin(small, tmp_path / "pins.jsonl", documents=[999])
    with pytest.raises(ConfigError, match="unknown split"):
        pin(small, tmp_path / "pins.jsonl", split="test")
    assert not (tmp_path / "pins.jsonl").exists()
