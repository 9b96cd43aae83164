# %% [markdown]
# # Exercise 20: the caching allocator
#
# **Four functions, about 45 minutes, 42 lines in all.** "Tried to allocate 2.00 GiB. 3.10 GiB is reserved by
# PyTorch but unallocated." Three gigabytes are free, two are asked for, and the job dies. To read that
# message you must know what stands between a tensor and the driver. `cudaMalloc` is slow, so PyTorch asks it
# for large *segments*, cuts them into *blocks*, and keeps freed blocks for the next request. That is why
# `nvidia-smi` shows more than your tensors need, and why free memory can lie in pieces too small to use.
#
# You write PyTorch 2.13's rules, with its constants and default settings, for one stream.
#
# After this you can tell allocated from reserved, say which block a request gets, and decide from a
# snapshot whether an out-of-memory error is fragmentation or plain lack of memory.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(serve, 1)` says a little,
# `hint(serve, 3)` nearly everything. The grade comes from `llmkit grade exercises/20_allocator.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from llmkit.grade import open_exercise

check, hint, predict = open_exercise("20_allocator")

MIB = 1024**2

# %% [markdown]
# ## Predict
#
# A fresh process makes one tensor of 1 MiB and one byte. **How many MiB does `torch.cuda.memory_reserved()`
# show?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 2
# BEGIN SOLUTION
guess = 20
# END SOLUTION
predict("MiB reserved", guess)

# %% [markdown]
# ## 1. What a request becomes
#
# Return `(block, segment)`, both in bytes.
#
# - `block`: `nbytes` (at least 1) rounded up to a multiple of 512.
# - `segment`: what the driver is asked for when no free block can serve it.
#   - A block of at most 1 MiB belongs to the small pool: 2 MiB.
#   - A larger block below 10 MiB: 20 MiB.
#   - A block of 10 MiB or more: the block, rounded up to a multiple of 2 MiB.
#
# | nbytes | returns |
# |---|---|
# | 1 | `(512, 2 * MIB)` |
# | `MIB + 1` | `(MIB + 512, 20 * MIB)` |
# | `10 * MIB - 1` | `(10 * MIB, 10 * MIB)` |
# | `11 * MIB` | `(11 * MIB, 12 * MIB)` |


