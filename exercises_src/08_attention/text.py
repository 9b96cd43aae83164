# %% [markdown]
# # Exercise 08: causal attention
#
# **Two functions, about 35 minutes, 10 lines in all.** Attention is four lines that everybody knows and many
# get wrong. A missing 1/√d, a mask off by one, softmax along the wrong axis, a mask that forgets the cached
# keys: the shapes fit, nothing crashes, and the loss falls. A model that sees the next token even trains
# better than it should, until it has to write.
#
# So shapes and "it runs" prove nothing. Here the numbers are compared, and the gradients of q, k and v too: a
# softmax that is detached somewhere gives perfect outputs and learns nothing.
#
# After this you can write causal and grouped-query attention from memory, shapes spoken first, and say what
# is computed in float32 and why.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(attention, 1)` says a little,
# `hint(attention, 3)` nearly everything. The grade comes from `llmkit grade exercises/08_attention.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math

import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("08_attention")

# %% [markdown]
# ## Predict
#
# The entries of q and k are independent, with mean 0 and variance 1; a query has d = 64 of them. **What is
# the standard deviation of a score q · k, not scaled?** Put your number in place of `None`, then run the
# cell.

# %%
guess = None  # for example 1
# BEGIN SOLUTION
guess = 8
# END SOLUTION
predict("spread of a score", guess)

# %% [markdown]
# ## 1. Causal attention
#
# Return softmax(q kᵀ / √d) v, each query seeing no later key.
#
# - Shapes: q (..., T, d), k (..., S, d), v (..., S, e), output (..., T, e). Any number of leading dimensions,
#   the same in all three; none is possible. e need not be d.
# - T ≤ S. With S > T the first S − T keys come from a cache: query i stands at position S − T + i, and sees
#   the keys 0 to S − T + i. The last query sees every key.
# - Softmax is taken over the keys that a query sees; their weights sum to 1. Scores of ±40,000 do no harm.
# - Inputs are float32 or bfloat16. Compute scores, softmax and the sum over v in float32; only the output
#   is cast back to the dtype of q. (Near 20, bfloat16 numbers are 1/8 apart: a rounded score is a weight
#   wrong by up to 6 percent.)
# - Gradients flow to q, k and v. `check` sends `upstream` back and compares `dq`, `dk` and `dv`.
#
# | q | k | v | returns |
# |---|---|---|---|
# | `[[1., 1., 1., 1.]]` | `[[2., 0., 0., 0.], [0., 0., 0., 0.]]` | `[[4.], [1.]]` | `[[3.193]]` |
# | `[[1.], [2.]]` | `[[1.], [0.]]` | `[[1., 2.], [3., 4.]]` | `[[1., 2.], [1.238, 2.238]]` |
# | `[[1.], [2.]]` | `[[1.], [0.], [2.]]` | `[[4.], [8.], [0.]]` | `[[5.076], [0.596]]` |


# %%
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # BEGIN SOLUTION: about 6 lines
    queries, keys, d = q.shape[-2], k.shape[-2], q.shape[-1]
    scores = q.float() @ k.float().transpose(-2, -1) / math.sqrt(d)
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    scores = scores.masked_fill(~visible, -math.inf)
    out = torch.softmax(scores, dim=-1) @ v.float()
    return out.to(q.dtype)
    # END SOLUTION


check(attention)

# %% [markdown]
# ## 2. Grouped-query attention
#
# Fewer key and value heads than query heads: each is shared by a group of neighbouring query heads. The cache
# shrinks by that factor.
#
# - Shapes: q (batch, heads, T, d), k (batch, groups, S, d), v (batch, groups, S, e), output (batch, heads, T,
#   e). `heads` is a multiple of `groups`; they may be equal.
# - Query head `h` uses key and value head `h // (heads / groups)`: of four heads and two groups, heads 0
#   and 1 use group 0, heads 2 and 3 group 1.
# - Otherwise it is task 1. The gradient of a shared head is the sum over the query heads that use it.


# %%
def grouped_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # BEGIN SOLUTION: about 4 lines
    share = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(share, dim=1)
    v = v.repeat_interleave(share, dim=1)
    return attention(q, k, v)
    # END SOLUTION


check(grouped_attention)

# %% [markdown]
# ## Say it in an interview
#
# *Write causal attention, and prove that it is causal.* Shapes first: (batch, heads, T, d) against
# (batch, heads, S, d) gives scores (batch, heads, T, S); divide by √d so that their spread does not grow with
# d; minus infinity where a key is later than the query; softmax over keys in float32; times v. The proof:
# change the last token and look at the outputs before it. Not one bit may differ.
#
# Follow-ups: You decode with a cache, one query against S keys: what does a square mask do? How much smaller
# does the cache get with 64 heads and 8 groups, and what does it cost? Why does FlashAttention not need the
# (T, S) matrix in memory, and what does its backward pass compute again?
