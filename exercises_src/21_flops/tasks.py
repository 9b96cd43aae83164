"""Exercise 21, FLOPs per token: forward from a config, backward, recomputation, and the two utilisations.

Oracle: `llmkit.cost.flops`, in tests/grade/test_21_reference.py.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.compare import agree, close, number, plain
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ------------------------------------------------------------------------------------------------ 1. forward


def flops(config: dict[str, Any], causal: bool) -> Answer:
    c = config
    inner = c["heads"] * c["head_dim"]
    attention = 2 * c["width"] * (inner + c["kv_heads"] * c["head_dim"])
    mlp = (3 if c["swiglu"] else 2) * c["width"] * c["hidden"]
    scores = 4 * c["layers"] * inner * c["context"]
    terms = {"blocks": 2 * c["layers"] * (attention + mlp), "scores": scores // 2 if causal else scores}
    return Answer(value=terms | {"head": 2 * c["width"] * c["vocab"]})


def judge_forward(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, c = got.value, inputs["config"]
    if not isinstance(found, dict) or set(found) != set(want.value):
        return "form"
    if not all(plain(number(value)) for value in found.values()):
        return "form"
    if not close(number(found["blocks"]), want.value["blocks"]):
        if c["heads"] * c["head_dim"] != c["width"]:
            return "head_dim"
        return "grouped" if c["kv_heads"] < c["heads"] else "gated" if c["swiglu"] else "blocks"
    if not close(number(found["scores"]), want.value["scores"]):
        return "causal" if inputs["causal"] else "scores"
    return "" if close(number(found["head"]), want.value["head"]) else "head"


def config(layers, width, heads, kv_heads, head_dim, hidden, vocab, context, swiglu=False) -> dict[str, Any]:
    return {
        "layers": layers,
        "width": width,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden": hidden,
        "vocab": vocab,
        "context": context,
        "swiglu": swiglu,
    }


def hidden_forward(rng: random.Random) -> list[Case]:
    cases = []
    for causal, grouped, gated, own in [
        (False, False, False, False),
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
        (True, False, False, True),
        (False, True, True, True),
        (True, True, True, False),
    ]:
        kv, ratio, dim = rng.randint(2, 8), rng.randint(2, 5) if grouped else 1, rng.choice([32, 64, 96, 128])
        width = dim * kv * ratio + (rng.randint(1, 9) * 64 if own else 0)
        sizes = (rng.randint(2, 60), width, kv * ratio, kv, dim, rng.randint(3, 40) * 128)
        made = config(*sizes, vocab=rng.randint(200, 900) * 97, context=rng.choice([512, 1536, 4096]))
        cases.append(Case(config=made | {"swiglu": gated}, causal=causal))
    return cases


FORWARD = Task(
    name="forward_flops",
    lines=8,
    reference=flops,
    judge=judge_forward,
    properties={
        "form": Property(
            'the answer is {"blocks", "scores", "head"}, each one number', "which three terms add up?"
        ),
        "blocks": Property(
            "each matrix weight of each block costs two operations a token",
            "how many matrices has attention, how many the MLP?",
        ),
        "gated": Property("a SwiGLU MLP has three matrices", "what does the gate need beside up and down?"),
        "grouped": Property(
            "keys and values are computed for kv_heads heads only",
            "which of the four projections shrink with grouped queries?",
        ),
        "head_dim": Property(
            "projections go from width to heads x head_dim, which need not be the width",
            "what shape has the output projection?",
        ),
        "scores": Property(
            "a token's queries meet the keys of the whole context, and its scores the values: "
            "4 x heads x head_dim x context in each layer",
            "does a shared key save products, or only memory?",
        ),
        "causal": Property(
            "counted causally, half of the scores are computed, and nothing else changes",
            "which part of the square of queries and keys is left?",
        ),
        "head": Property(
            "the head is a product of width x vocab, looking up the embedding is none",
            "does a tied head cost less time?",
        ),
    },
    public=(
        Case(config=config(1, 2, 1, 1, 2, 8, 5, 3), causal=False),
        Case(config=config(1, 2, 1, 1, 2, 8, 5, 4), causal=True),
        Case(config=config(3, 4, 2, 2, 2, 16, 7, 6), causal=False),
        Case(config=config(2, 4, 2, 2, 2, 10, 7, 6, swiglu=True), causal=False),
        Case(config=config(2, 8, 4, 2, 2, 32, 7, 6), causal=False),
        Case(config=config(2, 6, 4, 4, 2, 24, 7, 6), causal=False),
        Case(config=config(32, 4096, 32, 8, 128, 14336, 128256, 8192, swiglu=True), causal=True),
    ),
    hidden=hidden_forward,
    hints=(
        "Count the weights of one block, double them, times layers. Scores have none: they come on top.",
        (
            "Attention: queries and output have width x heads x head_dim weights each, keys and values "
            "width x kv_heads x head_dim each. The MLP: 2 or 3 matrices of width x hidden."
        ),
        "`scores = 4 * layers * heads * head_dim * context`, halved if causal; `head = 2 * width * vocab`",
    ),
)

# ----------------------------------------------------------------------------------------------- 2. training

POLICIES = ("none", "selective", "full")


def train(forward: dict[str, int], recompute: str) -> Answer:
    model = 3 * (forward["blocks"] + forward["scores"] + forward["head"])
    again = {"none": 0, "selective": forward["scores"], "full": forward["blocks"] + forward["scores"]}
    return Answer(value=[model, model + again[recompute]])


def judge_training(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, list) or len(found) != 2 or not all(plain(number(v)) for v in found):
        return "form"
    if not agree(number(found[0]), want.value[0]):
        return "model"
    return "" if agree(number(found[1]), want.value[1]) else inputs["recompute"]


def hidden_training(rng: random.Random) -> list[Case]:
    cases = []
    for policy in (*POLICIES, *POLICIES):
        sizes = {name: rng.randint(10**6, 10**9) for name in ("blocks", "scores", "head")}
        cases.append(Case(forward=sizes, recompute=policy))
    return cases


TRAINING = Task(
    name="training_flops",
    lines=5,
    reference=train,
    judge=judge_training,
    properties={
        "form": Property(
            "the answer is two numbers, (model, hardware)", "which one may recomputation change?"
        ),
        "model": Property(
            "the model needs three forwards: one, and a backward of two, whatever is recomputed",
            "how many products has the backward pass for each of the forward?",
        ),
        "none": Property(
            "without recomputation the hardware does what the model needs", "what is done twice then?"
        ),
        "selective": Property(
            "selective recomputation computes the scores once more", "which activations grow with context^2?"
        ),
        "full": Property(
            "full recomputation runs the blocks, scores included, once more; the head is no block",
            "which forward pass does the backward pass of a block begin with?",
        ),
    },
    public=(
        Case(forward={"blocks": 10, "scores": 4, "head": 1}, recompute="none"),
        Case(forward={"blocks": 10, "scores": 4, "head": 1}, recompute="selective"),
        Case(forward={"blocks": 10, "scores": 4, "head": 1}, recompute="full"),
        Case(forward={"blocks": 100, "scores": 30, "head": 50}, recompute="full"),
    ),
    hidden=hidden_training,
    hints=(
        "Add the forward up, multiply by three. Then ask what the machine does a second time.",
        "Backward makes two products of each: one for the gradient of the input, one for that of the weight.",
        '`again = {"none": 0, "selective": scores, "full": blocks + scores}[recompute]`',
    ),
)

# -------------------------------------------------------------------------------------------- 3. utilisation


def shares(model: float, hardware: float, tokens_per_s: float, gpus: int, peak: float) -> Answer:
    each = tokens_per_s / (gpus * peak * 1e12)
    return Answer(value={"mfu": each * model, "hfu": each * hardware})


def judge_utilisation(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict) or set(found) != {"mfu", "hfu"}:
        return "form"
    mfu, hfu = number(found["mfu"]), number(found["hfu"])
    if not plain(mfu) or not plain(hfu):
        return "form"
    if close(mfu, want.value["mfu"], 1e-4):
        return "" if close(hfu, want.value["hfu"], 1e-4) else "hfu"
    if close(mfu, want.value["hfu"], 1e-4):
        return "mfu"
    return "gpus" if inputs["gpus"] > 1 else "share"


def hidden_utilisation(rng: random.Random) -> list[Case]:
    cases = []
    for gpus in (1, 1, 8, 64, 384, rng.randint(2, 2000)):
        model, peak, mfu = rng.uniform(1e9, 3e11), rng.choice([312.0, 989.0, 1979.0]), rng.uniform(0.2, 0.6)
        rate = round(mfu * gpus * peak * 1e12 / model, 1)
        times = rng.choice([1.05, 1.2, 1.32])
        cases.append(Case(model=model, hardware=times * model, tokens_per_s=rate, gpus=gpus, peak=peak))
    return cases


UTILISATION = Task(
    name="utilisation",
    lines=3,
    reference=shares,
    judge=judge_utilisation,
    properties={
        "form": Property('the answer is {"mfu": ..., "hfu": ...}', "which two shares are reported?"),
        "share": Property(
            "a utilisation is FLOPs a second over peak FLOPs a second, a share and not per cent",
            "how many FLOP are a TFLOP?",
        ),
        "mfu": Property(
            "MFU counts what the model needs", "should repeating work raise the number you report?"
        ),
        "hfu": Property("HFU counts what the hardware does", "is recomputation work for the machine?"),
        "gpus": Property(
            "tokens_per_s is of the whole job, peak of one GPU", "what could all the GPUs do in a second?"
        ),
    },
    public=(
        Case(model=3e9, hardware=4e9, tokens_per_s=1e5, gpus=1, peak=1000.0),
        Case(model=3e9, hardware=4e9, tokens_per_s=1e6, gpus=8, peak=1000.0),
        Case(model=4.5e10, hardware=6e10, tokens_per_s=140_000.0, gpus=16, peak=989.0),
    ),
    hidden=hidden_utilisation,
    hints=(
        "Work done in a second over work that could be done in a second.",
        "In a second: tokens_per_s x FLOPs per token. Could be: gpus x peak x 10^12.",
        '`most = gpus * peak * 1e12`; `{"mfu": tokens_per_s * model / most, "hfu": ...}`',
    ),
)

EXERCISE = Exercise(
    name="21_flops",
    version=1,
    title="FLOPs per token",
    minutes=25,
    round="system design",
    difficulty=2,
    rows=("S13",),
    tasks=(FORWARD, TRAINING, UTILISATION),
    predictions={
        "percent in the scores": Prediction(
            answer=22.2,
            because=(
                "4.29 of 19.30 GFLOP a token, counted over the whole context of 8,192; the rule of "
                "2 x parameters does not have them. At 2,048 they are 6.7 %, at 131,072 they are 82.1 %."
            ),
        )
    },
    hides=("cost",),
)
