# %% [markdown]
# # Exercise 28: the stability map
#
# **Three functions, about 35 minutes, 18 lines in all.** Somebody trained a grid, learning rates across,
# warmups down, and calls 0.01 stable because its run went well. One run says little: llmkit's own base
# recipe loses 28 of 300 runs and looks fine in nine of ten. A map needs a definition of a lost run, a rate
# with an interval in each cell, and a rule for where the stable region ends.
#
# After this you can turn raw loss curves into a map, say how many runs a cell needs, and choose a learning
# rate that you can defend.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(wilson, 1)` says a little,
# `hint(wilson, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/28_stability_map.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
from statistics import fmean

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("28_stability_map")

# %% [markdown]
# ## 1. Is the run lost?
#
# Return `True` when the run of these losses is lost:
#
# - any loss of the run is not finite (NaN, infinity, minus infinity), also when later ones are; or
# - the mean of the last `last` losses is more than `margin` above the lowest loss of the run. When there
#   are fewer losses than `last`, the mean is over all of them.
#
# A spike from which the run comes back does not make it lost.
#
# | losses | last | margin | returns |
# |---|---|---|---|
# | `[6.0, 5.0, 4.0]` | 2 | 1.0 | `False` |
# | `[6.0, 4.0, 6.0, 6.0]` | 2 | 1.0 | `True` |
# | `[6.0, nan, 4.0]` | 1 | 1.0 | `True` |
# | `[6.0, 4.0, 5.5, 4.0]` | 3 | 1.0 | `False` |
# | `[6.0, 4.0, 4.0, 5.5]` | 3 | 1.0 | `False` |


# %%
def is_lost(losses: list[float], last: int, margin: float) -> bool:
    # BEGIN SOLUTION: about 4 lines
    for loss in losses:
        if not math.isfinite(loss):
            return True
    return fmean(losses[-last:]) > min(losses) + margin
    # END SOLUTION


check(is_lost)

# %% [markdown]
# ## Predict
#
# You train with a new recipe and no run is lost. **How many runs in a row must go well before you may say,
# at 95 %, that fewer than 1 % are lost?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 20
# BEGIN SOLUTION
guess = 381
# END SOLUTION
predict("runs to rule out 1 %", guess)

# %% [markdown]
# ## 2. How sure?
#
# Return Wilson's 95 % interval of the rate behind `lost` of `runs`, lower end first. With x lost of n, z =
# 1.96:
#
# $$\frac{x + z^2/2 \pm z\sqrt{x(1 - x/n) + z^2/4}}{n + z^2}$$
#
# - It is right also for 0 of n, where share ± 1.96 standard errors would be 0 ± 0.
# - Rounding may bring an end outside 0 to 1 by a hair: cut it off there.
#
# | lost | runs | returns |
# |---|---|---|
# | 0 | 1 | (0.0, 0.7935) |
# | 0 | 16 | (0.0, 0.1936) |
# | 8 | 16 | (0.2800, 0.7200) |


# %%
def wilson(lost: int, runs: int) -> tuple[float, float]:
    # BEGIN SOLUTION: about 5 lines
    z = 1.96
    middle = lost + z * z / 2
    half = z * math.sqrt(lost * (1 - lost / runs) + z * z / 4)
    whole = runs + z * z
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
    # END SOLUTION


check(wilson)

# %% [markdown]
# ## 3. Where is the edge?
#
# `lost[w][r]` of `runs` runs were lost with warmup `w` and learning rate `rates[r]`. A learning rate is
# *stable* when the upper end of its interval is at most `limit`. For each warmup return the edge: the
# largest learning rate that is stable and below which all others of the map are stable too, or `None` when
# not even the smallest is.
#
# - The rates come in any order, and no two are equal.
# - A large rate that was lucky beyond an unstable one does not count.
#
# | rates | lost | runs | limit | returns |
# |---|---|---|---|---|
# | `[0.01, 0.1]` | `[[0, 50], [0, 0]]` | 100 | 0.05 | `[0.01, 0.1]` |
# | `[0.001, 0.01, 0.1]` | `[[0, 50, 0]]` | 100 | 0.05 | `[0.001]` |
# | `[0.001, 0.01]` | `[[60, 90], [50, 0]]` | 100 | 0.05 | `[None, None]` |
# | `[0.01, 0.02]` | `[[0, 4]]` | 100 | 0.05 | `[0.01]` |
# | `[0.1, 0.001, 0.01]` | `[[0, 0, 50], [80, 0, 0]]` | 100 | 0.05 | `[0.001, 0.01]` |


# %%
def stable_edges(rates: list[float], lost: list[list[int]], runs: int, limit: float) -> list[float | None]:
    # BEGIN SOLUTION: about 9 lines
    edges = []
    for row in lost:
        edge = None
        for rate, count in sorted(zip(rates, row, strict=True)):
            if wilson(count, runs)[1] > limit:
                break
            edge = rate
        edges.append(edge)
    return edges
    # END SOLUTION


check(stable_edges)

# %% [markdown]
# How the number of runs moves the edge, when the true rates are 0, 2 and 30 %:

# %% tags=["solution"]
for runs in (10, 100, 1000):
    counts = [round(runs * share) for share in (0.0, 0.02, 0.3)]
    print(f"{runs:5,} runs a cell: edge {stable_edges([0.001, 0.003, 0.01], [counts], runs, 0.05)[0]}")

# %% [markdown]
# ## Say it in an interview
#
# *How did you choose the learning rate?* Not by the best run. I define what a lost run is before I look,
# train each cell of a learning rate x warmup map over many seeds, and give each cell the upper end of its
# interval, because 0 of 10 still allows 28 %. I take the largest rate of the stable stretch that starts at
# the smallest one, then a factor of safety for the long run.
#
# Follow-ups: Why is one lucky cell beyond the edge no evidence? How many seeds does a limit of 1 % need?
# The edge moved down with a longer warmup: what do you check first?
