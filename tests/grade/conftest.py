"""Notebooks made on the spot, and one warm examiner for the whole folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmkit.grade.examiner import Examiner
from llmkit.grade.sandbox import Limits, choose

SETUP = """
from llmkit.grade import open_exercise
check, hint, predict = open_exercise("01_loss_scaler")
FP32_MAX = 3.4028234663852886e38
"""
UNSCALE = """
import torch
def unscale(grads, scale):
    overflow = False
    for grad in grads:
        if grad is not None:
            overflow = overflow or not bool(torch.isfinite(grad).all())
            grad.div_(scale)
    return overflow
check(unscale)
"""
UPDATE = """
def update(scale, good_steps, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good_steps + 1 < interval:
        return scale, good_steps + 1
    grown = scale * growth
    return (grown if grown <= FP32_MAX else scale), 0
check(update)
"""
FLOOR = """
def update_with_floor(scale, good_steps, overflow, floor=1.0, growth=2.0, backoff=0.5, interval=2000):
    scale, good_steps = update(scale, good_steps, overflow, growth, backoff, interval)
    return max(scale, floor), good_steps, overflow and scale <= floor
check(update_with_floor)
"""
CLIP = """
def clip_after_unscale(grads, scale, max_norm):
    unscale(grads, scale)
    present = [grad for grad in grads if grad is not None]
    norm = torch.stack([grad.square().sum() for grad in present]).sum().sqrt().item()
    if norm > max_norm:
        for grad in present:
            grad.mul_(max_norm / norm)
    return norm
check(clip_after_unscale)
"""
RIGHT = {
    "setup": SETUP,
    "unscale": UNSCALE,
    "update": UPDATE,
    "update_with_floor": FLOOR,
    "clip_after_unscale": CLIP,
}


def notebook(*cells: str, metadata: dict | None = None, cell_metadata: dict | None = None) -> dict:
    """A notebook of exercise 01 with these code cells."""
    made = [
        {
            "cell_type": "code",
            "source": cell,
            "metadata": cell_metadata or {},
            "outputs": [],
            "execution_count": None,
            "id": f"cell-{number}",
        }
        for number, cell in enumerate(cells)
    ]
    own = {"llmkit": {"exercise": "01_loss_scaler", "version": 1}}
    return {"cells": made, "metadata": own | (metadata or {}), "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def right_cells() -> dict[str, str]:
    """Right cells by task, and the set-up cell."""
    return dict(RIGHT)


@pytest.fixture
def make_notebook():
    """The function `notebook`, for tests that need more than a file."""
    return notebook


@pytest.fixture
def written(tmp_path: Path):
    """written(*cells, **metadata) -> path of a notebook file."""

    def write(*cells: str, name: str = "01_loss_scaler.ipynb", **more) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(notebook(*cells, **more)))
        return path

    return write


@pytest.fixture(scope="session")
def sandboxed():
    """Skip without bubblewrap; fail where it is required."""
    isolation = choose()
    if isolation.name != "bubblewrap":
        if os.environ.get("LLMKIT_REQUIRE_SANDBOX") == "1":
            pytest.fail(f"LLMKIT_REQUIRE_SANDBOX=1, and {isolation.why}")
        pytest.skip(isolation.why)
    return isolation


@pytest.fixture(scope="session")
def examiner(sandboxed):
    """One warm examiner in the sandbox, with limits short enough for attacks."""
    limits = Limits(wall=20.0, cell=2.0, task=2.0, memory=400 * 2**20)
    with Examiner(sandboxed, limits) as warm:
        yield warm


@pytest.fixture
def patient(examiner):
    """The same examiner with the usual limits: for honest notebooks, on a machine that may be busy."""
    short, examiner.limits = examiner.limits, Limits()
    yield examiner
    examiner.limits = short
