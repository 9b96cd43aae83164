# %% [markdown]
# # Exercise 19: the KV cache
#
# **Three functions, about 25 minutes, 18 lines in all.** "Does a 13B model with a context of 32,768 fit
# into 48 GB?" The weights are the easy half. Every token that was read or written keeps its keys and
# values, in every layer, for every sequence that is served. Grouped-query attention shares them among
# heads, a sliding window forgets the old ones, and both change the answer by factors.
#
# After this you can compute a cache from a config, find the longest context that fits an envelope, and say
# what grouped queries and a window are worth.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(kv_bytes, 1)` says a little,
# `hint(kv_bytes, 3)` nearly everything. The grade comes from `llmkit grade exercises/19_kv_cache.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("19_kv_cache")

# %% [markdown]
# ## 1. Bytes of one sequence
#
# Each layer keeps one key and one value, of `head_dim` numbers each, per token and *KV head*; a number
# takes `number_bytes` bytes. Return the bytes for a sequence of `context` tokens.
#
# - `kv_heads` is the number of query heads under full attention and fewer under grouped queries.
# - Layers come in two kinds. `windows[i]` is `None` for a layer that attends to everything, or a window:
#   such a layer keeps the last `windows[i]` tokens, and of a shorter sequence all.
#
# | context | windows | kv_heads | head_dim | number_bytes | returns |
# |---|---|---|---|---|---|
# | 1 | `[None]` | 1 | 1 | 1 | 2 |
# | 100 | `[None, None]` | 4 | 8 | 2 | 25,600 |
# | 100 | `[None, 10]` | 4 | 8 | 2 | 14,080 |


# %%
def kv_bytes(context: int, windows: list[int | None], kv_heads: int, head_dim: int, number_bytes: int) -> int:
    # BEGIN SOLUTION: about 4 lines
    tokens = 0
    for window in windows:
        tokens += context if window is None else min(context, window)
    return 2 * tokens * kv_heads * head_dim * number_bytes
    # END SOLUTION


check(kv_bytes)

# %% [markdown]
# ## Predict
#
# Llama 3 70B has 80 layers, 8 KV heads of 128, and serves in 16 bits. **How many KiB of cache does one
# token take?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 32
# BEGIN SOLUTION
guess = 320
# END SOLUTION
predict("KiB a token", guess)

# %% [markdown]
# ## 2. The longest context that fits
#
# A card has `memory` bytes, of which the weights take `weights` and everything else `reserve`. `batch`
# sequences are served at once. All layers attend to everything, and a token of one sequence takes
# `per_token` bytes of cache.
#
# Return the longest context, in tokens, at which all of it fits, to the last byte; at most `trained`, the
# context that the model was trained for; 0 when not even one token fits.
#
# | memory | weights | reserve | batch | per_token | trained | returns |
# |---|---|---|---|---|---|---|
# | 100 | 60 | 0 | 1 | 10 | 8 | 4 |
# | 100 | 60 | 5 | 1 | 10 | 8 | 3 |
# | 100 | 60 | 0 | 2 | 10 | 8 | 2 |
# | 100 | 50 | 10 | 2 | 10 | 8 | 2 |
# | 100 | 99 | 5 | 1 | 10 | 8 | 0 |


# %%
def longest_context(memory: int, weights: int, reserve: int, batch: int, per_token: int, trained: int) -> int:
    # BEGIN SOLUTION: about 3 lines
    free = memory - weights - reserve
    fits = free // (batch * per_token)
    return max(0, min(fits, trained))
    # END SOLUTION


check(longest_context)

# %% [markdown]
# ## 3. How many can be served at once
#
# Now each sequence has a length of its own: `lengths[i]` tokens, `per_token` bytes each, in pages of
# `page` tokens (a started page is taken whole, as in vLLM). `free` bytes are left for the cache. The
# sequences wait in a line, in the order given; each is let in as long as it fits, and the first that does
# not fit stops the line.
#
# Return `[served, wasted]`: how many are let in, and the share of the bytes they take that holds no token.
# Nobody served wastes 0.0.
#
# | lengths | per_token | page | free | returns |
# |---|---|---|---|---|
# | `[8]` | 10 | 1 | 100 | `[1, 0.0]` |
# | `[6, 8]` | 10 | 8 | 160 | `[2, 0.125]` |
# | `[6, 9, 1]` | 10 | 8 | 160 | `[1, 0.25]` |


# %%
def served(lengths: list[int], per_token: int, page: int, free: int) -> list:
    # BEGIN SOLUTION: about 11 lines
    count, used, taken = 0, 0, 0
    for length in lengths:
        pages = -(-length // page)
        if (taken + pages * page) * per_token > free:
            break
        count += 1
        used += length
        taken += pages * page
    if not count:
        return [0, 0.0]
    return [count, 1 - used / taken]
    # END SOLUTION


check(served)

# %% [markdown]
# A 13B model in 16 bits (40 layers of 5,120) on a card of 48 GB:

# %% tags=["solution"]
for name, heads in (("full attention, 40 KV heads", 40), ("grouped, 8 KV heads", 8)):
    per_token = kv_bytes(1, [None] * 40, heads, 128, 2)
    context = longest_context(48 * 10**9, 26 * 10**9, 2 * 10**9, 1, per_token, 131_072)
    print(f"{name}: {per_token / 1024:.0f} KiB a token, context {context:,}")

# %% [markdown]
# ## Say it in an interview
#
# *Will it fit on 48 GB?* Weights first: parameters times bytes. Then the cache: 2 x layers x KV heads x
# head size x bytes a token, times context, times sequences. I name the reserve for activations and
# fragmentation, and what is left divides by the bytes of a token. Grouped queries divide the cache by the
# size of a group; a window caps it whatever the context.
#
# Follow-ups: What does quantising the cache to 8 bits change, and what does it risk? Why do pages waste
# less than a buffer of the longest context? At which context does the cache outweigh the weights?
