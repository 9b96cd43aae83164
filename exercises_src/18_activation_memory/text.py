# %% [markdown]
# # Exercise 18: activation memory
#
# **Two functions, about 25 minutes, 14 lines in all.** Weights and moments are easy to count, and the run
# dies of memory all the same: of what the forward pass keeps for the backward pass. For a transformer it
# has a closed form (Korthikanti et al. 2022). It says at once what tensor parallelism leaves undivided,
# what sequence parallelism adds, and why recomputing attention's scores alone brings most of the gain at a
# fraction of the price.
#
# After this you can write the formula from memory, and say which pipeline stage is the fullest.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(layer_bytes, 1)` says a little,
# `hint(layer_bytes, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/18_activation_memory.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("18_activation_memory")

# %% [markdown]
# ## 1. One layer
#
# Bytes that one layer of a GPT in 16 bits keeps for a micro-batch of `b` sequences of `s` tokens, with
# width `h` and `a` heads, on one of `t` tensor-parallel GPUs. Everything is in units of s b h:
#
# - 24 are divided by tensor parallelism: inside attention and the MLP. 10 are not: the inputs of the layer
#   norms, of the blocks, and the dropout masks.
# - Attention's scores, their softmax and its dropout mask take 5 a s / h more, divided by t as well.
# - Sequence parallelism (`sequence=True`) divides the 10 by t too.
# - `recompute` is `"none"`; `"selective"`: the scores are not kept; or `"full"`: only the layer's input is
#   kept, 2 s b h, which is divided by t under sequence parallelism alone.
#
# | s | b | h | a | t | sequence | recompute | returns |
# |---|---|---|---|---|---|---|---|
# | 1 | 1 | 10 | 2 | 1 | `False` | none | 350.0 |
# | 1 | 1 | 10 | 2 | 2 | `False` | none | 225.0 |
# | 1 | 1 | 10 | 2 | 2 | `True` | selective | 170.0 |
# | 1 | 1 | 10 | 2 | 2 | `False` | full | 20.0 |


# %%
def layer_bytes(s: int, b: int, h: int, a: int, t: int, sequence: bool, recompute: str) -> float:
    # BEGIN SOLUTION: about 8 lines
    whole = t if sequence else 1
    if recompute == "full":
        kept = 2 / whole
    else:
        kept = 10 / whole + 24 / t
        if recompute == "none":
            kept += 5 * a * s / h / t
    return s * b * h * kept
    # END SOLUTION


check(layer_bytes)

# %% [markdown]
# ## Predict
#
# GPT-3 175B: h = 12,288, a = 96, s = 2,048. **How many percent of a layer's activations are attention's
# scores, 5 a s / h of 34 + 5 a s / h?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 30
# BEGIN SOLUTION
guess = 70.2
# END SOLUTION
predict("percent scores", guess)

# %% [markdown]
# ## 2. One stage
#
# A pipeline of `stages` stages holds `layers` layers, divided evenly; a step has `micro` micro-batches
# (schedule 1F1B). Stage 0 starts first and waits longest for its first backward pass: stage `i` has up to
# stages - i micro-batches under way, but never more than there are.
#
# Return a list with the bytes of each stage, when a layer keeps `each` bytes a micro-batch. The last stage
# also keeps `logits` bytes, of the one micro-batch it has under way.
#
# | layers | stages | micro | each | logits | returns |
# |---|---|---|---|---|---|
# | 4 | 1 | 8 | 10.0 | 0.0 | `[40.0]` |
# | 6 | 3 | 8 | 10.0 | 7.0 | `[60.0, 40.0, 27.0]` |
# | 8 | 4 | 2 | 10.0 | 7.0 | `[40.0, 40.0, 40.0, 27.0]` |


# %%
def stage_bytes(layers: int, stages: int, micro: int, each: float, logits: float) -> list[float]:
    # BEGIN SOLUTION: about 6 lines
    found = []
    for stage in range(stages):
        waiting = min(stages - stage, micro)
        found.append(waiting * layers / stages * each)
    found[-1] += logits
    return found
    # END SOLUTION


check(stage_bytes)

# %% [markdown]
# 175B on 8 tensor-parallel GPUs and 8 stages, micro-batch 1:

# %% tags=["solution"]
for sequence, recompute in ((False, "none"), (True, "none"), (True, "selective"), (True, "full")):
    each = layer_bytes(2048, 1, 12_288, 96, 8, sequence, recompute)
    first = stage_bytes(96, 8, 64, each, 0.0)[0] / 2**30
    print(f"sequence parallel {sequence!s:5}  recompute {recompute:9}  first stage {first:5.1f} GiB")

# %% [markdown]
# ## Say it in an interview
#
# *Where does the memory of training go, beside weights and moments?* Activations: s b h times 34 plus 5 a
# s / h bytes in a layer. Tensor parallelism divides 24 of the 34 and the scores; sequence parallelism
# divides the rest, because layer norm and dropout work on each token alone. At GPT-3's shape the scores
# are 70 %, so recomputing them alone takes most of the gain of full recomputation. The first pipeline
# stage is the fullest, since it waits for its first backward pass longest.
#
# Follow-ups: What does FlashAttention change in the formula? Why does the first stage not get smaller with
# more stages? Where do the logits of a vocabulary of 128,000 enter?
