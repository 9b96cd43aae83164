# %% [markdown]
# # Exercise 25: what checkpointing is worth
#
# **Three functions, about 20 minutes, 11 lines in all.** A job died of memory after 18 hours. Activation
# checkpointing would have saved it: the forward pass keeps little and repeats itself during the backward
# pass. It costs time on every step of the month, and it saves the crashes. It also makes room for a larger
# micro-batch, which wins time back. Which of these is larger is arithmetic, and a manager will ask for it.
#
# After this you can turn "checkpointing cuts the peak by 40 %" into dollars a month, with the number of
# crashes from which on it pays.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(time_ratio, 1)` says a little,
# `hint(time_ratio, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/25_recompute_roi.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("25_recompute_roi")

# %% [markdown]
# ## Predict
#
# A backward pass costs about two forward passes. Full checkpointing repeats the whole forward pass. **By
# how many percent is a step longer, at the same micro-batch?** Put your number in place of `None`, then run
# the cell.

# %%
guess = None  # for example 50
# BEGIN SOLUTION
guess = 33.3
# END SOLUTION
predict("percent longer", guess)

# %% [markdown]
# ## 1. The micro-batch that fits
#
# Of a GPU's `batch` sequences, how many can go through at once?
#
# - Weights, gradients and moments take `fixed` MiB, each sequence of the micro-batch `each` MiB, and all of
#   it may be at most `budget` MiB. Exactly the budget is allowed.
# - The micro-batch must divide `batch`: otherwise the last one is smaller and the global batch is another.
# - Return the largest such micro-batch; 0 when not even one sequence fits.
#
# | budget | fixed | each | batch | returns |
# |---|---|---|---|---|
# | 20 | 8 | 5 | 2 | 2 |
# | 20 | 8 | 2 | 8 | 4 |
# | 12 | 8 | 5 | 4 | 0 |
# | 38 | 8 | 5 | 4 | 4 |


# %%
def largest_micro_batch(budget: int, fixed: int, each: int, batch: int) -> int:
    # BEGIN SOLUTION: about 3 lines
    room = (budget - fixed) // each
    divisors = [size for size in range(1, batch + 1) if batch % size == 0]
    return max((size for size in divisors if size <= room), default=0)
    # END SOLUTION


check(largest_micro_batch)

# %% [markdown]
# ## 2. The time it costs, and wins back
#
# A small micro-batch wastes the machine: launches and the reading of weights take the same time for 1
# sequence as for 8. Say a micro-batch of `b` sequences takes a time of `b + half` (at `b = half` the
# machine is half as fast as it could be), and with checkpointing `1 + recompute` times that.
#
# Return the time of the same number of sequences with checkpointing at micro-batch `again`, over that
# without it at micro-batch `plain`. Above 1, checkpointing is slower.
#
# | plain | again | half | recompute | returns |
# |---|---|---|---|---|
# | 1 | 1 | 0.0 | 0.5 | 1.5 |
# | 1 | 3 | 3.0 | 0.0 | 0.5 |
# | 1 | 2 | 1.0 | 0.5 | 1.125 |


# %%
def time_ratio(plain: int, again: int, half: float, recompute: float) -> float:
    # BEGIN SOLUTION: about 3 lines
    without = (plain + half) / plain
    with_it = (1 + recompute) * (again + half) / again
    return with_it / without
    # END SOLUTION


check(time_ratio)

# %% [markdown]
# ## 3. Dollars a month
#
# `gpus` GPUs at `price` dollars an hour train for `hours` hours a month. Without checkpointing there are
# `crashes` out-of-memory crashes a month on top, and each wastes `lost` hours of every GPU. With
# checkpointing there is none, and the same work takes `ratio` times as long.
#
# Return `{"saved": ..., "break_even": ...}`:
#
# - `saved`: dollars a month that checkpointing saves; negative when it costs more than it saves.
# - `break_even`: crashes a month at which `saved` is 0; 0 when checkpointing is not slower.
#
# | gpus | hours | price | ratio | crashes | lost | saved | break_even |
# |---|---|---|---|---|---|---|---|
# | 1 | 100.0 | 2.0 | 1.0 | 1.0 | 10.0 | 20.0 | 0.0 |
# | 2 | 100.0 | 3.0 | 1.1 | 0.0 | 5.0 | -60.0 | 2.0 |
# | 4 | 200.0 | 2.0 | 0.9 | 1.0 | 6.0 | 208.0 | 0.0 |


# %%
def monthly_worth(
    gpus: int, hours: float, price: float, ratio: float, crashes: float, lost: float
) -> dict[str, float]:
    # BEGIN SOLUTION: about 5 lines
    without = gpus * (hours + crashes * lost)
    with_it = gpus * hours * ratio
    saved = price * (without - with_it)
    break_even = max(0.0, hours * (ratio - 1) / lost)
    return {"saved": saved, "break_even": break_even}
    # END SOLUTION


check(monthly_worth)

# %% [markdown]
# The three together, for 24 GPUs at $2.95 that crash six times a month, 18 hours into the work:

# %% tags=["solution"]
plain = largest_micro_batch(budget=80_000, fixed=62_000, each=9_000, batch=16)
again = largest_micro_batch(budget=80_000, fixed=62_000, each=2_200, batch=16)
ratio = time_ratio(plain, again, half=0.5, recompute=1 / 3)
found = monthly_worth(gpus=24, hours=600, price=2.95, ratio=ratio, crashes=6, lost=18)
print(f"micro-batch {plain} -> {again}, time x {ratio:.2f}")
print(f"${found['saved']:,.0f} a month; it pays from {found['break_even']:.1f} crashes a month on")

# %% [markdown]
# ## Say it in an interview
#
# *Your job ran out of memory after 18 hours. Is checkpointing worth it?* It repeats the forward pass: a
# third more FLOPs when all of it is repeated, a few percent when only attention is. It frees activations,
# so the micro-batch grows and wins part of that back; I measure the ratio on ten steps of each. Against it
# stand the GPU-hours of the crashes. The break-even is hours × (ratio − 1) / hours lost a crash: GPUs and
# price cancel.
#
# Follow-ups: What else would have made it fit, at what price (fused loss, 8-bit moments, sharding)? Why
# must the micro-batch divide the batch? Which crash does checkpointing not cure (a leak: it only dies
# later)?
