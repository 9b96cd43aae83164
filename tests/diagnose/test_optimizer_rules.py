"""Protects the rules about numerics, the optimizer and the model: each by its own number, and silence beside it.

pytest tests/diagnose/test_optimizer_rules.py

Each case of the battery is a run, broken or odd and honest, and the codes that it must get; the mutants at the
end are defects of the rules, each of which the battery must notice.
"""

from __future__ import annotations

import dataclasses
import math

import pytest

from llmkit.diagnose import RULES, diagnose
from llmkit.diagnose.rules import architecture, routing, scaling, schedule, updates
from llmkit.records import Event
from llmkit.train import tiny
from llmkit.train.optim import WarmupCosine

STEPS, K = 120, 4
CONFIG = tiny(steps=STEPS, lr=3e-3, min_lr=3e-4, warmup=20)
PLAN = WarmupCosine(CONFIG)
ANSWERS = {
    "gradient": {"ratio": 1.0, "cosine": 1.0, "left": 0.0, "micro_batches": K, "scale": 1.0},
    "update": {"frozen": (), "rounded": (), "beta1": 0.9, "beta2": 0.95, "eps": 1.008e-8, "decay": 0.1,
               "vector_decay": 0.0},
    "evaluation": {"spread": 0.0},
    "head": {"probabilities": False, "follows": True},
    "moments": {"updates": STEPS},
}  # fmt: skip


def run_of(ward, lr=PLAN, precision="fp32", **answers):
    """A healthy run on the configured schedule, its activations sampled, every probe made."""
    fixed = {"batch": 4, "norm_jumps": 0.0, "pauses": 0.0, "precision": "fp32", "loss_noise": 0.01}
    patient = ward.healthy(1, steps=STEPS, **fixed)
    patient.facts["config"] = dataclasses.asdict(CONFIG) | {"precision": precision}
    for step in range(STEPS):
        patient.change(step, lr=lr(step), loss_scale=65536.0 if precision == "fp16" else 1.0)
    for step in range(0, STEPS, 10):  # as measured on tiny(lr=3e-3)
        grown = min(1.0, 0.05 + step / 40)
        stats = {"attention_score_max": 5 * grown, "attention_entropy_min": 3.2 - 0.4 * grown,
                 "activation_rms_max": 0.035 + grown}  # fmt: skip
        patient.change(step, stats=stats)
    for name, well in ANSWERS.items():
        answer(patient, name, **(well | answers.get(name, {})))
    return patient


def answer(patient, name, **found):
    patient.events.append(Event(kind="probe", step=STEPS, says=f"probe {name}", data={"probe": name} | found))


def sampled(ward, at=0, until=STEPS, **stats):
    patient = run_of(ward)
    for step in range(at, until, 10):
        patient.change(step, stats=patient.steps[step].stats | stats)
    return patient


def norms(ward, size, steps, scale=65536.0, precision="fp16"):
    patient = run_of(ward, precision=precision)
    for step in range(STEPS):
        patient.change(step, loss_scale=scale)
    for step in steps:
        patient.change(step, grad_norm=patient.steps[step].grad_norm * size, clipped=True)
    return patient


def overflow(ward, at, until=STEPS, **blamed):
    """A gradient overflows at `at`; losses after it are NaN until `until`."""
    patient = run_of(ward, precision="fp16", moments={"updates": STEPS - 1})
    patient.change(at, grad_norm=math.inf, skipped=True, nonfinite="grad")
    for step in range(at + 1, until):
        patient.change(step, loss=math.nan, grad_norm=math.nan, skipped=True, nonfinite="loss")
    if blamed:
        seen = {"module": "", "type": "", "phase": "forward", "kind": "nan", "precision": "fp16"}
        patient.tell("nonfinite", at + 1, **(seen | {"inputs_finite": False} | blamed))
    return patient


def lost(ward, at):
    """Moments were lost before the update of step `at`; steps 5 and 70 were skipped."""
    kept = [step for step in range(at, STEPS) if step not in (5, 70)]
    patient = run_of(ward, moments={"updates": len(kept)})
    for step in (5, 70):
        patient.change(step, skipped=True)
    return patient


def mixture(ward, balance=lambda step: 1.02, dropped=lambda step: 0.0, room=8.0, **shape):
    """Eight experts, two a token, whose routers are even unless said otherwise."""
    patient = run_of(ward)
    patient.facts["config"]["model"] |= {"experts": 8, "top_k": 2} | shape
    for step in range(STEPS):
        seen = {"router_load_max": 2.0, "router_layer": 1.0, "router_unused": 0.0, "router_room": room,
                "router_balance": balance(step), "router_dropped": dropped(step)}  # fmt: skip
        patient.change(step, stats=patient.steps[step].stats | seen)
    return patient


