# %% [markdown]
# # Exercise 11: warmup and cosine
#
# **Two functions, about 20 minutes, 11 lines in all.** The schedule is a few lines with two ends, and each
# end has its off-by-one. A first step with a rate of 0 wastes a batch; a cosine that runs past its end climbs
# again; a `min_lr` used as a clamp bends the curve; a schedule that counts its own calls is off after every
# resume. Written as a pure function of the step it has no state, so none of that can happen.
#
# After this you can write the schedule without an off-by-one at either end and set it on parameter groups.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(lr_at, 1)` says a little,
# `hint(lr_at, 3)` nearly everything. The grade comes from `llmkit grade exercises/11_schedule.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("11_schedule")

# %% [markdown]
# ## Predict
#
# A half cosine from 1 down to 0, three quarters of the way. **What is the rate?** Put your number in place of
# `None`, then run the cell.

# %%
guess = None  # for example 0.25
# BEGIN SOLUTION
guess = 0.146
# END SOLUTION
predict("three quarters", guess)

# %% [markdown]
# ## 1. The rate at a step
#
# A run has steps 0, 1, ..., `steps - 1`. The first `warmup` of them are the warmup, at most all.
#
# - Warmup: step s has lr · (s + 1) / warmup. The first step has a rate above 0, the last step of the warmup
#   has lr.
# - Then half a cosine, from lr at step `warmup` to min_lr at step `steps - 1`. If these are the same step, it
#   has lr.
# - From step `steps` on: min_lr, always. A run may be longer than planned.
# - A step below 0 raises `ValueError`.
# - min_lr is where the cosine ends. It is no clamp: in the warmup the rate may be below it.
#
# | step | steps | warmup | lr | min_lr | returns |
# |---|---|---|---|---|---|
# | 0 | 10 | 4 | 1.0 | 0.5 | 0.25 |
# | 4 | 10 | 4 | 1.0 | 0.2 | 1.0 |
# | 9 | 10 | 4 | 1.0 | 0.2 | 0.2 |
# | 5 | 9 | 2 | 1.0 | 0.2 | 0.6 |
# | 1000 | 10 | 4 | 1.0 | 0.2 | 0.2 |
#
# `check` asks for several steps at once: those in `at`.


# %%
def lr_at(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    # BEGIN SOLUTION: about 8 lines
    if step < 0:
        raise ValueError(f"step {step} is below 0")
    if step >= steps:
        return min_lr
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))
    # END SOLUTION


check(lr_at)

# %% [markdown]
# ## 2. Set it
#
# Write the rate of `step` into `group["lr"]` of every parameter group.
#
# - A group may have `lr_scale`, a factor on the whole schedule: 0.1 for an embedding that should move slowly,
#   0.0 for a group that rests. Without it the factor is 1.
# - The rate depends on the step alone. Steps come in any order: a resumed run goes back to its checkpoint and
#   does some steps again.
# - The groups stay the same dicts and get no further keys: the optimizer reads them, the checkpoint saves
#   them.
#
# | lr_scale | step | steps | warmup | lr | min_lr | `group["lr"]` |
# |---|---|---|---|---|---|---|
# | not given | 1 | 10 | 4 | 1.0 | 0.1 | 0.5 |
# | 0.5 | 3 | 10 | 4 | 1.0 | 0.1 | 0.5 |
# | 0.0 | 3 | 10 | 4 | 1.0 | 0.1 | 0.0 |
#
# `check` makes a group for each of `scales` (`None`: without `lr_scale`), with a rate of 0.001 at first, and
# sets the steps in `visits`. At `"resume"` the groups come back from a checkpoint, as new dicts.


# %%
def set_lr(groups: list[dict], step: int, steps: int, warmup: int, lr: float, min_lr: float) -> None:
    # BEGIN SOLUTION: about 3 lines
    rate = lr_at(step, steps, warmup, lr, min_lr)
    for group in groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    # END SOLUTION


check(set_lr)

# %% [markdown]
# ## Say it in an interview
#
# *After a resume the loss jumps and comes back within a hundred steps. What do you look at?* The learning
# rate first: I log it at every step and lay the curve over the plan. A scheduler object that counts its own
# calls starts again at 0, or one call off; a pure function of the restored step cannot. If the rate is
# right, the moments of the optimizer are next, then the place in the data.
#
# Follow-ups: The run is extended by 20 %. What happens to a cosine planned for the old length, and what would
# you have chosen instead (a constant rate with a late decay)? Why is warmup needed with AdamW at all?
