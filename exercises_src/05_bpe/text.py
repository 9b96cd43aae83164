# %% [markdown]
# # Exercise 05: byte-pair encoding
#
# **Three functions, about 35 minutes, 26 lines in all.** A language model reads token ids. Byte-pair encoding
# (BPE) makes its vocabulary out of the text itself: begin with single symbols, and join the most frequent
# pair of neighbours into a new token, again and again. The list of these merges *is* the tokenizer.
#
# It is a small algorithm with sharp edges. Merges applied in another order, ties broken another way, or a
# pair counted across a word border all give text back unharmed, so no round-trip test notices. The ids
# differ, and the model meets token sequences that it was never trained on.
#
# After this you can write BPE's training and encoding from memory, and say what has to agree for two
# tokenizers to be the same one.
#
# Tokens are strings here, so that you can read them; with bytes instead of characters nothing else changes.
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(join, 1)` says a little,
# `hint(join, 3)` nearly everything. The grade comes from `llmkit grade exercises/05_bpe.ipynb`, on inputs
# that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
from collections import Counter
from itertools import pairwise

from tokenizers.models import BPE

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("05_bpe")

# %% [markdown]
# ## 1. Join a pair
#
# Return the tokens with every occurrence of `pair` joined into one token.
#
# - `tokens` is a list of strings, `pair` a tuple of two strings.
# - Occurrences that overlap are joined from left to right: of `a a a` the first two become one.
# - Two tokens are the pair only if both are: `ab`, `c` is not the pair (`a`, `bc`).
#
# | tokens | pair | returns |
# |---|---|---|
# | `["a", "b", "c", "a", "b"]` | `("a", "b")` | `["ab", "c", "ab"]` |
# | `["a", "a", "a"]` | `("a", "a")` | `["aa", "a"]` |
# | `["ab", "c", "a", "bc"]` | `("a", "bc")` | `["ab", "c", "abc"]` |


# %%
def join(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    # BEGIN SOLUTION: about 9 lines
    out, at = [], 0
    while at < len(tokens):
        if at + 1 < len(tokens) and (tokens[at], tokens[at + 1]) == pair:
            out.append(pair[0] + pair[1])
            at += 2
        else:
            out.append(tokens[at])
            at += 1
    return out
    # END SOLUTION


check(join)

# %% [markdown]
# ## 2. Train
#
# Learn up to `merges` merges from text that has been cut into pieces (words, roughly). Return them in the
# order in which they were learned, as pairs of tokens.
#
# - `pieces` says how often each piece stands in the text. At first a piece is its single characters.
# - Each time, merge the pair of neighbours that occurs most often, over all pieces, each counted as often as
#   it stands. Pairs never cross from one piece into the next. `aaa` holds the pair (`a`, `a`) twice.
# - Of pairs that occur equally often take the smallest as Python compares tuples: `("a", "b") < ("b", "a")`.
# - Stop early when no pair occurs at least twice.
#
# | pieces | merges | returns |
# |---|---|---|
# | `{"ab": 1}` | 1 | `[]` |
# | `{"abc": 2}` | 2 | `[("a", "b"), ("ab", "c")]` |
# | `{"ba": 2, "ab": 2}` | 2 | `[("a", "b"), ("b", "a")]` |
# | `{"bc": 5, "ab": 1, "abd": 1, "abe": 1}` | 2 | `[("b", "c"), ("a", "b")]` |


# %%
def train(pieces: dict[str, int], merges: int) -> list[tuple[str, str]]:
    # BEGIN SOLUTION: about 13 lines
    words = {piece: list(piece) for piece in pieces}
    learned = []
    while len(learned) < merges:
        counts = Counter()
        for piece, tokens in words.items():
            for pair in pairwise(tokens):
                counts[pair] += pieces[piece]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        learned.append(best)
        words = {piece: join(tokens, best) for piece, tokens in words.items()}
    return learned
    # END SOLUTION


check(train)

# %% [markdown]
# ## Predict
#
# The text is one piece: `ab` written 64 times, 128 characters. You ask for a thousand merges. **How many are
# learned?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 100
# BEGIN SOLUTION
guess = 6
# END SOLUTION
predict("merges of a repetition", guess)

# %% [markdown]
# ## 3. Encode
#
# The tokens of a piece, given the merges that `train` learned.
#
# - Begin with its single characters. Merges are applied in the order in which they were learned: an earlier
#   one first, wherever it can be, from left to right.
# - Characters that training never met stay single tokens. An empty piece gives `[]`.
#
# | piece | merges | returns |
# |---|---|---|
# | `"xabab"` | `[("a", "b")]` | `["x", "ab", "ab"]` |
# | `"abc"` | `[("b", "c"), ("a", "b")]` | `["a", "bc"]` |
# | `"aaa"` | `[("a", "a")]` | `["aa", "a"]` |


# %%
def encode(piece: str, merges: list[tuple[str, str]]) -> list[str]:
    # BEGIN SOLUTION: about 4 lines
    tokens = list(piece)
    for pair in merges:
        tokens = join(tokens, pair)
    return tokens
    # END SOLUTION


check(encode)

# %% [markdown]
# The `tokenizers` library, given your merges, must cut every word as you do. It looks for the earliest merge
# among all neighbours, joins it, and looks again: another way to the same tokens.

# %%
text = "the lowest tower is lower than the newest and widest tower"
pieces = Counter(text.split())
merges = train(pieces, 12)
if merges:
    names = [*sorted(set(text)), *("".join(pair) for pair in merges)]
    library = BPE({name: i for i, name in enumerate(names)}, merges)
    print(merges)
    same = [encode(word, merges) == [token.value for token in library.tokenize(word)] for word in pieces]
    print(f"{sum(same)} of {len(same)} words are cut as the library cuts them")

# %% [markdown]
# ## Say it in an interview
#
# *Encoding applies merges in the order in which they were learned. Why not simply take the longest token that
# matches?* Because the model was trained on what training's merges make of the text. In `abc`, with merges
# (b, c) and then (a, b), the token `ab` exists, and longest match begins with it; BPE gives `a`, `bc`. Both
# spell the text, only one is canonical. A share of the words now reads as a rare sequence, and the loss rises
# by an amount that looks like harder data.
#
# Follow-ups: How do you test that two tokenizers are the same, and why is a round trip no test? What does
# cutting the text into pieces first gain, in quality and in speed? Your training counts all pairs again after
# every merge: what would you keep instead?
