"""Wrong solutions of exercise 05, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["encode"]["takes the longest token"]
"""

from __future__ import annotations

from collections import Counter
from functools import partial, reduce
from itertools import pairwise

from .training import joined, learn, pair_counts

# ------------------------------------------------------------------------------------------- wrong: the join


def _first_only(tokens, pair):
    for i, met in enumerate(pairwise(tokens)):
        if met == pair:
            return [*tokens[:i], "".join(pair), *tokens[i + 2 :]]
    return list(tokens)


def _from_the_right(tokens, pair):
    return [t[::-1] for t in joined([t[::-1] for t in tokens[::-1]], (pair[1][::-1], pair[0][::-1]))][::-1]


def _twice_the_middle(tokens, pair):
    """Moves on by one after a join, so the second token is used again."""
    out, at = [], 0
    while at < len(tokens):
        met = tuple(tokens[at : at + 2]) == pair
        out.append("".join(pair) if met else tokens[at])
        at += 1
    return out


def _by_text(tokens, pair):
    out, at = [], 0
    while at < len(tokens):
        met = at + 1 < len(tokens) and tokens[at] + tokens[at + 1] == "".join(pair)
        out.append("".join(pair) if met else tokens[at])
        at += 1 + met
    return out


def _either_way(tokens, pair):
    out, at = [], 0
    while at < len(tokens):
        met = sorted(tokens[at : at + 2]) == sorted(pair)
        out.append("".join(tokens[at : at + 2]) if met else tokens[at])
        at += 1 + met
    return out


def _loses_the_end(tokens, pair):
    out, at = [], 0
    while at < len(tokens) - 1:
        met = (tokens[at], tokens[at + 1]) == pair
        out.append("".join(pair) if met else tokens[at])
        at += 1 + met
    return out


def _runs(tokens, pair):
    """Joins a whole run of the pair at once."""
    out = []
    for token in joined(tokens, pair):
        if out and token in ("".join(pair), pair[0]) and out[-1].endswith("".join(pair)):
            out[-1] += token
        else:
            out.append(token)
    return out


def _past_the_end(tokens, pair):
    out, at = [], 0
    while at < len(tokens):
        met = (tokens[at], tokens[at + 1]) == pair
        out.append("".join(pair) if met else tokens[at])
        at += 1 + met
    return out


WRONG_JOIN = {
    "joins the first only": (_first_only, "all"),
    "joins nothing": (lambda tokens, pair: list(tokens), "all"),
    "joins from the right": (_from_the_right, "left"),
    "uses a token twice": (_twice_the_middle, "text"),
    "loses the last token": (_loses_the_end, "text"),
    "drops the pair": (lambda tokens, pair: [t for t in joined(tokens, pair) if t != "".join(pair)], "text"),
    "compares the text": (_by_text, "only"),
    "takes the pair in either order": (_either_way, "only"),
    "joins whole runs": (_runs, "only"),
    "joins everything": (lambda tokens, pair: ["".join(tokens)] if tokens else [], "only"),
    "returns the text": (lambda tokens, pair: "".join(joined(tokens, pair)), "form"),
    "returns nothing": (lambda tokens, pair: tokens and None, "form"),
    "reads past the end": (_past_the_end, ""),
}

# --------------------------------------------------------------------------------------- wrong: the training


def _learner(
    weigh=True, tie=min, least=2, first=list, join=joined, cross=False, recount=True, overlap=True, extra=0
):
    """Training with one part replaced."""

    def train(pieces, merges):
        words, learned, counts = {piece: first(piece) for piece in pieces}, [], None
        while len(learned) < merges + extra:
            if recount or counts is None:
                counts = Counter()
                lines = (
                    [([t for p, word in words.items() for t in word * pieces[p]], 1)]
                    if cross
                    else [(w, pieces[p]) for p, w in words.items()]
                )
                for word, times in lines:
                    seen = pairwise(word) if overlap else set(pairwise(word))
                    for pair in seen:
                        counts[pair] += times if weigh else 1
            else:
                del counts[best]  # noqa: F821 (set below in the round before)
            most = max(counts.values(), default=0)
            if most < least:
                break
            best = tie([pair for pair in counts if counts[pair] == most])
            learned.append(best)
            words = {piece: join(word, best) for piece, word in words.items()}
        return learned

    return train