def creeping(rate, first=40):
    return lambda step: 1.02 + rate * max(0, step - first)


def forgetful(ward):
    """Probed when it was sick, and once more when it had been mended."""
    patient = run_of(ward, update={"frozen": ("embed.weight",)})
    answer(patient, "update", **ANSWERS["update"])
    return patient


def times(factor, first, last=STEPS):
    return lambda step: PLAN(step) * (factor if first <= step < last else 1)


def later(first, instead):
    return lambda step: PLAN(instead(step)) if step >= first else PLAN(step)


FROZEN = ("blocks.1.attention.out.weight", "blocks.1.mlp.up.weight", "blocks.1.norm1.weight")
WEIGHTS = "blocks.0.mlp.up.weight"
BATTERY = {  # name -> (how to make it, code, or none, culprit, step)
    "healthy": (run_of, ""),
    # the schedule
    "clock": (lambda w: run_of(w, later(30, lambda s: 4 * s)), "LK304", "learning rate", 30),
    "clock from the start": (lambda w: run_of(w, later(0, lambda s: 2 * s)), "LK304", "learning rate", 1),
    "no warmup": (lambda w: run_of(w, later(0, lambda s: max(s, 20))), "LK308", "learning rate", 0),
    "half a warmup": (lambda w: run_of(w, later(9, lambda s: max(s, 20))), "LK308", "learning rate", 9),
    "ten times": (lambda w: run_of(w, times(10, 40)), "LK309", "learning rate", 40),
    "ten times for a while": (lambda w: run_of(w, times(10, 40, 60)), "LK309", "learning rate", 40),
    "reset": (lambda w: run_of(w, later(50, lambda s: s - 50)), "LK314", "learning rate", 50),
    "reset in the warmup": (lambda w: run_of(w, later(7, lambda s: s - 7)), "LK314", "learning rate", 7),
    "halved by hand": (lambda w: run_of(w, times(0.5, 40)), ""),
    "doubled by hand": (lambda w: run_of(w, times(2.0, 40)), ""),
    "a learner's own": (lambda w: run_of(w, lambda s: 1e-3), ""),
    "rounded": (lambda w: run_of(w, lambda s: PLAN(s) * (1 + 3e-5 * (-1) ** s)), ""),
    "ten times, rounded": (lambda w: run_of(w, lambda s: times(10, 40)(s) * (1 + 3e-5 * (-1) ** s)), "LK309",
                           "learning rate", 40),
    "short": (lambda w: run_of(w, times(2.5, 40, 44)), ""),
    # scale and update in the wrong order
    "norm times scale": (lambda w: norms(w, 65536, range(40, STEPS)), "LK103", "clipping", 40),
    "norm times a small scale": (lambda w: norms(w, 900, range(40, STEPS), 1024.0), ""),
    "seven large norms": (lambda w: norms(w, 65536, range(40, 47)), ""),
    "large norms unscaled": (lambda w: norms(w, 65536, range(40, STEPS), precision="bf16"), ""),
    "stepped": (lambda w: overflow(w, 60, parameter=WEIGHTS), "LK104", "optimizer step", 60),
    "stepped, untraced": (lambda w: overflow(w, 60), "LK104", "optimizer step", 60),
    "skipped": (lambda w: overflow(w, 60, until=61), ""),
    # activations
    "attention": (lambda w: sampled(w, 60, attention_score_max=80.0, attention_entropy_min=0.9), "LK106",
                  "attention scores", 60),
    "large scores, wide": (lambda w: sampled(w, 60, attention_score_max=80.0), ""),
    "sharp, small scores": (lambda w: sampled(w, 60, attention_entropy_min=0.3), ""),
    "loud at init": (lambda w: sampled(w, 0, activation_rms_max=0.2), "LK107", "residual stream", 0),
    "loud later": (lambda w: sampled(w, 50, activation_rms_max=5.0), "LK107", "residual stream", 50),
    "louder, not loud": (lambda w: sampled(w, 50, activation_rms_max=3.0), ""),
    "init within its bound": (lambda w: sampled(w, 0, 10, activation_rms_max=0.14), ""),
    # probes
    "left": (lambda w: run_of(w, gradient={"left": 1.7, "ratio": 1.9, "cosine": 0.5}), "LK302", "zero_grad",
             STEPS),
    "left, and a whole ratio": (lambda w: run_of(w, gradient={"left": 1.7, "ratio": 4.0}), "LK302",
                                "zero_grad", STEPS),
    "summed": (lambda w: run_of(w, gradient={"ratio": 4.003}), "LK303", "gradient accumulation", STEPS),
    "not quite summed": (lambda w: run_of(w, gradient={"ratio": 3.9}), ""),
    "one piece": (lambda w: run_of(w, gradient={"micro_batches": 1}), ""),
    "decay": (lambda w: run_of(w, update={"vector_decay": 0.1}), "LK305", "weight decay", STEPS),
    "beta2": (lambda w: run_of(w, update={"beta2": 0.999}), "LK306", "beta2", STEPS),
    "beta2 too low": (lambda w: run_of(w, update={"beta2": 0.9}), ""),
    "eps": (lambda w: run_of(w, update={"eps": 1e-3}), "LK307", "eps", STEPS),
    "eps nearly": (lambda w: run_of(w, update={"eps": 8e-8}), ""),
    "a gradient changed on the way": (lambda w: run_of(w, update={"beta1": 1.0, "beta2": 1.0, "eps": 1e-3}),
                                      ""),
    "frozen": (lambda w: run_of(w, update={"frozen": FROZEN}), "LK312", "blocks.1", STEPS),
    "frozen here and there": (lambda w: run_of(w, update={"frozen": (*FROZEN, "norm.weight")}), "LK312",
                              "4 tensors", STEPS),
    "bf16": (lambda w: run_of(w, update={"rounded": FROZEN}), "LK105", "master weights", STEPS),
    "softmax": (lambda w: run_of(w, head={"probabilities": True}), "LK108", "head", STEPS),
    "untied": (lambda w: run_of(w, head={"follows": False}), "LK310", "head", STEPS),
    "its own head": (lambda w: run_of(w, head={"follows": None}), ""),
    "dropout": (lambda w: run_of(w, evaluation={"spread": 0.4}), "LK311", "evaluation", STEPS),
    "rounding": (lambda w: run_of(w, evaluation={"spread": 1e-6}), ""),
    "lost": (lambda w: lost(w, 40), "LK313", "optimizer state", 40),
    "lost after a skip": (lambda w: lost(w, 71), "LK313", "optimizer state", 71),
    "skips, nothing lost": (lambda w: lost(w, 0), ""),
    "mended": (forgetful, ""),
    # routers
    "even": (mixture, ""),
    "collapse": (lambda w: mixture(w, creeping(0.04)), "LK315", "balance loss", 51),
    "a fast collapse": (lambda w: mixture(w, creeping(0.15)), "LK315", "balance loss", 46),
    "collapse from the start": (lambda w: mixture(w, creeping(0.05, 0)), "LK315", "balance loss", 10),
    "collapse, one of sixteen": (lambda w: mixture(w, creeping(0.1), experts=16, top_k=1), "LK315",
                                 "balance loss", 59),
    "uneven when young, one of sixteen": (lambda w: mixture(w, lambda s: 1.02 + 0.1 * min(s, 10, max(0, 30 - s)),
                                                            experts=16, top_k=1), ""),
    "uneven when young": (lambda w: mixture(w, lambda s: 1.25 if s in range(8, 20) else 1.02), ""),
    "uneven for four steps": (lambda w: mixture(w, lambda s: 1.5 - 0.1 * abs(42 - s) if 39 < s < 45 else 1.0), ""),
    "preferred": (lambda w: mixture(w, lambda s: 1.02 if s < 40 else 2.4 - 0.01 * (s - 40)), "LK316",
                  "router scores", 40),
    "preferred from the start": (lambda w: mixture(w, lambda s: 1.6), "LK316", "router scores", 0),
    "preferred once": (lambda w: mixture(w, lambda s: 2.0 if s == 40 else 1.02), ""),
    "preferred a little": (lambda w: mixture(w, lambda s: 1.02 if s < 40 else 1.27), ""),
    "dropped": (lambda w: mixture(w, dropped=lambda s: 0.5, room=0.5), "LK317", "capacity factor", 0),
    "dropped by the uneven": (lambda w: mixture(w, dropped=lambda s: 0.4, room=1.25), ""),
    "little room, nothing dropped": (lambda w: mixture(w, dropped=lambda s: 0.02, room=0.98), ""),
}  # fmt: skip


