# %% [markdown]
# # Exercise 14: a robust spike detector
#
# **One function, about 25 minutes, 12 lines in all.** A loss spike should stop the run, or at least page
# somebody, within a step. The usual first try, mean plus three standard deviations, fails twice: one spike in
# the window widens the standard deviation so much that the next is missed, and a window over the whole run
# calls every drift a spike. Median and MAD (the median distance from the median) do not move until half of
# the window is bad.
#
# After this you can write a detector that finds spikes and NaN, is quiet in the warm-up and on slow drift,
# and say why each part is there.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(spikes, 1)` says a little,
# `hint(spikes, 3)` nearly everything. The grade comes from `llmkit grade exercises/14_spikes.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
import statistics

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("14_spikes")

# %% [markdown]
# ## Predict
#
# Nine losses are 3.0, the tenth is a million. Mean and sample standard deviation (`statistics.stdev`) are
# taken over all ten. **How many standard deviations above the mean is the spike?** Put your number in place
# of `None`, then run the cell.

# %%
guess = None  # for example 1000
# BEGIN SOLUTION
guess = 2.85
# END SOLUTION
predict("largest score", guess)

# %% [markdown]
# ## 1. Spikes
#
# Return the places (0, 1, ...) of the alarms in a run's losses, in order.
#
# - NaN, inf and -inf are alarms at every step, also in the warm-up.
# - A finite loss is judged by its *window*: the last `window` finite losses before it. It is not in its own
#   window. Losses that were alarms stay in the window if they are finite; NaN and infinities take no place in
#   it.
# - With fewer than `warmup` losses in the window, a finite loss is no alarm.
# - centre: the median of the window (of an even number: the mean of the middle two). spread: 1.4826 times the
#   median distance from the centre, but at least `floor`.
# - A finite loss is an alarm when loss > centre + threshold · spread. A fall is never one.
#
# | losses | window | threshold | warmup | floor | returns |
# |---|---|---|---|---|---|
# | 3.0, 3.1, 2.9, 9.0 | 5 | 5 | 3 | 0.01 | `[3]` |
# | 3.0, 9.0, 3.1 | 5 | 5 | 3 | 0.01 | `[]` |
# | 3.0, inf, 3.1 | 5 | 5 | 3 | 0.01 | `[1]` |
# | 3.0, 3.0, 3.0, 3.04, 3.0, 3.06 | 5 | 5 | 3 | 0.01 | `[5]` |
#
# In the last row all distances from the median are 0 but one, so the spread is the floor: 3.04 is within
# 5 · 0.01 of the centre, 3.06 is not.


# %%
def spikes(losses: list[float], window: int, threshold: float, warmup: int, floor: float) -> list[int]:
    # BEGIN SOLUTION: about 12 lines
    finite, alarms = [], []
    for place, loss in enumerate(losses):
        if not math.isfinite(loss):
            alarms.append(place)
            continue
        past = finite[-window:]
        if len(past) >= warmup:
            centre = statistics.median(past)
            spread = max(1.4826 * statistics.median(abs(one - centre) for one in past), floor)
            if loss > centre + threshold * spread:
                alarms.append(place)
        finite.append(loss)
    return alarms
    # END SOLUTION


check(spikes)

# %% [markdown]
# ## Say it in an interview
#
# *Design an alarm for loss spikes.* A causal window of recent finite losses, its median as the centre and
# 1.4826 MAD as the spread, with a floor for flat stretches; an alarm above centre plus k spreads, and at any
# NaN. The median follows slow drift, and up to half of the window may be bad before it lies. I choose k and
# the window on past runs: false alarms per thousand steps against steps of delay.
#
# Follow-ups: A run jumps to a new level and stays there. When does this detector fall silent, and is that
# right? Would you watch the loss or the gradient norm? What should the run do at an alarm: skip, roll back,
# stop?
