"""Byte-level BPE: trained by the `tokenizers` library, loaded from tokenizer.json, identified by content.

Every byte is a token, so any text encodes and decodes to itself, bit for bit. The identity of a tokenizer is
the *ordered* vocabulary: two trainers can find the same set of tokens, cut text at the same places, and still
give one token in eleven another number; round trips and token counts pass, and a trained model reads noise.
So `digest` hashes what decides the numbers, in a form that does not change with the library's file format.

    tokenizer = train_tokenizer(texts, vocab_size=512)
    tokenizer.decode(tokenizer.encode("so be it"))      # "so be it"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmkit.errors import ConfigError, IntegrityError

END = "<|end|>"  # between documents; text that spells it is encoded as ordinary characters
END_ID = 0
SMALLEST = 257  # 256 bytes and END


class Tokenizer:
    """A trained byte-level BPE. `text` is its tokenizer.json, `digest` its identity."""

    def __init__(self, text: str):
        from tokenizers import Tokenizer as Library  # 30 ms: only who encodes or decodes pays

        self.text = text
        self._library = Library.from_str(text)
        self._library.encode_special_tokens = True  # not kept in the file: "<|end|>" in a text is no end
        content = json.loads(text)
        self.digest = digest(content)
        self.cuts_at_blanks = content["normalizer"] is None and _is_gpt2(content["pre_tokenizer"])

    @property
    def vocab_size(self) -> int:
        return self._library.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without the end token."""
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, on every core: about 5 MB/s on two. The result does not depend on their number."""
        return [e.ids for e in self._library.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; the end token reads `<|end|>`, a torn character reads U+FFFD."""
        return self._library.decode([int(i) for i in ids], skip_special_tokens=False)

    def __reduce__(self):
        return Tokenizer, (self.text,)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer. Deterministic: ties go to the smaller pair of ids.

    A small corpus can run out of pairs seen twice; the vocabulary is then smaller than asked for.

    Raises:
        ConfigError: a vocabulary too small for the 256 bytes and the end token.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(
            f"a vocabulary of {vocab_size:,} is too small for byte-level BPE",
            expected=f"at least {SMALLEST}: 256 bytes and the end token",
            remedy="raise vocab_size",
        )
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return Tokenizer(library.to_str())


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a data set.

    Raises:
        IntegrityError: the file is missing or is no byte-level BPE.
    """
    try:
        return Tokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises a bare Exception for a malformed file
        raise IntegrityError(
            f"`{path}` is not a tokenizer this kit can read: {error}", remedy="build the data set again"
        ) from error


def _is_gpt2(cut: dict[str, Any] | None) -> bool:
    return bool(cut and cut.get("use_regex"))  # others cut with patterns of their own, or nowhere


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of what decides the ids: tokens in id order, merges in rank order, how text is cut first."""
    model, cut = content["model"], content["pre_tokenizer"]
    if cut and cut["type"] == "ByteLevel":
        cut = [cut["type"], cut["add_prefix_space"], cut["use_regex"]]
    merges = [m.split(" ") if isinstance(m, str) else list(m) for m in model["merges"]]
    canonical = {
        "tokens": sorted(model["vocab"], key=model["vocab"].get),
        "merges": merges,
        "special": [[t["id"], t["content"]] for t in content["added_tokens"]],
        "normalizer": content["normalizer"],
        "cut": cut,
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()