def _rarest(pieces, merges):
    counts = Counter(pair for piece, times in pieces.items() for pair in list(pairwise(piece)) * times)
    return sorted((pair for pair in counts if counts[pair] > 1), key=lambda pair: (counts[pair], pair))[
        :merges
    ]


def _one_again(pieces, merges):
    return learn(pieces, 1) * merges


def _needs_a_pair(pieces, merges):
    learned = learn(pieces, merges)
    words = {piece: _encode(piece, learned) for piece in pieces}
    return learned if len(learned) == merges or max(pair_counts(words, pieces).values()) else []


WRONG_TRAIN = {
    "learns one merge and repeats it": (_one_again, "repeat"),
    "never joins what it merges": (_learner(join=lambda word, pair: word), "repeat"),
    "counts the pairs once": (_learner(recount=False), "inside"),
    "counts across pieces": (_learner(cross=True), "inside"),
    "marks the end of a word": (_learner(first=lambda piece: [*piece, "</w>"]), "inside"),
    "returns pairs turned round": (lambda p, m: [pair[::-1] for pair in learn(p, m)], "inside"),
    "counts each piece once": (_learner(weigh=False), "stop"),
    "counts a pair once a piece": (_learner(overlap=False), "most"),
    "counts once and takes the rarest": (_rarest, "inside"),
    "joins the first occurrence only": (_learner(join=_first_only), "repeat"),
    "breaks ties by the largest": (_learner(tie=max), "tie"),
    "breaks ties by the first seen": (_learner(tie=lambda pairs: pairs[0]), "tie"),
    "breaks ties by the longest": (
        _learner(tie=lambda pairs: min(pairs, key=lambda pair: (-len("".join(pair)), pair))),
        "tie",
    ),
    "merges pairs that occur once": (_learner(least=1), "stop"),
    "asks for three occurrences": (_learner(least=3), "stop"),
    "learns one merge too many": (_learner(extra=1), "stop"),
    "learns one merge too few": (_learner(extra=-1), "stop"),
    "returns the tokens": (lambda p, m: ["".join(pair) for pair in learn(p, m)], "form"),
    "returns ranks": (lambda p, m: {pair: i for i, pair in enumerate(learn(p, m))}, "form"),
    "crashes when no pair is left": (_needs_a_pair, ""),
}

# --------------------------------------------------------------------------------------- wrong: the encoding


def _encode(piece, merges, join=joined):
    return reduce(join, merges, list(piece))


def _longest(piece, merges):
    names, out, at = {"".join(pair) for pair in merges}, [], 0
    while at < len(piece):
        size = max((n for n in range(1, len(piece) - at + 1) if piece[at : at + n] in names), default=1)
        out.append(piece[at : at + size])
        at += size
    return out


def _until_nothing(piece, merges):
    """Whatever pair comes first in the text, whatever its rank."""
    tokens = list(piece)
    while True:
        pair = next((pair for pair in pairwise(tokens) if pair in merges), None)
        if pair is None:
            return tokens
        tokens = _first_only(tokens, pair)


def _drops_unknown(piece, merges):
    known = set("".join("".join(pair) for pair in merges))
    return [token for token in _encode(piece, merges) if set(token) <= known]


def _crashes_on_unknown(piece, merges):
    ids = {c: i for i, c in enumerate(sorted(set("".join("".join(pair) for pair in merges))))}
    return [token for token in _encode(piece, merges) if [ids[c] for c in token]]


