"""Wrong solutions of exercise 19, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["served"]["a short one overtakes"]
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch


def _bytes(kept=lambda c, w: c if w is None else min(c, w), total=lambda t, h, d, b: 2 * t * h * d * b):
    def kv_bytes(context, windows, kv_heads, head_dim, number_bytes):
        return total(sum(kept(context, window) for window in windows), kv_heads, head_dim, number_bytes)

    return kv_bytes


WRONG_BYTES = {
    "keys alone": (_bytes(total=lambda t, h, d, b: t * h * d * b), "both"),
    "one layer": (lambda c, w, h, d, b: _bytes()(c, w[:1], h, d, b), "both"),
    "layers twice": (lambda c, w, h, d, b: len(w) * _bytes()(c, w, h, d, b), "layers"),
    "one head": (_bytes(total=lambda t, h, d, b: 2 * t * d * b), "layers"),
    "the head size forgotten": (_bytes(total=lambda t, h, d, b: 2 * t * h * b), "layers"),
    "numbers, not bytes": (_bytes(total=lambda t, h, d, b: 2 * t * h * d), "both"),
    "always two bytes": (_bytes(total=lambda t, h, d, b: 4 * t * h * d), "layers"),
    "bits": (_bytes(total=lambda t, h, d, b: 16 * t * h * d * b), "layers"),
    "no window": (_bytes(kept=lambda c, w: c), "window"),
    "the window's layers keep nothing": (_bytes(kept=lambda c, w: 0 if w else c), "window"),
    "the window whatever the context": (_bytes(kept=lambda c, w: c if w is None else w), "short"),
    "the window and all": (_bytes(kept=lambda c, w: c if w is None else c + w), "window"),
    "KiB": (_bytes(total=lambda t, h, d, b: 2 * t * h * d * b / 1024), "form"),
    "None as a number": (lambda c, w, h, d, b: 2 * sum(min(c, x) for x in w) * h * d * b, ""),
}


def _context(free=lambda m, w, r: m - w - r, one=lambda b, p: b * p, ends=lambda n, t: max(0, min(n, t))):
    return lambda m, w, r, b, p, t: ends(free(m, w, r) // one(b, p), t)


WRONG_CONTEXT = {
    "forgets the reserve": (_context(free=lambda m, w, r: m - w), "fits"),
    "forgets the weights": (_context(free=lambda m, w, r: m - r), "fits"),
    "one sequence": (_context(one=lambda b, p: p), "fits"),
    "the batch multiplies": (lambda m, w, r, b, p, t: max(0, min(t, (m - w - r) * b // p)), "fits"),
    "the reserve for each sequence": (
        lambda m, w, r, b, p, t: max(0, min(t, (m - w - (b + 1) * r) // (b * p))),
        "longest",
    ),
    "beyond the training": (_context(ends=lambda n, t: max(0, n)), "trained"),
    "one less": (_context(ends=lambda n, t: max(0, min(n - 1, t))), "longest"),
    "rounds up": (lambda m, w, r, b, p, t: max(0, min(t, -(-(m - w - r) // (b * p)))), "fits"),
    "negative": (_context(ends=min), "none"),
    "at least 1": (_context(ends=lambda n, t: max(1, min(n, t))), "none"),
    "all that was trained": (lambda m, w, r, b, p, t: t if m > w + r else 0, "fits"),
    "a share of a token": (
        lambda m, w, r, b, p, t: max(0.25, min(t - 0.5, (m - w - r) / (b * p) + 0.1)),
        "form",
    ),
}


def _served(
    pages=lambda n, page: -(-n // page) * page,
    fits=lambda taken, more, p, free: (taken + more) * p <= free,
    stops=True,
    wasted=lambda used, taken, lengths: 1 - used / taken if taken else 0.0,
):
    def served(lengths, per_token, page, free):
        count = used = taken = 0
        for length in lengths:
            more = pages(length, page)
            if not fits(taken, more, per_token, free):
                if stops:
                    break
                continue
            count, used, taken = count + 1, used + length, taken + more
        return [count, wasted(used, taken, lengths)]

    return served


def _by_size(lengths, per_token, page, free):
    return _served()(sorted(lengths), per_token, page, free)


WRONG_SERVED = {
    "no pages": (_served(pages=lambda n, page: n), "pages"),
    "pages rounded down": (_served(pages=lambda n, page: n // page * page), "pages"),
    "a page more": (_served(pages=lambda n, page: (n // page + 1) * page), "wasted"),
    "a short one overtakes": (_served(stops=False), "line"),
    "the shortest first": (_by_size, "line"),
    "an exact fit does not fit": (_served(fits=lambda t, m, p, free: (t + m) * p < free), "line"),
    "looks at the next one alone": (_served(fits=lambda t, m, p, free: m * p <= free), "line"),
    "looks after it has let it in": (_served(fits=lambda t, m, p, free: t * p <= free), "pages"),
    "counts tokens against bytes": (_served(fits=lambda t, m, p, free: t + m <= free), "pages"),
    "the share of the tokens": (_served(wasted=lambda u, t, x: t / u - 1 if u else 0.0), "wasted"),
    "the share that is used": (_served(wasted=lambda u, t, x: u / t if t else 0.0), "wasted"),
    "tokens, not a share": (_served(wasted=lambda u, t, x: t - u), "wasted"),
    "wasted by all who wait": (_served(wasted=lambda u, t, x: 1 - u / sum(x) if x else 0.0), "nobody"),
    "nobody wastes everything": (_served(wasted=lambda u, t, x: 1 - u / t if t else 1.0), "nobody"),
    "the number alone": (lambda *a: _served()(*a)[0], "form"),
    "divides by nothing": (_served(wasted=lambda u, t, x: 1 - u / t), ""),
}
WRONG = {"kv_bytes": WRONG_BYTES, "longest_context": WRONG_CONTEXT, "served": WRONG_SERVED}


# ----------------------------------------------------------------------------------- right, in other styles


def bytes_numpy(context, windows, kv_heads, head_dim, number_bytes):
    kept = np.minimum(context, [context if w is None else w for w in windows]).sum()
    return np.prod([2, kept, kv_heads, head_dim, number_bytes])


def bytes_by_layer(context, windows, kv_heads, head_dim, number_bytes):
    total = 0
    for window in windows:
        tokens = context if window is None or window > context else window
        for _ in ("key", "value"):
            total += tokens * kv_heads * head_dim * number_bytes
    return total


def context_by_halves(memory, weights, reserve, batch, per_token, trained):
    low, high = 0, trained
    while low < high:
        middle = (low + high + 1) // 2
        if weights + reserve + batch * per_token * middle <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def served_accumulated(lengths, per_token, page, free):
    pages = [(n + page - 1) // page for n in lengths]
    count = sum(total * page * per_token <= free for total in accumulate(pages))
    if count == 0:
        return (0, 0)
    return count, 1 - sum(lengths[:count]) / (sum(pages[:count]) * page)


def served_numpy(lengths, per_token, page, free):
    if not lengths:
        return [0, 0.0]
    taken = np.cumsum(np.ceil(np.array(lengths) / page) * page)
    count = int((taken * per_token <= free).sum())
    return np.array([count, 1 - np.sum(lengths[:count]) / taken[count - 1] if count else 0.0])


RIGHT = {
    "kv_bytes": [bytes_numpy, bytes_by_layer, lambda *a: torch.tensor(_bytes()(*a))],
    "longest_context": [
        context_by_halves,
        lambda m, w, r, b, p, t: int(np.clip((m - w - r) // (b * p), 0, t)),
        lambda m, w, r, b, p, t: min(t, max(m - w - r, 0) // b // p),
    ],
    "served": [served_accumulated, served_numpy, _served()],
}
