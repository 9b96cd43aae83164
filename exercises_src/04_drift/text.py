# %% [markdown]
# # Exercise 04: a drift statistic
#
# **Four functions, about 40 minutes, 25 lines in all.** Three shards of a corpus were tokenised on three
# machines. Capitals are a little more frequent in one of them. Did that machine run another version, or is
# this how text varies?
#
# Two things make the naive answer wrong. Tokens come in documents: a document about shares holds dozens of
# capitals at once, so a million tokens are not a million independent draws. And whoever looks at many shards
# finds the worst of them by looking, so chance must be allowed to pick its worst too. A test that forgets
# either rings the alarm on clean data.
#
# A permutation test gets both right with little mathematics: deal the documents out to the shards again, many
# times, and see how often chance alone makes a gap as large as the one observed.
#
# After this you can write such a test, and say what its sampling unit is and why.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(gaps, 1)` says a little,
# `hint(gaps, 3)` nearly everything. The grade comes from `llmkit grade exercises/04_drift.ipynb`, on inputs
# that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
import random

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("04_drift")

# %% [markdown]
# Throughout, document `i` has `tokens[i]` tokens, `hits[i]` of which are of the kind that we watch (capitals,
# say), and lies in shard `shards[i]`. All are integers.
#
# ## 1. The gaps
#
# For each shard, return by how much its share of hits exceeds that of all *other* shards together.
#
# - A share is the sum of hits over the sum of tokens, so that each token weighs the same.
# - Return a dict from the shard's number to the gap, positive where the shard has more. There are at least
#   two shards, and each holds tokens.
#
# | hits | tokens | shards | returns |
# |---|---|---|---|
# | `[1, 0]` | `[10, 10]` | `[0, 1]` | `{0: 0.1, 1: -0.1}` |
# | `[1, 0, 3]` | `[10, 20, 20]` | `[0, 0, 1]` | `{0: -0.1167, 1: 0.1167}` |


# %%
def gaps(hits: list[int], tokens: list[int], shards: list[int]) -> dict[int, float]:
    # BEGIN SOLUTION: about 7 lines
    found = {}
    for shard in set(shards):
        inside = [i for i, one in enumerate(shards) if one == shard]
        h, t = sum(hits[i] for i in inside), sum(tokens[i] for i in inside)
        others = (sum(hits) - h) / (sum(tokens) - t)
        found[shard] = h / t - others
    return found
    # END SOLUTION


check(gaps)

# %% [markdown]
# ## 2. How exact is a share?
#
# The standard error of a share, *documents* being the units that were drawn. With the share
# p = sum of hits / sum of tokens, document i deviates by dᵢ = hitsᵢ − p · tokensᵢ, and
#
# $$\text{standard error} = \frac{\sqrt{\frac{n}{n-1}\sum_i d_i^2}}{\sum_i \text{tokens}_i}$$
#
# for n documents, at least two. (The textbook formula sqrt(p (1 − p) / tokens) takes every token for a draw
# of its own.)
#
# | hits | tokens | returns |
# |---|---|---|
# | `[1, 3]` | `[10, 10]` | 0.1 |
# | `[0, 0, 8]` | `[20, 20, 20]` | 0.1333 |


# %%
def standard_error(hits: list[int], tokens: list[int]) -> float:
    # BEGIN SOLUTION: about 4 lines
    n, share = len(hits), sum(hits) / sum(tokens)
    deviations = [h - share * t for h, t in zip(hits, tokens, strict=True)]
    squares = sum(d * d for d in deviations)
    return math.sqrt(n / (n - 1) * squares) / sum(tokens)
    # END SOLUTION


check(standard_error)

# %% [markdown]
# ## Predict
#
# All documents have 500 tokens. A word stands in one of a hundred documents, ten times in each of those, and
# nowhere else. **How many times larger is the standard error of its share with documents as units than with
# tokens as units?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 1.5
# BEGIN SOLUTION
guess = 3.15
# END SOLUTION
predict("how much wider", guess)

# %% [markdown]
# ## 3. Deal the labels anew
#
# Return `times` dealings. A dealing is a list with a shard label for every document, made by shuffling the
# labels in `shards`.
#
# - Every shard keeps its number of documents. Every order is equally likely, in each dealing anew.
# - The result depends on the three arguments alone; another seed gives other dealings.
# - No global generator (`random`, numpy, torch) is seeded or advanced.
#
# | call | may return |
# |---|---|
# | `deal([0, 0, 1], times=2, seed=5)` | `[[0, 1, 0], [0, 0, 1]]`, or other orders |


# %%
def deal(shards: list[int], times: int, seed: int) -> list[list[int]]:
    # BEGIN SOLUTION: about 6 lines
    generator, dealings = random.Random(seed), []
    for _ in range(times):
        dealing = list(shards)
        generator.shuffle(dealing)
        dealings.append(dealing)
    return dealings
    # END SOLUTION


check(deal)

# %% [markdown]
# ## 4. The test
#
# Return `(gap, shard, p)`: which shard is furthest from the others, by how much, and how often chance does as
# much.
#
# - `shard` is the one whose gap is largest in size, whatever its sign; of two alike the smaller number. `gap`
#   is its gap, with the sign.
# - The statistic of an order of labels is the largest |gap| over *all* its shards. Compute it for each
#   dealing in `dealings` in the same way.
# - p = (1 + number of dealings whose statistic is at least the observed one) / (1 + number of dealings).
#   The sums are of integers, so a plain `>=` serves.
#
# | hits | tokens | shards | dealings | returns |
# |---|---|---|---|---|
# | `[3, 0]` | `[10, 10]` | `[0, 1]` | `[]` | `(0.3, 0, 1.0)` |
# | `[3, 2, 0]` | `[10, 10, 10]` | `[0, 0, 1]` | `[[0, 0, 1], [1, 0, 0]]` | `(0.25, 0, 0.667)` |


# %%
def drift_test(
    hits: list[int], tokens: list[int], shards: list[int], dealings: list[list[int]]
) -> tuple[float, int, float]:
    # BEGIN SOLUTION: about 8 lines
    seen = gaps(hits, tokens, shards)
    shard = max(sorted(seen), key=lambda s: abs(seen[s]))
    extreme = 0
    for dealing in dealings:
        largest = max(abs(gap) for gap in gaps(hits, tokens, dealing).values())
        extreme += largest >= abs(seen[shard])
    p = (1 + extreme) / (1 + len(dealings))
    return seen[shard], shard, p
    # END SOLUTION


check(drift_test)

# %% [markdown]
# ## Say it in an interview
#
# *Your checker found a drift of 0.3 percent in one shard. How do you know that it is none of chance's?*
# Documents are the sampling unit: I dealt whole documents out to the shards again, 1,999 times, and took the
# largest gap over all shards each time. The gap observed was among the largest few. That holds for any
# distribution of tokens, however bursty, and looking at many shards needs no correction, because the maximum
# was inside the statistic.
#
# Follow-ups: Why can the p-value never be 0, and how many dealings does a false-alarm rate of 0.1 percent
# need? The shards come from different sources on purpose: what do you deal within? Your test is silent: how
# large a drift would it have found?
