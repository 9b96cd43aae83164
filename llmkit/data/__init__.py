"""Text in, verified token shards out; and batches that are a pure function of the step.

from llmkit.data import Loader, open_dataset

loader = Loader(open_dataset("generated"), batch=8, context=64, seed=0)
batch = loader.batch(0)
"""

from __future__ import annotations

from llmkit.data.audit import Audit, RunAudit, audit
from llmkit.data.building import build
from llmkit.data.checking import Damage, examine, verify
from llmkit.data.corpus import Document
from llmkit.data.croissant import write_croissant
from llmkit.data.dataset import TokenDataset, describe
from llmkit.data.library import embedded, generated, open_dataset
from llmkit.data.loader import Batch, Loader, Skip, Trace
from llmkit.data.pins import Pin, pin, read_pins
from llmkit.data.reading import iter_documents, read_documents
from llmkit.data.served import row_sums, served_digest
from llmkit.data.shards import TokenStream
from llmkit.data.tokenizer import Tokenizer
from llmkit.data.versions import Diff, diff

__all__ = [
    "Audit",
    "Batch",
    "Damage",
    "Diff",
    "Document",
    "Loader",
    "Pin",
    "RunAudit",
    "Skip",
    "TokenDataset",
    "TokenStream",
    "Tokenizer",
    "Trace",
    "audit",
    "build",
    "describe",
    "diff",
    "embedded",
    "examine",
    "generated",
    "iter_documents",
    "open_dataset",
    "pin",
    "read_documents",
    "read_pins",
    "row_sums",
    "served_digest",
    "verify",
    "write_croissant",
]
