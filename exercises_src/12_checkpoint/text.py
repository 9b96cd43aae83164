# %% [markdown]
# # Exercise 12: checkpoints that survive
#
# **Three functions, about 40 minutes, 25 lines in all.** A run of weeks is only as good as its last whole
# checkpoint. Machines die while they save, so a file that is written in place is torn just when it is needed.
# A rename without fsync can leave a file of the right name and no bytes after a power cut. A rotation that
# counts names can delete the last good file and keep three torn ones.
#
# After this you can save so that a crash at any point leaves something to resume from, find the newest whole
# checkpoint, and rotate safely.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(save, 1)` says a little,
# `hint(save, 3)` nearly everything. The grade comes from `llmkit grade exercises/12_checkpoint.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import hashlib
import os
import re
from pathlib import Path

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("12_checkpoint")

# %% [markdown]
# ## Predict
#
# A run saves every 60 minutes. It crashes at a random moment, the newest checkpoint turns out damaged, and
# the loader falls back to the one before. **How many minutes of work are lost on average?** Put your number
# in place of `None`, then run the cell.

# %%
guess = None  # for example 30
# BEGIN SOLUTION
guess = 90
# END SOLUTION
predict("minutes lost", guess)

# %% [markdown]
# ## 1. Save
#
# Write `data` as the checkpoint of `step` into `folder`.
#
# - Its name is `step_000007.ckpt` for step 7: six digits, more if the number needs them.
# - Its content: the SHA-256 of the data as 64 hex letters, a newline, the data.
# - Write under a temporary name *in the same folder*; flush and fsync the file; rename it with `os.replace`
#   or `os.rename`; then fsync the folder, which holds the name.
# - A crash at any point leaves the other checkpoints as they were, and this one whole: the old or the
#   new one, absent only if there was none. A checkpoint of this step may already be there.
# - After a save without a crash no temporary file is left.
#
# | folder before | step | data | folder afterwards |
# |---|---|---|---|
# | empty | 7 | `b"new"` | `step_000007.ckpt`: `11507a0e...`, newline, `new` |
#
# `check` emulates a crash: at the `crash`-th call of `os.fsync`, `os.replace` or `os.rename` the process ends
# in place of the call (0: never). `synced` says whether all bytes were synced when the file was renamed,
# `beside` whether the temporary file was in the same folder, `others` how many other files are left.


# %%
def save(folder: Path, step: int, data: bytes) -> None:
    # BEGIN SOLUTION: about 12 lines
    final = folder / f"step_{step:06d}.ckpt"
    temporary = final.with_name(final.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, final)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # END SOLUTION


check(save)

# %% [markdown]
# ## 2. What is whole
#
# Return the whole checkpoints of a folder as a list of pairs (step, data), newest first. A loader takes the
# first: the newest that can be trusted, whatever happened to those after it.
#
# - A checkpoint's name is `step_`, six digits or more, `.ckpt`, and nothing else. Other files do not count,
#   temporary ones least of all.
# - It is whole when its first line is the SHA-256 of all bytes after that line's newline. Files may be cut
#   anywhere, empty, or changed.
# - The newest has the highest step. Dates of files mean nothing after a copy.
# - Data may be empty and may contain newlines. An empty folder gives an empty list.
#
# | files | returns |
# |---|---|
# | 1 whole, 2 whole | `[(2, ...), (1, ...)]` |
# | 1 whole, 4 torn | `[(1, ...)]` |
# | 999999 whole, 1000000 whole | `[(1000000, ...), (999999, ...)]` |


# %%
def whole_checkpoints(folder: Path) -> list[tuple[int, bytes]]:
    # BEGIN SOLUTION: about 9 lines
    found = []
    for path in folder.iterdir():
        match = re.fullmatch(r"step_(\d{6,})\.ckpt", path.name)
        if not match:
            continue
        digest, _, data = path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() == digest:
            found.append((int(match[1]), data))
    return sorted(found, reverse=True)
    # END SOLUTION


check(whole_checkpoints)

# %% [markdown]
# ## 3. Rotate
#
# Delete old checkpoints, never the last good one.
#
# - The newest `keep` *whole* checkpoints stay, older whole ones go.
# - Damaged checkpoints and all other files stay: somebody may want to look at them.
# - `keep` below 1 raises `ValueError` before anything is deleted.
#
# | files | keep | afterwards |
# |---|---|---|
# | 1 whole, 2 whole | 1 | 2 |
# | 1 whole, 4 torn | 1 | 1, 4 |


# %%
def rotate(folder: Path, keep: int) -> None:
    # BEGIN SOLUTION: about 4 lines
    if keep < 1:
        raise ValueError(f"keep is {keep}, and at least one checkpoint must stay")
    for step, _ in whole_checkpoints(folder)[keep:]:
        (folder / f"step_{step:06d}.ckpt").unlink()
    # END SOLUTION


check(rotate)

# %% [markdown]
# ## Say it in an interview
#
# *How do you write a checkpoint so that a crash cannot cost the run?* Under a temporary name in the same
# folder, flush, fsync, rename, fsync of the folder. Rename is atomic for the name, and fsync before it makes
# sure that the name never points to bytes that are not there. A hash in the file tells whole from torn when
# I load, and I fall back to the newest whole one. Rotation counts whole files only.
#
# Follow-ups: Sixty-four ranks write a shard each: when is the checkpoint complete, and who says so? What
# does a rename across file systems do? How often do you save, given the price of saving and of lost work?
