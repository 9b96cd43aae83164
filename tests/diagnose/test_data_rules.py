"""Protects the rules about data: each fault by its own count, and silence on what is odd and honest.

pytest tests/diagnose/test_data_rules.py

The ward's healthy runs get what `llmkit.observe.Tokens` counts, with the oddities measured on real text: one
sequence in a hundred of rare ids (entropy of text), one in a hundred that stands in validation too.
"""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from llmkit.diagnose import RULES, diagnose
from llmkit.diagnose.rules import data_files, data_order, data_targets, data_tokens
from llmkit.diagnose.rules.data_tokens import uniform_entropy
from llmkit.records import Event

STEPS, BATCH, CONTEXT, VOCAB, SHARD = 120, 8, 64, 512, 6400  # a hundred windows a shard
SOURCES = {"alpha": 0.6, "beta": 0.3, "gamma": 0.1}
NOISE = uniform_entropy(CONTEXT, VOCAB)


def counted(ward, seed, steps=STEPS, batch=BATCH):
    """A healthy patient with everything the rules about data can ask for."""
    rng = random.Random(seed)
    patient = ward.healthy(seed, steps=steps, batch=batch, precision="fp32", norm_jumps=0.0, pauses=0.0)
    patient.facts["config"]["model"] = {"context": CONTEXT, "vocab_size": VOCAB}
    patient.facts["data"] = {"sources": SOURCES, "shards": {"tokens": SHARD, "count": 50}}
    for step in range(steps):
        served = Counter(rng.choices([*SOURCES], SOURCES.values(), k=batch))
        odd = sum(rng.random() < 0.01 for _ in range(batch))
        stats = {
            "targets_next": 1.0, "pad_targets": 0.0, "token_nats": rng.gauss(5.2, 0.1),
            "foreign_rows": odd, "val_rows": sum(rng.random() < 0.01 for _ in range(batch)),
            **{f"source.{name}": served[name] / batch for name in SOURCES},
        }  # fmt: skip
        stats |= {"foreign_entropy": rng.uniform(2.6, 3.88)} if odd else {}
        samples = tuple(rng.sample(range(5000), batch))
        patient.change(step, stats=stats, samples=samples)
    return patient


def stat(patient, steps, **values):
    for step in steps:
        patient.change(step, stats=patient.steps[step].stats | values)


def lift(patient, step, rows, loss=8.0):
    """Put the loss of some sequences where guessing has it, or above."""
    losses = [loss + row / 10 if row in rows else old for row, old in
              enumerate(patient.steps[step].sequence_losses)]  # fmt: skip
    patient.change(step, sequence_losses=tuple(losses))


