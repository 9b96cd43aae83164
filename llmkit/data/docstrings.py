"""English and mathematics that are already on the machine: the docstrings of packages torch itself installs.

The packages are read, never imported: files are listed by their wheel's RECORD, each is checked against the
SHA-256 there, and docstrings are taken from the syntax tree. So two machines with the same package versions
hold the same text, to the byte, on every Python this kit runs on.

    documents, sources = docstrings()       # 6,940 documents, 6.5 MB; sources goes into the manifest
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import warnings
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from llmkit.data.corpus import Document
from llmkit.errors import IntegrityError, MissingDependency

PACKAGES = {"sympy": "1.14.0", "networkx": "3.6.1", "jinja2": "3.1.6"}  # the versions in the lock file
SHORTEST = 200  # characters; what is shorter is 46 % of the docstrings and 6 % of their text
SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # where a statement can hold further statements


def docstrings() -> tuple[list[Document], dict[str, Any]]:
    """Module, class and function docstrings of 200 characters or more; of equal ones the first is kept.

    Order: packages as listed above, files by name, scopes as they stand in the file. Folders named `tests`
    are left out. A file that this Python cannot parse is named in the sources. About 7 s, nearly all parsing.

    Raises:
        MissingDependency: a package is not installed.
        IntegrityError: a file is not the one its wheel brought, or there are none.
    """
    documents: list[Document] = []
    packages, unparsed, seen = {}, [], set()
    for package in PACKAGES:
        before, size = len(documents), 0
        files, checked = package_files(package)
        for name, content in files:
            size += len(content)
            try:
                found = list(scopes(content))
            except SyntaxError:
                unparsed.append(name)
                continue
            for scope, text in found:
                if len(text) >= SHORTEST and text not in seen:
                    seen.add(text)
                    documents.append(Document(len(documents), f"{name}:{scope}" if scope else name, text))
        packages[package] = {
            "version": distribution(package).version,
            "files": len(files),
            "bytes": size,
            "record": "verified" if checked else "absent",
            "documents": len(documents) - before,
        }
    return documents, {"packages": packages, "shortest": SHORTEST, "unparsed": unparsed}


def package_versions() -> dict[str, str]:
    """Installed version of each source package.

    Raises:
        MissingDependency: one is not installed.
    """
    return {package: installed(package).version for package in PACKAGES}


def installed(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError:
        raise MissingDependency(
            f"`{package}` is not installed, and its docstrings are part of the data set",
            remedy=f"pip install {package}=={PACKAGES[package]}",
        ) from None


def package_files(package: str) -> tuple[list[tuple[str, bytes]], bool]:
    """Names and contents of a package's .py files outside `tests`; and whether a RECORD vouched for them.

    Raises:
        IntegrityError: a file is missing or has another SHA-256 than RECORD says.
    """
    home = installed(package)
    # not `home.files`: since Python 3.12 that leaves out files that are missing, and they would go unnoticed
    listed = sorted(
        row for row in csv.reader((home.read_text("RECORD") or "").splitlines()) if wanted(row[0], package)
    )
    if listed and all(sha256.startswith("sha256=") for _, sha256, _ in listed):
        paths = [(name, Path(home.locate_file(name)), sha256[7:]) for name, sha256, _ in listed]
        return [(name, checked(package, path, sha256)) for name, path, sha256 in paths], True
    # a distributor's package without a RECORD: the same files, unchecked
    root = Path(home.locate_file(package))
    found = {path.relative_to(root.parent).as_posix(): path for path in root.rglob("*.py")}
    if not found:
        raise IntegrityError(
            f"`{package}` is installed without its sources in `{root}`", remedy=reinstall(package)
        )
    return [(name, found[name].read_bytes()) for name in sorted(found) if wanted(name, package)], False


def reinstall(package: str) -> str:
    return f"pip install --force-reinstall --no-deps {package}=={PACKAGES[package]}"


def wanted(name: str, package: str) -> bool:
    """Whether an installed file is source of the package itself, tests left out."""
    first, *parts = name.split("/")
    return first == package and name.endswith(".py") and "tests" not in parts


def checked(package: str, path: Path, sha256: str) -> bytes:
    """The bytes of a file whose SHA-256 is known in RECORD's spelling: URL-safe base 64 without padding."""
    remedy = reinstall(package)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"`{path}` is missing", remedy=remedy) from None
    found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    if found != sha256:
        raise IntegrityError(
            f"`{path}` was changed after it was installed: its SHA-256 is not the one in RECORD",
            remedy=remedy,
        )
    return content


def scopes(content: bytes) -> Iterator[tuple[str, str]]:
    """Dotted name ("" for the module) and cleaned docstring of every scope that has one, in file order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old docstrings; the text is the same
        tree = ast.parse(content)
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, SCOPES):
            name = f"{name}.{node.name}".lstrip(".") if not isinstance(node, ast.Module) else ""
            if raw := ast.get_docstring(node, clean=False):
                yield name, clean(raw)
        children = [child for block in BLOCKS for child in getattr(node, block, ())]
        stack.extend((name, child) for child in reversed(children))


def clean(raw: str) -> str:
    """A docstring without the indentation of its code, as PEP 257 says.

    Not `inspect.cleandoc`: what that takes for white space changed in Python 3.13, and 3.13 removes the
    indentation when it compiles (not when it parses). Here a tab is eight columns and only a space is blank.
    """
    first, *rest = raw.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip(" ")), default=0)
    lines = [first.lstrip(" "), *(line[margin:] for line in rest)]
    return "\n".join(line.rstrip(" ") for line in lines).strip("\n")
