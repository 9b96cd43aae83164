# %% [markdown]
# # Exercise 31: broken precision
#
# **Six functions, about 45 minutes, 50 lines in all.** Below is a mixed-precision training step, written out:
# float32 master weights, a forward and backward pass in float16, a dynamic loss scale, clipping, Adam, a
# checkpoint. The loss falls, no NaN is seen. Four of its parts do not do what their docstrings say.
#
# Faults of precision hide well. Adam divides a wrong factor out again, a skipped step repairs an overflow,
# and a loss that is rounded looks like one that is not. An interviewer hands you such a step and asks what is
# wrong with it, how you mend it, and how you keep it mended.
#
# After this you can name the order of unscale, clip and step and what each other order does, say which
# numbers must be float32, and write tests that notice.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(fixes, 1)` says a little,
# `hint(fixes, 3)` nearly everything. The grade comes from `llmkit grade exercises/31_broken_precision.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import copy
import io
import sys
from types import ModuleType

import torch
from torch import nn

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("31_broken_precision")

# %% [markdown]
# ## The step, as handed over
#
# **Every docstring is true; where the code disagrees, the code is wrong.** Leave the cell as it is. It runs
# on a CPU: float16 is emulated there, and overflows at 65,504 as on a GPU.

# %%
VOCAB = 11


class Model(nn.Module):
    """Embedding and output layer: float32 master weights, of which each forward pass takes float16 copies.
    Their products are summed in float32 and rounded to float16, which emulates a tensor core."""

    def __init__(self, seed, width=8):
        super().__init__()
        own = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(VOCAB, width, generator=own))
        self.out = nn.Parameter(torch.randn(width, VOCAB, generator=own) / width**0.5)

    def forward(self, ids):
        return (self.embed.half().float()[ids] @ self.out.half().float()).half()


def losses(logits, labels):
    """Cross-entropy of each label: logits (batch, length, vocabulary), mostly float16; a flat tensor comes
    back. Taken in float32 from end to end, right to 1e-5 of itself or absolutely, whatever the logits."""
    scores, targets = logits.flatten(0, 1), labels.flatten()
    return scores.logsumexp(-1) - scores.gather(-1, targets[:, None]).squeeze(-1)


def backward(model, micro_batches, scale):
    """Leave `scale` times the gradients of the step's mean loss, and return that loss, unscaled. All
    micro-batches hold equally many labels."""
    model.zero_grad()
    mean = 0.0
    for inputs, labels in micro_batches:
        loss = losses(model(inputs), labels).mean() / len(micro_batches)
        (loss * scale).backward()
        mean += loss.item()
    return mean


def unscale(params, scale):
    """Divide all gradients by the scale, in place; return whether any of them is infinite or NaN."""
    grads = [param.grad for param in params if param.grad is not None]
    for grad in grads:
        grad.div_(scale)
    return not all(bool(torch.isfinite(grad).all()) for grad in grads)


