# %% [markdown]
# # Exercise 23: what a step is made of
#
# **Three functions, about 30 minutes, 15 lines in all.** "We doubled the GPUs and the run is no faster."
# More GPUs shorten one thing only, the compute of a step. What remains is the pipeline's bubble, the
# all-reduces of tensor parallelism, the part of the gradient exchange that nothing hides, and the wait for
# the loader. Whoever can write these down as seconds can say which of them binds, before buying.
#
# After this you can take a step apart, name its bottleneck, and foresee which doubling buys nothing.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(step_time, 1)` says a little,
# `hint(step_time, 3)` nearly everything. The grade comes from `llmkit grade exercises/23_step_time.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("23_step_time")

# %% [markdown]
# ## 1. The pipeline's bubble
#
# With `stages` pipeline stages and `micro` micro-batches a step (schedule 1F1B), each GPU computes for
# `compute` seconds and idles while the pipeline fills and drains: (stages - 1) / micro of its compute.
# Interleaving gives each GPU `interleave` smaller pieces of the model and divides the bubble by that.
#
# Return the idle seconds. One stage has no bubble.
#
# | compute | stages | micro | interleave | returns |
# |---|---|---|---|---|
# | 8.0 | 1 | 4 | 1 | 0.0 |
# | 8.0 | 3 | 4 | 1 | 4.0 |
# | 8.0 | 3 | 4 | 2 | 2.0 |


# %%
def bubble(compute: float, stages: int, micro: int, interleave: int) -> float:
    # BEGIN SOLUTION: about 2 lines
    idle = (stages - 1) / (micro * interleave)
    return compute * idle
    # END SOLUTION


check(bubble)

# %% [markdown]
# ## 2. The step, and what binds it
#
# All in seconds of one step: `compute` (two thirds of it are the backward pass), `bubble`, `tensor`
# (all-reduces of tensor parallelism, which block), `data` (the gradient exchange of data parallelism),
# `loader` (to make the batch).
#
# - The gradient exchange runs beside the backward pass: a share `overlap` of it can hide there, but never
#   more than the backward pass lasts. What is hidden costs nothing.
# - The loader makes the next batch while this one is trained on: the step takes as long as the slower of
#   the two.
#
# Return `{"step": ..., "exposed": ..., "binds": ...}`: the seconds of the step, those of the gradient
# exchange that are not hidden, and the name of the part that binds: `"loader"` when the loader is the
# slower of the two, else the largest of `"compute"`, `"bubble"`, `"tensor"`, `"data"` (its exposed part);
# of equal ones the first in this order.
#
# | compute | bubble | tensor | data | overlap | loader | step | exposed | binds |
# |---|---|---|---|---|---|---|---|---|
# | 6.0 | 0.0 | 0.0 | 0.0 | 0.0 | 1.0 | 6.0 | 0.0 | compute |
# | 6.0 | 0.0 | 0.0 | 2.0 | 0.25 | 1.0 | 7.5 | 1.5 | compute |
# | 3.0 | 0.0 | 0.0 | 8.0 | 1.0 | 1.0 | 9.0 | 6.0 | data |
# | 3.0 | 1.0 | 1.0 | 0.0 | 0.0 | 9.0 | 9.0 | 0.0 | loader |


# %%
def step_time(
    compute: float, bubble: float, tensor: float, data: float, overlap: float, loader: float
) -> dict:
    # BEGIN SOLUTION: about 7 lines
    exposed = data - min(overlap * data, compute * 2 / 3)
    parts = {"compute": compute, "bubble": bubble, "tensor": tensor, "data": exposed}
    busy = sum(parts.values())
    binds = max(parts, key=parts.get)
    if loader > busy:
        binds = "loader"
    return {"step": max(busy, loader), "exposed": exposed, "binds": binds}
    # END SOLUTION


check(step_time)

# %% [markdown]
# ## Predict
#
# A step takes 10 s: 8 s of compute, 2 s that do not shrink. The global batch stays. **How many times as
# fast is the run on four times the GPUs?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 4
# BEGIN SOLUTION
guess = 2.5
# END SOLUTION
predict("four times the GPUs", guess)

# %% [markdown]
# ## 3. What more GPUs buy
#
# The global batch is fixed. `measured[i]` is the time of a step on `gpus[i]` GPUs, from few to many. Say
# what each step up buys: for each pair of neighbours return `[speedup, efficiency]`, where
#
# - speedup is the time before over the time after;
# - efficiency is the speedup over what the added GPUs would give if all of it scaled: below 1 the same
#   work costs more GPU-hours.
#
# | gpus | measured | returns |
# |---|---|---|
# | `[1, 2]` | `[8.0, 4.0]` | `[[2.0, 1.0]]` |
# | `[2, 4, 8]` | `[8.0, 5.0, 5.0]` | `[[1.6, 0.8], [1.0, 0.5]]` |
# | `[2, 8]` | `[8.0, 4.0]` | `[[2.0, 0.5]]` |


# %%
def steps_up(gpus: list[int], measured: list[float]) -> list[list[float]]:
    # BEGIN SOLUTION: about 6 lines
    found = []
    for place in range(1, len(gpus)):
        speedup = measured[place - 1] / measured[place]
        efficiency = speedup / (gpus[place] / gpus[place - 1])
        found.append([speedup, efficiency])
    return found
    # END SOLUTION


check(steps_up)

# %% [markdown]
# Days that were published for one model on 384, 768 and 1,536 GPUs under ZeRO 3, at a fixed batch
# (Narayanan et al. 2021, table 2):

# %% tags=["solution"]
for (speedup, efficiency), more in zip(
    steps_up([384, 768, 1536], [90, 74, 74]), ("768", "1,536"), strict=True
):
    print(f"to {more} GPUs: {speedup:.2f} times as fast at {efficiency:.0%} efficiency")

# %% [markdown]
# ## Say it in an interview
#
# *We doubled the GPUs and the run is no faster. What do you do?* I take the step apart in seconds:
# compute, bubble, tensor-parallel all-reduces, the gradient exchange that the backward pass does not hide,
# the loader. Doubling halves the first only; at a fixed batch the bubble's share even grows, because fewer
# micro-batches fill the pipeline. Then I change the part that binds: more micro-batches or interleaving,
# tensor parallelism kept inside a node, gradients reduced in buckets beside the backward pass, more loader
# workers.
#
# Follow-ups: Why can the overlap never exceed the backward pass? When is a larger batch no way out? Which
# number would you measure first on the sick run?
