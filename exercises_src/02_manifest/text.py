# %% [markdown]
# # Exercise 02: the manifest
#
# **Three functions, about 35 minutes, 30 lines in all.** Twelve runs train on "the same" 200 GB. One of
# them behaves otherwise. Was it the data? Nobody can compare 200 GB by eye, and a file of the right name
# and size proves nothing: a bad disk, a copy that broke off, a shard rebuilt with another tokenizer all
# look alike from outside.
#
# A manifest settles it. It holds the SHA-256 of every piece of every shard, and one digest over all of
# them. Each run records the digest: 64 characters that say which data it saw. And when a copy is damaged,
# the pieces ("leaves") name the bytes to fetch again.
#
# After this you can write such a manifest, say what its digest must depend on and what it must not, and
# find damage to the byte range.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(leaves, 1)` says a little,
# `hint(leaves, 3)` nearly everything. The grade comes from `llmkit grade exercises/02_manifest.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import hashlib
import os

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("02_manifest")

# %% [markdown]
# ## 1. The leaves of a shard
#
# Return the SHA-256 of each `leaf` bytes of the file at `path`, in order, as 64 lower-case hexadecimal
# digits each.
#
# - The last leaf is as long as what is left. An empty file has no leaf.
# - The bytes are hashed as they are on disk; each leaf by itself.
# - Shards are larger than memory: never hold more than four leaves. (`check` measures it on one example,
#   with a leaf of 256 KiB.)
#
# | file | leaf | returns |
# |---|---|---|
# | empty | 4 | `[]` |
# | `abcd` | 4 | `["88d4266f..."]` |
# | `abcdefgh` | 4 | `["88d4266f...", "e5e088a0..."]` |


# %%
def leaves(path: str, leaf: int) -> list[str]:
    # BEGIN SOLUTION: about 5 lines
    found = []
    with open(path, "rb") as file:
        while piece := file.read(leaf):
            found.append(hashlib.sha256(piece).hexdigest())
    return found
    # END SOLUTION


check(leaves)

# %% [markdown]
# ## 2. One digest for the data set
#
# `shards` maps the name of each shard to its leaves, as `leaves` returned them. The recipe:
#
# 1. The hash of a shard is the SHA-256 of its leaves' raw bytes (32 each) one after the other. 2. A shard
# makes the line `name hash`: its name, one blank, its hash in hexadecimal. 3. The lines are sorted by name
# and joined with `\n`, without one at the end. 4. The digest is the SHA-256 of these lines in UTF-8, in
# hexadecimal.
#
# So the order in which shards are listed does not matter; a name, a leaf, or a leaf's place does.
#
# | shards | returns |
# |---|---|
# | `{}` | `"e3b0c442..."`, the SHA-256 of nothing |
#
# In `check`, `versions` is a list of data sets, and one digest of each comes back.


# %%
def digest(shards: dict[str, list[str]]) -> str:
    # BEGIN SOLUTION: about 6 lines
    lines = []
    for name in sorted(shards):
        raw = b"".join(bytes.fromhex(leaf) for leaf in shards[name])
        lines.append(f"{name} {hashlib.sha256(raw).hexdigest()}")
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()
    # END SOLUTION


check(digest)

# %% [markdown]
# ## Predict
#
# A leaf has 1 MiB (2²⁰ bytes), a SHA-256 32 bytes. **How many megabytes (10⁶ bytes) of hashes does a data
# set of 200 GB (2·10¹¹ bytes) need?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 500
# BEGIN SOLUTION
guess = 6.1
# END SOLUTION
predict("megabytes of hashes", guess)

# %% [markdown]
# ## 3. Which bytes differ?
#
# Compare the files in `folder` with the manifest. Return every range that is not what it was, as
# `[name, first, end]`: the bytes `first` up to but not including `end`. An empty list means: all intact.
#
# `manifest` is `{"leaf": 4, "shards": {"a.bin": {"bytes": 8, "leaves": ["88d4266f...", ...]}}}`. Leaf `i`
# of a shard holds the bytes from `i * leaf` up to `min((i + 1) * leaf, bytes)`.
#
# - A leaf whose bytes changed is reported as a whole. Damaged leaves side by side make one range.
# - A file cut short: the leaves that are no longer whole are damaged, up to the size in the manifest.
# - A file grown longer: the bytes from its old size to its new one are a damaged range, joined to a
#   damaged last leaf. The leaves are judged without them.
# - A file that is gone, and a file that the manifest does not list, are reported from 0 to their size,
#   also when that is 0.
# - The report is sorted by name, then by byte. The folder holds files only; they fit in memory here.
#
# With leaves of 4 bytes, `a.bin` was `abcdefghij`:
#
# | `a.bin` is | returns |
# |---|---|
# | `abcdefghij` | `[]` |
# | `abcdeFghij` | `[["a.bin", 4, 8]]` |
# | `abcdefghiJ` | `[["a.bin", 8, 10]]` |
# | `abcde` | `[["a.bin", 4, 10]]` |
# | `abcdefghijk` | `[["a.bin", 10, 11]]` |
# | not there | `[["a.bin", 0, 10]]` |
#
# In `check`, `was` and `now` show what each file held and holds. Your function gets the folder and the
# manifest.


# %%
def verify(folder: str, manifest: dict) -> list[list]:
    # BEGIN SOLUTION: about 19 lines
    leaf, listed, report = manifest["leaf"], manifest["shards"], []
    present = set(os.listdir(folder))
    for name in sorted(present | set(listed)):
        size, hashes = (listed[name]["bytes"], listed[name]["leaves"]) if name in listed else (0, [])
        data = b""
        if name in present:
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read()
        if name not in present or name not in listed:
            report.append([name, 0, max(size, len(data))])
            continue
        bounds = [(at, min(at + leaf, size)) for at in range(0, size, leaf)]
        good = [hashlib.sha256(data[a:b]).hexdigest() == h for (a, b), h in zip(bounds, hashes, strict=True)]
        bad = [bound for bound, fine in zip(bounds, good, strict=True) if not fine]
        for first, end in bad + ([(size, len(data))] if len(data) > size else []):
            if report and report[-1][0] == name and report[-1][2] == first:
                report[-1][2] = end
            else:
                report.append([name, first, end])
    return report
    # END SOLUTION


check(verify)

# %% [markdown]
# ## Say it in an interview
#
# *How do you keep a data set the same over twelve runs?* Write it once, in shards that never change, with
# a manifest: SHA-256 of every MiB, one digest over names and hashes. Every run checks its shards and
# records the digest. Equal digests prove equal data; for unequal ones the leaves name the shard and the
# bytes.
#
# Follow-ups: Why is a hash over the sorted list of shard hashes without their names not enough? A data set
# changes for good reasons: what is a version, and what does a run that resumes do when it meets another
# digest? Hashing 200 GB takes minutes: when would you verify all of it, and when only what is read?
