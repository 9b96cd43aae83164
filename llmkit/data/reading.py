"""Your own text: .txt (one document a file), .jsonl (one a line), .parquet (one a row).

documents = read_documents(["notes/", "answers.jsonl"])
build(documents, "data/mine", vocab_size=4096, name="mine", sources={"paths": ["notes/", "answers.jsonl"]})
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmkit.data.corpus import Document
from llmkit.errors import DataError, MissingDependency

KINDS = (".jsonl", ".parquet", ".txt")


def read_documents(paths: Iterable[os.PathLike | str], field: str = "text") -> list[Document]:
    """Documents of files and folders, in the order of `paths`; of a folder, all files below it by name.

    Texts of nothing but white space are left out, as are hidden files and files of other kinds in a folder;
    a file of another kind is refused when it is named. `source` is the file, with `:line` or `#row`.

    Args:
        field: name of the text field in .jsonl and of the text column in .parquet.

    Raises:
        DataError: a path that does not exist, a file of another kind, or one that is malformed (named with
            its line); no text at all.
        MissingDependency: .parquet without pyarrow.
    """
    paths = [Path(path) for path in paths]
    readers = {".txt": read_txt, ".jsonl": read_jsonl, ".parquet": read_parquet}
    texts: list[tuple[str, str]] = []
    for file in (file for path in paths for file in files_of(path)):
        texts += [
            (source, text) for source, text in readers[file.suffix.lower()](file, field) if text.strip()
        ]
    if not texts:
        raise DataError(
            "no text in " + (", ".join(f"`{path}`" for path in paths) or "no paths"),
            expected="at least one .txt, .jsonl or .parquet file with text in it",
        )
    return [Document(i, source, text) for i, (source, text) in enumerate(texts)]


def files_of(path: Path) -> list[Path]:
    """A file, or the readable files below a folder sorted by name."""
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in KINDS and p.is_file()]
        hidden = [p for p in found if any(part.startswith(".") for part in p.relative_to(path).parts)]
        return sorted(set(found) - set(hidden), key=Path.as_posix)
    if not path.exists():
        raise DataError(f"no file or folder `{path}`")
    if path.suffix.lower() not in KINDS:
        raise DataError(f"cannot read `{path}`", expected="a .txt, .jsonl or .parquet file")
    return [path]


def read_txt(path: Path, field: str) -> Iterator[tuple[str, str]]:
    yield str(path), decoded(path, path.read_bytes())


def read_jsonl(path: Path, field: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            content = json.loads(decoded(where, line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"`{where}` is not JSON: {error.msg.lower()} at column {error.colno}",
                expected=f'a line such as {{"{field}": "..."}}',
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get(field), str):
            raise DataError(f"`{where}` has no text", expected=f'a line such as {{"{field}": "..."}}')
        yield where, content[field]


def read_parquet(path: Path, field: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(
            f"reading `{path}` needs pyarrow, which is not installed", remedy='pip install "llmkit[parquet]"'
        ) from error
    try:
        file = parquet.ParquetFile(path)
        names, row = file.schema_arrow.names, 0
        if field not in names:
            raise DataError(
                f"`{path}` has no column `{field}`",
                expected="one of its columns: " + ", ".join(f"`{name}`" for name in names),
            )
        for group in file.iter_batches(columns=[field]):
            for text in group.column(0).to_pylist():
                if not isinstance(text, str):
                    raise DataError(f"`{path}#{row}` has no text", expected=f"a string in column `{field}`")
                yield f"{path}#{row}", text
                row += 1
    except pyarrow.ArrowException as error:
        raise DataError(f"`{path}` is not a Parquet file: {str(error).splitlines()[0].lower()}") from error


def decoded(where: os.PathLike | str, content: bytes) -> str:
    """UTF-8 text; a byte order mark at the start is dropped."""
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"`{where}` is not UTF-8 text: byte {error.start:,} is 0x{content[error.start]:02x}",
            remedy="convert it, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error
