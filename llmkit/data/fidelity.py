"""Is this the tokenizer it should be? Exact checks against a baseline; none of them can raise a false alarm.

A tokenizer goes wrong in ways that hide from each other: swapped ids pass every round trip, a normaliser that
loses letter case leaves all ids in place, a missing merge changes neither text nor the ids of other tokens.
So each kind of damage has a check of its own, and a flaw says what, where and how many, with an example.

    report = check_tokenizer(tokenizer, documents, baseline=train_tokenizer(texts, 4096))
    report.flaws                        # () or what is wrong, check by check
    print(report.explain())

What the shards and the loader make of the ids is checked in `llmkit.data.alignment`.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest

from llmkit.data.bpe import DRAWN
from llmkit.data.corpus import Document
from llmkit.data.tokenizer import END, END_ID, Tokenizer
from llmkit.errors import DataError

CHECKS = {
    "unknown": "each of the 256 bytes has a token",
    "unreachable": "each token is what its own text encodes to",
    "special": "special tokens are there, and no text is encoded to one",
    "ids": "each token has the baseline's id",
    "merges": "merges are the baseline's, in its order",
    "round trip": "a document, encoded and decoded, is the document",
    "cut": "a document is divided as the baseline divides it",
    "canonical": "ids in the shards are those that their text is encoded to",
    "stored": "shards decode to the texts that were hashed before they were encoded",
    "borders": "end tokens stand where documents end, and nowhere else",
    "labels": "the target of a position is the input of the next",
}
BYTE = {drawn: byte for byte, drawn in DRAWN.items()}
AT_ONCE = 256  # documents in memory


@dataclass(frozen=True)
class Flaw:
    """What one check found: how many, and the first of them."""

    check: str  # a key of CHECKS
    where: str  # "token 97", "document 12 (sympy/core/add.py:Add)", "step 0, row 3, column 5"
    says: str  # what is wrong there
    count: int  # how many are wrong
    of: int  # of how many that were looked at


class Notes:
    """Flaws under way: the first of each check in full, the others counted."""

    def __init__(self):
        self.looked: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.first: dict[str, tuple[str, str]] = {}

    def note(self, check: str, where: str, says: str, many: int = 1) -> None:
        self.wrong[check] += many
        self.first.setdefault(check, (where, says))

    def flaws(self) -> tuple[Flaw, ...]:
        """In the order of CHECKS."""
        return tuple(
            Flaw(
                check=c, where=self.first[c][0], says=self.first[c][1], count=self.wrong[c], of=self.looked[c]
            )
            for c in CHECKS
            if self.wrong[c]
        )


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The report. Distances are total variations, 0 to 1, between the tokens of both tokenizers on the same
    documents, so they have no sampling noise."""

    digest: str  # of the tokenizer; it covers the ordered vocabulary, merges, special tokens and the cut
    baseline: str | None  # the baseline's
    vocab_size: int
    fertility: dict[str, dict[str, int]]  # documents, bytes, words, tokens, baseline_tokens: of "all", and by
    # source, which is the first part of the documents' names; a word is what stands between white space
    id_distance: float | None  # over ids: what a model reads
    spelling_distance: float | None  # over the bytes that tokens stand for, whatever their ids
    longest: list[str]  # the ten longest tokens, as Python writes them
    unused: list[str]  # tokens that none of these documents contains
    checked: dict[str, int]  # check -> things looked at; a check that is not here was not made
    flaws: tuple[Flaw, ...]

    @property
    def healthy(self) -> bool:
        return not self.flaws

    def explain(self) -> str:
        """One line a check: silent ones too, because a check that was not made has no line."""
        wrong = {f.check: f"{f.count:,} wrong, first {f.where}: {f.says}" for f in self.flaws}
        return "\n".join(
            f"{'FLAW' if c in wrong else 'fine'}  {c:11}  {self.checked[c]:>9,}  {wrong.get(c, says)}"
            for c, says in CHECKS.items()
            if c in self.checked
        )


class Vocabulary:
    """What a tokenizer.json says, in comparable form. Tokens are drawn as in the file: `Ġthe` for " the".

    Raises:
        DataError: no byte-level BPE.
    """

    def __init__(self, tokenizer: Tokenizer):
        content = json.loads(tokenizer.text)
        added = content["added_tokens"]
        self.special = {t["content"]: t["id"] for t in added if t["special"]}
        self.ids = content["model"]["vocab"] | {t["content"]: t["id"] for t in added}
        self.drawn = {token: name for name, token in self.ids.items()}
        self.plain = {name: token for name, token in self.ids.items() if name not in self.special}
        self.merges = [m.split(" ") if isinstance(m, str) else m for m in content["model"]["merges"]]
        if odd := [name for name in self.plain if not set(name) <= BYTE.keys()]:
            raise DataError(
                f"token `{odd[0]}` does not stand for bytes",
                expected="a byte-level BPE, as GPT-2, Llama 3 and this kit have it",
            )


def spelt(drawn: str) -> bytes:
    """The bytes of a drawn token.

    >>> spelt("Ġthe")
    b' the'
    """
    return bytes(BYTE[c] for c in drawn) if set(drawn) <= BYTE.keys() else drawn.encode()


def written(drawn: str) -> str:
    """A drawn token as Python writes its text."""
    return repr(spelt(drawn).decode(errors="replace"))


