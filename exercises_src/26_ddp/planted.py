"""Wrong and right solutions of exercise 26.

function, key = WRONG["rank_step"]["an overflow returns at once"]
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

# --------------------------------------------------------------------------------------------- wrong: average


def _average(
    weigh=lambda n, tokens: n / sum(tokens), skip_empty=True, missing=None, nobody=lambda column: None
):
    def average(grads, tokens):
        found = []
        for column in zip(*grads, strict=True):
            parts = [
                (g, n) for g, n in zip(column, tokens, strict=True) if g is not None and (n or not skip_empty)
            ]
            if not parts:
                found.append(nobody(column))
                continue
            counted = [n for _, n in parts] if missing == "forgotten" else tokens
            found.append(sum(g * weigh(n, counted) for g, n in parts))
        return found

    return average


def _first_rank(grads, tokens):
    return [g if g is None else g.clone() for g in grads[0]]


def _none_where_one_is_missing(grads, tokens):
    return [
        None if any(g is None for g in column) else average
        for column, average in zip(zip(*grads, strict=True), _average()(grads, tokens), strict=True)
    ]


WRONG_AVERAGE = {
    "mean over ranks": (_average(weigh=lambda n, tokens: 1 / len(tokens)), "tokens"),
    "sum over ranks": (_average(weigh=lambda n, tokens: 1.0), "tokens"),
    "sum over tokens, not divided": (_average(weigh=lambda n, tokens: n), "tokens"),
    "rank 0's own": (_first_rank, "tokens"),
    "weighted by root": (_average(weigh=lambda n, t: n**0.5 / sum(x**0.5 for x in t)), "tokens"),
    "divided by tokens again": (_average(weigh=lambda n, t: n / sum(t) / len(t)), "tokens"),
    "by the inverse": (_average(weigh=lambda n, t: (1 / n) / sum(1 / x for x in t if x)), "tokens"),
    "forgets the tokens of ranks without it": (_average(missing="forgotten"), "unused"),
    "None where one rank has None": (_none_where_one_is_missing, "unused"),
    "zero times NaN": (_average(skip_empty=False), "empty"),
    "zeros for nobody": (_average(nobody=lambda column: torch.zeros(1)), "nobody"),
    "leaves nobody's out": (lambda g, t: [x for x in _average()(g, t) if x is not None], "form"),
    "flattens": (lambda g, t: [x if x is None else x.reshape(1, -1) for x in _average()(g, t)], "form"),
    "adds None": (
        lambda g, t: [sum(x * n for x, n in zip(c, t, strict=True)) / sum(t) for c in zip(*g, strict=True)],
        "",
    ),
}  # fmt: skip

# --------------------------------------------------------------------------------------------- wrong: buckets


def _buckets(
    order=reversed, full=lambda filled, size, limit: filled + size >= limit, limits=None, restart=0, tail=True
):
    def buckets(sizes, first, cap):
        found, bucket, filled = [], [], 0
        for number in order(range(len(sizes))):
            limit = (limits or (lambda k, a, b: b if k else a))(len(found), first, cap)
            bucket.append(number)
            if full(filled, sizes[number], limit):
                found.append(bucket)
                bucket, filled = [], restart
            else:
                filled += sizes[number]
        return found + [bucket] * (tail and bool(bucket))

    return buckets


def _never_above(sizes, first, cap):
    found, filled = [[]], 0
    for number in reversed(range(len(sizes))):
        if found[-1] and filled + sizes[number] > (first if len(found) == 1 else cap):
            found.append([])
            filled = 0
        found[-1].append(number)
        filled += sizes[number]
    return [bucket for bucket in found if bucket]


def _keeps_counting(sizes, first, cap):
    found, bucket, filled = [], [], 0
    for number in reversed(range(len(sizes))):
        bucket.append(number)
        filled += sizes[number]
        if filled >= first + cap * len(found):
            found, bucket = [*found, bucket], []
    return found + [bucket] * bool(bucket)


WRONG_BUCKETS = {
    "in the order of the model": (_buckets(order=list), "order"),
    "buckets reversed at the end": (lambda s, a, b: _buckets()(s, a, b)[::-1], "order"),
    "each bucket sorted": (lambda s, a, b: [sorted(x) for x in _buckets()(s, a, b)], "order"),
    "filled forwards, sent backwards": (
        lambda s, a, b: [x[::-1] for x in _buckets(order=list)(s, a, b)[::-1]],
        "first",
    ),
    "never above the limit": (_never_above, "cap"),
    "above, not reached": (_buckets(full=lambda f, s, limit: f + s > limit), "first"),
    "cap for all": (_buckets(limits=lambda k, a, b: b), "first"),
    "first for all": (_buckets(limits=lambda k, a, b: a), "cap"),
    "limits add up": (_buckets(limits=lambda k, a, b: a + b if k else a), "cap"),
    "the size is not set back": (_keeps_counting, "cap"),
    "the next one is counted without its size": (_buckets(full=lambda f, s, limit: f >= limit), "first"),
    "loses the rest": (_buckets(tail=False), "each"),
    "an empty bucket at the end": (lambda s, a, b: [*_buckets()(s, a, b), []], "form"),
    "sizes for numbers": (lambda s, a, b: [[s[i] for i in x] for x in _buckets()(s, a, b)], "each"),
    "how many": (lambda s, a, b: len(_buckets()(s, a, b)), "form"),
    "counts from one": (lambda s, a, b: [[i + 1 for i in x] for x in _buckets()(s, a, b)], "each"),
    "off the end": (lambda s, a, b: [[i for i in range(len(s) + 1) if s[i] >= 0]], ""),
}  # fmt: skip

# ------------------------------------------------------------------------------------------- wrong: rank_step


def _step(
    early=False,
    local=False,
    finite=math.isfinite,
    mean=None,
    unscale=True,
    nobody=False,
    empty=True,
    skip=None,
):
    """The right step with one part replaced."""

    def rank_step(grads, sizes, tokens, scale):
        if not tokens and empty:
            grads = [None] * len(sizes)
        used = [grad is not None for grad in grads]
        flat = [x for grad, n in zip(grads, sizes, strict=True) for x in (grad or [0.0] * n)]
        overflow = not all(finite(x) for x in flat)
        if early and overflow:
            return None
        totals = yield [
            tokens,
            overflow,
            1,
            *used,
            *(0.0 if overflow else x * (1 if mean else tokens) for x in flat),
        ]
        if overflow if local else totals[1]:
            return skip
        count = mean(totals, tokens) if mean else totals[0]
        values, found = [x / count / (scale if unscale else 1.0) for x in totals[3 + len(sizes) :]], []
        for n, users in zip(sizes, totals[3 : 3 + len(sizes)], strict=True):
            found.append(values[:n] if users or nobody else None)
            values = values[n:]
        return found

    return rank_step


def _used_alone(grads, sizes, tokens, scale):
    """Brings only what this rank has."""
    flat = [x * tokens for grad in grads if grad is not None and tokens for x in grad]
    totals = yield [tokens, not all(map(math.isfinite, flat)), *flat]
    if totals[1]:
        return None
    values, found = iter(totals[2:]), []
    for grad in grads:
        found.append(grad and [next(values) / totals[0] / scale for _ in grad])
    return found


def _no_communication(grads, sizes, tokens, scale):
    if not all(math.isfinite(x) for grad in grads for x in grad or []):
        return None
    return [grad and [x / scale for x in grad] for grad in grads]
    yield


def _empty_leaves(grads, sizes, tokens, scale):
    if not tokens:
        return None
    return (yield from _step()(grads, sizes, tokens, scale))


def _returns(grads, sizes, tokens, scale):
    return [grad and [x / scale for x in grad] for grad in grads]


def _number(grads, sizes, tokens, scale):
    total = yield tokens
    return total


def _flat(grads, sizes, tokens, scale):
    found = yield from _step()(grads, sizes, tokens, scale)
    return found and [x for grad in found for x in grad or []]


def _own_none(grads, sizes, tokens, scale):
    found = yield from _step(nobody=True)(grads, sizes, tokens, scale)
    return found and [g if own is not None else [0.0] * len(g) for g, own in zip(found, grads, strict=True)]


def _own_share(grads, sizes, tokens, scale):
    found = yield from _step()(grads, sizes, tokens, scale)
    return found and [g and [x * tokens for x in g] for g in found]


def _no_none(grads, sizes, tokens, scale):
    assert sum(len(grad) for grad in grads) == sum(sizes)
    return (yield from _step()(grads, sizes, tokens, scale))


def _for_ever(grads, sizes, tokens, scale):
    while True:
        yield [tokens]


def _large_is_an_overflow(grads, sizes, tokens, scale):
    return (yield from _step(finite=lambda x: abs(x) < 4.0)(grads, sizes, tokens, scale))


WRONG_STEP = {
    "an overflow returns at once": (_step(early=True), "hang"),
    "each rank for itself": (_no_communication, "same"),
    "skips alone": (_step(local=True), "overflow"),
    "misses NaN": (_step(finite=lambda x: abs(x) != math.inf), "overflow"),
    "misses infinities": (_step(finite=lambda x: x == x), "overflow"),
    "an empty list for a skipped step": (_step(skip=[]), "overflow"),
    "zeros for a skipped step": (_step(skip=[[0.0]]), "overflow"),
    "brings what it has": (_used_alone, "hang"),
    "a rank without tokens leaves": (_empty_leaves, "hang"),
    "a rank without tokens is an overflow": (_step(empty=False), "empty"),
    "mean over ranks": (_step(mean=lambda totals, tokens: totals[2]), "average"),
    "sum over ranks": (_step(mean=lambda totals, tokens: 1), "average"),
    "divides by its own tokens": (_step(mean=lambda totals, tokens: tokens or 1), "same"),
    "its own share": (_own_share, "same"),
    "stays scaled": (_step(unscale=False), "unscale"),
    "zeros for a parameter that nobody uses": (_step(nobody=True), "nobody"),
    "what this rank does not use is zero": (_own_none, "nobody"),
    "large numbers are overflows": (_large_is_an_overflow, "finite"),
    "no generator": (_returns, "form"),
    "a number, not a list": (_number, "form"),
    "one flat list": (_flat, "form"),
    "for ever": (_for_ever, "hang"),
    "crashes on None": (_no_none, ""),
}

WRONG = {"average": WRONG_AVERAGE, "buckets": WRONG_BUCKETS, "rank_step": WRONG_STEP}

# ----------------------------------------------------------------------------------- right, in other styles


def average_by_stack(grads, tokens):
    weights = torch.tensor(tokens, dtype=torch.float64) / sum(tokens)
    found = []
    for column in zip(*grads, strict=True):
        shown = next((g for g, n in zip(column, tokens, strict=True) if g is not None and n), None)
        if shown is None:
            found.append(None)
            continue
        whole = torch.stack([torch.zeros_like(shown) if g is None else g.nan_to_num() for g in column])
        found.append(torch.tensordot(weights, whole.double(), dims=1).float())
    return found


def average_in_place(grads, tokens):
    total = [None] * len(grads[0])
    for rank, n in zip(grads, tokens, strict=True):
        for i, grad in enumerate(rank):
            if grad is not None and n:
                part = grad.mul(n / sum(tokens))
                total[i] = part if total[i] is None else total[i].add_(part)
    return total


def buckets_of_torch(sizes, first, cap):
    """DDP's own function, given tensors of these many bytes in the order of their gradients."""
    if not sizes:
        return []
    made = [torch.empty(n, dtype=torch.uint8) for n in reversed(sizes)]
    numbers, _ = dist._compute_bucket_assignment_by_size(made, [first, cap])
    return [[len(sizes) - 1 - i for i in bucket] for bucket in numbers]


