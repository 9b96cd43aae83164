"""Does a mixture of experts learn more than a dense model at equal training FLOPs? On real text, in pairs.

A token of each arm costs the same to the last operation: experts are narrower by what the router costs. The
batches are the same too, and so is the learning rate, which was not tuned for either. Mixtures hold 2.4 times
the weights. 200 steps are 102,400 tokens; two arms go on to four times as many.
"""

from __future__ import annotations

from llmkit.data import TokenDataset
from llmkit.lab.sweep import Outcome, Sweep
from llmkit.train import RunConfig, build, evaluate, tiny, train

SEEDS, STEPS = 12, 200
TWO_OF_EIGHT = {"model__experts": 8, "model__top_k": 2, "model__expert_hidden": 126}
ARMS = {  # 2 matrices x 64 wide: 256 hidden dense; 1 x 254 and a router of 4; 2 x 126 and a router of 8
    "dense": {},
    "1 of 4 experts": {"model__experts": 4, "model__top_k": 1, "model__expert_hidden": 254},
    "2 of 8 experts": TWO_OF_EIGHT,
    "dense, 4 x longer": {"steps": 4 * STEPS},
    "2 of 8 experts, 4 x longer": TWO_OF_EIGHT | {"steps": 4 * STEPS},
}


def mixture_sweep() -> Sweep:
    base = tiny(device="cpu", steps=STEPS, lr=3e-3, min_lr=3e-4)
    return Sweep(base, ARMS, range(SEEDS), measure=outcome)


def outcome(cfg: RunConfig, dataset: TokenDataset) -> Outcome:
    """Of one run: `val`, the validation loss at the end, nats, six digits."""
    run = build(cfg, dataset=dataset)
    list(train(run))
    return {"val": float(f"{evaluate(run, batches=32):.6g}")}