def noise(patient, at, shard=3, until=STEPS):
    """Every window of one shard is noise; each step serves two of them, two of any, four of others."""
    for step in range(at, until):
        rng = random.Random(step)
        mine, others = range(shard * 100, shard * 100 + 100), [n for n in range(5000) if n // 100 != shard]
        samples = rng.sample(mine, 2) + rng.sample(others, BATCH - 2)
        patient.change(step, samples=tuple(samples))
        lift(patient, step, (0, 1))
        stat(patient, [step], foreign_rows=2, foreign_entropy=NOISE + rng.gauss(0, 0.02))


def shift(patient, at, same=0.02, ahead=0.02, until=STEPS):
    stat(patient, range(at, until), targets_next=0.02, targets_same=same, targets_two_ahead=ahead)


def swap(patient, at, entropy=3.6, rows=BATCH, until=STEPS):
    stat(patient, range(at, until), token_nats=8.5, foreign_rows=rows, foreign_entropy=entropy)


def order(patient, at, until=STEPS):
    for step in range(at, until):
        patient.change(step, samples=tuple(range(step * BATCH, (step + 1) * BATCH)))


def starve(patient, at, source="beta", until=STEPS):
    for step in range(at, until):
        left = {name: 0.0 if name == source else share for name, share in SOURCES.items()}
        stat(patient, [step], **{f"source.{n}": share / sum(left.values()) for n, share in left.items()})


def leak(patient, at, rows=3, until=STEPS):
    stat(patient, range(at - 7, at), val_rows=0)
    stat(patient, range(at, until), val_rows=rows)


def damage(patient, kind, at=STEPS - 1, file="train-00003.bin", ranges=(), **more):
    """A check of the files found damage to bytes 0 to 128 of shard 3: window 300 of the split."""
    problem = {"file": file, "says": f"`data/{file}` is wrong", "kind": kind, "split": "train", "shard": 3,
               "itemsize": 2, "ranges": list(ranges) or [[2, 128]]}  # fmt: skip
    patient.events.append(Event(kind="data", step=at, says=problem["says"],
                                data={"path": "data", "problems": [problem], "died": False} | more))  # fmt: skip


def serve(patient, step, window):
    patient.change(step, samples=(window, *patient.steps[step].samples[1:]))


FAULTS = {
    "corrupt shard": (noise, "LK402", "shard 3"),
    "unshuffled order": (order, "LK403", "order"),
    "shifted labels": (lambda p, at: shift(p, at, same=1.0), "LK404", "targets"),
    "double shift": (lambda p, at: shift(p, at, ahead=0.995), "LK405", "targets"),
    "tokenizer swap": (swap, "LK406", "tokenizer"),
    "pads not masked": (lambda p, at: stat(p, range(at, STEPS), pad_targets=0.4), "LK407", "pads"),
    "train/val leak": (leak, "LK408", "validation split"),
    "source missing": (starve, "LK409", "beta"),
}


def clear_of(patient, window):
    """No step serves a window by luck."""
    for step, record in enumerate(patient.steps):
        patient.change(
            step, samples=tuple(s if s // 100 != window // 100 else s + 100 for s in record.samples)
        )


@pytest.mark.parametrize("at", [30, 60, 100])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_names_what_was_done_and_nothing_else(ward, fault, seed, at):
    """The confusion matrix is diagonal."""
    do, code, cause = FAULTS[fault]
    patient = counted(ward, seed)
    do(patient, at)
    findings = diagnose(patient.chart()).findings
    assert [(f.code, f.title, f.cause) for f in findings] == [(code, fault, cause)]
    assert findings[0].step == at or (fault == "source missing" and 0 <= at - findings[0].step <= 6)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_prefix_of_a_sick_run_is_given_another_name(ward, fault):
    do, code, _ = FAULTS[fault]
    patient = counted(ward, 2)
    do(patient, 60)
    for end in (20, 59, 60, 61, 62, 64, 70, 110):
        part = ward.Patient(patient.steps[:end], patient.times[:end], [], patient.facts)
        codes = [f.code for f in diagnose(part.chart()).findings]
        assert codes == [] if end <= 60 else codes in ([], [code]), end


@pytest.mark.parametrize(("kind", "code"), [
    ("truncated", "LK410"), ("missing", "LK410"), ("changed", "LK411"), ("extended", "LK411"),
    ("duplicate", "LK412"),
])  # fmt: skip
def test_a_damaged_file_is_named_with_the_first_step_that_served_it(ward, kind, code):
    patient = counted(ward, 3)
    clear_of(patient, 300)
    for step in (70, 90):
        serve(patient, step, 300)
    serve(patient, 40, 301)  # the same shard, behind the damage
    damage(patient, kind)
    diagnosis = diagnose(patient.chart())
    assert [(f.code, f.cause, f.step) for f in diagnosis.findings] == [(code, "train-00003.bin", 70)]
    says = [e.says for e in diagnosis.findings[0].evidence]
    assert says[0] == "`data/train-00003.bin` is wrong" and says[1].startswith("2 steps served those bytes")
    others = {"LK410", "LK411", "LK412"} - {code}
    assert others <= {r.code for r in diagnosis.ruled_out}


def test_the_step_of_damage_is_that_of_the_check_where_nobody_served_it_or_the_run_died_of_it(ward):
    patient = counted(ward, 4)
    clear_of(patient, 300)
    damage(patient, "changed", at=STEPS - 1)
    assert diagnose(patient.chart()).findings[0].step == STEPS - 1
    serve(patient, 50, 300)
    assert diagnose(patient.chart()).findings[0].step == 50
    patient.events.clear()
    damage(patient, "truncated", at=90, died=True)
    assert diagnose(patient.chart()).findings[0].step == 90


def test_a_window_touches_the_damage_by_its_last_target_and_not_by_the_token_after(ward):
    """Window w reads tokens 64 w to 64 (w + 1), both included: window 299 ends on the first token of 300."""
    for ranges, touched in (([[0, 2]], True), ([[2, 4]], False)):
        patient = counted(ward, 5)
        clear_of(patient, 300)
        serve(patient, 33, 299)
        damage(patient, "changed", ranges=ranges)
        assert (diagnose(patient.chart()).findings[0].step == 33) is touched


def test_a_check_that_found_nothing_is_a_fact_and_no_check_is_none(ward):
    patient = counted(ward, 6)
    codes = {"LK410", "LK411", "LK412"}
    assert codes <= {r.code for r in diagnose(patient.chart()).not_judged}
    patient.tell("data", STEPS - 1, path="data", problems=[], died=False)
    diagnosis = diagnose(patient.chart())
    assert diagnosis.healthy and codes <= {r.code for r in diagnosis.ruled_out}


# ------------------------------------------------------------------------------------------ healthy decoys


def quiet(patient) -> dict[str, str]:
    diagnosis = diagnose(patient.chart())
    assert diagnosis.healthy, diagnosis.findings
    unjudged = {r.code for r in diagnosis.not_judged if "LK401" < r.code < "LK500"}
    assert not unjudged - {"LK410", "LK411", "LK412"}
    return {r.code: r.because for r in diagnosis.ruled_out}


def test_healthy_runs_with_counts_get_no_finding(ward):
    for seed in range(40):
        quiet(counted(ward, seed, steps=random.Random(seed).choice((40, 80, 200)), batch=4 + seed % 13))


def test_a_page_of_digits_is_no_corrupt_shard(ward):
    """Two sequences with the entropy of uniform draws, years of training apart."""
    patient = counted(ward, 7)
    for step in (30, 90):
        stat(patient, [step], foreign_rows=1, foreign_entropy=NOISE)
    assert "none repeats as uniform draws do" in quiet(patient)["LK402"]


def test_a_source_in_another_script_is_neither_noise_nor_another_tokenizer(ward):
    """A third of every batch has ids rarer than guessing, and repeats as text does."""
    patient = counted(ward, 8)
    swap(patient, 0, rows=3)
    stat(patient, range(STEPS), token_nats=6.0)
    assert quiet(patient)["LK406"].startswith("38 % of the sequences have ids rarer than guessing")


def test_one_batch_of_foreign_text_is_no_tokenizer(ward):
    patient = counted(ward, 9)
    for step in (40, 42, 90):
        swap(patient, step, until=step + 1)
    quiet(patient)


def test_a_shift_of_the_mixture_is_no_missing_source_and_is_told(ward):
    """beta falls from 30 % to one sequence in 64: served, less often, and sometimes not for 20 steps."""
    patient = counted(ward, 10, steps=300)
    for step in range(60, 300):
        beta = 1 / BATCH if step % 8 == 0 and step < 280 else 0.0
        stat(patient, [step], **{"source.alpha": 0.9 - beta, "source.beta": beta, "source.gamma": 0.1})
    assert "beta 8.1 % (30 %)" in quiet(patient)["LK409"]


def test_a_rare_source_may_stay_away_for_long(ward):
    """A source with 1 % of the tokens is absent from 400 sequences in 2 % of healthy runs, and so is quiet."""
    patient = counted(ward, 11)
    patient.facts["data"] = {
        "sources": {"alpha": 0.99, "gamma": 0.01},
        "shards": {"tokens": SHARD, "count": 9},
    }
    stat(patient, range(70, STEPS), **{"source.alpha": 1.0, "source.gamma": 0.0})
    quiet(patient)


def test_a_source_that_comes_back_was_not_missing(ward):
    patient = counted(ward, 12)
    starve(patient, 40, until=110)
    quiet(patient)


@pytest.mark.parametrize("windows", [12, 40, 400])
def test_a_shuffle_of_few_windows_has_neighbours_by_luck(ward, windows):
    for seed in range(10):
        rng, patient = random.Random(seed), counted(ward, seed, steps=80)
        for step in range(80):
            patient.change(step, samples=tuple(rng.randrange(windows) for _ in range(BATCH)))
        quiet(patient)


def test_a_batch_read_backwards_or_with_a_stride_is_not_the_order_on_disk(ward):
    patient = counted(ward, 13)
    for step in range(STEPS):
        patient.change(step, samples=tuple(range(3 * step, 3 * step + 80, 10)))
    quiet(patient)


def test_text_that_repeats_itself_is_no_leak(ward):
    """Five sequences in a hundred also stand in validation, all through the run."""
    patient = counted(ward, 14, steps=400)
    rng = random.Random(0)
    for step in range(400):
        stat(patient, [step], val_rows=sum(rng.random() < 0.02 for _ in range(BATCH)))
    assert "2.1 % of the sequences are in the validation split as well" in quiet(patient)["LK408"]


def test_targets_that_are_wrong_in_another_way_are_not_called_shifted(ward):
    patient = counted(ward, 15)
    shift(patient, 40)
    assert quiet(patient)["LK404"] == "down to 2 % of the targets are the next input, but none its own input"


def test_a_page_of_one_token_is_aligned_in_every_way(ward):
    """Its targets are the next input, so nothing else is even counted."""
    patient = counted(ward, 16)
    stat(patient, [50], token_share_max=0.99, targets_same=1.0, targets_two_ahead=1.0)
    quiet(patient)


# ------------------------------------------------------------------- causes that are told apart, or not at all


def test_sources_in_the_order_on_disk_are_not_called_missing(ward):
    patient = counted(ward, 17)
    order(patient, 50)
    starve(patient, 50, source="alpha")
    diagnosis = diagnose(patient.chart())
    assert [f.code for f in diagnosis.findings] == ["LK403"]
    because = {r.code: r.because for r in diagnosis.not_judged}
    assert because["LK409"] == "windows come in their order on disk, so sources come one after the other"


def test_noise_in_every_shard_is_the_loaders(ward):
    patient = counted(ward, 18)
    swap(patient, 50, entropy=NOISE)
    findings = diagnose(patient.chart()).findings
    assert [(f.code, f.cause, f.step) for f in findings] == [("LK402", "the loader", 50)]


def test_noise_is_found_where_shards_are_not_recorded(ward):
    patient = counted(ward, 19)
    noise(patient, 50)
    del patient.facts["data"]["shards"]
    assert [(f.code, f.cause) for f in diagnose(patient.chart()).findings] == [("LK402", "the loader")]


def test_a_rolled_back_life_tells_as_well(ward):
    """A log that was not truncated holds the sick life first, then the healed one."""
    patient = counted(ward, 20)
    healed = list(patient.steps[50:])
    shift(patient, 60, same=1.0)
    patient.steps += healed
    assert [(f.code, f.step) for f in diagnose(patient.chart()).findings] == [("LK404", 60)]


def test_without_the_counts_nothing_is_judged_and_the_instrument_is_named(ward):
    diagnosis = diagnose(ward.healthy(21, steps=80).chart())
    because = {r.code: r.because for r in diagnosis.not_judged}
    for code in ("LK402", "LK404", "LK405", "LK406", "LK407", "LK408"):
        assert "attach `llmkit.observe.Recorder`" in because[code]


def test_what_is_general_about_a_finding_is_on_the_rules_page(ward):
    patient = counted(ward, 22)
    swap(patient, 60)
    (finding,) = diagnose(patient.chart()).findings
    page = next(rule.judge.__doc__ for rule in RULES if rule.code == "LK406")
    squeezed = " ".join(page.split())
    for words in (finding.fix, finding.confirm.says, finding.confirm.predicts, *finding.also_seen_with):
        assert words and words in squeezed
    assert len(finding.also_seen_with) == 3 and finding.also_seen_with[1].endswith("stays below ln V)")


def test_every_look_alike_with_a_code_is_a_rule(ward):
    titles = {rule.code: rule.title for rule in RULES}
    for do, code, _ in FAULTS.values():
        patient = counted(ward, 23)
        do(patient, 60)
        (finding,) = diagnose(patient.chart()).findings
        assert finding.code == code
        named = [
            like.split(" (")[0].split(" ", 1) for like in finding.also_seen_with if like.startswith("LK")
        ]
        assert named and all(titles[other] == title for other, title in named)


@pytest.mark.parametrize(("draws", "vocab"), [(1, 5), (2, 3), (4, 3), (6, 2)])
def test_the_entropy_of_uniform_draws_equals_the_mean_over_every_draw(draws, vocab):
    from itertools import product

    rows = list(product(range(vocab), repeat=draws))
    mean = sum(-sum(n / draws * math.log(n / draws) for n in Counter(row).values()) for row in rows) / len(
        rows
    )
    assert uniform_entropy(draws, vocab) == pytest.approx(mean, abs=1e-12)


# ------------------------------------------------------------------------------ the test of the test: mutants

DECOYS = (
    test_a_page_of_digits_is_no_corrupt_shard,
    test_a_source_in_another_script_is_neither_noise_nor_another_tokenizer,
    test_one_batch_of_foreign_text_is_no_tokenizer,
    test_a_shift_of_the_mixture_is_no_missing_source_and_is_told, test_a_rare_source_may_stay_away_for_long,
    test_a_source_that_comes_back_was_not_missing, test_text_that_repeats_itself_is_no_leak,
    test_targets_that_are_wrong_in_another_way_are_not_called_shifted,
)  # fmt: skip
MUTANTS = {
    "text is noise": (data_tokens, "BLIND", 0.5),
    "noise is text": (data_tokens, "BLIND", 2.0),
    "one page is a shard": (data_tokens, "FEW", 1),
    "any foreign sequence is a tokenizer": (data_tokens, "HALF", 0.1),
    "a shift needs no proof": (data_targets, "ALL", 0.01),
    "no target is ever a pad": (data_targets, "PADS", 2.0),
    "an order needs no neighbours": (data_order, "IN_ORDER", 0),
    "an order is never seen": (data_order, "IN_ORDER", 99),
    "one copy is a leak": (data_order, "LEAK", 0.0, data_order, "LEAKED", 1),
    "any absence is loss": (data_order, "CHANCE", 0.5),
    "no absence is loss": (data_order, "CHANCE", 0.0 + 1e-300),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_defect_is_noticed(ward, monkeypatch, mutant):
    change = MUTANTS[mutant]
    for module, name, value in zip(change[::3], change[1::3], change[2::3], strict=True):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)
    failed = []
    for decoy in DECOYS:
        try:
            decoy(ward)
        except AssertionError:
            failed.append(decoy.__name__)
    for fault, (do, code, _) in FAULTS.items():
        patient = counted(ward, 0)
        do(patient, 60)
        failed += [fault] * ([f.code for f in diagnose(patient.chart()).findings] != [code])
    assert failed
    assert data_files.__doc__
