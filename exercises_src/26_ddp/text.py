# %% [markdown]
# # Exercise 26: gradients of many ranks
#
# **Three functions, about 40 minutes, 26 lines in all.** Data-parallel ranks hold the same weights and read
# other rows. After the backward pass they exchange gradients, so that each makes the same step as one large
# machine would. Three things go wrong there. Ranks that hold unequal numbers of tokens are averaged as if
# they were equal. Communication starts late, because the buckets are filled in the wrong order. And one rank
# decides on its own, skips a collective call, and all others wait in it until the watchdog kills the job.
#
# After this you can average as one machine would, say which gradients travel first, and write a step on
# which all ranks decide alike.
#
# The ranks here are simulated in one process. Fill in the `...`, run the cell, and `check` it on public
# examples. `hint(average, 1)` says a little, `hint(average, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/26_ddp.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
from collections.abc import Generator

import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("26_ddp")

# %% [markdown]
# ## 1. Average
#
# `grads[rank][i]` is the gradient of parameter i on that rank: of the mean loss over the rank's own
# `tokens[rank]` tokens. Return, for each parameter, the gradient of the mean loss over all tokens together.
#
# - A rank counts by its tokens. Its means become sums, the sums are added and divided by all tokens.
# - `None`: the loss of this rank does not depend on the parameter. Its gradient there is 0, and its tokens
#   count all the same.
# - A parameter that is `None` on every rank stays `None`.
# - A rank with 0 tokens has the mean of nothing, NaN. It contributes nothing. At least one rank has tokens.
#
# | grads | tokens | returns |
# |---|---|---|
# | `[[tensor([4.])], [tensor([0.])]]` | `[1, 3]` | `[tensor([1.])]` |
# | `[[tensor([4.])], [None]]` | `[1, 1]` | `[tensor([2.])]` |
# | `[[tensor([4.])], [tensor([nan])]]` | `[2, 0]` | `[tensor([4.])]` |


# %%
def average(grads: list[list[torch.Tensor | None]], tokens: list[int]) -> list[torch.Tensor | None]:
    # BEGIN SOLUTION: about 5 lines
    found = []
    for column in zip(*grads, strict=True):
        parts = [grad * n for grad, n in zip(column, tokens, strict=True) if grad is not None and n]
        found.append(sum(parts) / sum(tokens) if parts else None)
    return found
    # END SOLUTION


check(average)

# %% [markdown]
# ## Predict
#
# 2.7 billion float16 gradients, 32 ranks, a ring all-reduce: each rank sends 2 · 31/32 times the bytes.
# **How many GB does each rank send per step?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 5.4
# BEGIN SOLUTION
guess = 10.46
# END SOLUTION
predict("GB per step", guess)

# %% [markdown]
# ## 2. Buckets
#
# The backward pass makes gradients from the last parameter to the first. They travel in buckets, each as soon
# as it is full, while the backward pass goes on. `sizes[i]` is the size of parameter i's gradient in bytes.
# Return the buckets in the order in which they are sent, each a list of parameter numbers in the order in
# which their gradients are made.
#
# - A bucket is full, and closed, when its size has *reached* its limit. So it may exceed it by a part of its
#   last gradient; a gradient is never divided.
# - The limit of the first bucket is `first`, that of all others `cap`. A small first bucket starts the
#   traffic early.
# - What is left at the end is the last bucket. No bucket is empty.
#
# This is the rule of PyTorch's DDP once it has seen one backward pass; its limits are 1 MiB and 25 MiB.
#
# | sizes | first | cap | returns |
# |---|---|---|---|
# | `[8, 8, 8]` | 8 | 16 | `[[2], [1, 0]]` |
# | `[8, 8, 8]` | 1 | 10 | `[[2], [1, 0]]` |
# | `[4, 4, 4, 4]` | 8 | 100 | `[[3, 2], [1, 0]]` |


# %%
def buckets(sizes: list[int], first: int, cap: int) -> list[list[int]]:
    # BEGIN SOLUTION: about 8 lines
    found, filled, limit = [[]], 0, first
    for number in reversed(range(len(sizes))):
        if filled >= limit:
            found.append([])
            filled, limit = 0, cap
        found[-1].append(number)
        filled += sizes[number]
    return found if sizes else []
    # END SOLUTION


