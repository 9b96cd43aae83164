"""Byte-level BPE written out: a trainer and an encoder to read, equal to the `tokenizers` library id for id.

Text is cut into pieces with GPT-2's pattern, a piece becomes its UTF-8 bytes, and training joins the most
frequent pair of neighbours again and again. Encoding joins in the order in which training did. Nothing of the
library is used here, so that agreement with it says something: merges, vocabulary and ids are all equal.

    bpe = train(["low lower lowest"] * 2, vocab_size=260)
    [bpe.tokens[i] for i in bpe.encode("lower")]        # [b"low", b"er"]

On one thread it is as fast as the library, because text repeats its pieces and each is worked out once; the
library uses every core and bounded memory, so the kit builds data sets with that (`llmkit.data.tokenizer`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import groupby, pairwise
from math import inf

from llmkit.data.tokenizer import END, SMALLEST
from llmkit.errors import ConfigError

Pair = tuple[int, int]  # ids of two neighbouring tokens

# Radford et al. 2019 (openai/gpt-2, encoder.py). L and N stand for the Unicode categories of letters and
# numbers, S for white space.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[L]+| ?[N]+| ?[^SLN]+|[S]+(?![^S])|[S]+"
WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # property White_Space

# A byte is drawn as one visible character: itself if it has a picture of its own, else 256 and up.
VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [b for b in range(256) if b not in VISIBLE]
DRAWN = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + n) for n, byte in enumerate(HIDDEN)}
BYTES = [*VISIBLE, *HIDDEN]  # in the order of their ids, which is that of the characters they are drawn as
BYTE_ID = {byte: 1 + n for n, byte in enumerate(BYTES)}  # 0 is the end token


@cache
def pattern() -> re.Pattern[str]:
    """GPT-2's pattern for Python's `re`, which knows no categories: they are spelt out as ranges.

    So this file needs no package (`regex` would be one more dependency), and it depends on the Unicode tables
    of this Python: a character that they call unassigned and the library's tables a letter is cut otherwise.
    """
    ranges: dict[str, str] = defaultdict(str)
    for kind, run in groupby(range(0x110000), key=lambda c: unicodedata.category(chr(c))[0]):
        first, *rest = run
        ranges[kind] += f"{chr(first)}-{chr(rest[-1] if rest else first)}"
    return re.compile(re.sub("[LNS]", lambda m: (ranges | {"S": WHITE})[m[0]], GPT2))


def cut(text: str) -> list[str]:
    """The pieces of a text: a merge never crosses from one into the next. Joined they are the text.

    >>> cut("It's  12 o'clock")
    ['It', "'s", ' ', ' 12', ' o', "'", 'clock']
    """
    return pattern().findall(text)


def join(word: list[int], pair: Pair, new: int) -> list[int]:
    """A word with every occurrence of the pair replaced by `new`, from left to right."""
    joined, i = [], 0
    while i < len(word):
        met = i + 1 < len(word) and (word[i], word[i + 1]) == pair
        joined.append(new if met else word[i])
        i += 1 + met
    return joined


class BPE:
    """A vocabulary and the order of its merges.

    Attributes:
        tokens: bytes of each id; those of the end token, id 0, are its name and are never met in a text.
        merges: pair of ids -> id of the token that it becomes, first merge first.
    """

    def __init__(self, tokens: list[bytes], merges: dict[Pair, int]):
        self.tokens, self.merges = tokens, merges
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A piece is worked out once: text repeats itself."""
        return [token for piece in cut(text) for token in self._known.get(piece) or self._encode(piece)]

    def _encode(self, piece: str) -> list[int]:
        word = [BYTE_ID[byte] for byte in piece.encode()]
        while len(word) > 1:
            first = min(pairwise(word), key=lambda pair: self.ranks.get(pair, inf))
            if first not in self.ranks:
                break
            word = join(word, first, self.merges[first])
        return self._known.setdefault(piece, word)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; a torn character reads U+FFFD."""
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")

    def to_json(self) -> str:
        """As a tokenizer.json, so that `Tokenizer(bpe.to_json())` is this one, with the library's speed."""
        drawn = [END, *("".join(DRAWN[byte] for byte in token) for token in self.tokens[1:])]
        cutter = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {"vocab": {name: i for i, name in enumerate(drawn)}, "type": "BPE"}
        model["merges"] = [[drawn[a], drawn[b]] for a, b in self.merges]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": 0, "content": END, "special": True, **flags}]
        whole = {"added_tokens": added, "normalizer": None, "post_processor": None, "model": model}
        return json.dumps(whole | {"pre_tokenizer": cutter, "decoder": cutter})


def train(texts: Iterable[str], vocab_size: int) -> BPE:
    """Join the most frequent pair until the vocabulary is full, or no pair occurs twice.

    Of equally frequent pairs the one with the smaller ids is joined first. Pairs are counted once, and a
    merge corrects the counts in the words it is met in (Sennrich et al. 2016, arXiv 1508.07909). No token is
    made twice: bytes whose two ends no merge has crossed are divided in the same way wherever they stand.

    Raises:
        ConfigError: a vocabulary too small for the 256 bytes and the end token.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(f"a vocabulary of {vocab_size:,} is too small", expected=f"at least {SMALLEST}")
    pieces = Counter(piece for text in texts for piece in cut(text))
    words = [[BYTE_ID[byte] for byte in piece.encode()] for piece in pieces]
    times = list(pieces.values())
    counts: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)  # the words that a pair was seen in
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            places[pair].add(w)
    tokens = [END.encode(), *(bytes([byte]) for byte in BYTES)]
    merges: dict[Pair, int] = {}
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)
    while heap and len(tokens) < vocab_size:
        count, pair = heappop(heap)
        if -count != counts[pair]:  # it lost occurrences to other merges: back in line with what is left
            heappush(heap, (-counts[pair], pair))
            continue
        if -count < 2:
            break
        new = merges[pair] = len(tokens)
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        made = set()
        for w in places.pop(pair):
            for other in pairwise(words[w]):
                counts[other] -= times[w]
            words[w] = join(words[w], pair, new)
            for other in pairwise(words[w]):
                counts[other] += times[w]
                if new in other:
                    places[other].add(w)
                    made.add(other)
        for other in made:
            heappush(heap, (-counts[other], other))
    return BPE(tokens, merges)
