"""The step with each fault, mended, in other styles, with sibling faults; and the four tests that tell."""

from __future__ import annotations

from pathlib import Path

from llmkit.grade.exercise import source

broken = source("30_broken_pipeline", "broken")

SICK = broken.handed_over(Path(__file__).parent, "def losses(")
FAULTS = {
    "losses": "the loss is computed in float16",
    "Adam": "the second moment is corrected by the first one's beta",
    "train_step": "gradients are clipped before they are unscaled",
    "restore": "a resumed run forgets the good steps in a row",
}
FAILURES = [
    "there is no float32 master copy of the weights",
    "the loss is computed in float16",
    "micro-batches are summed, not averaged",
    "an overflow goes unseen",
    "each tensor is clipped on its own",
    "gradients are clipped before they are unscaled",
    "the optimizer steps on an overflow",
    "eps vanishes in float16",
    "there is no bias correction at all",
    "the second moment is corrected by the first one's beta",
    "the scale never grows",
    "a resumed run starts with the initial scale",
    "a resumed run forgets the good steps in a row",
]
NAMES = ["Model", "losses", "backward", "unscale", "clip", "Adam", "Scaler", "Run"]
NAMES += ["train_step", "save", "restore"]
FIXES = {
    "losses": (
        "scores, targets = logits.flatten(0, 1), labels.flatten()",
        "scores, targets = logits.float().flatten(0, 1), labels.flatten()",
    ),
    "Adam": ("c1, c2 = 1 - b1**self.t, 1 - b1**self.t", "c1, c2 = 1 - b1**self.t, 1 - b2**self.t"),
    "train_step": (
        "norm, overflow = clip(params, 1.0), unscale(params, scale)",
        "overflow, norm = unscale(params, scale), clip(params, 1.0)",
    ),
    "restore": (
        'run.scaler = Scaler(parts["scaler"]["scale"])',
        'vars(run.scaler).update(parts["scaler"])',
    ),
}
MENDED = broken.swapped(SICK, dict(FIXES.values()))


def alone(name: str) -> str:
    """The step with one fault of the four."""
    others = {old: new for key, (old, new) in FIXES.items() if key != name}
    return broken.titled("This fault alone", FAULTS[name], broken.swapped(SICK, others))


def sibling(about: str, edits: dict[str, str]) -> str:
    return broken.titled("Sibling", about, broken.swapped(MENDED, edits))


def style(about: str, edits: dict[str, str]) -> str:
    return broken.titled("Mended", about, broken.swapped(MENDED, edits))


WHOLE = broken.titled("Mended", "", MENDED)
SCORES, C, ORDER, SCALER = (new for _, new in FIXES.values())
PICK = "return scores.logsumexp(-1) - scores.gather(-1, targets[:, None]).squeeze(-1)"
MOVE = "param.data.sub_(lr * (m / c1) / ((v / c2).sqrt() + eps))"
MODEL, ADAM = 'run.model.load_state_dict(parts["model"])', 'vars(run.adam).update(parts["adam"])'

TEST_LOSSES = broken.test_task(
    "test_losses",
    5,
    "a small, a middling and a large loss are right to 1e-5",
    [
        alone("losses"),
        WHOLE,
        sibling("rounded to float16 at the end", {PICK: f"return ({PICK.removeprefix('return ')}).half()"}),
        sibling(
            "a probability below 1e-38 underflows", {SCORES: f"{SCORES}\nscores = scores.softmax(-1).log()"}
        ),
        sibling("exp overflows", {PICK: PICK.replace("scores.logsumexp(-1)", "scores.exp().sum(-1).log()")}),
        style("log_softmax", {PICK: "return -scores.log_softmax(-1)[torch.arange(len(targets)), targets]"}),
    ],
    [
        style("in float64", {SCORES: SCORES.replace("float()", "double()")}),
        sibling("computed in bfloat16", {SCORES: SCORES.replace("logits.float()", "logits.bfloat16()")}),
    ],
    (
        "Choose logits as float16, and compute the right losses from the same logits in float64.",
        "A label with a logit of 20 over 13 has a loss near 0.001; float16 near 20 has steps of 1/64.",
        "`-logits.double().log_softmax(-1)[..., label]` is right; compare with rtol and atol of 1e-5.",
    ),
)

