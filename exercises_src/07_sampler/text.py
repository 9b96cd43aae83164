# %% [markdown]
# # Exercise 07: the sampler
#
# **Three functions, about 25 minutes, 10 lines in all.** A training run reads its data in a shuffled order,
# divided over ranks. When it dies at step 41,000 it must go on with exactly the rows that come next. When a
# batch has blown up the loss it must be left out, for good. When the job comes back on half the machines, the
# global batches must stay what they were.
#
# A sampler that keeps a place in an iterator cannot promise this: its state depends on everything that ran
# before. A sampler that is a *function* of seed, step, rank and skip list has no state to lose. To resume it
# needs one number, the step.
#
# After this you can write such a sampler, name the ways in which ranks come to read the same rows, and say
# what a checkpoint must hold of the data order.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(order, 1)` says a little,
# `hint(order, 3)` nearly everything. The grade comes from `llmkit grade exercises/07_sampler.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import random
from collections.abc import Callable

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("07_sampler")

# %% [markdown]
# ## 1. The order of one epoch
#
# Return the rows 0 .. n-1 as a list of integers, in the shuffled order of this epoch. Any shuffle will do if
# all of this holds:
#
# - Every row stands in it exactly once. It is a shuffle of the whole epoch, not of small pieces of it.
# - It depends on `n`, `seed` and `epoch` alone: the same call gives the same order, whatever ran before.
# - Two different pairs (seed, epoch) give two different orders (0 ≤ seed < 2³², 0 ≤ epoch < 1,000,000).
# - No global generator (`random`, numpy, torch) is seeded or advanced: others draw from them.
#
# | call | may return |
# |---|---|
# | `order(1, seed=0, epoch=0)` | `[0]` |
# | `order(5, seed=3, epoch=1)` | `[2, 4, 0, 1, 3]`, or any other of the 120 |
#
# `check` asks for every (seed, epoch) in `keys` twice, the second time in reverse order.


# %%
def order(n: int, seed: int, epoch: int) -> list[int]:
    # BEGIN SOLUTION: about 3 lines
    rows = list(range(n))
    random.Random(f"{seed} {epoch}").shuffle(rows)
    return rows
    # END SOLUTION


check(order)

# %% [markdown]
# ## Predict
#
# A colleague keys the shuffle with `seed + epoch`. Two runs, seeds 0 and 1, train ten epochs each, 0 to 9.
# **How many of the second run's ten orders did the first run have too?** Put your number in place of `None`,
# then run the cell.

# %%
guess = None  # for example 1
# BEGIN SOLUTION
guess = 9
# END SOLUTION
predict("orders seen twice", guess)

# %% [markdown]
# ## 2. The batch that a step serves
#
# Batches are numbered 0, 1, 2 ... without end. Those on the skip list are never served, and the later ones
# move up: step `s` serves the batch that has exactly `s` served batches before it.
#
# - `skip` is a list of batch numbers, in any order; a number may stand in it twice.
# - It may name batches that lie far ahead.
#
# | step | skip | returns |
# |---|---|---|
# | 7 | `[]` | `7` |
# | 1 | `[1]` | `2` |
# | 0 | `[0, 1]` | `2` |
# | 2 | `[2, 2]` | `3` |


# %%
def batch_number(step: int, skip: list[int]) -> int:
    # BEGIN SOLUTION: about 5 lines
    number = step
    for skipped in sorted(set(skip)):
        if skipped <= number:
            number += 1
    return number
    # END SOLUTION


check(batch_number)

# %% [markdown]
# ## 3. The rows of one rank
#
# Lay the epochs end to end: all rows in the order of epoch 0, then all in that of epoch 1, and so on. Batch
# `number` holds the positions `number * batch` up to `(number + 1) * batch - 1` of this stream. Return the
# rows that one rank reads of it.
#
# - `order_of(epoch)` gives the order of an epoch, a list of `n` rows.
# - Rank `r` of `world` reads positions r, r + world, r + 2·world ... *of the batch*, in this order. `world`
#   need not divide `batch`, so ranks may read unequal numbers of rows.
# - A batch may cross the end of an epoch; it may even be longer than an epoch. Nothing is dropped.
# - The function remembers nothing: after a rollback, steps are asked for again.
#
# With `order_of(0) = [3, 1, 0, 2]` and `order_of(1) = [2, 0, 3, 1]`, so `n = 4`:
#
# | number | rank | world | batch | returns |
# |---|---|---|---|---|
# | 1 | 0 | 1 | 2 | `[0, 2]` |
# | 0 | 1 | 2 | 4 | `[1, 2]` |
# | 1 | 0 | 1 | 3 | `[2, 2, 0]` |
# | 1 | 0 | 2 | 3 | `[2, 0]` |
#
# In `check`, `orders` are the orders of epochs 0, 1 ..., and `calls` are the pairs [number, rank] asked for.


# %%
def rank_rows(
    number: int, rank: int, world: int, batch: int, n: int, order_of: Callable[[int], list[int]]
) -> list[int]:
    # BEGIN SOLUTION: about 2 lines
    positions = range(number * batch + rank, (number + 1) * batch, world)
    return [order_of(position // n)[position % n] for position in positions]
    # END SOLUTION


check(rank_rows)

# %% [markdown]
# The three together are the whole sampler. Nothing in it has to be saved but the step and the skip list.


# %% tags=["solution"]
def rows_of(step: int, rank: int, world: int, skip: list[int]) -> list[int]:
    number = batch_number(step, skip)
    return rank_rows(number, rank, world, 4, 10, lambda epoch: order(10, 0, epoch))


one = sorted(rows_of(2, 0, 1, skip=[1]))
two = sorted(rows_of(2, 0, 2, skip=[1]) + rows_of(2, 1, 2, skip=[1]))
print("step 2 reads the same rows on one rank and on two:", one == two)

# %% [markdown]
# ## Say it in an interview
#
# *How do you make data order survive a crash, and a change of the number of ranks?* Make it a function of
# seed, step and skip list: a keyed shuffle per epoch, a position computed from the step, the global batch cut
# by rank last of all. Resume needs the step alone. Another world size reads the same global batches, cut into
# other shares, so the loss curve goes on as before up to the order of summation.
#
# Follow-ups: PyTorch's `DistributedSampler` pads the epoch so that every rank gets as many rows: what does
# that do to the gradient of the last batch? Why must the skip list be in the checkpoint? A shuffled list of
# 10¹⁰ rows takes 80 GB: how do you shuffle without it?