check(buckets)

# %% [markdown]
# ## 3. One rank's step
#
# Now from inside. `rank_step` runs on every rank at once and knows only its own gradients. It is a generator:
# `totals = yield numbers` is an all-reduce. Each rank brings a list of numbers, and each gets back the list
# of their sums over all ranks. What the generator returns is what this rank gives its optimizer.
#
# - `grads` are lists of numbers, or `None`, as in task 1, and all of them times the loss `scale`. `sizes[i]`
#   is the length of gradient i, also where it is `None`.
# - Return the average over all ranks as in task 1, unscaled: a list of lists, `None` for a parameter that no
#   rank uses.
# - An infinity or a NaN on a rank with tokens is an overflow. When any rank has one, all ranks skip the step:
#   each returns `None`.
# - Every rank returns the same. Every rank makes equally many all-reduces, with equally long lists, whatever
#   its own gradients are; otherwise the job hangs, and `check` says which rank waits. As many all-reduces as
#   you like; one is enough.
# - A rank without tokens has NaN gradients, as in task 1. That is no overflow.
#
# In `check`, `ranks` is a list of `[grads, tokens]`.
#
# | ranks | sizes | scale | every rank returns |
# |---|---|---|---|
# | `[[[[16.0]], 1], [[[8.0]], 3]]` | `[1]` | 4.0 | `[[2.5]]` |
# | `[[[[8.0]], 1], [[[inf]], 3]]` | `[1]` | 2.0 | `None` |
# | `[[[[8.0], None], 2], [[None, None], 2]]` | `[1, 1]` | 2.0 | `[[2.0], None]` |


# %%
def rank_step(
    grads: list[list[float] | None], sizes: list[int], tokens: int, scale: float
) -> Generator[list[float], list[float], list[list[float] | None] | None]:
    # BEGIN SOLUTION: about 13 lines
    grads = [grad if tokens else None for grad in grads]
    used = [grad is not None for grad in grads]
    flat = [x for grad, n in zip(grads, sizes, strict=True) for x in (grad or [0.0] * n)]
    overflow = not all(map(math.isfinite, flat))
    totals = yield [tokens, overflow, *used, *(0.0 if overflow else x * tokens for x in flat)]
    (count, any_overflow), used = totals[:2], totals[2 : 2 + len(sizes)]
    if any_overflow:
        return None
    mean, found = iter(totals[2 + len(sizes) :]), []
    for size, users in zip(sizes, used, strict=True):
        values = [next(mean) / count / scale for _ in range(size)]
        found.append(values if users else None)
    return found
    # END SOLUTION


check(rank_step)

# %% [markdown]
# Four ranks with 1, 2, 3 and 0 tokens, and then one of them overflows:


# %% tags=["solution"]
def together(ranks: list, scale: float) -> list:
    steps = [rank_step(grads, [2, 1], tokens, scale) for grads, tokens in ranks]
    totals = [sum(column) for column in zip(*map(next, steps), strict=True)]
    found = []
    for step in steps:
        try:
            step.send(totals)
        except StopIteration as end:
            found.append(end.value)
    return found


ranks = [([[6.0, 0.0], None], 1), ([[0.0, 6.0], None], 2), ([None, [4.0]], 3), ([[math.nan] * 2, None], 0)]
print("averaged:", together(ranks, scale=1.0)[0])
print("one overflows:", together([*ranks[:3], ([[math.inf, 1.0], None], 1)], scale=1.0))

# %% [markdown]
# ## Say it in an interview
#
# *Your loss curve on eight ranks differs from that on one, with the same global batch. Why?* First suspect:
# the mean over ranks of means over tokens. DDP divides by the number of ranks, which is right only if all of
# them hold equally many targets; padding, packing and a short last batch break it. I all-reduce the token
# count, scale each rank's summed loss by world over tokens, and check that one rank and eight give the same
# gradient. Second: parameters that some ranks do not use. Third: a decision taken by one rank, such as
# skipping an overflow. Every rank has to take part in every collective, so decisions travel by all-reduce.
#
# Follow-ups: Why does the first bucket have a limit of its own? What does `find_unused_parameters` cost, and
# what happens without it? With accumulation over four micro-batches, in which of them do you synchronise?
