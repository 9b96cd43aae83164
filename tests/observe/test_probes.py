"""Protects the probes: they find what was planted, by the number, and leave no bit of the run changed.

pytest tests/observe/test_probes.py
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from llmkit.errors import ConfigError
from llmkit.observe import PROBES, probe
from llmkit.train import train
from llmkit.train.adamw import AdamW

OPTIONS = {
    "plain": {},
    "fp16, dropout, accumulation": {"precision": "fp16", "model__dropout": 0.1, "micro_batch": 1},
    "bf16, other choices": {
        "precision": "bf16", "model__qk_norm": True, "model__kv_heads": 1, "model__position": "rotary",
        "model__norm": "rmsnorm", "model__activation": "swiglu", "model__tied": False, "model__bias": True,
        "bias_correction": "delayed", "micro_batch": 2,
    },
}  # fmt: skip


def bits(run):
    """Weights, gradients, moments, modes and random state."""
    tensors = [t for p in run.model.parameters() for t in (p, p.grad)]
    tensors += [t for state in run.optimizer.state_dict()["state"].values() for t in state.values()]
    modes = [m.training for m in run.model.modules()]
    settings = [{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]
    tensors.append(torch.get_rng_state())
    return [None if t is None else t.detach().numpy().tobytes() for t in tensors], modes, settings


def go(run, steps):
    return [repr(next(train(run))) for _ in range(steps)]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_that_is_probed_goes_on_as_one_that_is_not(small_run, options):
    run, twin = (small_run(**OPTIONS[options]) for _ in range(2))
    assert go(run, 2) == go(twin, 2)
    before = bits(run)
    probe(run)
    assert bits(run) == before
    assert go(run, 2) == go(twin, 2)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_healthy_run_gives_the_answers_that_it_is_configured_for(small_run, options, steps):
    run = small_run(**OPTIONS[options])
    go(run, steps)
    found = probe(run)
    gradient, update = found["gradient"], found["update"]
    assert gradient["ratio"] == pytest.approx(1, abs=2e-3) and gradient["cosine"] > 0.999
    assert gradient["left"] == 0 and gradient["micro_batches"] == 4 // (run.micro_batch or 4)
    assert (update.pop("frozen"), update.pop("rounded")) == ([], [])
    expected = {"beta1": 0.9, "beta2": 0.95, "decay": 0.1, "vector_decay": 0.0, "eps": 1e-8}
    if run.config.bias_correction == "delayed":
        del expected["eps"]
    assert update == pytest.approx(expected, rel=0.03, abs=1e-12)
    assert found["evaluation"] == {"spread": 0.0}
    assert found["head"] == {"probabilities": False, "follows": True if run.config.model.tied else None}
    assert found["moments"] == {"updates": steps}


@pytest.mark.parametrize("beta2", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, AdamW])
def test_the_settings_in_force_are_measured_whatever_the_groups_say(small_run, kind, eps, beta2):
    """The optimizer is asked by its behaviour: these groups are replaced by ones that lie."""
    run = small_run()
    true = kind(run.model.parameters(), lr=1e-2, betas=(0.8, beta2), eps=eps, weight_decay=0.05)
    run.optimizer.step = true.step
    run.optimizer.state = true.state
    for p in true.param_groups:
        p["lr"] = 1e-3  # what the loop would set
    found = PROBES["update"](run)
    assert found["beta1"] == pytest.approx(0.8, rel=1e-5) and found["beta2"] == pytest.approx(beta2, rel=1e-5)
    assert found["eps"] == pytest.approx(eps, rel=0.03)
    assert found["decay"] == pytest.approx(0.05, rel=1e-2) == found["vector_decay"]


def test_an_optimizer_without_moments_has_none_to_measure(small_run):
    run = small_run()
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1e-3)
    found = probe(run, ["update", "moments"])
    assert found["update"] == {"frozen": [], "rounded": [], "decay": 0.0, "vector_decay": 0.0}
    assert found["moments"] == {"updates": 0}


# ------------------------------------------------------------------------------------------- planted by hand


def test_an_optimizer_over_copies_freezes_everything(small_run):
    """The stale references of Accelerate #2665."""
    run = small_run()
    run.optimizer = torch.optim.AdamW(copy.deepcopy(run.model).parameters())
    assert probe(run)["update"] == {
        "frozen": [name for name, _ in run.model.named_parameters()], "rounded": []
    }  # fmt: skip


