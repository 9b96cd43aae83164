"""Protects the drift report: exact checks see what they say, a shard that drifted is named, clean ones are not.

pytest tests/data/test_drift.py
"""

from __future__ import annotations

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.data import Document, TokenDataset, build
from llmkit.data.compare import Change, compare
from llmkit.data.drift import as_text, drift, stored_sketch
from llmkit.data.exact import SAMPLE, exact_checks, kept
from llmkit.data.outliers import exceedance, surprises
from llmkit.data.sketch import load_sketch, sketch_of, token_bytes
from llmkit.data.synthetic import synthetic
from llmkit.data.tokenizer import END_ID
from llmkit.errors import ConfigError, IntegrityError

NORTH, SOUTH = 700, 350
PLACE = {"name": "two", "sources": {}, "val_share": 0.0, "shard_tokens": 2**15}


@pytest.fixture(scope="module")
def texts():
    texts = [("north", d.text) for d in synthetic(NORTH, seed=0)]
    return texts + [("south", d.text) for d in synthetic(SOUTH, seed=1)]


@pytest.fixture(scope="module")
def ordered(texts, tmp_path_factory):
    """All of one language, then all of the other: seven shards, of which the last is not testable."""
    documents = [Document(i, f"{source}/{i:04}", text) for i, (source, text) in enumerate(texts)]
    return build(documents, tmp_path_factory.mktemp("drift") / "ordered", vocab_size=512, **PLACE)


@pytest.fixture(scope="module")
def dealt(texts, ordered, tmp_path_factory):
    """The same documents in random order, by the same tokenizer."""
    order = np.random.default_rng(0).permutation(len(texts))
    documents = [Document(i, f"{texts[j][0]}/{j:04}", texts[j][1]) for i, j in enumerate(order)]
    folder = tmp_path_factory.mktemp("drift") / "dealt"
    return build(documents, folder, tokenizer=ordered.tokenizer, **PLACE)


@pytest.fixture
def tampered(dealt, tmp_path):
    """tampered(change, shard=1) is the data set after `change` was done to the ids of one shard."""

    def tamper(change, shard=1):
        folder = shutil.copytree(dealt.path, tmp_path / "tampered")
        entry = dealt.shards("train")[shard]
        ids = np.fromfile(folder / entry.name, "<u2")
        change(ids)
        ids.tofile(folder / entry.name)
        return TokenDataset(folder, check=False)

    return tamper


def wrong(report) -> dict[str, set[str]]:
    """The checks that failed, and in which shards."""
    names = {check.name for check in report.exact if check.wrong}
    return {name: {c.shard for c in report.exact if c.wrong and c.name == name} for name in names}


def test_clean_shards_are_quiet_and_the_report_says_what_they_could_have_shown(dealt):
    report = drift(dealt)
    assert (report.verdict, wrong(report), report.reassigned) == ("no drift seen", {}, 0.0)
    assert len(report.compared.shards) == 6 and report.carriers == ()
    text = as_text(report)
    for phrase in (
        "verdict: no drift seen",
        "three meanings of 0.3 %",
        "re-assigned tokens in the samples: 0.00%",
        "a token vanishes that had a share of",
        "blind: 0.3 % spread over all tokens",
    ):
        assert phrase in text


def test_tokens_that_became_others_are_named_with_shard_and_documents(dealt, tampered):
    common = np.argsort(-np.bincount(dealt.tokens("train").shards[1], minlength=512))
    sizes = [len(spelt) for spelt in token_bytes(dealt.tokenizer)]
    old = int(common[12])
    new = next(int(t) for t in common[20:] if sizes[t] == sizes[old])
    half = np.random.default_rng(1).random(2**15) < 0.5

    def change(ids):
        ids[(ids == old) & half] = new

    sick = tampered(change)
    report, shard = drift(sick), dealt.shards("train")[1]
    assert report.verdict == "drift"
    # the exact checks see it in the text, the test in the histograms; here the sketch is of the old shards
    assert wrong(report)["round trip"] == {shard.name}
    found = compare(sketch_of(sick), names=[str(t) for t in range(512)])
    assert (found.verdict, found.shard) == ("drift", shard.name)
    assert {old, new} >= {change.token for change in found.subwords[:2]}
    moved = np.mean(sick.tokens("train").shards[1] != dealt.tokens("train").shards[1])
    raw = {source: dealt.document(i).text for i, source in enumerate(dealt.sources)}
    seen = {c.shard: c.reassigned for c in exact_checks(sick, raw=raw) if c.name == "raw text" and c.wrong}
    assert seen == {shard.name: pytest.approx(moved, rel=0.15)}
    lost = next(c for c in found.subwords if c.token == old)
    assert lost.low <= lost.high < 0 and lost.p <= found.alpha / 2


