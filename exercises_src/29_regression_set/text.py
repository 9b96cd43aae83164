# %% [markdown]
# # Exercise 29: versions, and what they must not forget
#
# **Three functions, about 35 minutes, 19 lines in all.** Version 2 of the data is out, and the validation
# loss is lower. Somewhere a source fell out by a slip in a path; validation lost it too, so nothing
# complains. Two tools find it: a diff of the two versions, document by document, and a regression set:
# inputs seen before, kept with their text, whose losses are compared before and after. With sixty inputs
# some look worse by luck alone, so the comparison has to say how sure it is.
#
# After this you can say what changed between two versions, test one input honestly, and test sixty without
# three false alarms.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(got_worse, 1)` says a little,
# `hint(got_worse, 3)` nearly everything. The grade comes from
# `llmkit grade exercises/29_regression_set.ipynb`, on inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import math
import random
from statistics import fmean, stdev

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("29_regression_set")

# %% [markdown]
# ## 1. What changed
#
# `old` and `new` map the name of each document to `[text, split]`. Return a dict of four lists of names,
# each sorted:
#
# - `added`: in `new` alone. `removed`: in `old` alone. A renamed document is one of each.
# - `changed`: in both, with another text.
# - `moved`: in both, in another split. A document may have changed and moved: then it stands in both
#   lists.
#
# | old | new | returns |
# |---|---|---|
# | `{}` | `{"b": ["two", "train"], "a": ["one", "train"]}` | added: `["a", "b"]`, the others empty |
# | `{"a": ["one", "train"]}` | `{"a": ["one!", "val"]}` | changed: `["a"]`, moved: `["a"]` |


# %%
def data_diff(old: dict[str, list[str]], new: dict[str, list[str]]) -> dict[str, list[str]]:
    # BEGIN SOLUTION: about 7 lines
    both = sorted(set(old) & set(new))
    return {
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
        "changed": [name for name in both if old[name][0] != new[name][0]],
        "moved": [name for name in both if old[name][1] != new[name][1]],
    }
    # END SOLUTION


check(data_diff)

# %% [markdown]
# ## Predict
#
# Nothing changed but the seed. Sixty inputs are tested, each at 5 %. **How many "got worse", on average?**
# Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 0
# BEGIN SOLUTION
guess = 3
# END SOLUTION
predict("false alarms", guess)

# %% [markdown]
# ## 2. How sure, for one input
#
# `before` and `after` are the losses of the same n tokens of one input, under the two runs. Some tokens
# are hard for both, so compare token by token. The gaps are after minus before; with their mean and their
# standard deviation sd (divisor n - 1),
#
# $$z = \frac{\text{mean}}{\text{sd} / \sqrt{n}} \qquad p = \tfrac12\,\mathrm{erfc}(z / \sqrt 2)$$
#
# - p is the chance that noise alone gives a rise at least as large. A fall of the loss gives a p above one
#   half.
# - When all gaps are equal, sd is 0: return 0.0 if they are positive and 1.0 otherwise.
#
# | before | after | returns |
# |---|---|---|
# | `[2.0, 4.0]` | `[3.0, 5.0]` | 0.0 |
# | `[2.0, 4.0]` | `[2.0, 4.0]` | 1.0 |
# | `[1.0, 2.0]` | `[1.5, 3.5]` | 0.0228 |


# %%
def chance_of_no_change(before: list[float], after: list[float]) -> float:
    # BEGIN SOLUTION: about 6 lines
    gaps = [new - old for old, new in zip(before, after, strict=True)]
    mean, sd = fmean(gaps), stdev(gaps)
    if sd == 0:
        return 0.0 if mean > 0 else 1.0
    z = mean / (sd / math.sqrt(len(gaps)))
    return 0.5 * math.erfc(z / math.sqrt(2))
    # END SOLUTION


check(chance_of_no_change)

# %% [markdown]
# ## 3. How sure, for many
#
# `p` maps the name of each of n inputs to its p-value. Return the sorted names of those that got worse, by
# Holm's rule, so that with a chance of at most `alpha` any of them is a false alarm:
#
# - Go from the smallest p-value up. The first has the limit alpha / n, the second alpha / (n - 1), and so
#   on; the last one alpha.
# - A p-value at most its limit is found. The first one above its limit ends it: it and all larger ones are
#   not found.
#
# | p | alpha | returns |
# |---|---|---|
# | `{"a": 0.03, "b": 0.6}` | 0.05 | `[]` |
# | `{"a": 0.01, "b": 0.04}` | 0.05 | `["a", "b"]` |
# | `{"a": 0.001, "b": 0.03, "c": 0.04}` | 0.05 | `["a"]` |


# %%
def got_worse(p: dict[str, float], alpha: float) -> list[str]:
    # BEGIN SOLUTION: about 6 lines
    found = []
    for place, name in enumerate(sorted(p, key=p.get)):
        if p[name] > alpha / (len(p) - place):
            break
        found.append(name)
    return sorted(found)
    # END SOLUTION


check(got_worse)

# %% [markdown]
# Sixty inputs of 40 tokens; in version 2 three of them lost their source and rose by half a nat:

# %% tags=["solution"]
noise, p = random.Random(0), {}
for number in range(60):
    before = [noise.uniform(0, 8) for _ in range(40)]
    rise = 0.5 if number in (7, 21, 40) else 0.0
    p[f"input {number:02d}"] = chance_of_no_change(before, [x + noise.gauss(rise, 0.5) for x in before])
print("p below 0.05:", sorted(name for name in p if p[name] < 0.05))
print("got worse:   ", got_worse(p, 0.05))

# %% [markdown]
# ## Say it in an interview
#
# *How do you know that the new data version did not make the model forget something?* I diff the versions
# by document, not by size, and read what was removed and what moved between the splits. Then I keep a set
# of pinned inputs with their text, outside both versions, and compare the two models on it token by token.
# Sixty tests at 5 % would give three alarms for nothing, so I use Holm's limit; and because two seeds
# differ too, I repeat with other seeds before I call it a regression.
#
# Follow-ups: Why would the validation loss fall when a source is lost? Why is a paired test so much
# sharper? What does Bonferroni give away against Holm?
