# %% [markdown]
# # Exercise 01: the loss scaler
#
# **Four functions, about 30 minutes, 22 lines in all.** In float16 the smallest positive number is 2⁻²⁴. Many
# gradients of a language model are smaller and would become 0, so the loss is multiplied by a large `scale`
# before the backward pass. Every gradient then comes out `scale` times too large: visible, but to be divided
# again before anybody uses it.
#
# Which scale? The largest at which nothing overflows. Nobody knows it in advance, so the scaler searches for
# it while training: it halves the scale when a gradient overflows, and doubles it after a long row of good
# steps.
#
# After this you can write mixed-precision training's bookkeeping from memory, say in which order its parts
# go, and name the fault in PyTorch's own: it has no floor.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(unscale, 1)` says a little,
# `hint(unscale, 3)` nearly everything. The grade comes from `llmkit grade exercises/01_loss_scaler.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("01_loss_scaler")

# %% [markdown]
# ## 1. Unscale
#
# Divide every gradient by `scale`, in place. Return whether any of them had overflowed.
#
# - `grads` is a list of float32 tensors of any shape; a frozen parameter has `None` instead.
# - An infinity or a NaN, anywhere, is an overflow. A finite number is none, however large.
# - All gradients are divided, also when one of them overflowed.
#
# | grads | scale | returns | grads afterwards |
# |---|---|---|---|
# | `[tensor([4., -2.]), None]` | 2.0 | `False` | `[tensor([2., -1.]), None]` |
# | `[tensor([inf]), tensor([2.])]` | 2.0 | `True` | `[tensor([inf]), tensor([1.])]` |


# %%
def unscale(grads: list[torch.Tensor | None], scale: float) -> bool:
    # BEGIN SOLUTION: about 6 lines
    overflow = False
    for grad in grads:
        if grad is not None:
            overflow = overflow or not bool(torch.isfinite(grad).all())
            grad.div_(scale)
    return overflow
    # END SOLUTION


check(unscale)

# %% [markdown]
# ## 2. Update
#
# The scale for the next step, by PyTorch's rule. `good_steps` counts the good steps in a row before this one.
#
# - Overflow: multiply the scale by `backoff`; the count restarts at 0.
# - The `interval`-th good step in a row: multiply the scale by `growth`; the count restarts at 0.
# - Any other good step: the scale stays, the count goes up by one.
# - The scale lives in float32. A growth beyond `FP32_MAX` is not made, but the count restarts all the same.
#
# | scale | good_steps | overflow | interval | returns |
# |---|---|---|---|---|
# | 8.0 | 0 | `True` | 4 | `(4.0, 0)` |
# | 8.0 | 0 | `False` | 4 | `(8.0, 1)` |
# | 8.0 | 1 | `False` | 2 | `(16.0, 0)` |
#
# `check` plays whole patterns of steps and shows `[scale, good_steps]` after each. In `pattern`, `True` is an
# overflow.

# %%
FP32_MAX = torch.finfo(torch.float32).max


def update(
    scale: float,
    good_steps: int,
    overflow: bool,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
) -> tuple[float, int]:
    # BEGIN SOLUTION: about 6 lines
    if overflow:
        return scale * backoff, 0
    if good_steps + 1 < interval:
        return scale, good_steps + 1
    grown = scale * growth
    return (grown if grown <= FP32_MAX else scale), 0
    # END SOLUTION


check(update)

# %% [markdown]
# ## Predict
#
# A layer divides by zero, so every step overflows, whatever the scale. PyTorch's scaler starts at 65536 and
# halves. It has no floor. **How many overflows until its scale is 0?** Put your number in place of `None`,
# then run the cell.

# %%
guess = None  # for example 40
# BEGIN SOLUTION
guess = 166
# END SOLUTION
predict("overflows until zero", guess)

# %% [markdown]
# ## 3. A floor, and a report
#
# As `update`, but a back-off stops at `floor`. The third value returned says that lowering the scale is of no
# more use: it is `True` exactly when this step overflowed and leaves the scale at the floor, each time that
# happens.
#
# | scale | overflow | floor | returns |
# |---|---|---|---|
# | 4.0 | `True` | 1.0 | `(2.0, 0, False)` |
# | 2.0 | `True` | 1.0 | `(1.0, 0, True)` |
# | 1.0 | `True` | 1.0 | `(1.0, 0, True)` |
# | 3.0 | `True` | 2.0 | `(2.0, 0, True)` |
#
# The scale handed in is never below `floor`. The arguments go in this order.


# %%
def update_with_floor(
    scale: float,
    good_steps: int,
    overflow: bool,
    floor: float = 1.0,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
) -> tuple[float, int, bool]:
    # BEGIN SOLUTION: about 3 lines
    scale, good_steps = update(scale, good_steps, overflow, growth, backoff, interval)
    at_floor = overflow and scale <= floor
    return max(scale, floor), good_steps, at_floor
    # END SOLUTION


check(update_with_floor)

# %% [markdown]
# ## 4. Clip after unscale
#
# One step's gradients arrive scaled. Unscale them, measure them, clip them, in this order and in place.
# Return the norm *before* clipping: it is the number you log, and the one in which a spike shows.
#
# - The norm is that of all gradients together: the root of the sum of squares over every element.
# - Above `max_norm`, all gradients are multiplied by one factor so that their norm becomes `max_norm`.
# - At or below it they are unscaled and otherwise left alone.
# - The gradients are finite here; `None` may stand among them.
#
# | grads | scale | max_norm | returns | grads afterwards |
# |---|---|---|---|---|
# | `[tensor([12., 16.])]` | 4.0 | 5.0 | `5.0` | `[tensor([3., 4.])]` |
# | `[tensor([24.]), tensor([32.])]` | 4.0 | 2.0 | `10.0` | `[tensor([1.2]), tensor([1.6])]` |


# %%
def clip_after_unscale(grads: list[torch.Tensor | None], scale: float, max_norm: float) -> float:
    # BEGIN SOLUTION: about 7 lines
    unscale(grads, scale)
    present = [grad for grad in grads if grad is not None]
    norm = torch.stack([grad.square().sum() for grad in present]).sum().sqrt().item()
    if norm > max_norm:
        for grad in present:
            grad.mul_(max_norm / norm)
    return norm
    # END SOLUTION


check(clip_after_unscale)

# %% [markdown]
# ## Say it in an interview
#
# *Why does clipping come after unscaling, and what does it do before?* Before unscaling the norm is `scale`
# times too large, so nearly every step is clipped, to an unscaled norm of `max_norm / scale`. With SGD the
# steps are thousands of times too small. AdamW divides the factor out again, so the loss curve looks healthy;
# but every gradient, weak or spiking, now has the same norm, and each growth of the scale halves what the
# moments are fed.
#
# Follow-ups: What becomes of the optimizer's moments on a skipped step? Why does bfloat16 need no scaler? Two
# ranks, one overflows: what must the other do?
