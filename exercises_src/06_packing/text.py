# %% [markdown]
# # Exercise 06: packing and label shift
#
# **Four functions, about 35 minutes, 19 lines in all.** Documents have all lengths; a training step wants
# windows of one length. Padding each document to full length wastes most of the machine, so documents are
# written one after the other into a stream and the stream is cut into windows.
#
# Four small decisions are made on the way: which token is the target of which, what lies between two
# documents, what fills the last window, and what counts in the loss. Each of them can be wrong by one place
# while the loss still falls. A target equal to its input teaches a copy; a target two places on teaches
# skipping; end tokens lost as "padding" give a model that never stops.
#
# After this you can write the path from documents to loss from memory, and say which check finds each of
# these faults.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(pack, 1)` says a little,
# `hint(pack, 3)` nearly everything. The grade comes from `llmkit grade exercises/06_packing.ipynb`, on inputs
# that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import torch

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("06_packing")

# %% [markdown]
# ## 1. Pack
#
# Write all documents into one stream. Return two lists of equal length: the tokens, and for each token the
# number of the document it belongs to.
#
# - Every document is followed by one `end` token, the last document too. That token belongs to the document
#   before it.
# - An empty document leaves nothing behind, not even an end token. It keeps its number.
#
# | documents | end | returns |
# |---|---|---|
# | `[[7, 8], [9]]` | 0 | `([7, 8, 0, 9, 0], [0, 0, 0, 1, 1])` |
# | `[[5], [], [6]]` | 99 | `([5, 99, 6, 99], [0, 0, 2, 2])` |


# %%
def pack(documents: list[list[int]], end: int) -> tuple[list[int], list[int]]:
    # BEGIN SOLUTION: about 6 lines
    tokens, owners = [], []
    for number, document in enumerate(documents):
        if document:
            tokens += [*document, end]
            owners += [number] * (len(document) + 1)
    return tokens, owners
    # END SOLUTION


check(pack)

# %% [markdown]
# ## 2. Window and shift
#
# Return the inputs and the targets of window `i`: two lists of `context` integers.
#
# - The inputs begin at token `i * context`. The target at each place is the token that follows the input.
#   So every token but the first is a target exactly once.
# - Where the stream has no next token, the input is `pad` and the target is -100. Every other target is a
#   real token, also if its id is that of `pad`: often the end token serves as padding.
#
# | tokens | i | context | pad | returns |
# |---|---|---|---|---|
# | `[5, 6, 7, 8, 9]` | 0 | 2 | 0 | `([5, 6], [6, 7])` |
# | `[5, 6, 7, 8, 9]` | 1 | 2 | 0 | `([7, 8], [8, 9])` |
# | `[5, 6, 7]` | 0 | 4 | 0 | `([5, 6, 0, 0], [6, 7, -100, -100])` |
#
# `check` asks for every window that has a target. `tokens` has at least two.


# %%
def sample(tokens: list[int], i: int, context: int, pad: int) -> tuple[list[int], list[int]]:
    # BEGIN SOLUTION: about 4 lines
    piece = tokens[i * context : (i + 1) * context + 1]
    missing = context + 1 - len(piece)
    inputs, targets = piece[:-1], piece[1:]
    return inputs + [pad] * missing, targets + [-100] * missing
    # END SOLUTION


check(sample)

# %% [markdown]
# ## Predict
#
# Documents have 300 tokens, windows 1,024 places. Without packing, each window holds one document and
# padding. **How many percent of the places are padding?** Put your number in place of `None`, then run the
# cell.

# %%
guess = None  # for example 30
# BEGIN SOLUTION
guess = 70.7
# END SOLUTION
predict("percent of padding", guess)

# %% [markdown]
# ## 3. Who sees whom
#
# A packed window holds pieces of several documents. Return the attention mask, one row per query and one
# column per key: `True` where the query may look at the key. A boolean tensor or a list of lists.
#
# - `owners` has the document number of each place of the window, -1 for padding.
# - A place sees itself and every earlier place of its own document. Nothing later, no other document.
# - Padding belongs to nobody: a padded place sees itself alone (a row in which nothing may be seen makes
#   softmax return NaN), and nobody else sees it.
#
# | owners | returns |
# |---|---|
# | `[4, 4]` | `[[True, False], [True, True]]` |
# | `[4, 5]` | `[[True, False], [False, True]]` |
# | `[4, -1]` | `[[True, False], [False, True]]` |


# %%
def document_mask(owners: list[int]) -> torch.Tensor:
    # BEGIN SOLUTION: about 4 lines
    owner = torch.tensor(owners)
    same = (owner[:, None] == owner[None, :]) & (owner != -1)
    itself = torch.eye(len(owners), dtype=torch.bool)
    return torch.tril(same) | itself
    # END SOLUTION


check(document_mask)

# %% [markdown]
# ## 4. The loss over the targets that count
#
# Cross-entropy in nats, the mean over all places whose target is not -100.
#
# - `logits` is a float32 tensor (places, vocabulary), `targets` an int64 tensor (places,).
# - It is differentiable: `check` calls `backward()` and compares the gradient of the logits too.
# - With no target at all the loss is 0 and so is every gradient. (`cross_entropy` returns NaN there, and one
#   such micro-batch makes the loss of its step NaN.)
# - Logits of ±1000 give a finite loss.
#
# | logits | targets | returns |
# |---|---|---|
# | `[[0., 1.]]` | `[1]` | 0.313 |
# | `[[0., 2., 1.], [3., 0., 0.]]` | `[1, -100]` | 0.408 |
# | `[[0., 2.], [3., 0.]]` | `[-100, -100]` | 0 |


# %%
def masked_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # BEGIN SOLUTION: about 5 lines
    counts = targets != -100
    log_p = torch.log_softmax(logits[counts], dim=-1)
    right = log_p.gather(1, targets[counts].unsqueeze(1))
    kept = max(1, int(counts.sum()))
    return -right.sum() / kept
    # END SOLUTION


check(masked_loss)

# %% [markdown]
# ## Say it in an interview
#
# *How do you check that labels are shifted right?* Decode one window and read inputs and targets side by
# side: the targets are the inputs moved by one. Then ask a number: an untrained model must begin near ln V,
# and the loss must not fall below the text's entropy. Labels that equal the inputs soon bring the
# loss near 0; labels shifted twice make a model that trains, and whose text is nonsense.
#
# Follow-ups: Your model never ends its answers: what do you look for in the collator? What does attention
# across document borders cost, and when do people allow it? Two ranks hold windows with 1,000 and 10 targets:
# how do you average their losses?
