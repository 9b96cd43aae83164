"""Protects docs/run-folder.md: it names every field and event that the code writes, and no other.

pytest tests/house/test_run_folder_docs.py
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from llmkit import folder, records
from llmkit.observe.nonfinite import Site
from llmkit.train import ModelConfig, RunConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "run-folder.md").read_text()

DATACLASSES = [c for c in vars(records).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]


def rows(title: str) -> list[list[str]]:
    """Cells of the first table after a `### title`, without its head."""
    section = TEXT.split(f"\n### {title}\n", 1)[1].split("\n#", 1)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:2] == "| "
    ][1:]


def spelled(data: ast.AST | None) -> set[str]:
    """Keys of a dict that is written out."""
    return (
        {k.value for k in data.keys if isinstance(k, ast.Constant)} if isinstance(data, ast.Dict) else set()
    )


def told() -> dict[str, set[str]]:
    """Kind of event -> keys of its data, from every call in llmkit/ that spells them out."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "llmkit").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            keywords = {k.arg: k.value for k in call.keywords if k.arg}
            if name == "tell" and call.args:
                kind, keys = call.args[0], {k for k in keywords if k != "says"}
            elif name == "Event" and "kind" in keywords:
                kind, keys = keywords["kind"], spelled(keywords.get("data"))
            elif name == "_alarm" and len(call.args) == 2:
                kind, keys = ast.Constant("alarm"), spelled(call.args[1])
            else:
                continue
            if isinstance(kind, ast.Constant):
                found.setdefault(kind.value, set()).update(keys)
    return found


@pytest.mark.parametrize("kind", [*DATACLASSES, RunConfig, ModelConfig], ids=lambda c: c.__name__)
def test_every_field_has_its_row_and_every_row_its_field(kind):
    assert [row[0] for row in rows(f"`{kind.__name__}`")] == [f"`{f.name}`" for f in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", [*DATACLASSES, RunConfig], ids=lambda c: c.__name__)
def test_a_field_without_a_default_is_shown_without_one(kind):
    required = {
        f"`{f.name}`"
        for f in dataclasses.fields(kind)
        if f.default is f.default_factory is dataclasses.MISSING
    }
    shown = {
        row[0] for row in rows(f"`{kind.__name__}`") if re.search(r", (0|1\.0|false|`\"\w*\"`)$", row[1])
    }
    assert not required & shown


def test_every_log_has_its_section():
    assert [f"\n## {name}.jsonl\n" in TEXT for name in folder.LOGS] == [True] * len(folder.LOGS)


def test_every_event_that_is_told_is_described_with_its_data():
    described = {kind.strip("`"): data for kind, _, data in rows("Kinds of event")}
    assert {kind for kind in told() if kind not in described} == set()
    assert {
        f"{kind}: {key}" for kind, keys in told().items() for key in keys if f"`{key}`" not in described[kind]
    } == set()


def test_the_first_non_finite_site_is_described_whole():
    (data,) = [data for kind, _, data in rows("Kinds of event") if kind == "`nonfinite`"]
    assert [f.name for f in dataclasses.fields(Site) if f"`{f.name}`" not in data] == []


def test_every_event_that_is_described_is_told():
    assert {row[0].strip("`") for row in rows("Kinds of event")} <= set(told())


def test_the_schema_number_is_the_one_that_is_written():
    assert f'`"schema": {folder.SCHEMA}`' in TEXT
