"""Wrong solutions of exercise 21, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["forward_flops"]["a multiply-add is one"]
"""

from __future__ import annotations

import numpy as np
import torch

# ------------------------------------------------------------------------------------------- wrong: forward


def _forward(attention=None, mlp=None, scores=None, head=None, per_weight=2, form=lambda terms: terms):
    def forward_flops(config, causal):
        c = config | {"inner": config["heads"] * config["head_dim"]}
        c["keys"] = config["kv_heads"] * config["head_dim"]
        weights = (attention or (lambda c: 2 * c["width"] * (c["inner"] + c["keys"])))(c)
        weights += (mlp or (lambda c: (2 + c["swiglu"]) * c["width"] * c["hidden"]))(c)
        square = (scores or (lambda c, causal: (2 if causal else 4) * c["inner"] * c["context"]))(c, causal)
        last = (head or (lambda c: 2 * c["width"] * c["vocab"]))(c)
        blocks = per_weight * c["layers"] * weights
        return form({"blocks": blocks, "scores": c["layers"] * square, "head": last})

    return forward_flops


WRONG_FORWARD = {
    "a multiply-add is one": (_forward(per_weight=1), "blocks"),
    "6 a weight, backward included": (_forward(per_weight=6), "blocks"),
    "forgets the output projection": (
        _forward(attention=lambda c: c["width"] * (c["inner"] + 2 * c["keys"])),
        "blocks",
    ),
    "an MLP of 4 x width": (_forward(mlp=lambda c: 2 * c["width"] * 4 * c["width"]), "gated"),
    "no gate": (_forward(mlp=lambda c: 2 * c["width"] * c["hidden"]), "gated"),
    "always a gate": (_forward(mlp=lambda c: 3 * c["width"] * c["hidden"]), "blocks"),
    "all heads have keys": (_forward(attention=lambda c: 4 * c["width"] * c["inner"]), "grouped"),
    "the output shrinks too": (
        _forward(attention=lambda c: c["width"] * (c["inner"] + 3 * c["keys"])),
        "grouped",
    ),
    "heads x head_dim is the width": (
        _forward(attention=lambda c: 2 * c["width"] * (c["width"] + c["keys"] * c["width"] // c["inner"])),
        "head_dim",
    ),
    "the output is square": (
        _forward(attention=lambda c: c["width"] * (c["inner"] + 2 * c["keys"] + c["width"])),
        "head_dim",
    ),
    "queries x keys alone": (
        _forward(scores=lambda c, causal: (1 if causal else 2) * c["inner"] * c["context"]),
        "scores",
    ),
    "scores with the keys there are": (
        _forward(scores=lambda c, causal: (2 if causal else 4) * c["keys"] * c["context"]),
        "scores",
    ),
    "scores of one layer": (
        _forward(scores=lambda c, causal: (2 if causal else 4) * c["inner"] * c["context"] / c["layers"]),
        "scores",
    ),
    "scores of all tokens": (
        _forward(scores=lambda c, causal: (2 if causal else 4) * c["inner"] * c["context"] ** 2),
        "scores",
    ),
    "never causal": (_forward(scores=lambda c, causal: 4 * c["inner"] * c["context"]), "causal"),
    "always causal": (_forward(scores=lambda c, causal: 2 * c["inner"] * c["context"]), "scores"),
    "no head": (_forward(head=lambda c: 0), "head"),
    "the embedding counts as well": (_forward(head=lambda c: 4 * c["width"] * c["vocab"]), "head"),
    "a sum": (_forward(form=lambda terms: sum(terms.values())), "form"),
    "GFLOP as text": (_forward(form=lambda terms: {k: f"{v / 1e9} G" for k, v in terms.items()}), "form"),
    "wants a field that is not there": (lambda config, causal: config["n_head"], ""),
}

# ------------------------------------------------------------------------------------------ wrong: training


def _training(model=lambda b, s, h: 3 * (b + s + h), none=None, selective=None, full=None, form=tuple):
    def training_flops(forward, recompute):
        b, s, h = forward["blocks"], forward["scores"], forward["head"]
        more = {
            "none": none(b, s, h) if none else 0,
            "selective": (selective or (lambda b, s, h: s))(b, s, h),
        }
        more["full"] = (full or (lambda b, s, h: b + s))(b, s, h)
        needs = model(b, s, h)
        return form((needs, needs + more[recompute]))

    return training_flops


WRONG_TRAINING = {
    "backward costs one forward": (_training(model=lambda b, s, h: 2 * (b + s + h)), "model"),
    "forgets the forward pass": (_training(model=lambda b, s, h: 2 * b + 2 * s + 2 * h), "model"),
    "the head has no backward": (_training(model=lambda b, s, h: 3 * (b + s) + h), "model"),
    "scores have no backward": (_training(model=lambda b, s, h: 3 * (b + h) + s), "model"),
    "the blocks alone": (_training(model=lambda b, s, h: 3 * b), "model"),
    "the head is recomputed": (_training(full=lambda b, s, h: b + s + h), "full"),
    "full forgets the scores": (_training(full=lambda b, s, h: b), "full"),
    "full costs backward twice": (_training(full=lambda b, s, h: 2 * (b + s)), "full"),
    "selective is full": (_training(selective=lambda b, s, h: b + s), "selective"),
    "selective is free": (_training(selective=lambda b, s, h: 0), "selective"),
    "selective without softmax x values": (_training(selective=lambda b, s, h: s // 2), "selective"),
    "always recomputes something": (_training(none=lambda b, s, h: b), "none"),
    "recomputation saves": (
        _training(selective=lambda b, s, h: -s, full=lambda b, s, h: -b - s),
        "selective",
    ),
    "the model pays too": (lambda forward, recompute: (_training()(forward, recompute)[1],) * 2, "model"),
    "turned round": (_training(form=lambda pair: pair[::-1]), "model"),
    "one number": (_training(form=lambda pair: pair[1]), "form"),
    "a dict": (_training(form=lambda pair: {"model": pair[0], "hardware": pair[1]}), "form"),
    "knows no selective": (
        lambda forward, recompute: {p: _training()(forward, p) for p in ("none", "full")}[recompute],
        "",
    ),
}

# --------------------------------------------------------------------------------------- wrong: utilisation


def _shares(
    mfu=lambda m, h, t, g, p: t * m / (g * p * 1e12), hfu=None, form=lambda mfu, hfu: {"mfu": mfu, "hfu": hfu}
):
    def utilisation(*given):
        m, h, *rest = given
        return form(mfu(*given), hfu(*given) if hfu else mfu(h, m, *rest))

    return utilisation


WRONG_UTILISATION = {
    "one GPU does all": (_shares(lambda m, h, t, g, p: t * m / (p * 1e12)), "gpus"),
    "GPUs on the wrong side": (_shares(lambda m, h, t, g, p: g * t * m / (p * 1e12)), "gpus"),
    "the root of the GPUs": (_shares(lambda m, h, t, g, p: t * m / (g**0.5 * p * 1e12)), "gpus"),
    "per cent": (_shares(lambda m, h, t, g, p: 100 * t * m / (g * p * 1e12)), "share"),
    "peak in FLOP": (_shares(lambda m, h, t, g, p: t * m / (g * p)), "share"),
    "TFLOP of 2^40": (_shares(lambda m, h, t, g, p: t * m / (g * p * 2**40)), "share"),
    "half of a sparse peak": (_shares(lambda m, h, t, g, p: t * m / (g * p / 2 * 1e12)), "share"),
    "times three again": (_shares(lambda m, h, t, g, p: 3 * t * m / (g * p * 1e12)), "share"),
    "turned over": (_shares(lambda m, h, t, g, p: g * p * 1e12 / (t * m)), "share"),
    "the two exchanged": (_shares(form=lambda mfu, hfu: {"mfu": hfu, "hfu": mfu}), "mfu"),
    "HFU is MFU": (_shares(form=lambda mfu, hfu: {"mfu": mfu, "hfu": mfu}), "hfu"),
    "HFU is four thirds": (_shares(hfu=lambda m, h, t, g, p: t * m * 1.3 / (g * p * 1e12)), "hfu"),
    "HFU is what is recomputed": (_shares(hfu=lambda m, h, t, g, p: t * (h - m) / (g * p * 1e12)), "hfu"),
    "whole per cents": (
        _shares(lambda m, h, t, g, p: int(100 * t * m / (g * p * 1e12)) // 100),
        "share",
    ),
    "a pair": (_shares(form=lambda mfu, hfu: (mfu, hfu)), "form"),
    "MFU alone": (_shares(form=lambda mfu, hfu: {"mfu": mfu}), "form"),
}

WRONG = {
    "forward_flops": WRONG_FORWARD,
    "training_flops": WRONG_TRAINING,
    "utilisation": WRONG_UTILISATION,
}

# ------------------------------------------------------------------------------------- right, in other styles


def forward_by_matrix(config, causal):
    width, dim, layers = config["width"], config["head_dim"], config["layers"]
    shapes = [(width, config["heads"] * dim), (config["heads"] * dim, width)]
    shapes += [(width, config["kv_heads"] * dim)] * 2
    shapes += [(width, config["hidden"])] * (2 if config["swiglu"] else 1) + [(config["hidden"], width)]
    blocks = sum(2 * rows * columns for rows, columns in shapes) * layers
    seen = config["context"] / 2 if causal else config["context"]
    scores = layers * config["heads"] * (2 * seen * dim + 2 * seen * dim)
    return {"head": 2 * width * config["vocab"], "scores": scores, "blocks": blocks}


def forward_numpy(config, causal):
    inner = config["head_dim"] * np.array([config["heads"], config["kv_heads"]])
    blocks = (
        2 * config["layers"] * config["width"] * (2 * inner.sum() + (2 + config["swiglu"]) * config["hidden"])
    )
    scores = np.int64(4 * config["layers"]) * inner[0] * config["context"] * (0.5 if causal else 1.0)
    return {"blocks": blocks, "scores": scores, "head": np.prod([2, config["width"], config["vocab"]])}


def forward_loop(config, causal):
    blocks = scores = 0
    for _ in range(config["layers"]):
        mlp = 6 if config["swiglu"] else 4
        blocks += 4 * config["width"] * config["head_dim"] * (config["heads"] + config["kv_heads"])
        blocks += mlp * config["width"] * config["hidden"]
        scores += (2 if causal else 4) * config["heads"] * config["head_dim"] * config["context"]
    head = config["width"] * config["vocab"] * 2
    return {"blocks": torch.tensor(blocks), "scores": scores, "head": head}


def training_ifs(forward, recompute):
    total = forward["blocks"] + forward["scores"] + forward["head"]
    extra = 0
    if recompute == "full":
        extra += forward["blocks"]
    if recompute != "none":
        extra += forward["scores"]
    return [3 * total, 3.0 * total + extra]


def training_numpy(forward, recompute):
    terms = np.array([forward["blocks"], forward["scores"], forward["head"]])
    times = {"none": (3, 3, 3), "selective": (3, 4, 3), "full": (4, 4, 3)}[recompute]
    return 3 * terms.sum(), terms @ np.array(times)


def shares_per_gpu(model, hardware, tokens_per_s, gpus, peak):
    each = tokens_per_s / gpus / (peak * 10**12)
    return {"hfu": hardware * each, "mfu": model * each}


def shares_in_tera(model, hardware, tokens_per_s, gpus, peak):
    done = {"mfu": model / 1e12, "hfu": hardware / 1e12}
    return {name: tokens_per_s * tera / (gpus * peak) for name, tera in done.items()}


def shares_torch(model, hardware, tokens_per_s, gpus, peak):
    both = torch.tensor([model, hardware], dtype=torch.float64) * tokens_per_s / (gpus * peak * 1e12)
    return {"mfu": both[0], "hfu": both[1]}


RIGHT = {
    "forward_flops": [forward_by_matrix, forward_numpy, forward_loop],
    "training_flops": [
        training_ifs,
        training_numpy,
        lambda f, r: (
            (m := 3 * sum(f.values())),
            m + f["scores"] * (r != "none") + f["blocks"] * (r == "full"),
        ),
    ],
    "utilisation": [shares_per_gpu, shares_in_tera, shares_torch],
}