# %%
def request(nbytes: int) -> tuple[int, int]:
    # BEGIN SOLUTION: about 6 lines
    block = -(-nbytes // 512) * 512
    if block <= MIB:
        return block, 2 * MIB
    if block < 10 * MIB:
        return block, 20 * MIB
    return block, -(-block // (2 * MIB)) * 2 * MIB
    # END SOLUTION


check(request)

# %% [markdown]
# ## 2. Best fit, and splitting
#
# `free` holds the free blocks of the right pool as `[address, bytes]`, in the order of addresses. `block` is
# the size asked for, already rounded. Return `(address, bytes, free afterwards)`, or `None` when no single
# free block is large enough.
#
# - The smallest free block that fits serves the request; of equal ones, that of the lower address.
# - What is left over is split off from its end and stays free: in the small pool (`block` at most 1 MiB) any
#   rest, in the large pool only a rest of more than 1 MiB. A smaller rest stays with the block and counts in
#   `bytes`.
# - `free afterwards` is in the order of addresses too.
#
# | free | block | returns |
# |---|---|---|
# | `[[0, 1024]]` | 512 | `(0, 512, [[512, 512]])` |
# | `[[0, 4096], [8192, 1024]]` | 1024 | `(8192, 1024, [[0, 4096]])` |
# | `[[0, 3 * MIB]]` | `2 * MIB` | `(0, 3 * MIB, [])` |
# | `[[0, 2 * MIB], [4 * MIB, 2 * MIB]]` | `3 * MIB` | `None` |


# %%
def serve(free: list[list[int]], block: int) -> tuple[int, int, list[list[int]]] | None:
    # BEGIN SOLUTION: about 9 lines
    fits = [(size, at) for at, size in free if size >= block]
    if not fits:
        return None
    size, at = min(fits)
    left = [pair for pair in free if pair[0] != at]
    if size - block > (0 if block <= MIB else MIB):
        left.append([at + block, size - block])
        size = block
    return at, size, sorted(left)
    # END SOLUTION


check(serve)

# %% [markdown]
# ## 3. Giving back
#
# `segments` is a list of segments, each a list of blocks `[address, bytes, used]` in the order of addresses.
# The tensor in the block at `address` dies. Return all segments as they are afterwards.
#
# - The block becomes free, and merges with a free block directly in front of it and directly behind it.
# - A merged block has the address of its first part and the bytes of all.
# - Segments never merge, even when the address of one is where the other ends.
#
# | segments | address | returns |
# |---|---|---|
# | `[[[0, 512, True], [512, 1024, False]]]` | 0 | `[[[0, 1536, False]]]` |
# | `[[[0, 512, False]], [[512, 1024, True]]]` | 512 | `[[[0, 512, False]], [[512, 1024, False]]]` |


# %%
def give_back(segments: list[list[list]], address: int) -> list[list[list]]:
    # BEGIN SOLUTION: about 11 lines
    after = []
    for segment in segments:
        merged = []
        for at, size, used in segment:
            used = used and at != address
            if merged and not used and not merged[-1][2]:
                merged[-1][1] += size
            else:
                merged.append([at, size, used])
        after.append(merged)
    return after
    # END SOLUTION


check(give_back)

# %% [markdown]
# ## 4. How a request ends
#
# `segments` (as in task 3) is all of one pool, `block` the rounded size that is asked for, and at most
# `limit` bytes may be reserved. Return `{"allocated": ..., "reserved": ..., "largest": ..., "ends": ...}`:
#
# - `allocated`: bytes of used blocks. `reserved`: bytes of all blocks, used or free. `largest`: bytes of the
#   largest free block, 0 if there is none. All three before the request.
# - `ends`: the first of these that is true.
#   1. `"cached"`: a free block is large enough.
#   2. `"new segment"`: a new segment (`request` says how large) keeps reserved within the limit.
#   3. `"retry"`: it does so after every segment that is one free block has gone back to the driver.
#   4. `"fragmented"`: out of memory, although `allocated + block` is within the limit.
#   5. `"full"`: out of memory, and `allocated + block` is above the limit.
#
# | segments | block | limit | ends |
# |---|---|---|---|
# | `[]` | `3 * MIB` | `20 * MIB` | `"new segment"` |
# | `[[[0, 20 * MIB, True]]]` | `3 * MIB` | `30 * MIB` | `"fragmented"` |
# | `[[[0, 20 * MIB, True]]]` | `3 * MIB` | `22 * MIB` | `"full"` |


# %%
def outcome(segments: list[list[list]], block: int, limit: int) -> dict[str, int | str]:
    # BEGIN SOLUTION: about 16 lines
    blocks = [piece for segment in segments for piece in segment]
    allocated = sum(size for _, size, used in blocks if used)
    reserved = sum(size for _, size, _ in blocks)
    largest = max((size for _, size, used in blocks if not used), default=0)
    idle = sum(segment[0][1] for segment in segments if len(segment) == 1 and not segment[0][2])
    asked = request(block)[1]
    ends = "full"
    if largest >= block:
        ends = "cached"
    elif reserved + asked <= limit:
        ends = "new segment"
    elif reserved - idle + asked <= limit:
        ends = "retry"
    elif allocated + block <= limit:
        ends = "fragmented"
    return {"allocated": allocated, "reserved": reserved, "largest": largest, "ends": ends}
    # END SOLUTION


check(outcome)

# %% [markdown]
# The functions together, on a model of the allocator and not on a GPU: activations of 6 MiB, of which every
# second one dies, and then a logits tensor of 12 MiB. The limit is 120 MiB.

# %% tags=["solution"]
segments, address = [], 0
for _ in range(18):
    free = [[at, size] for segment in segments for at, size, used in segment if not used]
    served = serve(free, 6 * MIB)
    if served is None:
        segments.append([[address, 20 * MIB, False]])
        served, address = serve([*free, [address, 20 * MIB]], 6 * MIB), address + 22 * MIB
    at, size, _ = served
    for segment in segments:
        for number, (start, room, _) in enumerate(segment):
            if start == at:
                rest = [[at + size, room - size, False]] if room > size else []
                segment[number : number + 1] = [[at, size, True], *rest]
for at in [at for segment in segments for at, _, used in segment if used][1::2]:
    segments = give_back(segments, at)
end = outcome(segments, 12 * MIB, limit=120 * MIB)
print({name: number if name == "ends" else f"{number / MIB:g} MiB" for name, number in end.items()})

# %% [markdown]
# ## Say it in an interview
#
# *The error says that 3 GiB are reserved but unallocated, and 2 GiB could not be had. Why?* The free memory
# lies in pieces between live tensors. The allocator takes the smallest free block that fits, merges only
# neighbours of one segment, and can return only segments that are free from end to end. So I compare
# allocated + request with the limit. If that fits, it is fragmentation: expandable segments, or fewer
# different shapes. If not, it is memory: a smaller micro-batch, checkpointing, sharding.
#
# Follow-ups: Why does `empty_cache()` not help here? What do expandable segments change? Sequence lengths
# vary from step to step and reserved creeps up over hours: what do you log to prove it?
