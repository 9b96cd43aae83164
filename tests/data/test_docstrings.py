"""Protects: docstrings are those of the wheels' files, checked against RECORD, and cleaned as PEP 257 says.

python -m pytest tests/data/test_docstrings.py
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import sys

import pytest

import llmkit.data.docstrings as room
from llmkit.data.corpus import text_digest
from llmkit.data.docstrings import clean, docstrings, package_files, package_versions, scopes
from llmkit.errors import IntegrityError, MissingDependency

LONG = "This sentence is long enough to be worth training on. " * 5

SOURCE = f'''
"""{LONG}module"""
import os

class Outer:
    """{LONG}class"""

    def method(self):
        """{LONG}method

            indented
        """
        def inner():
            "{LONG}inner"

    async def waits(self):
        """{LONG}async"""

if os.name == "posix":
    def guarded():
        """{LONG}guarded"""
else:
    try:
        pass
    except OSError:
        def handled():
            """{LONG}handled"""

def short():
    """Too short."""

def repeated():
    """{LONG}class"""

def none():
    x = """{LONG}no docstring"""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `llmkit_sample` with a RECORD, alone in the list of sources."""
    files = {
        "llmkit_sample/b.py": SOURCE.encode(),
        "llmkit_sample/__init__.py": f'"""{LONG}first"""'.encode(),
        "llmkit_sample/tests/test_b.py": f'"""{LONG}a test"""'.encode(),
        "llmkit_sample/old.py": b'print "python 2"',
        "llmkit_sample/data.txt": b"no source",
        "other.py": f'"""{LONG}other"""'.encode(),
    }
    record = ""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={sha256},{len(content)}\n"
    info = tmp_path / "llmkit_sample-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llmkit_sample\nVersion: 1.5\n")
    (info / "RECORD").write_text(record + "llmkit_sample-1.5.dist-info/RECORD,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(room, "PACKAGES", {"llmkit_sample": "1.5"})
    return tmp_path


def test_long_docstrings_of_every_scope_are_found_in_file_order(package):
    documents, sources = docstrings()
    assert [(d.source, d.text.removeprefix(LONG).split("\n")[0]) for d in documents] == [
        ("llmkit_sample/__init__.py", "first"),
        ("llmkit_sample/b.py", "module"),
        ("llmkit_sample/b.py:Outer", "class"),
        ("llmkit_sample/b.py:Outer.method", "method"),
        ("llmkit_sample/b.py:Outer.method.inner", "inner"),
        ("llmkit_sample/b.py:Outer.waits", "async"),
        ("llmkit_sample/b.py:guarded", "guarded"),
        ("llmkit_sample/b.py:handled", "handled"),
    ]
    assert [d.id for d in documents] == list(range(8))
    assert sources == {
        "packages": {
            "llmkit_sample": {
                "version": "1.5",
                "files": 3,
                "bytes": sum(
                    (package / "llmkit_sample" / f).stat().st_size for f in ("__init__.py", "b.py", "old.py")
                ),
                "record": "verified",
                "documents": 8,
            }
        },
        "shortest": 200,
        "unparsed": ["llmkit_sample/old.py"],
    }


def test_packages_are_read_and_never_imported(package):
    docstrings()
    assert "llmkit_sample" not in sys.modules


def test_a_file_that_was_changed_after_installation_is_refused(package):
    path = package / "llmkit_sample" / "b.py"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(IntegrityError) as error:
        docstrings()
    assert str(error.value) == (
        f"`{path}` was changed after it was installed: its SHA-256 is not the one in RECORD\n"
        "  remedy: pip install --force-reinstall --no-deps llmkit_sample==1.5"
    )


def test_a_missing_file_is_refused(package):
    path = package / "llmkit_sample" / "b.py"
    path.unlink()
    with pytest.raises(IntegrityError) as error:
        docstrings()
    assert str(error.value) == (
        f"`{path}` is missing\n  remedy: pip install --force-reinstall --no-deps llmkit_sample==1.5"
    )


def test_without_a_record_the_text_is_the_same_and_the_manifest_says_so(package):
    documents, _ = docstrings()
    (package / "llmkit_sample-1.5.dist-info" / "RECORD").unlink()
    unchecked, sources = docstrings()
    assert unchecked == documents
    assert sources["packages"]["llmkit_sample"]["record"] == "absent"


def test_a_package_without_its_sources_is_refused(package):
    (package / "llmkit_sample-1.5.dist-info" / "RECORD").write_text("llmkit_sample.pth,,\n")
    (package / "llmkit_sample").rename(package / "elsewhere")
    with pytest.raises(IntegrityError) as error:
        docstrings()
    assert str(error.value) == (
        f"`llmkit_sample` is installed without its sources in `{package / 'llmkit_sample'}`\n"
        "  remedy: pip install --force-reinstall --no-deps llmkit_sample==1.5"
    )


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(room, "PACKAGES", {"llmkit_nowhere": "2.0"})
    with pytest.raises(MissingDependency) as error:
        package_versions()
    assert str(error.value) == (
        "`llmkit_nowhere` is not installed, and its docstrings are part of the data set\n"
        "  remedy: pip install llmkit_nowhere==2.0"
    )


def test_invalid_escapes_in_old_sources_are_no_warning():
    source = f'def f():\n    """{LONG} \\d and \\lambda"""\n'.encode()
    ((name, text),) = scopes(source)
    assert name == "f" and text.endswith("\\d and \\lambda")


@pytest.mark.parametrize(
    "raw",
    [
        "one line",
        "  first\n    second\n      third\n    ",
        "\n    starts below\n\n    and goes on\n",
        "tab\n\tindented\n\t\ttwice",
        "",
        "\n\n",
    ],
)
def test_cleaning_agrees_with_the_standard_library_on_spaces_and_tabs(raw):
    expected = [line.rstrip(" ") for line in inspect.cleandoc(raw).split("\n")]
    assert clean(raw).split("\n") == expected


def test_white_space_that_pythons_disagree_on_is_kept():
    assert clean("a\n\u00a0   b\n    \x0cc") == "a\n\u00a0   b\n    \x0cc"
    assert clean("\x0c") == "\x0c"


def test_networkx_and_jinja2_are_installed_as_locked_and_vouched_for():
    for package in ("networkx", "jinja2"):
        files, checked = package_files(package)
        assert checked and len(files) >= 25
    assert package_versions() == room.PACKAGES


def test_the_docstrings_of_jinja2_have_the_same_bytes_on_every_python(monkeypatch):
    monkeypatch.setattr(room, "PACKAGES", {"jinja2": "3.1.6"})
    documents, _ = docstrings()
    assert (len(documents), text_digest(documents)[:16]) == (159, "889375073681ecea")
