"""Wrong solutions of exercise 17, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["recomputed"]["draws another mask"]
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import torch

# -------------------------------------------------------------------------------------- wrong: which blocks


def _peak(kept, inputs, blocks):
    rest = sum(size for i, size in enumerate(kept) if i not in blocks)
    return rest + sum(inputs[i] for i in blocks) + max((kept[i] for i in blocks), default=0)


def _choose(
    peak=_peak, key=lambda kept, seconds, blocks: (sum(seconds[i] for i in blocks), len(blocks), blocks)
):
    def choose(kept, inputs, seconds, budget):
        sets = [b for n in range(len(kept) + 1) for b in combinations(range(len(kept)), n)]
        fits = [b for b in sets if peak(kept, inputs, b) <= budget]
        return list(min(fits, key=lambda b: key(kept, seconds, b))) if fits else None

    return choose


def _greedy(order):
    def choose(kept, inputs, seconds, budget):
        blocks = []
        for i in sorted(range(len(kept)), key=lambda i: order(kept[i], inputs[i], seconds[i])):
            if _peak(kept, inputs, blocks) <= budget:
                break
            blocks.append(i)
        return sorted(blocks) if _peak(kept, inputs, blocks) <= budget else None

    return choose


def _all_or_nothing(kept, inputs, seconds, budget):
    return [] if sum(kept) <= budget else list(range(len(kept)))


WRONG_CHOOSE = {
    "forgets the block that runs again": (
        _choose(peak=lambda k, i, b: _peak(k, i, b) - max((k[x] for x in b), default=0)),
        "fits",
    ),
    "forgets the inputs": (_choose(peak=lambda k, i, b: _peak(k, i, b) - sum(i[x] for x in b)), "none"),
    "counts every block that runs again": (
        _choose(peak=lambda k, i, b: sum(k) + sum(i[x] for x in b)),
        "none",
    ),
    "the largest first": (_greedy(lambda k, i, s: -k), "cheapest"),
    "the fastest first": (_greedy(lambda k, i, s: s), "cheapest"),
    "the first ones first": (_greedy(lambda k, i, s: 0), "cheapest"),
    "all or nothing": (_all_or_nothing, "none"),
    "always all": (lambda k, i, s, b: list(range(len(k))), "nothing"),
    "the fewest blocks": (_choose(key=lambda k, s, b: (len(b), b)), "cheapest"),
    "the smallest peak": (_choose(key=lambda k, s, b: (_peak(k, [1] * len(k), b), b)), "nothing"),
    "strictly below the budget": (
        lambda k, i, s, b: _choose()(k, i, s, b - 1),
        "nothing",
    ),
    "the last of equal ones": (
        _choose(key=lambda k, s, b: (sum(s[i] for i in b), len(b), [-i for i in b])),
        "ties",
    ),
    "an empty list when none fits": (lambda *a: _choose()(*a) or [], "none"),
    "how many": (lambda *a: len(_choose()(*a) or []), "form"),
}


# ---------------------------------------------------------------------------------- wrong: the block, again


def _again(
    state=True, restore=True, enable=True, scale=1.0, start=None, give=lambda grad: grad, wanted=True,
    outside=False, keep=False, clear=False,
):  # fmt: skip
    def recomputed(block, x):
        class Again(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, wanted):
                ctx.x = x
                if not outside:
                    ctx.state = torch.get_rng_state()
                out = block(x)
                if outside:
                    ctx.state = torch.get_rng_state()
                return out * scale

            @staticmethod
            def backward(ctx, grad):
                after = torch.get_rng_state()
                if state:
                    torch.set_rng_state(ctx.state)
                with torch.set_grad_enabled(enable):
                    again = (start or (lambda x, w: x.detach().requires_grad_(w)))(
                        ctx.x, ctx.needs_input_grad[0]
                    )
                    out = block(again)
                if restore:
                    torch.set_rng_state(after)
                torch.autograd.backward(out, give(grad))
                return again.grad, None

        return Again.apply(x, torch.ones((), requires_grad=wanted))

    return recomputed


def _detached(block, x):
    with torch.no_grad():
        return block(x)


def _clears(block, x):
    parameters = [
        c.cell_contents for c in block.__closure__ if isinstance(c.cell_contents, torch.nn.Parameter)
    ]

    def grad_of(grad):
        for parameter in parameters:
            parameter.grad = None
        return grad

    return _again(give=grad_of)(block, x)


def _twice_forward(block, x):
    with torch.no_grad():
        block(x)
    return block(x)


def _three(block, x):
    return _again(start=lambda x, w: (block(x), x.detach().requires_grad_(w))[1])(block, x)


WRONG_AGAIN = {
    "the plain block": (lambda block, x: block(x), "graph"),
    "without a graph at all": (_detached, "gradient"),
    "twice in the forward pass": (_twice_forward, "twice"),
    "three runs": (_three, "twice"),
    "halves the output": (_again(scale=0.5), "value"),
    "draws another mask": (_again(state=False), "mask"),
    "the state after the first run": (_again(outside=True), "mask"),
    "leaves the generator moved": (_again(restore=False), "generator"),
    "starts with ones": (_again(give=torch.ones_like), "gradient"),
    "doubles the gradient": (_again(give=lambda grad: 2 * grad), "gradient"),
    "clears gradients first": (_clears, "adds"),
    "no second run without a wish of x": (_again(wanted=False), "gradient"),
    "the gradient of x is lost": (
        lambda block, x: _again(start=lambda x, w: x.detach())(block, x),
        "gradient",
    ),
    "the output's shape": (lambda block, x: _again()(block, x).shape, "form"),
    "second run without a graph": (_again(enable=False), ""),
}
WRONG = {"choose": WRONG_CHOOSE, "recomputed": WRONG_AGAIN}

# ----------------------------------------------------------------------------------- right, in other styles


def choose_bits(kept, inputs, seconds, budget):
    best = None
    for bits in product([False, True], repeat=len(kept)):
        blocks = [i for i, bit in enumerate(bits) if bit]
        if _peak(kept, inputs, blocks) <= budget:
            found = (sum(seconds[i] for i in blocks), len(blocks), blocks)
            best = found if best is None else min(best, found)
    return best and best[2]


def choose_numpy(kept, inputs, seconds, budget):
    k, i, s = np.array(kept), np.array(inputs), np.array(seconds)
    best = None
    for n in range(len(kept) + 1):
        for blocks in map(list, combinations(range(len(kept)), n)):
            peak = k.sum() - k[blocks].sum() + i[blocks].sum() + (k[blocks].max() if blocks else 0)
            if peak <= budget and (best is None or s[blocks].sum() < s[best].sum()):
                best = blocks
    return best if best is None else tuple(best)


def again_forked(block, x):
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, dummy, x):
            ctx.before = torch.random.get_rng_state()
            ctx.save_for_backward(x)
            with torch.no_grad():
                return block(x)

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0].detach().clone()
            x.requires_grad = ctx.needs_input_grad[1]
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.random.set_rng_state(ctx.before)
                block(x).backward(grad)
            return None, x.grad

    return Again.apply(torch.zeros(1, requires_grad=True), x)


def again_by_library(block, x):
    from torch.utils.checkpoint import checkpoint

    state = []

    def run(x):
        state.append(torch.get_rng_state())
        return block(x)

    hook = torch.zeros((), requires_grad=True)
    return checkpoint(lambda x, _: run(x), x, hook, use_reentrant=True)


RIGHT = {
    "choose": [choose_bits, choose_numpy, _choose()],
    "recomputed": [again_forked, again_by_library, _again()],
}