def test_weights_kept_in_bf16_are_rounded(small_run):
    run = small_run()
    run.model.bfloat16()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), weight_decay=0.1)
    found = probe(run, ["update"])["update"]
    assert len(found["rounded"]) == len(list(run.model.parameters())) and "eps" not in found


def test_gradients_that_are_not_cleared_are_found_before_and_after_a_step(small_run):
    for steps in (0, 2):
        run = small_run()
        go(run, steps)
        run.optimizer.zero_grad = lambda set_to_none: None
        found = probe(run)["gradient"]
        assert found["left"] > 0.3 and found["ratio"] > 1.2


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_a_factor_on_the_loss_is_the_ratio(small_run, factor):
    run = small_run(precision="fp16", loss_scale=64.0)
    scale = run.scaler.scale
    run.scaler.scale = lambda loss: scale(loss) * factor
    assert probe(run)["gradient"]["ratio"] == pytest.approx(factor, rel=2e-3)


def test_a_micro_batch_that_is_left_out_turns_the_gradient(small_run):
    run, calls = small_run(micro_batch=2), []
    scale = run.scaler.scale
    run.scaler.scale = lambda loss: scale(loss) * (calls.append(1) or len(calls) % 2)
    found = probe(run)["gradient"]
    assert found["cosine"] < 0.97 and found["left"] == 0


def test_a_head_that_is_a_copy_does_not_follow_and_one_with_a_softmax_gives_probabilities(small_run):
    run = small_run()
    run.model.head.weight = nn.Parameter(run.model.embed.weight.detach().clone())
    assert probe(run)["head"] == {"probabilities": False, "follows": False}
    run = small_run()
    run.model.head = nn.Sequential(run.model.head, nn.Softmax(dim=-1))
    assert probe(run)["head"] == {"probabilities": True, "follows": True}


def test_an_eval_that_is_not_passed_on_shows_in_the_spread(small_run):
    run = small_run(model__dropout=0.2)
    run.model.eval = lambda: run.model
    assert probe(run)["evaluation"]["spread"] > 0.01


# ------------------------------------------------------------------------------------------------- the telling


def test_each_answer_is_an_event_with_the_same_numbers(small_run, told):
    run = small_run()
    run.step = 3
    events = told(run)
    found = probe(run, ["moments", "update"])
    assert [(e.kind, e.step, e.data) for e in events] == [
        ("probe", 3, {"probe": name} | found[name]) for name in ("moments", "update")
    ]
    assert events[0].says == "probe `moments`: updates 0"
    assert events[1].says.startswith(
        "probe `update`: frozen 0 tensors, rounded 0 tensors, decay 0.1, beta1 0.9"
    )


def test_a_probe_that_cannot_be_made_says_why_and_harms_nothing(small_run, told):
    run = small_run()
    del run.model.embed
    events, before = told(run), bits(run)
    assert probe(run, ["head", "moments"]).keys() == {"moments"}
    assert events[0].data == {"probe": "head"} and "`head` could not be made" in events[0].says
    assert bits(run) == before


def test_an_unknown_probe_is_refused_word_for_word(small_run):
    with pytest.raises(ConfigError) as error:
        probe(small_run(), ["updates"])
    assert str(error.value) == "unknown probe `updates`\n  remedy: use `update`"


def test_a_scale_that_overflows_makes_no_claim(small_run):
    found = probe(small_run(precision="fp16", loss_scale=2.0**60))["gradient"]
    assert not math.isfinite(found["ratio"])
