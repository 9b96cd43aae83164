# %% [markdown]
# # Exercise 09: gradient accumulation
#
# **Two functions, about 30 minutes, 15 lines in all.** A global batch does not fit into memory, so it comes
# as micro-batches: forward and backward for each, the gradients add up in `.grad`, one optimizer step at the
# end. It should be the same step as with the whole batch at once. It is not when every micro-batch's *mean*
# loss is added: micro-batches hold unequal numbers of counted tokens (padding and prompts are ignored), so a
# token in a short one pulls harder. A widely used trainer had
# this fault (huggingface/transformers#34191), and the loss curve does not show it.
#
# After this you can write accumulation that equals the full batch, with empty micro-batches, clipping and
# zeroing in the right places.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(accumulate, 1)` says a little,
# `hint(accumulate, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/09_accumulation.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import torch
from torch.nn.functional import cross_entropy

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("09_accumulation")

# %% [markdown]
# ## Predict
#
# Two micro-batches have 1 and 7 counted tokens. Somebody averages the two mean losses. **How many times too
# heavy is the lone token?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 7
# BEGIN SOLUTION
guess = 4
# END SOLUTION
predict("too heavy", guess)

# %% [markdown]
# ## 1. Accumulate
#
# Leave in `.grad` the gradient of the mean loss over all counted tokens of the step; return that mean loss.
#
# - `batches` is a list of pairs `(x, labels)`. `model(x)` gives logits of shape (tokens, classes), `labels`
#   has shape (tokens,). A label of -100 is ignored: it is no counted token.
# - Every counted token of the step weighs the same: 1 / (counted tokens of the step).
# - One micro-batch at a time: the backward pass of one comes before the forward pass of the next. Do not
#   join them.
# - `.grad` may hold gradients of an earlier step, in every trainable parameter, also in one that this loss
#   does not use. They must not leak in. Zero or `None` are equally good there.
# - A micro-batch may hold no counted token, or no token at all. It adds nothing. If no token counts in the
#   whole step, return 0.0 and leave zero or `None` in every `.grad`.
# - Some parameters may be frozen (`requires_grad` is False).
#
# | counted losses in the micro-batches | returns |
# |---|---|
# | `[2.0]`, `[1.0, 1.0, 1.0]` | `1.25` |
# | `[2.0, 1.0]`, none | `1.5` |
# | none, none | `0.0` |
#
# `check` shows the loss, the gradients of `weight` and `bias` in one list, the largest old gradient left in
# the unused parameter (`spare`), the most rows in one forward pass, and how many graphs were held at once.


# %%
def accumulate(model: torch.nn.Module, batches: list) -> float:
    # BEGIN SOLUTION: about 10 lines
    model.zero_grad()
    tokens = sum(int((labels != -100).sum()) for _, labels in batches)
    loss = 0.0
    for x, labels in batches:
        if not (labels != -100).any():
            continue
        part = cross_entropy(model(x), labels, reduction="sum") / tokens
        part.backward()
        loss += part.item()
    return loss
    # END SOLUTION


check(accumulate)

# %% [markdown]
# ## 2. The whole step
#
# One optimizer step for one global batch. Return the loss, as `accumulate` does.
#
# - When all gradients are there, clip them once, all together: a total norm above `max_norm` becomes
#   `max_norm`, a smaller one is left alone. Then one `optimizer.step()`.
# - Gradients from before the call must not leak in.
# - If no token of the step counts, there is no optimizer step: momentum would move the weights without any
#   gradient. Return 0.0.
#
# `check` plays several steps of SGD with momentum and shows after each the loss, the gradients that the
# optimizer saw at each of its steps, and the weights.


# %%
def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list, max_norm: float
) -> float:
    # BEGIN SOLUTION: about 5 lines
    loss = accumulate(model, batches)
    if any(bool((labels != -100).any()) for _, labels in batches):
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return loss
    # END SOLUTION


check(train_step)

# %% [markdown]
# ## Say it in an interview
#
# *Accumulating over 8 micro-batches gives another loss than one batch of the same sequences. Why?* Most
# likely each micro-batch's loss is a mean over its own tokens, and the numbers of counted tokens differ. I
# count the tokens of the whole step first, add sums of losses, and divide by that count. I prove it by
# comparing the gradients, not the losses, with those of the full batch.
#
# Follow-ups: The same on data-parallel ranks: which number must be all-reduced, and what does DDP divide by?
# Where does clipping stand, and where the scaler's unscale? What does `no_sync` save?
