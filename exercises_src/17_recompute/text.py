# %% [markdown]
# # Exercise 17: what to recompute
#
# **Two functions, about 40 minutes, 30 lines in all.** The forward pass keeps what the backward pass
# needs. Activation checkpointing keeps only the input of a block and runs the block again when the
# gradient arrives. Two questions decide whether it works: which blocks, since recomputing all of them
# costs a third more time; and whether the second run is the same as the first, down to the dropout mask.
#
# After this you can choose the cheapest set of blocks that fits a budget, and write the checkpointed block
# itself.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(choose, 1)` says a little,
# `hint(choose, 3)` nearly everything. The grade comes from `llmkit grade exercises/17_recompute.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from itertools import combinations

import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("17_recompute")

# %% [markdown]
# ## 1. Which blocks
#
# Block `i` keeps `kept[i]` bytes when it is not recomputed. When it is, it keeps its input, `inputs[i]`
# bytes, and running it again takes `seconds[i]`. While a block runs again its `kept[i]` bytes exist once
# more, for one block at a time, so the peak of the activations is
#
# - the sum of `kept` over blocks that are not recomputed, plus the sum of `inputs` over those that are,
# - plus the largest `kept` among those that are.
#
# Return the sorted list of the blocks to recompute so that the peak is at most `budget` and the seconds
# are fewest. Of equally fast sets take the one with fewer blocks, of those the first in the order of
# lists. Return `None` when no set fits. There are at most ten blocks.
#
# | kept | inputs | seconds | budget | returns |
# |---|---|---|---|---|
# | `[10, 10]` | `[1, 1]` | `[1.0, 1.0]` | 20 | `[]` |
# | `[10, 10]` | `[1, 1]` | `[1.0, 1.0]` | 12 | `[0, 1]` |
# | `[10, 6, 6]` | `[1, 1, 1]` | `[3.0, 1.0, 1.0]` | 18 | `[1, 2]` |
# | `[10, 10]` | `[1, 1]` | `[1.0, 1.0]` | 11 | `None` |


# %%
def choose(kept: list[int], inputs: list[int], seconds: list[float], budget: int) -> list[int] | None:
    # BEGIN SOLUTION: about 10 lines
    best = None
    for count in range(len(kept) + 1):
        for blocks in combinations(range(len(kept)), count):
            rest = [size for i, size in enumerate(kept) if i not in blocks]
            again = max((kept[i] for i in blocks), default=0)
            peak = sum(rest) + sum(inputs[i] for i in blocks) + again
            time = sum(seconds[i] for i in blocks)
            if peak <= budget and (best is None or time < best[0]):
                best = time, list(blocks)
    return None if best is None else best[1]
    # END SOLUTION


check(choose)

# %% [markdown]
# ## Predict
#
# Ten equal blocks keep 34 units each, their inputs take 2. All ten are recomputed. **How many units is the
# peak?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 20
# BEGIN SOLUTION
guess = 54
# END SOLUTION
predict("peak units", guess)

# %% [markdown]
# ## 2. The block, run again
#
# `block(x)` is any function of one tensor, with parameters of its own and dropout from PyTorch's global
# CPU generator. Return `block(x)` so that
#
# - values and gradients (of `x`, if it wants one, and of every parameter) are those of `block(x)`, also
#   when gradients are there already: they add up;
# - nothing of the block is kept for the backward pass but `x`: the block runs once without a graph, and
#   once more, with one, when the backward pass arrives;
# - the second run draws the dropout mask of the first, and afterwards the generator stands where it stood
#   before that second run: what others draw next must not depend on it. `torch.get_rng_state()`,
#   `torch.set_rng_state(state)`.
#
# `torch.autograd.Function` is the tool: `forward(ctx, ...)` runs without a graph,
# `ctx.save_for_backward(x)` keeps a tensor, `backward(ctx, grad)` returns a gradient for each argument of
# `forward`. A Function whose tensor inputs want no gradient gets no backward pass; hand it a tensor that
# does (a `torch.ones((), requires_grad=True)`) beside `x`. Do not use `torch.utils.checkpoint`.


# %%
def recomputed(block, x: torch.Tensor) -> torch.Tensor:
    # BEGIN SOLUTION: about 20 lines
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, wanted):
            ctx.save_for_backward(x)
            ctx.state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            after = torch.get_rng_state()
            torch.set_rng_state(ctx.state)
            with torch.enable_grad():
                start = x.detach().requires_grad_(ctx.needs_input_grad[0])
                out = block(start)
            torch.set_rng_state(after)
            torch.autograd.backward(out, grad)
            return start.grad, None

    return Again.apply(x, torch.ones((), requires_grad=True))
    # END SOLUTION


check(recomputed)

# %% [markdown]
# Four layers with dropout, plain and recomputed, from the same seed:

# %% tags=["solution"]
torch.manual_seed(0)
layers = [
    torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2)) for _ in range(4)
]
found = []
for run in (lambda layer, x: layer(x), recomputed):
    torch.manual_seed(1)
    x = torch.ones(2, 8, requires_grad=True)
    y = x
    for layer in layers:
        y = run(layer, y)
    found.append((y, *torch.autograd.grad(y.sum(), x)))
print(
    "same output:",
    torch.equal(found[0][0], found[1][0]),
    "- same gradient:",
    torch.equal(found[0][1], found[1][1]),
)

# %% [markdown]
# ## Say it in an interview
#
# *What does activation checkpointing cost, and what can go wrong?* A second forward pass of the blocks
# that I recompute: a third more FLOPs if it is all of them. The peak is their inputs plus one whole block.
# What goes wrong is the second run: another dropout mask, batch norm that counts twice, a generator that
# others find moved. So the state is saved before the first run and put back after the second.
#
# Follow-ups: Which blocks first, when they differ? Why does recomputing attention's scores alone pay most?
# What happens to a parameter that is frozen, or to an input that wants no gradient?