def check_vocabulary(notes: Notes, tokenizer: Tokenizer, mine: Vocabulary) -> None:
    """Bytes without a token, tokens that no text gives, special tokens that a text can forge."""
    notes.looked["unknown"] += len(DRAWN)
    for byte, name in DRAWN.items():
        if name not in mine.ids:
            notes.note("unknown", f"byte 0x{byte:02x}", f"{bytes([byte])} has no token, so text loses it")
    texts = {token: spelt(name).decode(errors="replace") for name, token in mine.plain.items()}
    whole = {
        token: text for token, text in texts.items() if "\ufffd" not in text
    }  # others are torn characters
    notes.looked["unreachable"] += len(whole)
    for (token, text), ids in zip(whole.items(), tokenizer.encode_batch(list(whole.values())), strict=True):
        if ids != [token]:
            notes.note("unreachable", f"token {token}", f"{text!r} is encoded to {ids}")
    notes.looked["special"] += 1 + len(mine.special)
    if mine.special.get(END) != END_ID:
        notes.note("special", f"token {END_ID}", f"{END} is not special token {END_ID}")
    for name, token in mine.special.items():
        if token in tokenizer.encode(name):
            notes.note("special", f"token {token}", f"text that spells {name} is encoded to it")


def compare_vocabularies(notes: Notes, mine: Vocabulary, theirs: Vocabulary) -> None:
    """Ids, merges and special tokens against the baseline's."""
    notes.looked["ids"] += len(theirs.plain)
    for name, token in sorted(theirs.plain.items(), key=lambda item: item[1]):
        if (found := mine.ids.get(name)) != token:
            has = "is missing" if found is None else f"has id {found}"
            notes.note("ids", f"token {token}", f"{written(name)} {has}")
    for rank, (a, b) in enumerate(zip_longest(mine.merges, theirs.merges)):
        notes.looked["merges"] += 1
        if a != b:
            a, b = (" + ".join(map(written, pair)) if pair else "none" for pair in (a, b))
            notes.note("merges", f"rank {rank}", f"{a}, and the baseline's is {b}")
    notes.looked["special"] += len(theirs.special)
    for name, token in theirs.special.items():
        if mine.special.get(name) != token:
            notes.note("special", f"token {token}", f"{name} is not this special token, as in the baseline")


KINDS: dict[str, Callable[[str], str]] = {
    "letter case": str.lower,
    "the Unicode form": lambda text: unicodedata.normalize("NFKC", text),
    "white space": lambda text: "".join(text.split()),
}


def lost(text: str, back: str) -> str:
    """What a round trip lost, and the first place where it shows."""
    kind = next((k for k, same in KINDS.items() if same(text) == same(back)), "text")
    at = next(i for i, (a, b) in enumerate(zip_longest(text, back)) if a != b)
    return f"loses {kind}: {text[at : at + 20]!r} becomes {back[at : at + 20]!r}"


def name_of(document: Document) -> str:
    return f"document {document.id} ({document.source})"


def distance(one: dict[object, int], two: dict[object, int]) -> float:
    """Total variation of two distributions given as counts: half the sum of |p - q|."""
    p, q = max(1, sum(one.values())), max(1, sum(two.values()))
    return sum(abs(one.get(key, 0) / p - two.get(key, 0) / q) for key in one.keys() | two.keys()) / 2


def check_tokenizer(
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    baseline: Tokenizer | None = None,
    notes: Notes | None = None,
) -> Fidelity:
    """All checks that need no shards. Documents are read once, a few hundred in memory; about 1 MB/s.

    Args:
        baseline: what the tokenizer should equal; without one, `ids`, `merges` and `cut` are not checked.
        notes: what other checks found, to be in the report too.

    Raises:
        DataError: a tokenizer that is no byte-level BPE.
    """
    notes = notes if notes is not None else Notes()
    mine, theirs = Vocabulary(tokenizer), Vocabulary(baseline or tokenizer)
    check_vocabulary(notes, tokenizer, mine)
    if baseline:
        compare_vocabularies(notes, mine, theirs)
    counts: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    fertility: dict[str, Counter[str]] = {"all": Counter()}
    documents = iter(documents)
    while chunk := list(islice(documents, AT_ONCE)):
        texts = [d.text for d in chunk]
        encoded = tokenizer.encode_batch(texts)
        others = baseline.encode_batch(texts) if baseline else encoded
        for document, ids, other in zip(chunk, encoded, others, strict=True):
            for source in ("all", document.source.partition("/")[0]):
                row = fertility.setdefault(source, Counter(documents=0))
                row.update(documents=1, tokens=len(ids), baseline_tokens=len(other) if baseline else 0)
                row.update(bytes=len(document.text.encode()), words=len(document.text.split()))
            counts[0].update(ids)
            counts[1].update(other)
            notes.looked["round trip"] += 1
            if (back := tokenizer.decode(ids)) != document.text:
                notes.note("round trip", name_of(document), lost(document.text, back))
            notes.looked["cut"] += bool(baseline)
            if baseline and [mine.drawn[i] for i in ids] != [theirs.drawn[i] for i in other]:
                says = f"is {len(ids):,} tokens, and {len(other):,} by the baseline"
                notes.note("cut", name_of(document), says)
    spellings = [{v.drawn[i]: n for i, n in c.items()} for v, c in zip((mine, theirs), counts, strict=True)]
    return Fidelity(
        digest=tokenizer.digest,
        baseline=baseline.digest if baseline else None,
        vocab_size=len(mine.ids),
        fertility=fertility,
        id_distance=distance(*counts) if baseline else None,
        spelling_distance=distance(*spellings) if baseline else None,
        longest=[written(name) for name in sorted(mine.plain, key=lambda t: (-len(t), t))[:10]],
        unused=[written(name) for name, token in mine.plain.items() if token not in counts[0]],
        checked=dict(+notes.looked),
        flaws=notes.flaws(),
    )
