# %% [markdown]
# # Exercise 16: the first non-finite
#
# **Two functions, about 30 minutes, 38 lines in all.** The loss is NaN. Every layer after the culprit is
# NaN too, and after one update so is every weight: a look at the wreck names everything and nothing. The
# culprit is the *first* module, in the order of execution, that made a number which is not finite. Hooks
# see it, if they look at the right moment, and they must leave no trace: the run goes on after the
# diagnosis.
#
# After this you can name the first module that breaks, in the forward or in the backward pass, on any
# PyTorch model.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(first_nonfinite, 1)` says a
# little, `hint(first_nonfinite, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/16_first_nonfinite.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import torch
from torch import nn

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("16_first_nonfinite")

# %% [markdown]
# ## 1. In the forward pass
#
# Run `model(x)` once and return the name of the first module, in the order of execution, whose output is
# not all finite; `None` if there is none.
#
# - Names are those of `model.named_modules()`, e.g. `"blocks.0.norm"`. Only *leaves* count: modules
#   without children.
# - An output is a tensor or a tuple of tensors. One NaN or infinity in any of them is enough.
# - Modules may run in another order than they are registered, and a later one may hide the damage
#   (`nan_to_num`).
# - When the forward pass raises, the error goes on to the caller.
# - Afterwards no hook is left on any module, also after an error.
#
# `check` builds models of steps. In `order`, the steps as they run; in `modules`, name and kind as they
# are registered. Of the kinds, `log`, `some`, `overflow` and `second` (in the second tensor of a tuple)
# make numbers that are not finite, `clean` hides them, `raises` raises, `root` is fine in the forward
# pass.
#
# | runs | kinds | returns |
# |---|---|---|
# | a | fine | `None` |
# | a, b, c | fine, log, fine | `"b"` |
# | b, a | log, overflow | `"b"` |


# %%
def first_nonfinite(model: nn.Module, x: torch.Tensor) -> str | None:
    # BEGIN SOLUTION: about 19 lines
    bad, handles = [], []

    def look(name):
        def hook(module, inputs, output):
            tensors = output if isinstance(output, tuple) else (output,)
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                bad.append(name)

        return hook

    try:
        for name, module in model.named_modules():
            if not list(module.children()):
                handles.append(module.register_forward_hook(look(name)))
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None
    # END SOLUTION


check(first_nonfinite)

# %% [markdown]
# ## Predict
#
# `y = sqrt(x - x)` is 0 everywhere, finite and right. Its derivative is not: 1 / (2 sqrt(0)). **Of 4
# elements of x, how many have a gradient that is NaN after `y.sum().backward()`?** Put your number in
# place of `None`, then run the cell.

# %%
guess = None  # for example 0
# BEGIN SOLUTION
guess = 4
# END SOLUTION
predict("nan gradients", guess)

# %% [markdown]
# ## 2. In the backward pass
#
# Here the forward pass is finite everywhere. Run it, sum the output, run the backward pass, and return the
# name of the first leaf module, in the order of the backward pass, that hands on a gradient which is not
# all finite; `None` if there is none.
#
# - The backward pass runs through the modules from the last to the first. A module hands on the gradient
#   of its *input*: `register_full_backward_hook` gives `(module, grad_input, grad_output)`, both tuples,
#   whose entries may be `None`.
# - `x` does not require a gradient when it comes in. It must not do so afterwards; work on a copy.
# - It is a diagnosis: afterwards no hook is left, and the `.grad` of every parameter is what it was.
#   `torch.autograd.grad` gives gradients without leaving them in `.grad`.
#
# | runs | kinds | returns |
# |---|---|---|
# | a, b, c | fine, root, fine | `"b"` |
# | a, b, c | root, root, fine | `"b"` |


# %%
def first_bad_gradient(model: nn.Module, x: torch.Tensor) -> str | None:
    # BEGIN SOLUTION: about 19 lines
    bad, handles = [], []

    def look(name):
        def hook(module, grad_input, grad_output):
            if not all(bool(torch.isfinite(g).all()) for g in grad_input if g is not None):
                bad.append(name)

        return hook

    try:
        for name, module in model.named_modules():
            if not list(module.children()):
                handles.append(module.register_full_backward_hook(look(name)))
        start = x.clone().requires_grad_()
        torch.autograd.grad(model(start).sum(), start)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None
    # END SOLUTION


check(first_bad_gradient)

# %% [markdown]
# On a model of PyTorch's own:

# %% tags=["solution"]
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Softmax(-1))
with torch.no_grad():
    model[2].weight[3, 3] = float("inf")
print("first non-finite output:", repr(first_nonfinite(model, torch.ones(2, 4))))

# %% [markdown]
# ## Say it in an interview
#
# *Your loss is NaN at step 12,000. Find the layer.* I do not look at the weights, which are all NaN by
# then. I go back to the checkpoint before it, replay that step with the same batch under hooks on all leaf
# modules, and take the first output that is not finite in the order of execution. If the forward pass is
# clean, the same with backward hooks: the first module whose gradient of the input is not finite while
# that of its output was.
#
# Follow-ups: What do `nan_to_num` and `where` hide from such a search? Why is a finite forward pass no
# proof (sqrt at 0, 0 times infinity in `where`)? What does one hook with `.all().item()` per layer cost on
# a GPU, and how do you avoid it?