def clip(params, most):
    """Scale all gradients down together, in place, to norm `most` if theirs is above it; return the norm that
    they had."""
    grads = [param.grad for param in params if param.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm().item()
    for grad in grads:
        grad.mul_(min(1.0, most / max(norm, 1e-12)))
    return norm


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), all in float32; a parameter without gradient is left alone."""

    def __init__(self, params):
        self.params = list(params)
        self.m = [torch.zeros_like(param) for param in self.params]
        self.v = [torch.zeros_like(param) for param in self.params]
        self.t = 0

    def step(self, lr, b1=0.9, b2=0.99, eps=1e-8):
        self.t += 1
        c1, c2 = 1 - b1**self.t, 1 - b1**self.t
        for param, m, v in zip(self.params, self.m, self.v, strict=True):
            if param.grad is not None:
                m.mul_(b1).add_(param.grad, alpha=1 - b1)
                v.mul_(b2).addcmul_(param.grad, param.grad, value=1 - b2)
                param.data.sub_(lr * (m / c1) / ((v / c2).sqrt() + eps))


class Scaler:
    """The loss scale: halved by an overflow, doubled after `interval` good steps in a row."""

    def __init__(self, scale=1024.0, interval=4):
        self.scale, self.interval, self.good = scale, interval, 0

    def update(self, overflow):
        self.good = 0 if overflow else self.good + 1
        if overflow:
            self.scale /= 2
        elif self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0


class Run:
    """Model, optimizer and scaler."""

    def __init__(self, seed):
        self.model = Model(seed)
        self.adam = Adam(self.model.parameters())
        self.scaler = Scaler()


def train_step(run, micro_batches, lr=0.01):
    """One step. Adam gets the step's own gradients, clipped to norm 1. When they overflow, weights and Adam
    stay as they were. The scaler is told either way. Returns (loss, norm of the step's own gradients before
    clipping)."""
    params, scale = list(run.model.parameters()), run.scaler.scale
    loss = backward(run.model, micro_batches, scale)
    norm, overflow = clip(params, 1.0), unscale(params, scale)
    if not overflow:
        run.adam.step(lr)
    run.scaler.update(overflow)
    return loss, norm


def save(run):
    """A checkpoint, as bytes: everything that `restore` needs."""
    adam = {"m": run.adam.m, "v": run.adam.v, "t": run.adam.t}
    file = io.BytesIO()
    torch.save({"model": run.model.state_dict(), "adam": adam, "scaler": vars(run.scaler)}, file)
    return file.getvalue()


def restore(run, saved):
    """Put a run into the state of the checkpoint, whatever ran before: its next steps are, bit for bit, those
    that the saved run made after `save`, and so are their loss scales."""
    parts = torch.load(io.BytesIO(saved))
    run.model.load_state_dict(parts["model"])
    vars(run.adam).update(parts["adam"])
    run.scaler = Scaler(parts["scaler"]["scale"])


# %% [markdown]
# Its loss tells nothing:

# %%
batch = (torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[2, 3, 4, 5, 6, 7]]))
run = Run(seed=0)
curve = [train_step(run, [batch])[0] for _ in range(40)]
print(f"loss {curve[0]:.1f} at the start, {curve[-1]:.1f} after 40 steps")

# %% [markdown]
# ## 1. Name them
#
# Return a dict of four entries: name of the faulty function or class -> its failure mode, word for word from
# this list. A refusal says how many entries are right, not which.

# %%
FAILURES = [
    "there is no float32 master copy of the weights",
    "the loss is computed in float16",
    "micro-batches are summed, not averaged",
    "an overflow goes unseen",
    "each tensor is clipped on its own",
    "gradients are clipped before they are unscaled",
    "the optimizer steps on an overflow",
    "eps vanishes in float16",
    "there is no bias correction at all",
    "the second moment is corrected by the first one's beta",
    "the scale never grows",
    "a resumed run starts with the initial scale",
    "a resumed run forgets the good steps in a row",
]


def modes() -> dict[str, str]:
    # BEGIN SOLUTION: about 6 lines
    return {
        "losses": FAILURES[1],
        "train_step": FAILURES[5],
        "Adam": FAILURES[9],
        "restore": FAILURES[12],
    }
    # END SOLUTION


check(modes)

# %% [markdown]
# ## 2. Mend them
#
# Return your patch as a dict: line as it stands above -> what stands in its place.
#
# - A key is one whole line that occurs once in the code. Spaces at its ends do not matter.
# - A value is one line, or two joined by `"\n"`. They get the indentation of the line they replace.
# - At most four lines are replaced: one per fault. Whatever was right stays as it was.
#
# The examiner applies the patch and runs the code: losses of given logits, Adam on given gradients, a step
# with a model whose gradients are known, a resumed run. For example
# `{"self.scale /= 2": "self.scale *= 0.5"}` is a patch, though it mends nothing.


# %%
def fixes() -> dict[str, str]:
    # BEGIN SOLUTION: about 8 lines
    return {
        "scores, targets = logits.flatten(0, 1), labels.flatten()":
            "scores, targets = logits.float().flatten(0, 1), labels.flatten()",
        "c1, c2 = 1 - b1**self.t, 1 - b1**self.t": "c1, c2 = 1 - b1**self.t, 1 - b2**self.t",
        "norm, overflow = clip(params, 1.0), unscale(params, scale)":
            "overflow, norm = unscale(params, scale), clip(params, 1.0)",
        'run.scaler = Scaler(parts["scaler"]["scale"])': 'vars(run.scaler).update(parts["scaler"])',
    }  # fmt: skip
    # END SOLUTION


check(fixes)

# %% [markdown]
# ## Predict
#
# The step's own gradients have norm 0.5, the scale is 1024, and clipping to norm 1 comes before unscaling.
# **How many times too small is the gradient that the optimizer gets?** Put your number in place of `None`,
# then run the cell.

# %%
guess = None  # for example 2
# BEGIN SOLUTION
guess = 512
# END SOLUTION
predict("times too small", guess)

# %% [markdown]
# ## 3. Four tests
#
# Each takes the code `p`, a module with the functions above: call `p.losses(...)`, never your own. It returns
# nothing when all is well and raises (`assert` does) when the docstring is broken. `check` runs it on
#
# - the code with this one fault, the other three mended: it must fail;
# - the code mended, also in another style: it must pass;
# - siblings, which break the same docstring in another way: it must fail.
#
# The grader has further styles and siblings. Each is run under several states of the random numbers and the
# test must say the same each time. In what `check` prints, `None` means that the test passed.

# %%
handed_over: ModuleType = sys.modules["__main__"]  # test_losses(handed_over) should raise

# %% [markdown]
# **`test_losses`**: right to 1e-5 for float16 logits, be the loss near 0, near 10 or near 300.


# %%
def test_losses(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 5 lines
    logits = torch.tensor([[[20.0, 13.0, 12.0], [-30.0, 4.0, 3.0], [150.0, -150.0, 0.0]]]).half()
    for label in range(3):
        labels = torch.full((1, 3), label)
        want = -logits[0].double().log_softmax(-1)[:, label]
        assert torch.allclose(p.losses(logits, labels).double(), want, rtol=1e-5, atol=1e-5)
    # END SOLUTION


check(test_losses)

# %% [markdown]
# **`test_adam`**: several steps of `p.Adam(params).step(lr)` are algorithm 1's, with its default betas and
# eps, for gradients of 1e-9 as for gradients of 1, and for a parameter that has none. `torch.optim.Adam` is a
# fair witness.


# %%
def test_adam(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 10 lines
    ours = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    theirs = copy.deepcopy(ours)
    adam, witness = p.Adam(ours), torch.optim.Adam(theirs, lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for size in (1.0, -0.5, 0.1):
        for params in (ours, theirs):
            params[0].grad = size * torch.tensor([1.0, 1e-4, 1e-9])
        adam.step(0.1)
        witness.step()
        assert torch.allclose(ours[0], theirs[0], atol=1e-4)
    assert torch.equal(ours[1], theirs[1])
    # END SOLUTION


check(test_adam)

# %% [markdown]
# **`test_step`**: norm and weights after `p.train_step` do not depend on the loss scale as long as nothing
# overflows: `run.scaler.scale` may be set to 1 or to 1024. At 2⁴⁰ everything overflows, and weights,
# moments and Adam's `t` must not move.
#
# Gradients of norm below 1 and above 1 both tell something. Multiply the weights to get larger ones.


# %%
def test_step(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 12 lines
    batch = (torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 5]]))
    for factor in (0.5, 4.0):
        results = []
        for scale in (1.0, 1024.0, 2.0**40):
            run = p.Run(0)
            run.model.embed.data.mul_(factor)
            run.scaler.scale, before = scale, run.model.out.detach().clone()
            norms = [p.train_step(run, [batch])[1] for _ in range(2)]
            results.append([torch.tensor(norms), *run.adam.m, run.model.out.detach() - before])
        assert all(torch.allclose(a, b, rtol=0.02, atol=1e-3) for a, b in zip(*results[:2], strict=True))
        assert run.adam.t == 0 and not any(moved.any() for moved in results[2][1:])
    # END SOLUTION


check(test_step)

# %% [markdown]
# **`test_restore`**: a run restored from a checkpoint goes on as the saved run went on, the loss scale of
# each step included. The scale doubles after four good steps: save between two doublings.


# %%
def test_restore(p: ModuleType) -> None:
    # BEGIN SOLUTION: about 9 lines
    batch = (torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 5]]))
    run, resumed = p.Run(0), p.Run(1)
    for _ in range(6):
        p.train_step(run, [batch])
    saved = p.save(run)
    expected = [(*p.train_step(run, [batch]), run.scaler.scale) for _ in range(6)]
    p.restore(resumed, saved)
    assert [(*p.train_step(resumed, [batch]), resumed.scaler.scale) for _ in range(6)] == expected
    assert torch.equal(run.model.embed, resumed.model.embed)
    # END SOLUTION


check(test_restore)

# %% [markdown]
# ## Say it in an interview
#
# *A mixed-precision run trains, but worse than its bfloat16 twin. Where do you look?* At what must be
# float32: master weights, moments, loss, the norm. At the order: unscale, test for overflow, clip, step. At
# what the optimizer is really given: I run one step at scale 1 and one at 1024, and norm and weights must
# agree. Then at the checkpoint: scale and count of good steps belong in it, or each restart searches anew.
#
# Follow-ups: Why does Adam hide a clip before the unscale, and when does it stop hiding it? Why is a float16
# loss of 0.00 at a logit of 20 no good news? What would two ranks do of which one saw the overflow?
