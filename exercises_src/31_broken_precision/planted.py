"""Wrong and right answers of exercise 31: guesses at the modes, patches, tests that prove too little.

function, key = WRONG["test_adam"]["one step"]
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from .versions import FAULTS, FIXES

# ---------------------------------------------------------------------------------------------- wrong: modes


def _modes(**changed):
    found = {name: mode for name, mode in (FAULTS | changed).items() if mode}
    return lambda: dict(found)


WRONG_MODES = {
    "the master copy is blamed": (
        _modes(losses="", Model="there is no float32 master copy of the weights"),
        "3 right",
    ),
    "no correction at all": (_modes(Adam="there is no bias correction at all"), "3 right"),
    "eps is blamed": (_modes(Adam="eps vanishes in float16"), "3 right"),
    "clip is blamed": (
        _modes(train_step="", clip="gradients are clipped before they are unscaled"),
        "3 right",
    ),
    "a step on an overflow": (_modes(train_step="the optimizer steps on an overflow"), "3 right"),
    "the scale is lost": (_modes(restore="a resumed run starts with the initial scale"), "3 right"),
    "modes exchanged": (_modes(losses=FAULTS["Adam"], Adam=FAULTS["losses"]), "2 right"),
    "one found": (
        lambda: {
            "losses": FAULTS["losses"],
            "clip": "each tensor is clipped on its own",
            "unscale": "an overflow goes unseen",
            "Scaler": "the scale never grows",
        },
        "1 right",
    ),
    "every name right, every mode wrong": (
        lambda: dict(zip(FAULTS, [*list(FAULTS.values())[1:], FAULTS["losses"]], strict=True)),
        "0 right",
    ),
    "three entries": (_modes(restore=""), "form"),
    "five entries": (_modes(backward="micro-batches are summed, not averaged"), "form"),
    "own words": (_modes(Adam="beta2"), "form"),
    "a list": (lambda: list(FAULTS), "form"),
    "raises": (lambda: FAULTS["adam"], ""),
}

# ---------------------------------------------------------------------------------------------- wrong: fixes

SCORES, C, ORDER, SCALER = (old for old, _ in FIXES.values())
PICK = "return scores.logsumexp(-1) - scores.gather(-1, targets[:, None]).squeeze(-1)"
MOVE = "param.data.sub_(lr * (m / c1) / ((v / c2).sqrt() + eps))"


def _patch(**changed):
    """The right patch with the new lines of one function replaced; None leaves the fault in."""
    news = {name: changed.get(name, new) for name, (_, new) in FIXES.items()}
    return lambda: {old: news[name] for name, (old, _) in FIXES.items() if news[name] is not None}


def _instead(name, **edits):
    """One fault is mended in another line, which breaks something."""
    return lambda: _patch(**{name: None})() | edits


WRONG_FIXES = {
    "leaves the loss": (_patch(losses=None), "losses"),
    "float32 at the end": (_instead("losses", **{PICK: f"return ({PICK[7:]}).float()"}), "losses"),
    "bfloat16": (_patch(losses=SCORES.replace("logits", "logits.bfloat16()")), "losses"),
    "a softmax that underflows": (
        _patch(losses=f"{FIXES['losses'][1]}\nscores = scores.softmax(-1).log()"),
        "losses",
    ),
    "leaves the correction": (_patch(Adam=None), "adam"),
    "no correction": (_patch(Adam="c1, c2 = 1.0, 1.0"), "adam"),
    "betas exchanged": (_patch(Adam="c1, c2 = 1 - b2**self.t, 1 - b1**self.t"), "adam"),
    "corrections of the step before": (
        _patch(Adam="c1, c2 = 1 - b1 ** (self.t + 1), 1 - b2 ** (self.t + 1)"),
        "adam",
    ),
    "leaves the order": (_patch(train_step=None), "step"),
    "clips to the scale, logs the scaled norm": (
        _patch(train_step="norm, overflow = clip(params, scale), unscale(params, scale)"),
        "step",
    ),
    "does not clip": (
        _patch(train_step="overflow, norm = unscale(params, scale), clip(params, float('inf'))"),
        "step",
    ),
    "unscales twice": (_patch(train_step=f"unscale(params, scale)\n{FIXES['train_step'][1]}"), "step"),
    "forgets the overflow": (_patch(train_step=f"{FIXES['train_step'][1]}\noverflow = False"), "step"),
    "clips by element": (
        _patch(
            train_step="overflow, norm = unscale(params, scale), clip(params, 1e9)\n"
            "nn.utils.clip_grad_value_(params, 1.0 / len(params) / 4)"
        ),
        "step",
    ),
    "leaves the count": (_patch(restore=None), "resume"),
    "a fresh scaler": (_patch(restore="run.scaler = Scaler()"), "resume"),
    "the count alone": (_patch(restore='run.scaler.good = parts["scaler"]["good"] + 1'), "resume"),
    "clips by a norm of its own": (
        _instead("train_step", **{"grad.mul_(min(1.0, most / max(norm, 1e-12)))": "pass"}),
        "step",
    ),
    "the scaler grows at once": (
        lambda: {
            **{old: new for old, new in _patch()().items() if old != SCALER},
            "elif self.good == self.interval:": "else:",
        },
        "step",
    ),
    "clip knows the scale": (
        _instead(
            "train_step",
            **{"norm = torch.stack([grad.norm() for grad in grads]).norm().item()": (
                "norm = torch.stack([grad.norm() for grad in grads]).norm().item() / 1024"
            )},
        ),
        "step",
    ),
    "mends the count in the scaler": (
        _instead(
            "restore",
            **{"self.scale, self.good = self.scale * 2, 0": "self.scale, self.good = self.scale * 1, 0"},
        ),
        "rest",
    ),
    "five lines": (lambda: _patch()() | {"self.t += 1": "self.t = self.t + 1"}, "size"),
    "a line becomes three": (_patch(restore=f"{FIXES['restore'][1]}\npass\npass"), "size"),
    "half a line": (lambda: {"1 - b1**self.t": "1 - b2**self.t"}, "line"),
    "a line that stands there twice": (lambda: {"self.t = 0": "self.t = 1", "": "pass"}, "line"),
    "a list of new lines": (lambda: [new for _, new in FIXES.values()], "form"),
    "code instead of text": (lambda: {C: len}, "form"),
    "a bracket too many": (_patch(Adam="c1, c2 = 1 - b1**self.t), 1 - b2**self.t"), ""),
}  # fmt: skip

# ----------------------------------------------------------------------------------------- wrong: test_losses

LOGITS = torch.tensor([[[20.0, 13.0, 12.0], [-30.0, 4.0, 3.0], [150.0, -150.0, 0.0]]])


def losses_test(logits=LOGITS, labels=(0, 1, 2), near=1e-5, dtype=torch.float16, want=None):
    def test_losses(p):
        given = logits.to(dtype)
        for label in labels:
            right = (want or (lambda x, n: -x.double().log_softmax(-1)[:, n]))(given[0], label)
            found = p.losses(given, torch.full(given.shape[:2], label))
            assert torch.allclose(found.double(), right.double(), rtol=near, atol=near)

    return test_losses


def dtype_alone(p):
    assert p.losses(LOGITS.half(), torch.tensor([[0, 1, 2]])).dtype == torch.float32


def finite(p):
    assert p.losses(LOGITS.half(), torch.tensor([[0, 1, 2]])).isfinite().all()


ALONE, MENDED, SIBLING = "This fault alone", "Mended", "Sibling"
WRONG_TEST_LOSSES = {
    "asserts nothing": (lambda p: p.losses(LOGITS.half(), torch.tensor([[0, 1, 2]])), ALONE),
    "float32 logits": (losses_test(dtype=torch.float32), ALONE),
    "a wide tolerance": (losses_test(near=0.05), ALONE),
    "all finite": (finite, ALONE),
    "flat logits": (losses_test(logits=torch.zeros(1, 2, 3), near=1e-3), ALONE),
    "no small probability": (losses_test(logits=LOGITS[:, :1]), SIBLING),
    "no large logit": (losses_test(logits=LOGITS[:, :2]), SIBLING),
    "the dtype alone": (dtype_alone, SIBLING),
    "the mean": (losses_test(want=lambda x, n: -x.double().log_softmax(-1)[:, n].mean()), MENDED),
    "in base 2": (losses_test(want=lambda x, n: -x.double().log_softmax(-1)[:, n] / 0.6931), MENDED),
    "the likelihood": (losses_test(want=lambda x, n: x.double().log_softmax(-1)[:, n]), MENDED),
    "float16 is right": (
        losses_test(want=lambda x, n: x.logsumexp(-1) - x[:, n]),
        ALONE,
    ),
    "without the batch": (lambda p: p.losses(LOGITS[0].half(), torch.tensor([0, 1, 2])), MENDED),
    "to the last bit": (losses_test(near=0.0), MENDED),
}

# ------------------------------------------------------------------------------------------- wrong: test_adam

SIZES = torch.tensor([1.0, 1e-4, 1e-9])


def adam_test(steps=(1.0, -0.5, 0.1), sizes=SIZES, near=1e-4, frozen=True, look=None, **witness):
    def test_adam(p):
        ours = [nn.Parameter(torch.ones(len(sizes))), nn.Parameter(torch.ones(2))]
        theirs = copy.deepcopy(ours)
        other = torch.optim.Adam(theirs, **{"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8} | witness)
        adam = p.Adam(ours if frozen else ours[:1])
        for size in steps:
            ours[0].grad, theirs[0].grad = size * sizes, size * sizes
            adam.step(0.1)
            other.step()
        (look or (lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=near)))(ours[0], theirs[0])

    return test_adam


def moves(p):
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    p.Adam([param]).step(0.1)
    assert (param < 1).all()


def minimises(p):
    param = nn.Parameter(torch.ones(2))
    adam = p.Adam([param])
    for _ in range(60):
        param.grad = 2 * param.detach()
        adam.step(0.05)
    assert param.abs().max() < 0.2


def moments_alone(p):
    param = nn.Parameter(torch.ones(1))
    adam = p.Adam([param])
    param.grad = torch.ones(1)
    adam.step(0.1)
    assert abs(adam.m[0].item() - 0.1) < 1e-6 and abs(adam.v[0].item() - 0.01) < 1e-6


WRONG_TEST_ADAM = {
    "it moves": (moves, ALONE),
    "it minimises": (minimises, ALONE),
    "the moments alone": (moments_alone, ALONE),
    "the sign alone": (
        adam_test(look=lambda a, b: torch.equal((a - 1).sign(), (b - 1).sign()) or 1 / 0, sizes=SIZES[:1]),
        ALONE,
    ),
    "a wide tolerance": (adam_test(near=1.0), ALONE),
    "no gradient at all": (adam_test(steps=()), ALONE),
    "large gradients alone": (adam_test(sizes=SIZES[:1]), SIBLING),
    "one step": (adam_test(steps=(1.0,)), SIBLING),
    "gradients of 1e-4 at the least": (adam_test(sizes=SIZES[:1] * 1e-4), SIBLING),
    "torch's default betas": (adam_test(betas=(0.9, 0.999)), MENDED),
    "another eps": (adam_test(eps=1e-6), MENDED),
    "with decay": (adam_test(weight_decay=0.1), MENDED),
    "another learning rate": (adam_test(lr=0.01), MENDED),
    "SGD": (
        adam_test(look=lambda a, b: torch.testing.assert_close(a, 1 - 0.06 * SIZES, rtol=0, atol=1e-4)),
        MENDED,
    ),
}

# ------------------------------------------------------------------------------------------- wrong: test_step

BATCH = (torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 5]]))


def after(p, scale, factor=1.0):
    """[norms, first moments, update of the output layer, t] of a run at this scale."""
    run = p.Run(0)
    run.model.embed.data.mul_(factor)
    run.scaler.scale, before = scale, run.model.out.detach().clone()
    norms = [p.train_step(run, [BATCH])[1]]
    return (
        torch.tensor(norms),
        torch.cat([m.flatten() for m in run.adam.m]),
        run.model.out.detach() - before,
        run.adam.t,
    )


def step_test(factors=(0.5, 4.0), scales=(1.0, 1024.0), parts=(0, 1, 2), overflow=True, near=0.02):
    def test_step(p):
        for factor in factors:
            one, two = (after(p, scale, factor) for scale in scales)
            for part in parts:
                assert torch.allclose(one[part], two[part], rtol=near, atol=1e-3)
            if overflow:
                _, moments, moved, t = after(p, 2.0**40, factor)
                assert t == 0 and not moments.any() and not moved.any()

    return test_step


def scale_halves(p):
    run = p.Run(0)
    run.scaler.scale = 2.0**40
    p.train_step(run, [BATCH])
    assert run.scaler.scale == 2.0**39 and run.adam.t == 0


def loss_falls(p):
    run = p.Run(0)
    losses = [p.train_step(run, [BATCH])[0] for _ in range(20)]
    assert losses[-1] < losses[0]


def weights_finite(p):
    assert after(p, 2.0**40)[2].isfinite().all()


WRONG_TEST_STEP = {
    "the loss falls": (loss_falls, ALONE),
    "the scale halves": (scale_halves, ALONE),
    "the update alone, which Adam makes equal": (step_test(parts=(2,)), ALONE),
    "the overflow alone": (step_test(scales=(1.0, 1.0)), ALONE),
    "weights stay finite": (weights_finite, ALONE),
    "a wide tolerance": (step_test(near=1e6), ALONE),
    "no overflow": (step_test(overflow=False), SIBLING),
    "the norm alone": (step_test(parts=(0,)), SIBLING),
    "small gradients alone": (step_test(factors=(0.1,)), SIBLING),
    "equal scales of 2": (step_test(scales=(2.0, 2.0)), ALONE),
    "one scale overflows": (step_test(scales=(1.0, 2.0**40)), MENDED),
    "another norm": (lambda p: after(p, 1.0)[0] == 1.0 or 1 / 0, MENDED),
    "wants the update to change": (
        lambda p: torch.allclose(after(p, 1.0)[2], after(p, 1024.0)[2], atol=1e-3) and 1 / 0,
        MENDED,
    ),
    "weights of another run": (
        lambda p: torch.equal(p.Run(0).model.out, p.Run(1).model.out) or 1 / 0,
        MENDED,
    ),
}

# ---------------------------------------------------------------------------------------- wrong: test_restore


def restore_test(before=2, on=4, look=(0, 1, 2), other=True, weights=True, seed=1):
    def test_restore(p):
        run = p.Run(0)
        for _ in range(before):
            p.train_step(run, [BATCH])
        saved = p.save(run)
        want = [(*p.train_step(run, [BATCH]), run.scaler.scale) for _ in range(on)]
        resumed = p.Run(seed) if other else run
        p.restore(resumed, saved)
        got = [(*p.train_step(resumed, [BATCH]), resumed.scaler.scale) for _ in range(on)]
        for part in look:
            assert [x[part] for x in got] == [x[part] for x in want]
        assert not weights or torch.equal(run.model.out, resumed.model.out)

    return test_restore


def scale_at_once(p):
    run, resumed = p.Run(0), p.Run(1)
    for _ in range(5):
        p.train_step(run, [BATCH])
    p.restore(resumed, p.save(run))
    assert resumed.scaler.scale == run.scaler.scale


def state_at_once(p):
    run, resumed = p.Run(0), p.Run(1)
    for _ in range(6):
        p.train_step(run, [BATCH])
    p.restore(resumed, p.save(run))
    assert vars(resumed.scaler) == vars(run.scaler)


WRONG_TEST_RESTORE = {
    "asserts nothing": (restore_test(look=(), weights=False), ALONE),
    "the scale right after": (scale_at_once, ALONE),
    "losses alone": (restore_test(look=(0,), weights=False), ALONE),
    "losses and weights": (restore_test(look=(0, 1)), ALONE),
    "saved at a doubling": (restore_test(before=4), ALONE),
    "one step on": (restore_test(on=1), ALONE),
    "too early to double": (restore_test(before=1, on=2), ALONE),
    "the scaler's state alone": (state_at_once, SIBLING),
    "scales alone": (restore_test(look=(2,), weights=False), SIBLING),
    "losses of one step, scales of none": (restore_test(before=4, on=1, look=(0,)), ALONE),
    "norm is zero": (lambda p: p.train_step(p.Run(0), [BATCH])[1] == 0 or 1 / 0, MENDED),
    "saved twice": (lambda p: p.save(p.Run(0)) == p.save(p.Run(1)) or 1 / 0, MENDED),
    "wants the initial scale": (lambda p: restore_test()(p) or p.Scaler().scale == 1 or 1 / 0, MENDED),
    "forgets the micro-batches": (lambda p: p.train_step(p.Run(0)), MENDED),
}  # fmt: skip

WRONG = {
    "modes": WRONG_MODES,
    "fixes": WRONG_FIXES,
    "test_losses": WRONG_TEST_LOSSES,
    "test_adam": WRONG_TEST_ADAM,
    "test_step": WRONG_TEST_STEP,
    "test_restore": WRONG_TEST_RESTORE,
}

# ------------------------------------------------------------------------------------- right, in other styles


def losses_by_hand(p):
    """Two logits d apart: log(1 + e^-d) for the larger one, d more for the smaller."""
    for gap in (7.0, 240.0):
        logits = torch.tensor([[[gap / 2 + 10, 10 - gap / 2]]]).half()
        for label, want in ((0, 0.0), (1, gap)):
            right = want + torch.log1p(torch.exp(torch.tensor(-gap, dtype=torch.float64))).item()
            found = p.losses(logits, torch.tensor([[label]])).item()
            if abs(found - right) > 1e-5 * max(1.0, right):
                raise ValueError(found)
    tiny = p.losses(torch.tensor([[[11.0, 0.0]]]).half(), torch.tensor([[0]])).item()
    assert abs(tiny / 1.67e-5 - 1) < 0.2 or abs(tiny - 1.67e-5) < 1e-6


def adam_in_closed_form(p):
    """A constant gradient g moves each weight by lr g / (|g| + eps) per step."""
    grad = torch.tensor([3.0, -1e-4, 2e-9])
    param = nn.Parameter(torch.zeros(3))
    adam = p.Adam([param, nn.Parameter(torch.zeros(1))])
    for step in (1, 2, 3):
        param.grad = grad.clone()
        adam.step(0.5)
        want = -0.5 * step * grad / (grad.abs() + 1e-8)
        assert torch.allclose(param.detach(), want, atol=1e-3)


def step_by_moments(p):
    """Adam's first moment is a tenth of what it was given."""
    for factor in (0.5, 4.0):
        norm, moments, _, t = after(p, 1024.0, factor)
        given, plain = moments.norm().item() / 0.1, after(p, 1.0, factor)[0].item()
        assert t == 1 and abs(given - min(1.0, plain)) < 0.02 and abs(norm.item() / plain - 1) < 0.02
    weights = p.Run(0).model.out
    run = p.Run(0)
    run.scaler.scale = 2.0**60
    p.train_step(run, [BATCH])
    assert torch.equal(weights, run.model.out) and run.adam.t == 0


RIGHT = {
    "modes": [_modes(), lambda: dict(sorted(FAULTS.items())), lambda: {**FAULTS}],
    "fixes": [
        _patch(),
        _patch(
            losses="scores = logits.double().flatten(0, 1)\ntargets = labels.flatten()",
            train_step="overflow = unscale(params, scale)\nnorm = clip(params, 1.0)",
        ),
        _patch(
            train_step="norm, overflow = clip(params, 1.0 * scale) / scale, unscale(params, scale)",
            restore=f'{SCALER}\nrun.scaler.good = parts["scaler"]["good"]',
        ),
        lambda: {f"  {old} ": new for old, new in _patch()().items()},
    ],
    "test_losses": [losses_test(), losses_by_hand, losses_test(logits=LOGITS * 1.5)],
    "test_adam": [adam_test(), adam_in_closed_form, adam_test(steps=(0.3, 0.3, -1.0, 2.0), near=1e-3)],
    "test_step": [step_test(), step_by_moments, step_test(scales=(4.0, 512.0))],
    "test_restore": [restore_test(), restore_test(before=6, on=6), restore_test(before=3, on=2)],
}