WRONG_ENCODE = {
    "ignores the merges": (lambda piece, merges: list(piece), "merge"),
    "returns the piece whole": (lambda piece, merges: [piece], "text"),
    "applies merges in reverse": (lambda piece, merges: _encode(piece, merges[::-1]), "order"),
    "takes the longest token": (_longest, "order"),
    "merges what it meets first": (_until_nothing, "order"),
    "joins from the right": (partial(_encode, join=_from_the_right), "order"),
    "sorts the merges": (lambda piece, merges: _encode(piece, sorted(merges)), "order"),
    "applies each merge at one place": (partial(_encode, join=_first_only), "until"),
    "applies half of the merges": (lambda p, merges: _encode(p, merges[: max(1, len(merges) // 2)]), "until"),
    "leaves out the last merge": (
        lambda p, merges: _encode(p, merges[:-1] if len(merges) > 1 else merges),
        "until",
    ),
    "adds the end of the word": (lambda piece, merges: [*_encode(piece, merges), "</w>"], "text"),
    "drops unknown characters": (_drops_unknown, "text"),
    "returns ids": (lambda piece, merges: [hash(token) % 997 for token in _encode(piece, merges)], "form"),
    "returns one string": (lambda piece, merges: " ".join(_encode(piece, merges)), "form"),
    "crashes on unknown characters": (_crashes_on_unknown, ""),
}

WRONG = {"join": WRONG_JOIN, "train": WRONG_TRAIN, "encode": WRONG_ENCODE}

# ---------------------------------------------------------------------------------- right ones, other styles


def join_in_place(tokens, pair):
    at = 0
    while at < len(tokens) - 1:
        if tokens[at] == pair[0] and tokens[at + 1] == pair[1]:
            tokens[at : at + 2] = ["".join(pair)]
        at += 1
    return tokens


def join_iterator(tokens, pair):
    rest, out = iter([*tokens, None]), []
    token = next(rest)
    while token is not None:
        after = next(rest)
        if (token, after) == pair:
            token, after = token + after, next(rest)
        out.append(token)
        token = after
    return out


def join_stack(tokens, pair):
    out, fresh = [], False  # fresh: the top is a joined token, which no longer counts as one of the pair
    for token in tokens:
        if out and not fresh and (out[-1], token) == pair:
            out[-1] += token
            fresh = True
        else:
            out.append(token)
            fresh = False
    return tuple(out)


def train_lists(pieces, merges):
    words, learned = [(list(piece), times) for piece, times in pieces.items()], []
    for _ in range(merges):
        seen = [pair for word, times in words for pair in list(pairwise(word)) * times]
        counts = sorted(Counter(seen).items(), key=lambda item: (-item[1], item[0]))
        if not counts or counts[0][1] == 1:
            return learned
        learned.append(list(counts[0][0]))
        words = [(joined(word, counts[0][0]), times) for word, times in words]
    return learned


def train_incremental(pieces, merges):
    """Corrects the counts of the words that a merge changes, and of no others."""
    words, counts, learned = {piece: list(piece) for piece in pieces}, Counter(), []
    for piece, word in words.items():
        for pair in pairwise(word):
            counts[pair] += pieces[piece]
    while len(learned) < merges and max(counts.values(), default=0) > 1:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append(best)
        for piece, word in words.items():
            if best in pairwise(word):
                counts.subtract(Counter(pairwise(word)) if pieces[piece] == 1 else {})
                if pieces[piece] > 1:
                    counts.subtract({pair: n * pieces[piece] for pair, n in Counter(pairwise(word)).items()})
                words[piece] = joined(word, best)
                for pair in pairwise(words[piece]):
                    counts[pair] += pieces[piece]
    return tuple(learned)


def train_whole(pieces, merges):
    """One long list of tokens with borders between the pieces."""
    tokens = [t for piece, times in pieces.items() for _ in range(times) for t in [*piece, ""]]
    learned = []
    while len(learned) < merges:
        counts = Counter(pair for pair in pairwise(tokens) if "" not in pair)
        best = max(sorted(counts), key=counts.get, default=None)
        if not best or counts[best] < 2:
            break
        learned.append(best)
        tokens = joined(tokens, best)
    return learned


def encode_by_rank(piece, merges):
    ranks, tokens = {pair: rank for rank, pair in enumerate(merges)}, list(piece)
    while known := [pair for pair in pairwise(tokens) if pair in ranks]:
        tokens = joined(tokens, min(known, key=ranks.get))
    return tokens


def encode_one_at_a_time(piece, merges):
    tokens = list(piece)
    while True:
        found = [(merges.index(pair), i) for i, pair in enumerate(pairwise(tokens)) if pair in merges]
        if not found:
            return tokens
        _, i = min(found)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def encode_reduce(piece, merges):
    return tuple(reduce(joined, merges, [*piece]))


RIGHT = {
    "join": [join_in_place, join_iterator, join_stack],
    "train": [train_lists, train_incremental, train_whole],
    "encode": [encode_by_rank, encode_one_at_a_time, encode_reduce],
}
