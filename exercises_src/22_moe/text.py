# %% [markdown]
# # Exercise 22: experts and their router
#
# **Three functions, about 35 minutes, 28 lines in all.** A mixture of experts keeps many MLPs and sends
# each token through few of them: the memory of all, the compute of some. Both numbers are called its size,
# and a plan that takes the wrong one is off by a factor of ten. What decides which expert works is a small
# linear layer, the router. It is trained, so it can prefer one expert, and where room is limited, tokens
# are dropped.
#
# After this you can count both sizes from a config, write the router, and compute the load, the dropped
# share and the loss that keeps the load even.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(route, 1)` says a little,
# `hint(route, 3)` nearly everything. The grade comes from `llmkit grade exercises/22_moe.ipynb`, on inputs
# that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("22_moe")

# %% [markdown]
# ## 1. Two sizes
#
# `config` has `layers`, `width`, `vocab`, `experts`, `top_k`, `shared`, `expert_hidden`, `dense_layers`,
# `dense_hidden`. Count weights of matrices only:
#
# - the embedding, vocab x width, once (the head is tied to it);
# - in each layer, attention: 4 x width²;
# - in the first `dense_layers` layers, an MLP of 3 x width x dense_hidden (SwiGLU);
# - in each other layer, a router of width x experts, and `experts` + `shared` experts of 3 x width x
#   expert_hidden each. A token uses the router, all `shared` ones and `top_k` of the others.
#
# Return `{"total": ..., "active": ...}`: all weights, and those that one token uses. It uses the whole
# embedding matrix as its head.
#
# | layers, width, vocab, experts, top_k, shared, expert_hidden, dense_layers, dense_hidden | total | active |
# |---|---|---|
# | 1, 2, 5, 1, 1, 0, 3, 0, 0 | 46 | 46 |
# | 1, 2, 5, 4, 1, 0, 3, 0, 0 | 106 | 52 |
# | 2, 2, 5, 4, 2, 1, 3, 1, 8 | 188 | 152 |


# %%
def moe_sizes(config: dict[str, int]) -> dict[str, int]:
    # BEGIN SOLUTION: about 9 lines
    c = config
    sparse = c["layers"] - c["dense_layers"]
    always = c["vocab"] * c["width"] + c["layers"] * 4 * c["width"] ** 2
    always += c["dense_layers"] * 3 * c["width"] * c["dense_hidden"]
    always += sparse * c["width"] * c["experts"]
    expert = 3 * c["width"] * c["expert_hidden"]
    total = always + sparse * (c["experts"] + c["shared"]) * expert
    active = always + sparse * (c["top_k"] + c["shared"]) * expert
    return {"total": total, "active": active}
    # END SOLUTION


check(moe_sizes)

# %% [markdown]
# ## Predict
#
# 64 experts, top 2, no dense layers. Experts hold almost all the weights. **How many times as many weights
# lie in memory as a token uses?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 8
# BEGIN SOLUTION
guess = 32
# END SOLUTION
predict("memory over compute", guess)

# %% [markdown]
# ## 2. The router
#
# `logits` has a row for each token and a column for each expert. For each token: softmax over all experts,
# keep the `top_k` largest probabilities, divide them by their sum. Return for each token a list of
# `[expert, weight]` pairs, the largest weight first; of equal ones the lower expert number first.
#
# Logits may be large (1,000), so subtract the row's largest before `exp`.
#
# | logits | top_k | returns |
# |---|---|---|
# | `[[0.0, 0.0]]` | 1 | `[[[0, 1.0]]]` |
# | `[[0.0, 0.0, 0.0]]` | 2 | `[[[0, 0.5], [1, 0.5]]]` |
# | `[[0.0, 1.0986, -50.0]]` | 2 | `[[[1, 0.75], [0, 0.25]]]` (ln 3 = 1.0986) |


# %%
def route(logits: list[list[float]], top_k: int) -> list[list[list]]:
    # BEGIN SOLUTION: about 8 lines
    routed = []
    for row in logits:
        largest = max(row)
        weights = [math.exp(logit - largest) for logit in row]
        chosen = sorted(range(len(row)), key=lambda expert: -weights[expert])[:top_k]
        whole = sum(weights[expert] for expert in chosen)
        routed.append([[expert, weights[expert] / whole] for expert in chosen])
    return routed
    # END SOLUTION


check(route)

# %% [markdown]
# ## 3. Room, and balance
#
# `chosen[t]` are the experts that token `t` asks for, `probabilities[t]` its softmax over all experts.
# Each expert has room for `capacity` tokens. Tokens are served in order, each token's experts in their
# order; who finds no room is dropped there.
#
# Return `{"load": ..., "dropped": ..., "balance": ...}`:
#
# - `load`: for each expert, how many tokens it serves.
# - `dropped`: the share of all choices that were dropped.
# - `balance`: the load-balance loss of Switch Transformers, E x sum of f x P over the E experts: f is an
#   expert's share of all choices (dropped ones included), P its mean probability over the tokens. It is 1
#   when both are even.
#
# | chosen | probabilities | capacity | load | dropped | balance |
# |---|---|---|---|---|---|
# | `[[0], [1]]` | `[[0.5, 0.5], [0.5, 0.5]]` | 1 | `[1, 1]` | 0.0 | 1.0 |
# | `[[0], [0]]` | `[[0.75, 0.25], [0.75, 0.25]]` | 1 | `[1, 0]` | 0.5 | 1.5 |


# %%
def room_and_balance(chosen: list[list[int]], probabilities: list[list[float]], capacity: int) -> dict:
    # BEGIN SOLUTION: about 11 lines
    experts, asked = len(probabilities[0]), [expert for token in chosen for expert in token]
    load, dropped = [0] * experts, 0
    for expert in asked:
        if load[expert] < capacity:
            load[expert] += 1
        else:
            dropped += 1
    share = [asked.count(expert) / len(asked) for expert in range(experts)]
    mean = [sum(row[expert] for row in probabilities) / len(probabilities) for expert in range(experts)]
    balance = experts * sum(f * p for f, p in zip(share, mean, strict=True))
    return {"load": load, "dropped": dropped / len(asked), "balance": balance}
    # END SOLUTION


check(room_and_balance)

# %% [markdown]
# A router that has collapsed onto expert 0, beside an even one; 8 tokens, 4 experts, room for 3 each:

# %% tags=["solution"]
for name, rows in (
    ("even", [[2.0 if expert == token % 4 else 0.0 for expert in range(4)] for token in range(8)]),
    ("collapsed", [[4.0, 0.0, 0.0, 0.0]] * 8),
):
    chosen = [[expert for expert, _ in token] for token in route(rows, 1)]
    soft = [[weight for _, weight in sorted(token)] for token in route(rows, 4)]
    found = room_and_balance(chosen, soft, capacity=3)
    print(f"{name:10} load {found['load']}, dropped {found['dropped']:.0%}, balance {found['balance']:.2f}")

# %% [markdown]
# ## Say it in an interview
#
# *Dense or mixture, at 13B?* I ask which 13B. Memory and checkpoints pay for all experts, FLOPs and
# latency at batch 1 for the active ones, and between the two stands an efficiency that I measure, because
# dispatch is communication and experts are small matrices. I watch the load of each expert, the dropped
# share and the balance loss: a router can collapse without a word in the loss.
#
# Follow-ups: Why does the balance loss multiply a count by a probability? What happens to a token that is
# dropped? Why does a large batch in decoding read all experts anyway?