def step_in_many(grads, sizes, tokens, scale):
    """Three all-reduces and one per parameter."""
    mine = [None] * len(sizes) if tokens == 0 else grads
    (total,) = yield [tokens]
    (bad,) = yield [float(sum(not math.isfinite(x) for grad in mine for x in grad or ()))]
    users = yield [int(grad is not None) for grad in mine]
    found = []
    for grad, n, used in zip(mine, sizes, users, strict=True):
        sums = yield [x * tokens / (total * scale) for x in grad or [0] * n]
        found.append(sums if used else None)
    return None if bad else found


def step_by_sums(grads, sizes, tokens, scale):
    """Whatever is not finite makes the sums not finite: no flag is needed."""
    flat = []
    for grad, n in zip(grads, sizes, strict=True):
        flat += [0.0] * (n + 1) if grad is None or not tokens else [1.0, *(x * tokens for x in grad)]
    *sums, total = yield [*flat, tokens]
    if not all(map(math.isfinite, sums)):
        return None
    found = []
    for n in sizes:
        used, part, sums = sums[0], sums[1 : n + 1], sums[n + 1 :]
        found.append([x / total / scale for x in part] if used else None)
    return found


RIGHT = {
    "average": [average_by_stack, average_in_place, _average()],
    "buckets": [buckets_of_torch, _buckets(), lambda s, a, b: [tuple(x) for x in _buckets()(s, a, b)]],
    "rank_step": [step_in_many, step_by_sums, _step()],
}
