# %% [markdown]
# # Exercise 10: AdamW
#
# **Two functions, about 35 minutes, 17 lines in all.** AdamW is ten lines, and each
# can go wrong unseen: eps inside the root, decay that leaks into the moments, one step count for all
# parameters, a frozen parameter that decays to zero. None of them crashes. The loss still falls, a little
# worse, and nobody knows why. Bias correction is a choice too: without it the first steps have another size,
# which acts like a learning-rate schedule that nobody set.
#
# After this you can write the step from memory, say what each part is for, and name the two parameter groups.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(adamw_step, 1)` says a little,
# `hint(adamw_step, 3)` nearly everything. The grade comes from `llmkit grade exercises/10_adamw.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("10_adamw")

# %% [markdown]
# ## Predict
#
# betas are (0.9, 0.999). The gradient of the first step is 2.0 and eps is negligible. **How many times as
# large as with the standard correction is the first step without any?** Put your number in place of `None`,
# then run the cell.

# %%
guess = None  # for example 0.1
# BEGIN SOLUTION
guess = 3.16
# END SOLUTION
predict("first step", guess)

# %% [markdown]
# ## 1. One step
#
# Update every parameter in place. For each one that has a gradient g, with its own count t = 1, 2, ...:
#
# - decay, decoupled: w is multiplied by 1 - lr · weight_decay. Decay enters neither m nor v.
# - m = beta1 · m + (1 - beta1) · g, and v = beta2 · v + (1 - beta2) · g². Both begin at 0.
# - w is reduced by lr · (m / c1) / (sqrt(v / c2) + eps). eps stands outside the root.
#
# | correction | c1 | c2 |
# |---|---|---|
# | `"standard"` | 1 - beta1ᵗ | 1 - beta2ᵗ |
# | `"delayed"` | 1 | 1 - beta2ᵗ |
# | `"none"` | 1 | 1 |
#
# - `params` are float32 tensors of any shape that need no gradient here. Change them in place.
# - `grads` has a tensor or `None` for each. `None` means frozen at this step: weights and state stay as they
#   are, there is no decay, and t does not count. Leave the gradients as they are: others read them.
# - `state` has a dict for each parameter, empty at first. Afterwards it holds `step`, `m` and `v`, and
#   nothing else; m and v before the correction. An empty dict of a frozen parameter stays empty.
#
# | w | g | lr | betas | eps | weight_decay | correction | w afterwards |
# |---|---|---|---|---|---|---|---|
# | 1.0 | 0.5 | 0.1 | (0.9, 0.99) | 0 | 0 | `"none"` | 0.9 |
# | 1.0 | 0.5 | 0.1 | (0.9, 0.99) | 0.5 | 0 | `"standard"` | 0.95 |
# | 1.0 | 0.5 | 0.1 | (0.9, 0.99) | 0 | 0.5 | `"standard"` | 0.85 |
#
# `check` plays several steps and shows, after each, weights and state in flat lists, and whether tensors were
# replaced (`place`) or gradients changed (`grads`).


# %%
def adamw_step(
    params: list[torch.Tensor],
    grads: list[torch.Tensor | None],
    state: list[dict],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction: str,
) -> None:
    # BEGIN SOLUTION: about 12 lines
    for p, g, s in zip(params, grads, state, strict=True):
        if g is None:
            continue
        if not s:
            s.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        s["step"] += 1
        s["m"] = beta1 * s["m"] + (1 - beta1) * g
        s["v"] = beta2 * s["v"] + (1 - beta2) * g * g
        c1 = 1 - beta1 ** s["step"] if correction == "standard" else 1.0
        c2 = 1.0 if correction == "none" else 1 - beta2 ** s["step"]
        p *= 1 - lr * weight_decay
        p -= lr * (s["m"] / c1) / ((s["v"] / c2).sqrt() + eps)
    # END SOLUTION


check(adamw_step)

# %% [markdown]
# ## 2. Who decays
#
# Return the two parameter groups for the optimizer, as a list of two dicts with `"params"` and
# `"weight_decay"`, the decaying one first. Both groups are there, also when one is empty.
#
# - Parameters of two dimensions or more decay, embeddings included. Gains, biases and scalars do not,
#   whatever their names: a norm's gain is called `weight` too.
# - Every trainable parameter is in exactly one group, a tied one once. Frozen ones are in none.
#
# | parameters | first group | second group |
# |---|---|---|
# | `w` (2, 2), `b` (2) | `w` | `b` |
# | `w` (2, 2), `head.weight` tied to `w` | `w` | none |
# | `w` (2, 2), `f` (2, 2) frozen | `w` | none |
#
# `check` builds models: each entry of `parameters` is a name, a shape, and `trained`, `frozen`, or the name
# of the parameter that it is tied to.


# %%
def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    # BEGIN SOLUTION: about 5 lines
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    # END SOLUTION


check(decay_groups)

# %% [markdown]
# ## Say it in an interview
#
# *What is the difference between Adam with L2 and AdamW, and when does it matter?* L2 adds decay to the
# gradient, so it passes through the moments and is divided by sqrt(v): weights with large gradients hardly
# decay at all. AdamW shrinks all weights at the same rate, lr times weight_decay, whatever their gradients.
# With plain SGD the two would be the same thing.
#
# Follow-ups: What does eps do to a parameter whose gradients are about 1e-9? Why are norms' gains not
# decayed? Which state of the optimizer must a checkpoint hold, and what does a run do that resumes without
# it?
