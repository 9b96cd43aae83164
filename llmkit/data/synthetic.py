"""A made-up language, grown from a seed by integer arithmetic: the same bytes on every Python, for ever.

Nothing here touches `random`, numpy or a float, whose streams may change between versions. The language has
what a small model can learn, in the order in which it learns it: spelling (syllables), word frequencies
(a few words are most of the text), grammar (fixed sentence shapes, a verb that agrees with its noun), topic
(a document keeps to its own words and hero) and a little arithmetic.

    texts = [document.text for document in synthetic(documents=2000, seed=0)]
"""

from __future__ import annotations

from llmkit.data.corpus import Document

MASK = (1 << 64) - 1
CONSONANTS = "b c d f g h k l m n p r s t v w br ch cl dr gr pl sh st th tr".split()
VOWELS = "a e i o u ai ea ou".split()
ENDINGS = ["", "", "", "n", "r", "l", "s", "nt", "rm"]
TOPICS = 16
CURIOSITIES = [  # what a normaliser, a byte fallback or a line-ending conversion would change
    "na\u00efve caf\u00e9 \u2014 d\u00e9j\u00e0 vu",
    "nai\u0308ve cafe\u0301",
    "\u5317\u4eac \u6771\u4eac \uc11c\uc6b8",
    "\U0001f642 \U0001f469\u200d\U0001f52c",
    "tab\tseparated\tline",
    "line one\r\nline two",
    "non\u00a0breaking, trailing  ",
]


class SplitMix:
    """SplitMix64: 64 bits of state, one addition and two multiplications a draw.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """

    def __init__(self, seed: int):
        self.state = seed & MASK

    def below(self, bound: int) -> int:
        """An integer in 0 .. bound-1 (the bias, below bound / 2**64, is of no account here)."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % bound

    def common(self, words: list[str]) -> str:
        """A word, the earlier the likelier: the product of two uniforms leans to 0, somewhat as Zipf does."""
        n = len(words)
        return words[self.below(n) * self.below(n) // n]

    def one(self, words: list[str]) -> str:
        return words[self.below(len(words))]


class Language:
    """Words by part of speech; each topic owns a slice of nouns, verbs and adjectives."""

    def __init__(self, draw: SplitMix):
        seen: set[str] = set()
        self.nouns = [self._word(draw, seen, 2) for _ in range(TOPICS * 14)]
        self.verbs = [self._word(draw, seen, 2) for _ in range(TOPICS * 6)]
        self.adjectives = [self._word(draw, seen, 2) for _ in range(TOPICS * 5)]
        self.names = [self._word(draw, seen, 3).capitalize() for _ in range(40)]
        self.adverbs = [self._word(draw, seen, 2) + "ly" for _ in range(20)]

    @staticmethod
    def _word(draw: SplitMix, seen: set[str], most: int) -> str:
        while True:
            syllables = [draw.one(CONSONANTS) + draw.one(VOWELS) for _ in range(1 + draw.below(most))]
            word = "".join(syllables) + draw.one(ENDINGS)
            if len(word) > 2 and word not in seen:
                seen.add(word)
                return word

    def slice(self, words: list[str], topic: int) -> list[str]:
        size = len(words) // TOPICS
        return words[topic * size : (topic + 1) * size]


class Author:
    """Writes one document: a topic, a hero, and sentences that keep to both."""

    def __init__(self, draw: SplitMix, language: Language):
        self.draw, self.language = draw, language
        topic = draw.below(TOPICS)
        self.nouns = language.slice(language.nouns, topic)
        self.verbs = language.slice(language.verbs, topic)
        self.adjectives = language.slice(language.adjectives, topic)
        self.hero = draw.one(language.names)

    def noun(self) -> str:
        # one noun in eight comes from anywhere
        return self.draw.common(self.nouns if self.draw.below(8) else self.language.nouns)

    def phrase(self) -> tuple[str, bool]:
        """A noun phrase, and whether it is plural: the verb has to agree across the adjective."""
        adjective = self.draw.common(self.adjectives) + " " if self.draw.below(2) else ""
        if self.draw.below(3) == 0:
            return f"two {adjective}{self.noun()}s", True
        return f"the {adjective}{self.noun()}", False

    def sentence(self) -> str:
        draw = self.draw
        kind = draw.below(10)
        if kind == 0:
            a, b = draw.below(20), draw.below(20)
            return f"{a} plus {b} is {a + b}."
        if kind == 1:
            return f"{self.hero} said: {draw.common(self.verbs)} {self.phrase()[0]}!"
        subject, plural = (self.hero, False) if kind < 4 else self.phrase()
        verb = draw.common(self.verbs) + ("" if plural else "s")
        sentence = f"{subject} {verb} {self.phrase()[0]}"
        if draw.below(3) == 0:
            sentence += f" {draw.common(self.language.adverbs)}"
        if draw.below(4) == 0:
            sentence += f" because {self.hero} {draw.common(self.verbs)}s {self.phrase()[0]}"
        return sentence[0].upper() + sentence[1:] + "."

    def document(self) -> str:
        draw = self.draw
        title = f"{draw.common(self.adjectives)} {draw.common(self.nouns)}"
        paragraphs = ["# " + title]
        for _ in range(1 + draw.below(4)):
            paragraphs.append(" ".join(self.sentence() for _ in range(2 + draw.below(6))))
        if draw.below(20) == 0:
            paragraphs.append(draw.one(CURIOSITIES))
        return "\n\n".join(paragraphs)


def synthetic(documents: int = 2000, seed: int = 0) -> list[Document]:
    """`documents` texts of about 500 characters in a language of their own; 0.8 MB and 0.6 s for 2,000.

    The language belongs to the seed, so two seeds share no words: text of another seed is foreign text.
    """
    draw = SplitMix(seed)
    language = Language(draw)
    return [
        Document(i, f"generated/{seed}/{i:06d}", Author(draw, language).document()) for i in range(documents)
    ]