def test_each_exact_check_sees_the_fault_that_the_others_cannot(dealt, tampered):
    spelt = token_bytes(dealt.tokenizer)
    known = {b: i for i, b in enumerate(spelt)}
    ids = dealt.tokens("train").shards[1]
    at, other = next(
        (i, (known[left], known[right]))
        for i in range(len(ids) - 1)
        if END_ID not in ids[i : i + 2]
        for both in [spelt[ids[i]] + spelt[ids[i + 1]]]
        for k in range(1, len(both))
        for left, right in [(both[:k], both[k:])]
        if left in known
        and right in known
        and known[left] != ids[i]
        and END_ID not in (known[left], known[right])
    )

    def spell_otherwise(ids):
        ids[at : at + 2] = other

    sick = tampered(spell_otherwise)
    bad = [check for check in exact_checks(sick) if check.wrong]
    assert [(c.name, c.wrong) for c in bad] == [("canonical", 1)]
    assert bad[0].reassigned > 0 and bad[0].example.startswith("document ")
    shutil.rmtree(sick.path)

    def lose_an_end(ids):
        ids[np.flatnonzero(ids == END_ID)[5]] = known.get(b" the", 300)

    assert "end tokens" in {c.name for c in exact_checks(tampered(lose_an_end)) if c.wrong}


def test_ids_beyond_the_vocabulary_are_drift_and_nothing_is_compared(tampered):
    def beyond(ids):
        ids[7] = 60_000

    report = drift(tampered(beyond))
    assert (report.verdict, report.compared) == ("drift", None)
    assert set(wrong(report)) >= {"ids in range"}
    assert "not compared" in as_text(report)


def test_raw_texts_are_encoded_anew(dealt):
    raw = {source: dealt.document(i).text for i, source in enumerate(dealt.sources)}
    assert not [c for c in exact_checks(dealt, raw=raw) if c.wrong]
    raw[dealt.sources[3]] += "!"
    (bad,) = (c for c in exact_checks(dealt, raw=raw) if c.wrong)
    assert (bad.name, bad.wrong) == ("raw text", 1) and f"({dealt.sources[3]})" in bad.example


def test_shards_in_source_order_differ_and_are_compared_within_sources(ordered):
    report = drift(ordered)
    assert report.verdict == "drift" and wrong(report) == {}
    assert "Try --source-strata, or --baseline" in as_text(report)
    assert drift(ordered, by_source=True).verdict in ("no drift seen", "not testable")


def test_a_version_without_one_source_differs_from_its_baseline(texts, ordered, dealt, tmp_path):
    assert drift(dealt, ordered).verdict == "no drift seen"
    documents = [Document(i, f"north/{i:04}", text) for i, (_, text) in enumerate(texts[:NORTH])]
    alone = build(documents, tmp_path / "alone", tokenizer=ordered.tokenizer, **PLACE)
    report = drift(alone, ordered)
    assert (report.verdict, report.baseline, wrong(report)) == ("drift", "two", {})


def test_ids_of_two_tokenizers_are_not_compared(dealt, texts, tmp_path):
    documents = [Document(i, source, text) for i, (source, text) in enumerate(texts[:150])]
    other = build(documents, tmp_path / "other", vocab_size=300, **PLACE)
    report = drift(dealt, other)
    assert (report.verdict, report.compared) == ("drift", None)
    assert wrong(report) == {"tokenizer": {""}}
    with pytest.raises(ConfigError, match="equal ids are not equal subwords"):
        compare(sketch_of(dealt), sketch_of(other))


def test_few_documents_are_not_testable_rather_than_fine(texts, ordered, tmp_path):
    documents = [Document(i, source, text) for i, (source, text) in enumerate(texts[:120])]
    few = build(documents, tmp_path / "few", tokenizer=ordered.tokenizer, **PLACE | {"shard_tokens": 2**13})
    report = drift(few)
    assert report.verdict == "not testable" and min(report.compared.untested.values()) < 100
    assert "at least 100 are needed" in as_text(report)


