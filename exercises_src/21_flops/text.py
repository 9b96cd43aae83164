# %% [markdown]
# # Exercise 21: FLOPs per token
#
# **Three functions, about 25 minutes, 16 lines in all.** How long will the run take, what will it cost, is
# this cluster doing well? Each answer begins with the operations that one token costs. Two teams can state
# 51 % and 67 % for the same run: one counts what the model needs (MFU), the other what the machine does,
# recomputation included (HFU). They can differ again by whether attention is counted causally. So state the
# convention, then the number.
#
# After this you can count a forward and backward pass from a config, grouped queries and SwiGLU included,
# and turn tokens per second into MFU and HFU.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(forward_flops, 1)` says a little,
# `hint(forward_flops, 3)` nearly everything. The grade comes from `llmkit grade exercises/21_flops.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("21_flops")

LLAMA_3_8B = {
    "layers": 32,
    "width": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "hidden": 14336,
    "vocab": 128256,
    "context": 8192,
    "swiglu": True,
}

# %% [markdown]
# ## Predict
#
# **Of the forward pass of Llama 3 8B, how many percent are attention scores**, at a context of 8,192 and
# counted without the causal mask? Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 5
# BEGIN SOLUTION
guess = 22
# END SOLUTION
predict("percent in the scores", guess)

# %% [markdown]
# ## 1. Forward
#
# Return `{"blocks": ..., "scores": ..., "head": ...}`, the floating-point operations of one token as part of
# a full context. `config` has the fields of `LLAMA_3_8B` above.
#
# - A multiply-add is two operations, so a matrix costs two per weight. Biases, norms, softmax and the
#   embedding lookup count as none.
# - `blocks`: the matrices of all layers. Attention has four: queries and output between `width` and
#   `heads * head_dim`, keys and values between `width` and `kv_heads * head_dim`. The MLP has two between
#   `width` and `hidden`, or three with `swiglu`. `heads * head_dim` need not equal `width`.
# - `scores`: in every layer each of the `heads` multiplies a query by the keys of the whole context, and the
#   scores by the values; both have `head_dim` numbers a position. With `causal`, count half of it.
# - `head`: one matrix of `width` x `vocab`, tied or not.
#
# | layers | width | heads | kv_heads | head_dim | hidden | vocab | context | swiglu | causal | returns |
# |---|---|---|---|---|---|---|---|---|---|---|
# | 1 | 2 | 1 | 1 | 2 | 8 | 5 | 3 | no | no | blocks 96, scores 24, head 20 |
# | 1 | 2 | 1 | 1 | 2 | 8 | 5 | 4 | no | yes | blocks 96, scores 16, head 20 |
# | 2 | 8 | 4 | 2 | 2 | 32 | 7 | 6 | no | no | blocks 2816, scores 384, head 112 |


# %%
def forward_flops(config: dict, causal: bool) -> dict[str, int]:
    # BEGIN SOLUTION: about 8 lines
    queries = config["heads"] * config["head_dim"]
    keys = config["kv_heads"] * config["head_dim"]
    attention = config["width"] * (2 * queries + 2 * keys)
    mlp = (3 if config["swiglu"] else 2) * config["width"] * config["hidden"]
    blocks = 2 * config["layers"] * (attention + mlp)
    scores = 2 * 2 * config["layers"] * queries * config["context"]
    head = 2 * config["width"] * config["vocab"]
    return {"blocks": blocks, "scores": scores // 2 if causal else scores, "head": head}
    # END SOLUTION


check(forward_flops)

# %% [markdown]
# ## 2. Training
#
# `forward` is what task 1 returns. Return `(model, hardware)`, operations per token of one training step:
#
# - `model`: what the model needs. Backward costs twice the forward pass, all three terms.
# - `hardware`: with what is computed once more. `recompute` is `"none"`, `"selective"` (the scores) or
#   `"full"` (blocks and scores; the head is never recomputed).
#
# | forward | recompute | returns |
# |---|---|---|
# | blocks 10, scores 4, head 1 | `"none"` | `(45, 45)` |
# | blocks 10, scores 4, head 1 | `"selective"` | `(45, 49)` |
# | blocks 10, scores 4, head 1 | `"full"` | `(45, 59)` |


# %%
def training_flops(forward: dict[str, int], recompute: str) -> tuple[int, int]:
    # BEGIN SOLUTION: about 5 lines
    model = 3 * sum(forward.values())
    again = {"none": 0, "selective": forward["scores"]}
    again["full"] = forward["blocks"] + forward["scores"]
    return model, model + again[recompute]
    # END SOLUTION


check(training_flops)

# %% [markdown]
# ## 3. MFU and HFU
#
# A job on `gpus` GPUs trains `tokens_per_s` tokens a second, all GPUs together. `peak` is the dense peak of
# one GPU in TFLOP/s (10¹² a second). `model` and `hardware` are what task 2 returns. Return
# `{"mfu": ..., "hfu": ...}` as shares between 0 and 1, not per cent.
#
# | model | hardware | tokens_per_s | gpus | peak | mfu | hfu |
# |---|---|---|---|---|---|---|
# | 3·10⁹ | 4·10⁹ | 10⁵ | 1 | 1000 | 0.3 | 0.4 |
# | 3·10⁹ | 4·10⁹ | 10⁶ | 8 | 1000 | 0.375 | 0.5 |


# %%
def utilisation(
    model: float, hardware: float, tokens_per_s: float, gpus: int, peak: float
) -> dict[str, float]:
    # BEGIN SOLUTION: about 3 lines
    most = gpus * peak * 1e12
    mfu, hfu = tokens_per_s * model / most, tokens_per_s * hardware / most
    return {"mfu": mfu, "hfu": hfu}
    # END SOLUTION


check(utilisation)

# %% [markdown]
# One run, stated four ways: Llama 3 8B on 8 H100 (989 TFLOP/s dense in bf16) at an assumed 70,000 tokens a
# second, with full recomputation.

# %% tags=["solution"]
for causal in (False, True):
    needs, does = training_flops(forward_flops(LLAMA_3_8B, causal), "full")
    shares = utilisation(needs, does, tokens_per_s=70_000, gpus=8, peak=989.0)
    words = "causal" if causal else "not causal"
    print(f"{words}: {needs / 1e9:.1f} GFLOP a token, MFU {shares['mfu']:.1%}, HFU {shares['hfu']:.1%}")

# %% [markdown]
# ## Say it in an interview
#
# *Your run has 50 % utilisation. Is that good?* I ask which one. MFU counts three forward passes a token; HFU
# adds what is recomputed, so full checkpointing raises it by almost a third without a single token more.
# Then I ask whether attention was counted causally, whether the peak is dense, and what the head costs. Only
# MFU with one convention compares two runs.
#
# Follow-ups: Do grouped queries save FLOPs or memory? From which context on is 6 x parameters wrong by more
# than a tenth? Your MFU fell by a third overnight and nothing was changed: where do you look first?
