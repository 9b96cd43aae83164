# %% [markdown]
# # Exercise 13: exact resume
#
# **Two functions, about 35 minutes, 25 lines in all.** A run that is killed and resumed must end with the
# same bits as one that was never interrupted. Otherwise no spike can be replayed, no two runs compared,
# and a bug that comes with the restart looks like bad luck. The weights are the smallest part of it:
# whatever the next step reads, and whatever an earlier step wrote for a later one, is state.
#
# After this you can list the state of a training run, carry it through a file, and cut a log back to the
# checkpoint.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(carry_over, 1)` says a little,
# `hint(carry_over, 3)` nearly everything. The grade comes from `llmkit grade exercises/13_resume.ipynb`,
# on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import json
import os
import random
import tempfile

import numpy as np

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("13_resume")

# %% [markdown]
# A small trainer with everything that a large one has: data order, dropout, AdamW's moments, warmup, a
# loss scaler, a running average for the spike detector. Read it; you will not change it.


# %% tags=["trainer"]
class Trainer:
    def __init__(self, seed):
        self.random = random.Random(seed)  # shuffles the rows of an epoch
        self.noise = np.random.default_rng(seed)  # weights at the start, then dropout
        self.weights = self.noise.normal(size=4)
        self.mean, self.square = np.zeros(4), np.zeros(4)  # Adam's moments
        self.scale, self.good_steps = 1024.0, 0
        self.average = None  # of the loss
        self.order, self.cursor = [], 0  # rows of this epoch, and the next one's place
        self.step = 0

    def next_row(self):
        if self.cursor == len(self.order):
            self.order, self.cursor = self.random.sample(range(12), 12), 0
        self.cursor += 1
        return self.order[self.cursor - 1]

    def train_step(self):
        row = self.next_row()
        x = np.cos(np.arange(1, 5) * (row + 1)) * (self.noise.random(4) < 0.8)
        error = float(x @ self.weights) - row / 6
        self.step += 1
        if abs(error) * self.scale > 1500:
            self.scale, self.good_steps = self.scale / 2, 0
        else:
            self.update(error * x)
            self.good_steps += 1
            if self.good_steps == 6:
                self.scale, self.good_steps = self.scale * 2, 0
        loss = error * error
        self.average = loss if self.average is None else 0.9 * self.average + 0.1 * loss
        return loss

    def update(self, gradient):
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.01 * (gradient**2 - self.square)
        mean, square = self.mean / (1 - 0.9**self.step), self.square / (1 - 0.99**self.step)
        rate = 0.05 * min(1.0, self.step / 10)
        self.weights -= rate * (mean / (np.sqrt(square) + 1e-8) + 0.01 * self.weights)


# %% [markdown]
# ## 1. Carry it over
#
# `old` is a trainer that has made some steps, `new` one just built with another seed, in another process
# as it were. Write all that `old`'s next steps depend on to the JSON file `path`, read the file back, and
# put it into `new`, so that `new` goes on exactly as `old` would have.
#
# - Everything passes through the file: `new` may share no list and no array with `old`, and `old` stays as
#   it is.
# - `old` may have made no step yet, or stand at the very end of an epoch.
# - Python's `json` writes floats so that they come back bit for bit. Arrays become lists with `.tolist()`.
# - `random.Random` has `getstate()` and `setstate(...)`: a tuple (version, tuple of integers, None or a
#   float). JSON makes lists of tuples; turn them back. numpy's generator has `.bit_generator.state`, a
#   dict to read and to assign.
#
# `check` trains `before` steps, carries over, then trains both `after` steps and compares.


# %%
def carry_over(old: Trainer, new: Trainer, path: str) -> None:
    # BEGIN SOLUTION: about 19 lines
    plain = ("scale", "good_steps", "average", "order", "cursor", "step")
    arrays = ("weights", "mean", "square")
    state = {name: getattr(old, name) for name in plain}
    state |= {name: getattr(old, name).tolist() for name in arrays}
    state["random"] = old.random.getstate()
    state["noise"] = old.noise.bit_generator.state
    with open(path, "w") as file:
        json.dump(state, file)

    with open(path) as file:
        state = json.load(file)
    for name in plain:
        setattr(new, name, state[name])
    for name in arrays:
        setattr(new, name, np.array(state[name]))
    version, numbers, gauss = state["random"]
    new.random.setstate((version, tuple(numbers), gauss))
    new.noise.bit_generator.state = state["noise"]
    return None
    # END SOLUTION


check(carry_over)

# %% [markdown]
# ## Predict
#
# Somebody saves the weights, the step and the data order, and starts Adam's moments at 0. The gradient is
# the same at every step. Adam's correction for the start divides by 1 - 0.9^step and 1 - 0.99^step, and
# the step says 1,000. **How many times as large as before is the first update after the resume?** Put your
# number in place of `None`, then run the cell.

# %%
guess = None  # for example 0.1
# BEGIN SOLUTION
guess = 1.0
# END SOLUTION
predict("first update", guess)

# %% [markdown]
# ## 2. Cut the log back
#
# Steps 0 to 57 are logged, the last checkpoint stands before step 50, the process is killed. The resumed
# run will log steps 50 to 57 again, so the log has to be cut back first. `log` is the text of the file:
# one JSON object a line, each with a `"step"`. Return the text to go on from:
#
# - Lines whose step is below `step` are kept, byte for byte, each with its newline.
# - The last line may be torn: no newline at its end, or no JSON. It goes, whatever its step.
# - Resumed before, the file may hold a step twice. Lines are in the order in which they were written; from
#   the first line whose step is `step` or more, all is cut off.
#
# | log | step | returns |
# |---|---|---|
# | `'{"step": 0}\n{"step": 1}\n'` | 1 | `'{"step": 0}\n'` |
# | `'{"step": 0}\n{"st'` | 5 | `'{"step": 0}\n'` |
# | `'{"step": 0}\n{"step": 1}'` | 5 | `'{"step": 0}\n'` |


# %%
def cut_log(log: str, step: int) -> str:
    # BEGIN SOLUTION: about 6 lines
    kept = ""
    for line in log.splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] >= step:
            break
        kept += line
    return kept
    # END SOLUTION


check(cut_log)

# %% [markdown]
# The proof that counts: one run, and the same run killed after 17 steps.

# %% tags=["solution"]
whole, first, second = Trainer(3), Trainer(3), Trainer(99)
losses = [whole.train_step() for _ in range(40)]
again = [first.train_step() for _ in range(17)]
with tempfile.TemporaryDirectory() as folder:
    carry_over(first, second, os.path.join(folder, "state.json"))
again += [second.train_step() for _ in range(23)]
print("every loss equal:", again == losses, "- every weight:", bool((second.weights == whole.weights).all()))

# %% [markdown]
# ## Say it in an interview
#
# *What is in your checkpoint?* All that the next step reads: weights, both moments, the step (bias
# correction and schedule read it), scale and good steps of the scaler, every random generator, the place
# in the data order with the skip list, and the running state of the detectors. I prove it rather than list
# it: kill a run at a random instant, resume, and compare every loss and every weight with the
# uninterrupted run, bit for bit.
#
# Follow-ups: Resumed on other hardware the bits differ: what do you compare then? What goes wrong if the
# dropout generator is seeded again at every resume? Two ranks were killed between two saves: which
# checkpoint do you take?
