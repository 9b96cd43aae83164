# %% [markdown]
# # Exercise 27: luck
#
# **Three functions, about 35 minutes, 17 lines in all.** "We tried five dropout seeds and the best one cut
# the validation loss by 0.06." Would the sixth run with that seed be better too? Three questions settle
# such claims: which randomness makes the spread, what the best of k runs promises by luck alone, and how
# many runs a difference of this size needs.
#
# After this you can take a spread of losses apart, compute what a lucky seed would have promised and what
# it keeps, and say how many seeds your own claim rests on.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(luck, 1)` says a little,
# `hint(luck, 3)` nearly everything. The grade comes from `llmkit grade exercises/27_seeds.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
import random
from itertools import combinations
from statistics import fmean, variance

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("27_seeds")

# %% [markdown]
# ## Predict
#
# llmkit's small model was trained with 6 initial weights x 5 orders x 5 dropout seeds. The best of the
# five dropout seeds promised 0.060 nats below the average, on the runs it was chosen from. **How many nats
# did it keep in the other runs?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 0.03
# BEGIN SOLUTION
guess = 0.003
# END SOLUTION
predict("nats kept", guess)

# %% [markdown]
# ## 1. Which seed it was
#
# `losses[i][j]` is the validation loss of the run with init seed `i` and order seed `j`; every pair was
# run once, n x m runs. Split the variance of a run into three parts:
#
# - `rest`: what a run has left when the mean of its row and the mean of its column are taken off and the
#   mean of all is added again; squared, summed, divided by (n - 1)(m - 1).
# - `init`: the variance of the n row means (divisor n - 1), less `rest` / m, because a mean of m runs
#   still carries that much of it.
# - `order`: the variance of the m column means, less `rest` / n.
# - A part that comes out below 0 is 0.
#
# | losses | init | order | rest |
# |---|---|---|---|
# | `[[3.0, 3.0], [3.5, 3.5]]` | 0.125 | 0.0 | 0.0 |
# | `[[2.0, 2.25, 2.5], [3.0, 3.25, 3.5]]` | 0.5 | 0.0625 | 0.0 |


# %%
def components(losses: list[list[float]]) -> dict[str, float]:
    # BEGIN SOLUTION: about 8 lines
    n, m = len(losses), len(losses[0])
    rows, columns = [fmean(row) for row in losses], [fmean(column) for column in zip(*losses, strict=True)]
    middle = fmean(rows)
    left = [losses[i][j] - rows[i] - columns[j] + middle for i in range(n) for j in range(m)]
    rest = sum(x * x for x in left) / ((n - 1) * (m - 1))
    init = max(0.0, variance(rows) - rest / m)
    order = max(0.0, variance(columns) - rest / n)
    return {"init": init, "order": order, "rest": rest}
    # END SOLUTION


check(components)

# %% [markdown]
# ## 2. What the best of k promises, and what it keeps
#
# Each run has two losses: `chosen_by`, by which one picks, and `fresh`, from another validation set.
# Somebody trains k of these runs and keeps the one with the least `chosen_by` (of equal ones the first in
# the list). On average over all choices of k different runs:
#
# - `promised`: the mean of all `chosen_by`, minus that of the runs that were kept.
# - `kept`: the mean of all `fresh`, minus the `fresh` of the same runs.
#
# | chosen_by | fresh | k | promised | kept |
# |---|---|---|---|---|
# | `[3.0, 3.5]` | `[3.25, 3.0]` | 1 | 0.0 | 0.0 |
# | `[2.0, 4.0, 3.0, 2.5]` | `[3.0, 2.5, 3.5, 2.75]` | 3 | 0.75 | 0.0 |
# | `[3.0, 3.5]` | `[3.25, 3.0]` | 2 | 0.25 | -0.125 |
# | `[3.5, 3.0, 3.25]` | `[3.0, 3.25, 3.0]` | 2 | 0.1666... | -0.0833... |


# %%
def luck(chosen_by: list[float], fresh: list[float], k: int) -> dict[str, float]:
    # BEGIN SOLUTION: about 7 lines
    best = []
    for runs in combinations(range(len(chosen_by)), k):
        best.append(min(runs, key=lambda run: chosen_by[run]))
    return {
        "promised": fmean(chosen_by) - fmean(chosen_by[run] for run in best),
        "kept": fmean(fresh) - fmean(fresh[run] for run in best),
    }
    # END SOLUTION


check(luck)

# %% [markdown]
# ## 3. How many runs
#
# Two settings differ by `gap` nats, runs of one setting spread by `sd`. To see the difference in four of
# five studies (power 80 %), at a false alarm in one of twenty, each setting needs 2 x ((1.96 + 0.84) x sd
# / gap)² runs. Return that, rounded up, and at least 2.
#
# | sd | gap | returns |
# |---|---|---|
# | 0.1 | 0.09 | 20 |
# | 0.168 | 0.06 | 123 |
# | 0.168 | 0.03 | 492 |
# | 0.01 | 1.0 | 2 |


# %%
def runs_needed(sd: float, gap: float) -> int:
    # BEGIN SOLUTION: about 2 lines
    runs = 2 * ((1.96 + 0.84) * sd / gap) ** 2
    return max(2, math.ceil(runs))
    # END SOLUTION


check(runs_needed)

# %% [markdown]
# Pure noise: what the best of five of thirty runs promises, and what it keeps, which may as well be a loss:

# %% tags=["solution"]
noise = random.Random(0)
chosen_by, fresh = ([3 + noise.gauss(0, 0.168) for _ in range(30)] for _ in range(2))
found = luck(chosen_by, fresh, k=5)
print(f"promised {found['promised']:.2f} nats, kept {found['kept']:.2f}")
print("runs of each setting to show a gap of that size:", runs_needed(0.168, found["promised"]))

# %% [markdown]
# ## Say it in an interview
#
# *You cut the variance of the validation loss by choosing dropout seeds. How?* I would not claim it. I
# cross the seeds: weights by order by masks, and give each its part of the variance. A part that is near 0
# has no good value to choose. The best of five always looks better on the runs it was chosen from; on
# fresh ones the gain is gone. What lowers the spread is more runs, a larger validation set, or averaging
# weights.
#
# Follow-ups: How many seeds does a gain of 0.03 nats need at a spread of 0.168? Why are two settings
# compared with the same seeds? The winner of a sweep is re-run: by how much will it be worse?
