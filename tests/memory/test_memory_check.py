"""Protects docs/memory-check.md: the page is what the script writes.

pytest tests/memory/test_memory_check.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "memory_check.py"


@pytest.mark.slow  # rehearses all 32 layers of an 8B model
def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("memory_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()
