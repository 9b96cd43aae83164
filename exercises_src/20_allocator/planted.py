"""Wrong solutions of exercise 20, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["serve"]["first fit"]
"""

from __future__ import annotations

import itertools
import math

from .blocks import MIB, sizes
from .tasks import give_back as merged_back
from .tasks import outcome as how_it_ends


def _up(n, to):
    return -(-n // to) * to


# ------------------------------------------------------------------------------------------- wrong: request


def _request(block=lambda n: _up(n, 512), segment=lambda n, b: sizes(n)[1]):
    return lambda nbytes: (block(nbytes), segment(nbytes, block(nbytes)))


def _by_request(n, b):
    return 2 * MIB if n <= MIB else 20 * MIB if n < 10 * MIB else _up(b, 2 * MIB)


WRONG_REQUEST = {
    "rounds down": (_request(lambda n: n // 512 * 512), "round"),
    "always one more piece": (_request(lambda n: (n // 512 + 1) * 512), "round"),
    "rounds to a power of two": (_request(lambda n: max(512, 1 << (n - 1).bit_length())), "round"),
    "does not round": (_request(lambda n: n), "round"),
    "the segment is the block": (_request(segment=lambda n, b: b), "small"),
    "1 MiB is large": (_request(segment=lambda n, b: 20 * MIB if b == MIB else sizes(n)[1]), "small"),
    "small up to 2 MiB": (_request(segment=lambda n, b: 2 * MIB if b <= 2 * MIB else sizes(n)[1]), "large"),
    "20 MiB up to 20 MiB": (
        _request(segment=lambda n, b: 20 * MIB if MIB < b <= 20 * MIB else sizes(n)[1]),
        "measure",
    ),
    "10 MiB still gets 20": (
        _request(segment=lambda n, b: 20 * MIB if b == 10 * MIB else sizes(n)[1]),
        "measure",
    ),
    "compares the request": (_request(segment=_by_request), "measure"),
    "measures from 1 MiB on": (
        _request(segment=lambda n, b: 2 * MIB if b <= MIB else _up(b, 2 * MIB)),
        "large",
    ),
    "does not round the segment": (
        _request(segment=lambda n, b: max(b, sizes(n)[1] if b < 10 * MIB else b)),
        "measure",
    ),
    "megabytes of a million": (
        _request(segment=lambda n, b: 2_000_000 if b <= 1_000_000 else 20_000_000),
        "small",
    ),
    "the block alone": (lambda nbytes: _up(nbytes, 512), "form"),
    "text": (lambda nbytes: tuple(map(str, sizes(nbytes))), "form"),
}

# --------------------------------------------------------------------------------------------- wrong: serve


def _serve(
    choose=lambda fits: min(fits),
    splits=lambda rest, block: rest > (0 if block <= MIB else MIB),
    rest=lambda at, block, size: [at + block, size - block],
    order=sorted,
    fits=lambda size, block: size >= block,
):
    def serve(free, block):
        found = [(size, at) for at, size in free if fits(size, block)]
        if not found:
            return None
        size, at = choose(found)
        left = [pair for pair in free if pair[0] != at]
        if splits(size - block, block):
            left.append(rest(at, block, size))
            size = block
        return at, size, order(left)

    return serve


def _total(free, block):
    if sum(size for _, size in free) < block:
        return None
    return _serve()(free, block) or (free[0][0], block, free)


WRONG_SERVE = {
    "first fit": (_serve(choose=lambda fits: min(fits, key=lambda f: f[1])), "best"),
    "worst fit": (_serve(choose=lambda fits: max(fits, key=lambda f: (f[0], -f[1]))), "best"),
    "the last of equal ones": (_serve(choose=lambda fits: min(fits, key=lambda f: (f[0], -f[1]))), "tie"),
    "strictly larger": (_serve(fits=lambda size, block: size > block), "none"),
    "adds the free blocks up": (_total, "none"),
    "never splits": (_serve(splits=lambda rest, block: False), "split"),
    "always splits": (_serve(splits=lambda rest, block: rest > 0), "whole"),
    "splits at 1 MiB": (
        _serve(splits=lambda rest, block: rest > 0 and (block <= MIB or rest >= MIB)),
        "whole",
    ),
    "the rule of the large pool for both": (_serve(splits=lambda rest, block: rest > MIB), "split"),
    "only above 512 in the small pool": (
        _serve(splits=lambda rest, block: rest > (512 if block <= MIB else MIB)),
        "split",
    ),
    "hands out the end": (_serve(rest=lambda at, block, size: [at, size - block]), "free"),
    "the rest keeps its size": (_serve(rest=lambda at, block, size: [at + block, size]), "free"),
    "out of order": (_serve(order=lambda left: sorted(left, reverse=True)), "free"),
    "leaves the block free": (
        lambda free, block: (got := _serve()(free, block)) and (got[0], got[1], sorted([*free, *got[2]])),
        "free",
    ),
    "the address alone": (lambda free, block: (got := _serve()(free, block)) and got[0], "form"),
    "a dict": (
        lambda free, block: (got := _serve()(free, block)) and (*got[:2], dict(map(tuple, got[2]))),
        "form",
    ),
    "crashes on nothing": (lambda free, block: _serve(fits=lambda s, b: True)(free, min(free)[1]), ""),
}

# ----------------------------------------------------------------------------------------- wrong: give back


def _joined(segment, joins):
    merged = []
    for at, size, used in segment:
        if merged and joins(merged, used):
            merged[-1][1] += size
        else:
            merged.append([at, size, used])
    return merged


def _marked(segments, address):
    return [[[at, size, used and at != address] for at, size, used in s] for s in segments]


def only_marks(segments, address):
    return _marked(segments, address)


def forgets_to_mark(segments, address):
    return [_joined(s, lambda m, used: not used and not m[-1][2]) for s in segments]


def across_segments(segments, address):
    flat = [b for s in _marked(segments, address) for b in s]
    return [_joined(flat, lambda m, used: not used and not m[-1][2])]


def _pieces(behind, front):
    def give_back(segments, address):
        after = _marked(segments, address)
        for s in after:
            i = next((i for i, b in enumerate(s) if b[0] == address), None)
            if i is None:
                continue
            if behind and i + 1 < len(s) and not s[i + 1][2]:
                s[i][1] += s.pop(i + 1)[1]
            if front and i and not s[i - 1][2]:
                s[i - 1][1] += s.pop(i)[1]
        return after

    return give_back


def either(segments, address):
    """Behind, and only if there is nothing behind, in front."""
    after = _pieces(True, False)(segments, address)
    fewer = sum(map(len, after)) < sum(map(len, segments))
    return after if fewer else _pieces(False, True)(segments, address)


def keeps_its_own_address(segments, address):
    after = merged_back(segments, address).value
    for s, was in zip(after, segments, strict=True):
        for b in s:
            if b[0] < address < b[0] + b[1] and any(at == address for at, _, _ in was):
                b[0] = address
    return after


def frees_the_segment(segments, address):
    return [
        [[s[0][0], sum(b[1] for b in s), False]] if any(b[0] == address for b in s) else s for s in segments
    ]


def whole_free_segments_go(segments, address):
    after = merged_back(segments, address).value
    return [s for s in after if len(s) > 1 or s[0][2]]


def removes(segments, address):
    return [[b for b in s if b[0] != address] for s in segments]


def touching_segments(segments, address):
    """By address alone: free blocks that touch become one, in the segment of the first."""
    after = merged_back(segments, address).value
    for first, second in itertools.pairwise(after):
        a, b = (first or [[0, 0, True]])[-1], second[0]
        if not a[2] and not b[2] and a[0] + a[1] == b[0]:
            a[1] += second.pop(0)[1]
    return after


WRONG_GIVE_BACK = {
    "only marks": (only_marks, "after"),
    "forgets to mark": (forgets_to_mark, "alone"),
    "removes the block": (removes, "alone"),
    "merges behind only": (_pieces(True, False), "before"),
    "merges in front only": (_pieces(False, True), "after"),
    "one neighbour, not both": (either, "both"),
    "merges across segments": (across_segments, "border"),
    "merges what touches": (touching_segments, "border"),
    "keeps its own address": (keeps_its_own_address, "before"),
    "frees the whole segment": (frees_the_segment, "alone"),
    "gives free segments to the driver": (whole_free_segments_go, "border"),
    "returns the free blocks": (
        lambda s, a: [b[:2] for x in merged_back(s, a).value for b in x if not b[2]],
        "form",
    ),
    "0 and 1 for used": (
        lambda s, a: [[[at, n, int(u)] for at, n, u in x] for x in merged_back(s, a).value],
        "form",
    ),
    "crashes at the first block": (
        lambda s, a: [[x[i - 1] and x[i + 1] and x[i] for i in range(len(x))] for x in s],
        "",
    ),
}

# ------------------------------------------------------------------------------------------- wrong: outcome


def _outcome(**changed):
    def outcome(segments, block, limit):
        right = how_it_ends(segments, block, limit).value
        given = right | {"segments": segments, "block": block, "limit": limit}
        given["idle"] = sum(s[0][1] for s in segments if len(s) == 1 and not s[0][2])
        given["asked"] = sizes(block)[1]
        return right | {name: rule(given) for name, rule in changed.items()}

    return outcome


def _ends(cached=None, new=None, retry=None, fragmented=None):
    tests = {
        "cached": cached or (lambda g: g["largest"] >= g["block"]),
        "new segment": new or (lambda g: g["reserved"] + g["asked"] <= g["limit"]),
        "retry": retry or (lambda g: g["reserved"] - g["idle"] + g["asked"] <= g["limit"]),
        "fragmented": fragmented or (lambda g: g["allocated"] + g["block"] <= g["limit"]),
        "full": lambda g: True,
    }
    return _outcome(ends=lambda g: next(word for word, holds in tests.items() if holds(g)))


WRONG_OUTCOME = {
    "allocated counts free blocks": (_outcome(allocated=lambda g: g["reserved"]), "allocated"),
    "reserved counts used blocks": (_outcome(reserved=lambda g: g["allocated"]), "reserved"),
    "reserved is what is free": (_outcome(reserved=lambda g: g["reserved"] - g["allocated"]), "reserved"),
    "largest adds up": (_outcome(largest=lambda g: g["reserved"] - g["allocated"]), "largest"),
    "largest of all blocks": (
        _outcome(largest=lambda g: max((b[1] for s in g["segments"] for b in s), default=0)),
        "largest",
    ),
    "free memory added up serves it": (
        _ends(cached=lambda g: g["reserved"] - g["allocated"] >= g["block"]),
        "fragmented",
    ),
    "strictly larger": (_ends(cached=lambda g: g["largest"] > g["block"]), "cached"),
    "never cached": (_ends(cached=lambda g: False), "cached"),
    "asks the driver for the block": (
        _ends(new=lambda g: g["reserved"] + g["block"] <= g["limit"]),
        "fragmented",
    ),
    "the limit is out of reach": (
        _ends(new=lambda g: g["reserved"] + g["asked"] < g["limit"]),
        "new segment",
    ),
    "the limit is on allocated": (_ends(new=lambda g: g["allocated"] + g["asked"] <= g["limit"]), "retry"),
    "never gives back": (_ends(retry=lambda g: False), "retry"),
    "gives back all that is free": (
        _ends(retry=lambda g: g["allocated"] + g["asked"] <= g["limit"]),
        "fragmented",
    ),
    "the block alone after the retry": (
        _ends(retry=lambda g: g["reserved"] - g["idle"] + g["block"] <= g["limit"]),
        "fragmented",
    ),
    "always fragmented": (_ends(fragmented=lambda g: True), "full"),
    "never fragmented": (_ends(fragmented=lambda g: False), "fragmented"),
    "fragmented when more is free than asked": (
        _ends(fragmented=lambda g: g["reserved"] - g["allocated"] >= g["block"]),
        "fragmented",
    ),
    "a list": (lambda *given: list(how_it_ends(*given).value.values()), "form"),
    "no end": (_outcome(ends=lambda g: None), "form"),
}

WRONG = {
    "request": WRONG_REQUEST,
    "serve": WRONG_SERVE,
    "give_back": WRONG_GIVE_BACK,
    "outcome": WRONG_OUTCOME,
}

# ------------------------------------------------------------------------------------- right, in other styles


def request_ceil(nbytes):
    block = math.ceil(nbytes / 512) * 512
    segment = 2**21 if block <= 2**20 else 20 * 2**20
    return [block, segment if block < 10 * 2**20 else math.ceil(block / 2**21) * 2**21]


def request_bits(nbytes):
    block = (nbytes + 511) & ~511
    return block, (2 << 20, 20 << 20, (block + (2 << 20) - 1) >> 21 << 21)[
        (block > MIB) + (block >= 10 * MIB)
    ]


def request_modulo(nbytes):
    block = nbytes + -nbytes % 512
    if block >= 10 * MIB:
        return block, block + -block % (2 * MIB)
    return block, MIB * (2 if block <= MIB else 20)


def serve_loop(free, block):
    best = None
    for i, (_, size) in enumerate(free):
        if size >= block and (best is None or size < free[best][1]):
            best = i
    if best is None:
        return None
    at, size = free.pop(best)
    threshold = 0 if block <= MIB else MIB
    if size - block <= threshold:
        return [at, size, free]
    free.insert(best, [at + block, size - block])
    return [at, block, free]


def serve_sorted(free, block):
    for size, at in sorted((size, at) for at, size in free):
        if size < block:
            continue
        rest = size - block
        keep = rest if rest and (block <= MIB or rest > MIB) else 0
        out = {a: s for a, s in free if a != at} | ({at + block: keep} if keep else {})
        return at, size - keep, sorted(out.items())
    return None


def serve_key(free, block):
    fits = filter(lambda pair: pair[1] >= block, free)
    pair = min(fits, key=lambda pair: (pair[1], pair[0]), default=None)
    if pair is None:
        return None
    at, size = pair
    got = block if size - block > MIB or block <= MIB else size
    parts = [[a, s] for a, s in [*((a, s) for a, s in free if a != at), (at + got, size - got)] if s]
    return at, got, sorted(parts)


def back_groups(segments, address):
    after = []
    for segment in _marked(segments, address):
        new = []
        for used, group in itertools.groupby(segment, key=lambda b: b[2]):
            blocks = list(group)
            new += blocks if used else [[blocks[0][0], sum(b[1] for b in blocks), False]]
        after.append(new)
    return after


def back_repeat(segments, address):
    after = _marked(segments, address)
    for s in after:
        i = 0
        while i + 1 < len(s):
            if s[i][2] or s[i + 1][2]:
                i += 1
            else:
                s[i] = [s[i][0], s[i][1] + s[i + 1][1], False]
                del s[i + 1]
    return after


def outcome_early(segments, block, limit):
    used = sum(b[1] for s in segments for b in s if b[2])
    sizes_free = [b[1] for s in segments for b in s if not b[2]]
    reserved = used + sum(sizes_free)
    facts = {"allocated": used, "reserved": reserved, "largest": max([0, *sizes_free])}
    if any(size >= block for size in sizes_free):
        return facts | {"ends": "cached"}
    asked = request_bits(block)[1]
    if reserved + asked <= limit:
        return facts | {"ends": "new segment"}
    kept = sum(sum(b[1] for b in s) for s in segments if any(b[2] for b in s))
    kept += sum(sum(b[1] for b in s) for s in segments if len(s) > 1 and not any(b[2] for b in s))
    if kept + asked <= limit:
        return facts | {"ends": "retry"}
    return facts | {"ends": "full" if used + block > limit else "fragmented"}


def outcome_table(segments, block, limit):
    got = how_it_ends(segments, block, limit).value
    return {name: float(number) if name != "ends" else number for name, number in got.items()}


def outcome_ordered(segments, block, limit):
    return dict(sorted(outcome_early(segments, block, limit).items()))


RIGHT = {
    "request": [request_ceil, request_bits, request_modulo],
    "serve": [serve_loop, serve_sorted, serve_key],
    "give_back": [back_groups, back_repeat, _pieces(True, True)],
    "outcome": [outcome_early, outcome_table, outcome_ordered],
}
