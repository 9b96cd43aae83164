# %% [markdown]
# # Exercise 24: failures and their price
#
# **Three functions, about 25 minutes, 10 lines in all.** A thousand GPUs fail a thousand times as often as
# one. Save too seldom and each failure throws hours of all of them away; save too often and they wait for
# the disk. In between lies an optimum, and Young found it in 1974. Failures that stop a job are the cheap
# ones: the dear ones are seen late, such as a corrupt shard that is trained on for three days.
#
# After this you can say after how many steps a run should save, what share of its time is progress, and
# what a faster alarm is worth in dollars.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(goodput, 1)` says a little,
# `hint(goodput, 3)` nearly everything. The grade comes from `llmkit grade exercises/24_young_daly.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("24_young_daly")

# %% [markdown]
# ## Predict
#
# Llama 3 405B was interrupted unexpectedly 419 times in 54 days, on 16,384 GPUs. **How many hours lie
# between two interruptions?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 24
# BEGIN SOLUTION
guess = 3.1
# END SOLUTION
predict("hours between failures", guess)

# %% [markdown]
# ## 1. How often to save
#
# One GPU fails once in `gpu_hours` hours; the job fails when any of its `gpus` does. A save takes `save_s`
# seconds and stops the training meanwhile. Young's interval, which loses least to saving and to work done
# twice together, is
#
# $$T = \sqrt{2 \times \text{save} \times \text{time between failures of the job}}$$
#
# Return it in steps of `step_s` seconds, rounded down, and at least 1.
#
# | step_s | save_s | gpu_hours | gpus | returns |
# |---|---|---|---|---|
# | 1.0 | 2.0 | 1.0 | 1 | 120 |
# | 2.5 | 2.0 | 1.0 | 1 | 48 |
# | 1.0 | 8.0 | 4.0 | 16 | 120 |
# | 500.0 | 2.0 | 1.0 | 4 | 1 |


# %%
def steps_between_saves(step_s: float, save_s: float, gpu_hours: float, gpus: int) -> int:
    # BEGIN SOLUTION: about 3 lines
    between_s = gpu_hours * 3600 / gpus
    interval_s = math.sqrt(2 * save_s * between_s)
    return max(1, int(interval_s / step_s))
    # END SOLUTION


check(steps_between_saves)

# %% [markdown]
# ## 2. Goodput
#
# Goodput is the share of the time in which the run gets further. Per second of progress, a run that saves
# after every `every_s` seconds of progress wastes
#
# - `save_s` seconds once in `every_s`;
# - once in `between_s`, the time between two failures: `restart_s` seconds of standing still, and the work
#   since the last save, half of `every_s` on average.
#
# Return 1 / (1 + wasted seconds per second of progress).
#
# | every_s | save_s | restart_s | between_s | returns |
# |---|---|---|---|---|
# | 90.0 | 10.0 | 5.0 | 10¹⁵ | 0.9 |
# | 50.0 | 0.0 | 0.0 | 100.0 | 0.8 |
# | 100.0 | 10.0 | 20.0 | 700.0 | 0.8333... |


# %%
def goodput(every_s: float, save_s: float, restart_s: float, between_s: float) -> float:
    # BEGIN SOLUTION: about 3 lines
    saving = save_s / every_s
    failing = (every_s / 2 + restart_s) / between_s
    return 1 / (1 + saving + failing)
    # END SOLUTION


check(goodput)

# %% [markdown]
# ## 3. The price of finding out late
#
# A run cannot unlearn: what was trained after bad data came in is thrown away. With probability `chance` a
# run of `gpus` GPUs at `price` dollars an hour meets bad data, and somebody notices `delay` hours later. A
# check at the start of every run, which keeps the whole cluster waiting for `check` hours, would bring
# that down to `faster` hours.
#
# Return `{"expected": ..., "saved": ...}` in dollars a run:
#
# - `expected`: what bad data costs on average without the check.
# - `saved`: what the check saves on average, its own price taken off. It may be negative.
#
# | gpus | price | chance | delay | faster | check | expected | saved |
# |---|---|---|---|---|---|---|---|
# | 10 | 2.0 | 1.0 | 5.0 | 1.0 | 0.0 | 100.0 | 80.0 |
# | 10 | 2.0 | 0.5 | 5.0 | 2.0 | 0.0 | 50.0 | 30.0 |
# | 8 | 2.5 | 0.25 | 40.0 | 4.0 | 0.5 | 200.0 | 170.0 |
# | 1024 | 3.0 | 0.0625 | 8.0 | 2.0 | 1.0 | 1536.0 | -1920.0 |


# %%
def detection_worth(
    gpus: int, price: float, chance: float, delay: float, faster: float, check: float
) -> dict[str, float]:
    # BEGIN SOLUTION: about 4 lines
    hour = gpus * price
    expected = chance * delay * hour
    with_check = (chance * faster + check) * hour
    return {"expected": expected, "saved": expected - with_check}
    # END SOLUTION


check(detection_worth)

# %% [markdown]
# The three together, for 1,024 GPUs of which each fails once in 50,000 hours:

# %% tags=["solution"]
steps = steps_between_saves(step_s=10, save_s=60, gpu_hours=50_000, gpus=1024)
between = 50_000 * 3600 / 1024
for every in (steps // 4, steps, steps * 4):
    print(f"a save every {every:,} steps: goodput {goodput(10 * every, 60, 900, between):.1%}")
worth = detection_worth(gpus=1024, price=2.95, chance=0.2, delay=72, faster=1, check=0.05)
print(f"bad data is expected to cost ${worth['expected']:,.0f} a run; the check saves ${worth['saved']:,.0f}")

# %% [markdown]
# ## Say it in an interview
#
# *How often do you checkpoint on 1,024 GPUs?* I take the failures of one GPU times 1,024, the seconds a
# save blocks, and Young's square root: here every 459 steps. The optimum is flat: four times as often and
# four times as seldom both cost 2.7 points of goodput. What remains is half an interval and a restart at
# every failure, so then I shorten the save and the restart.
#
# Follow-ups: What does asynchronous saving change in the formula? Failures come in bursts: is the interval
# too long or too short then? Your data check costs three minutes of 1,024 GPUs in every run: when is that
# money well spent?
