"""A data set described for others: croissant.json, the JSON-LD of MLCommons, written by hand.

    write_croissant("data/mine", licence="https://spdx.org/licenses/MIT", creator="A. Author")

One cr:FileObject with SHA-256 and size for every file, and a RecordSet with one record per document. The same
data set and the same arguments give the same bytes. Source: Croissant Format Specification 1.1, 2026-01-29,
docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html; the context is that of its reference validator.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data.corpus import MANIFEST
from llmkit.folder import write_whole

if TYPE_CHECKING:
    from llmkit.data.manifest import Manifest

NAME = "croissant.json"
REQUIRED = "@context @type conformsTo description license name url creator datePublished".split()
TERMS = (
    "arrayShape citeAs column equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
).split()
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: {"@id": f"cr:{term}", "@type": "@json"} for term in ("data", "examples")},
    **{term: f"cr:{term}" for term in TERMS},
}
TYPES = {".json": "application/json", ".jsonl": "text/plain"}  # a line is a bare JSON string, not an object


def write_croissant(folder: os.PathLike | str, **given: str | None) -> list[str]:
    """Write croissant.json into a data-set folder.

    Args:
        given: licence, url, creator and published (a date): what the standard requires and no manifest knows.

    Returns:
        Required properties that are still missing.

    Raises:
        DataError, IntegrityError: as reading the manifest does.
        StorageError: it cannot be written.
    """
    from llmkit.data.manifest import read_manifest

    content = croissant(Path(folder), read_manifest(Path(folder)), **given)
    write_whole(Path(folder) / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return [name for name in REQUIRED if name not in content]


def croissant(
    folder: Path,
    manifest: Manifest,
    *,
    licence: str | None = None,
    url: str | None = None,
    creator: str | None = None,
    published: str | None = None,
) -> dict[str, Any]:
    """The JSON-LD as a dict; see `write_croissant`."""
    counts = ", ".join(f"{s.documents:,} {name} ({s.tokens:,} tokens)" for name, s in manifest.splits.items())
    description = (
        f"Documents: {counts}; tokenised with a byte-level BPE of {manifest.vocab_size:,} tokens, packed "
        f"into shards of bare little-endian token ids. Data-set digest {manifest.digest}."
    )
    own = (folder / MANIFEST).read_bytes()
    files = [(MANIFEST, len(own), hashlib.sha256(own).hexdigest())]
    files += [(entry.name, entry.bytes, entry.sha256) for entry in manifest.files()]
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": manifest.name,
        "description": description,
        "identifier": f"sha256:{manifest.digest}",
        "isBasedOn": f"urn:sha256:{manifest.parent}" if manifest.parent else None,
        "license": licence,
        "url": url,
        "creator": {"@type": "sc:Organization", "name": creator} if creator else None,
        "datePublished": published,
        "distribution": [_file(*file) for file in files],
        "recordSet": [_documents(manifest.names.name)],
    }
    return {key: value for key, value in content.items() if value is not None}


def _file(name: str, size: int, sha256: str) -> dict[str, str]:
    kind = TYPES.get(Path(name).suffix, "application/octet-stream")
    described = {"contentUrl": name, "contentSize": f"{size} B", "encodingFormat": kind, "sha256": sha256}
    return {"@type": "cr:FileObject", "@id": name, "name": name, **described}


def _documents(names: str) -> dict[str, Any]:
    """One record per document: its id, and where it came from as a JSON string."""
    parts = (("id", "sc:Integer", "lineNumbers"), ("source", "sc:Text", "lines"))
    fields = [
        {"@type": "cr:Field", "@id": f"documents/{name}", "name": name, "dataType": kind}
        | {"source": {"fileObject": {"@id": names}, "extract": {"fileProperty": part}}}
        for name, kind, part in parts
    ]
    named = {"@type": "cr:RecordSet", "@id": "documents", "name": "documents"}
    return {**named, "key": {"@id": "documents/id"}, "field": fields}