def codes(ward, name):
    make, *expected = BATTERY[name]
    findings = diagnose(make(ward).chart()).findings
    return [[f.code, f.cause, f.step] for f in findings], [expected] if expected[0] else []


@pytest.mark.parametrize("name", BATTERY)
def test_each_run_gets_its_finding_and_no_other(ward, name):
    found, expected = codes(ward, name)
    assert found == expected


def test_every_rule_of_the_two_families_is_in_the_battery():
    mine = {rule.code for rule in RULES if rule.code > "LK102" and rule.code[2] in "13"} - {"LK301"}
    assert {expected[0] for _, *expected in BATTERY.values() if expected[0]} == mine


MUTANTS = {
    "one large norm is enough": (scaling, "IN_A_ROW", 1),
    "any scale is steep": (scaling, "STEEP", 0.0),
    "only huge norms count": (scaling, "SHARE", 0.1),
    "scores are not asked": (architecture, "SCORES", 0.0),
    "entropy is not asked": (architecture, "SHARP", 9.0),
    "any rise is loud": (architecture, "LOUD", 1.0),
    "nothing is loud": (architecture, "LOUD", 9.0),
    "no init is loud": (architecture, "BOUND", 9.0),
    "any init is loud": (architecture, "BOUND", 0.5),
    "a nearly whole ratio is whole": (updates, "NEAR", 0.05),
    "no ratio is whole": (updates, "NEAR", 1e-9),
    "nothing is left": (updates, "LEFT", 9.0),
    "any factor is a fault": (schedule, "JUMP", 0.1),
    "a rate must be exact": (schedule, "CLOSE", 1e-9),
    "no clock is fast": (schedule, "FASTEST", 1),
    "any router is uneven": (routing, "UNEVEN", 0.03),
    "a moment is for ever": (routing, "STAYS", 1),
    "no router is": (routing, "UNEVEN", 0.9),
    "one step is a span": (routing, "SPAN", 1),
    "nothing jumps": (routing, "JUMP", 2.0),
    "everything jumps": (routing, "JUMP", 0.0),
    "only all is much": (routing, "LOST", 0.6),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_defect_is_noticed(ward, monkeypatch, mutant):
    module, name, value = MUTANTS[mutant]
    assert hasattr(module, name)
    monkeypatch.setattr(module, name, value)
    assert any(found != expected for found, expected in (codes(ward, case) for case in BATTERY))


def test_the_doctor_computes_the_schedule_that_the_loop_uses(ward):
    for settings in ({}, {"warmup": 0}, {"warmup": STEPS}, {"steps": 1, "warmup": 1}, {"min_lr": 0.0}):
        cfg = dataclasses.replace(CONFIG, **settings)
        patient = run_of(ward)
        patient.facts["config"] = dataclasses.asdict(cfg)
        rate, plan = schedule.planned(patient.chart()), WarmupCosine(cfg)
        assert [rate(step) for step in range(2 * STEPS)] == [plan(step) for step in range(2 * STEPS)]


def test_what_is_not_recorded_is_not_judged_and_the_instrument_is_named(ward):
    patient = run_of(ward)
    del patient.facts["config"]["warmup"]
    patient.events[:] = [
        Event(kind="probe", step=STEPS, says="could not be made: why", data={"probe": "head"})
    ]
    for step in range(STEPS):
        patient.change(step, stats={})
    diagnosis = diagnose(patient.chart())
    because = {r.code: r.because for r in diagnosis.not_judged}
    assert diagnosis.healthy
    assert {because[f"LK3{n:02}"] for n in (4, 8, 9, 14)} == {schedule.MISSING}
    assert because["LK310"] == because["LK108"] == "could not be made: why"
    probed = {because[c] for c in "LK105 LK302 LK303 LK305 LK306 LK307 LK311 LK312 LK313".split()}
    assert probed == {"no probe was made: `llmkit diagnose RUN --probe` makes them"}
    assert "attach `llmkit.observe.Recorder`" in because["LK106"] == because["LK106"]


@pytest.mark.parametrize("seed", range(8))
def test_the_wards_healthy_runs_stay_quiet_with_every_probe_made(ward, seed):
    patient = ward.healthy(seed)
    for name, well in ANSWERS.items():
        answer(patient, name, **(well | ({"updates": 10**6} if name == "moments" else {})))
    assert diagnose(patient.chart()).healthy


def test_the_bound_on_the_residual_stream_holds_at_many_widths():
    """Against the model itself: the largest block output at initialisation, on random tokens."""
    torch = pytest.importorskip("torch")
    from llmkit.diagnose import Chart
    from llmkit.train import GPT

    for width, layers, std in ((32, 2, 0.02), (128, 4, 0.02), (256, 2, 0.06), (64, 12, 0.1)):
        cfg = tiny(model__width=width, model__layers=layers, model__init_std=std)
        model = GPT(cfg.model, generator=torch.Generator().manual_seed(1))
        seen = []
        for block in model.blocks:
            block.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out.square().mean().sqrt()))
        with torch.no_grad():
            model.hidden(torch.arange(4 * 64).view(4, 64) % 512)
        bound = architecture.loudest_at_start(Chart({"config": dataclasses.asdict(cfg)}))
        assert bound / 2.5 < max(seen) < 1.1 * bound