def test_too_few_permutations_for_alpha_are_refused(dealt):
    with pytest.raises(ConfigError, match="at least 1,999 for alpha"):
        compare(stored_sketch(dealt), permutations=1998, alpha=0.001)


def test_the_sketch_beside_the_shards_is_what_reading_them_gives(dealt):
    stored = stored_sketch(dealt)
    assert stored == sketch_of(dealt) == load_sketch(stored.to_bytes())
    for row, shard in zip(stored.totals, dealt.tokens("train").shards, strict=True):
        assert row.sum() == pytest.approx(len(shard), abs=500)  # a document belongs to where it starts
    assert stored.totals.sum() == dealt.n_tokens("train")
    assert stored.documents.sum() == dealt.n_documents
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_sketch(stored.to_bytes()[:-40])


def test_a_longer_token_moves_the_rest_and_does_not_re_assign_it():
    sizes = np.array([1, 1, 1, 2])
    assert kept([0, 1, 2, 0, 1], [0, 1, 2, 0, 1], sizes) == 5
    assert kept([0, 3, 2, 0, 1], [0, 1, 2, 0, 1], sizes) == 4  # the second alone
    assert kept([0, 3, 2, 3, 1], [0, 1, 2, 0, 1], sizes) == 2  # and what stands between two of them
    assert kept([], [0], sizes) == 0


def test_the_sample_sees_a_fault_in_three_of_a_thousand_documents():
    assert 1 - 0.997**SAMPLE >= 0.99 > 1 - 0.997 ** (SAMPLE - 1)


@pytest.mark.parametrize(("n", "m"), [(3, 4), (4, 5), (2, 7)])
def test_the_chance_of_documents_above_all_others_is_the_enumerated_one(n, m):
    deals = list(combinations(range(n + m), n))
    counts = [sum(i > max(set(range(n + m)) - set(mine)) for i in mine) for mine in deals]
    for j in range(n + 1):
        there = np.arange(m, dtype=float)
        here = np.concatenate([np.full(j, 100.0) + np.arange(j), np.full(n - j, -1.0)])
        high, p = exceedance(here, there)
        assert len(high) == j
        assert p == pytest.approx(np.mean([count >= j for count in counts]))


def test_a_surprise_is_the_cross_entropy_under_all_other_documents():
    tokens = np.array([1] * 40 + [2] * 30 + [3] * 10 + [1, 2])
    starts, total = np.array([0, 40, 80]), np.bincount(tokens, minlength=5)
    found = surprises(tokens, starts, total)
    others = np.array([0, 1, 31, 10, 0]) + 0.5
    assert found[0] == pytest.approx(-np.log(others[1] / others.sum()))
    assert found[2] == -np.inf  # two tokens are no document to judge by


def test_foreign_documents_are_found_one_by_one(dealt, texts, ordered, tmp_path):
    order = np.random.default_rng(0).permutation(NORTH)
    north = [texts[j][1] for j in order]
    for k in range(12):
        north[20 + 3 * k] = "".join(chr(0x4E00 + i * (k + 7) % 5000) for i in range(150))
    documents = [Document(i, f"north/{i:04}", text) for i, text in enumerate(north)]
    report = drift(build(documents, tmp_path / "foreign", tokenizer=ordered.tokenizer, **PLACE))
    found = max(report.outliers, key=lambda one: len(one.documents))
    assert found.p < 0.001 and len(set(found.documents) & set(range(20, 56, 3))) >= 8


def test_the_verb_exits_1_on_drift_and_says_the_same_in_json(dealt, ordered):
    def ask(*words):
        done = CliRunner().invoke(app, ["data", "drift", *map(str, words)])
        return done.exit_code, done.stdout

    code, text = ask(dealt.path)
    assert code == 0 and text.startswith("verdict: no drift seen")
    code, plain = ask(dealt.path, "--json")
    found = json.loads(plain)
    assert (code, found["verdict"], found["reassigned"]) == (0, "no drift seen", 0.0)
    assert found["compared"]["detectable"]["white space tokens"] > 0
    code, text = ask(ordered.path)
    assert code == 1 and text.startswith("verdict: drift")


def test_a_finding_is_told_as_a_share_or_as_a_ratio():
    numbers = dict.fromkeys(("here", "there", "low", "high", "z", "p", "limit"), 0.0)
    assert Change("capital tokens", None, **numbers).told(0.0123, "+") == "+1.230%"
    assert Change("tokens a document", None, **numbers).told(203.456) == "203.46"
