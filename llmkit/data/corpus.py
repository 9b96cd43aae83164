"""A document: one text with a name, the unit everything in this room is counted and traced in.

Ids are 0, 1, 2, ... in a fixed order, and they survive packing: any training position can be traced back to
the id, and the id to the file and the function the text came from.

    documents = docstrings()
    documents[0].source         # "sympy/__init__.py"
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

MANIFEST = "manifest.json"  # the file that makes a folder a data set
FORMAT = 2  # version of the files in it


@dataclass(frozen=True)
class Document:
    """One text. `source` says where it came from, in a form a person can open."""

    id: int
    source: str
    text: str


class TextDigest:
    """SHA-256 over sources and texts in order, each preceded by its length, so that no two lists collide.

    It depends on the text alone: not on the tokenizer, its version, or the vocabulary size.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, source: str, text: bytes) -> None:
        """One more document, its text in UTF-8. A file name that is no Unicode counts with its bytes."""
        for part in (source.encode("utf-8", "surrogatepass"), text):
            self._digest.update(len(part).to_bytes(8, "little"))
            self._digest.update(part)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def text_digest(documents: Iterable[Document]) -> str:
    """The `TextDigest` of documents that are at hand."""
    digest = TextDigest()
    for document in documents:
        digest.add(document.source, document.text.encode())
    return digest.hexdigest()
