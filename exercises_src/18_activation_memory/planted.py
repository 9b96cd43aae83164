"""Wrong solutions of exercise 18, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["layer_bytes"]["tensor parallelism divides everything"]
"""

from __future__ import annotations

import numpy as np
import torch


def _layer(
    ten=lambda t, seq: 10 / (t if seq else 1),
    split=lambda t: 24 / t,
    scores=lambda s, h, a, t: 5 * a * s / h / t,
    kept=lambda recompute: recompute == "none",
    full=lambda t, seq: 2 / (t if seq else 1),
    unit=lambda s, b, h: s * b * h,
):
    def layer_bytes(s, b, h, a, t, sequence, recompute):
        if recompute == "full":
            return unit(s, b, h) * full(t, sequence)
        more = scores(s, h, a, t) if kept(recompute) else 0
        return unit(s, b, h) * (ten(t, sequence) + split(t) + more)

    return layer_bytes


WRONG_LAYER = {
    "without the scores": (_layer(scores=lambda s, h, a, t: 0), "layer"),
    "scores without their mask": (_layer(scores=lambda s, h, a, t: 4 * a * s / h / t), "layer"),
    "scores over h squared": (_layer(scores=lambda s, h, a, t: 5 * a * s / h**2 / t), "layer"),
    "scores without s": (_layer(scores=lambda s, h, a, t: 5 * a / h / t), "layer"),
    "one sequence": (_layer(unit=lambda s, b, h: s * h), "layer"),
    "4 bytes a number": (_layer(unit=lambda s, b, h: 2 * s * b * h), "layer"),
    "tensor parallelism divides everything": (_layer(ten=lambda t, seq: 10 / t), "tensor"),
    "tensor parallelism leaves the scores": (_layer(scores=lambda s, h, a, t: 5 * a * s / h), "tensor"),
    "tensor parallelism divides nothing": (_layer(split=lambda t: 24), "tensor"),
    "sequence parallelism changes nothing": (_layer(ten=lambda t, seq: 10), "sequence"),
    "selective keeps the scores": (_layer(kept=lambda recompute: True), "selective"),
    "selective is full": (
        lambda s, b, h, a, t, q, r: _layer()(s, b, h, a, t, q, "full" if r == "selective" else r),
        "selective",
    ),
    "full keeps nothing": (_layer(full=lambda t, seq: 0), "full"),
    "full divides by t always": (_layer(full=lambda t, seq: 2 / t), "full"),
    "full never divides": (_layer(full=lambda t, seq: 2), "full"),
    "GiB as text": (lambda *a: f"{_layer()(*a) / 2**30:.1f} GiB", "form"),
}


def _stage(
    waiting=lambda n, i, m: min(n - i, m),
    share=lambda layers, n: layers / n,
    head=lambda found, logits, n, m: [*found[:-1], found[-1] + logits],
):
    def stage_bytes(layers, stages, micro, each, logits):
        found = [waiting(stages, i, micro) * share(layers, stages) * each for i in range(stages)]
        return head(found, logits, stages, micro)

    return stage_bytes


WRONG_STAGE = {
    "all micro-batches at once": (_stage(waiting=lambda n, i, m: m), "one"),
    "one micro-batch everywhere": (_stage(waiting=lambda n, i, m: 1), "waiting"),
    "all stages wait alike": (_stage(waiting=lambda n, i, m: min(n, m)), "waiting"),
    "the last stage is the fullest": (_stage(waiting=lambda n, i, m: min(i + 1, m)), "waiting"),
    "one less": (_stage(waiting=lambda n, i, m: max(1, min(n - i - 1, m))), "waiting"),
    "one more": (_stage(waiting=lambda n, i, m: min(n - i + 1, m)), "one"),
    "more than there are": (_stage(waiting=lambda n, i, m: n - i), "few"),
    "all layers in each stage": (_stage(share=lambda layers, n: layers), "waiting"),
    "one layer a stage": (_stage(share=lambda layers, n: 1), "one"),
    "no logits": (_stage(head=lambda found, logits, n, m: found), "logits"),
    "logits of all micro-batches": (
        _stage(head=lambda found, logits, n, m: [*found[:-1], found[-1] + m * logits]),
        "logits",
    ),
    "logits in the first stage": (
        _stage(head=lambda found, logits, n, m: [found[0] + logits, *found[1:]]),
        "waiting",
    ),
    "the fullest alone": (_stage(head=lambda found, logits, n, m: max(found)), "form"),
    "the sum": (_stage(head=lambda found, logits, n, m: [sum(found) + logits]), "form"),
}
WRONG = {"layer_bytes": WRONG_LAYER, "stage_bytes": WRONG_STAGE}


# ----------------------------------------------------------------------------------- right, in other styles


def layer_by_terms(s, b, h, a, t, sequence, recompute):
    """Korthikanti's equations 2, 4 and 6, written out."""
    sbh = s * b * h
    if recompute == "full":
        return 2 * sbh / t if sequence else 2 * sbh
    scores = 0 if recompute == "selective" else 5 * a * s * s * b
    if sequence:
        return (34 * sbh + scores) / t
    return 10 * sbh + (24 * sbh + scores) / t


def layer_torch(s, b, h, a, t, sequence, recompute):
    share = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    share[1:] /= t
    share[0] /= t if sequence else 1
    kept = torch.tensor([10, 24, 5 * a * s / h if recompute == "none" else 0], dtype=torch.float64)
    return (2 * share[0] if recompute == "full" else (kept * share).sum()) * s * b * h


def stage_numpy(layers, stages, micro, each, logits):
    waiting = np.minimum(np.arange(stages, 0, -1), micro)
    found = waiting * (layers // stages) * each
    found[-1] += logits
    return found


def stage_backwards(layers, stages, micro, each, logits):
    found, waiting = [], 0
    for stage in reversed(range(stages)):
        waiting = min(waiting + 1, micro)
        found.insert(0, waiting * each * layers / stages + (logits if stage == stages - 1 else 0))
    return tuple(found)


RIGHT = {
    "layer_bytes": [layer_by_terms, layer_torch, _layer()],
    "stage_bytes": [stage_numpy, stage_backwards, _stage()],
}