TEST_ADAM = broken.test_task(
    "test_adam",
    10,
    "several steps are those of algorithm 1, also for tiny gradients",
    [
        alone("Adam"),
        WHOLE,
        sibling(
            "the corrections lag by a step",
            {C: "c1, c2 = 1 - b1 ** max(1, self.t - 1), 1 - b2 ** max(1, self.t - 1)"},
        ),
        sibling(
            "eps stands under the root", {MOVE: "param.data.sub_(lr * (m / c1) / (v / c2 + eps).sqrt())"}
        ),
        sibling(
            "the denominator is float16: eps vanishes",
            {MOVE: MOVE.replace("((v / c2).sqrt() + eps)", "((v / c2).sqrt() + eps).half()")},
        ),
        style("one step size", {MOVE: "param.data.addcdiv_(m, (v / c2).sqrt() + eps, value=-lr / c1)"}),
    ],
    [
        style("roots apart", {MOVE: "param.data -= lr / c1 * m / (v.sqrt() / c2**0.5 + eps)"}),
        sibling("the first moment is not corrected", {MOVE: MOVE.replace("(m / c1)", "m")}),
    ],
    (
        "Two or three steps by the code and by `torch.optim.Adam(..., betas=(0.9, 0.99), eps=1e-8)`.",
        "Give one tensor with elements of 1, 1e-4 and 1e-9 as gradient: eps matters only to small ones.",
        "Set `.grad` on copies of the same parameters, step both with lr 0.1, `torch.allclose(atol=1e-4)`.",
    ),
)

TEST_STEP = broken.test_task(
    "test_step",
    12,
    "norm and update are the same at scale 1 and 1024, and an overflow moves nothing",
    [
        alone("train_step"),
        WHOLE,
        sibling("the optimizer steps on an overflow", {"if not overflow:": "if True:"}),
        sibling("gradients are unscaled twice", {ORDER: f"{ORDER}\nunscale(params, scale)"}),
        sibling(
            "clipped to the scale",
            {ORDER: "overflow, norm = unscale(params, scale), clip(params, scale)"},
        ),
        style("two lines", {ORDER: "overflow = unscale(params, scale)\nnorm = clip(params, 1.0)"}),
    ],
    [
        style(
            "clip in scaled units",
            {ORDER: "norm = clip(params, scale) / scale\noverflow = unscale(params, scale)"},
        ),
        sibling("an overflow counts as a step of Adam", {ORDER: f"{ORDER}\nrun.adam.t += overflow"}),
    ],
    (
        "One run per scale, all with the same seed: what may differ after a step?",
        "At 1 and at 1024 nothing but rounding; at 2**40 the weights, `run.adam.m` and `run.adam.t` stay.",
        (
            "Look at the norm returned and at `run.adam.m` (0.1 times what Adam was given at first), for "
            "embeddings times 0.5 and times 4."
        ),
    ),
)

TEST_RESTORE = broken.test_task(
    "test_restore",
    9,
    "losses, weights and scales of the resumed steps are those of the saved run",
    [
        alone("restore"),
        WHOLE,
        sibling("the scale is lost", {SCALER: "run.scaler = Scaler()"}),
        sibling("Adam starts anew", {ADAM: "run.adam = Adam(run.model.parameters())"}),
        sibling(
            "the count of steps is lost",
            {ADAM: 'run.adam.m, run.adam.v = parts["adam"]["m"], parts["adam"]["v"]'},
        ),
        style(
            "part by part",
            {SCALER: f'{FIXES["restore"][0]}\nrun.scaler.good = parts["scaler"]["good"]'},
        ),
    ],
    [
        style("attributes", {ADAM: 'for name, part in parts["adam"].items(): setattr(run.adam, name, part)'}),
        sibling("the weights are lost", {MODEL: "pass"}),
    ],
    (
        "Train a run, save it, train on: that is what a resumed run must repeat.",
        "Six steps before and six after: the scale doubles after 4, 8 and 12, unless the count is lost.",
        "Keep `run.scaler.scale` after each step beside loss and norm, and compare the lists exactly.",
    ),
)
