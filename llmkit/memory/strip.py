"""A trace as a film: the allocator's segments and the blocks in them, from moment to moment.

for frame in film(record(run), "expandable_segments:True", scale=32):
    print(frame)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.ledger import CATEGORIES
from llmkit.memory.sizes import show_size
from llmkit.memory.trace import Trace, replay

LETTERS = {category: category[0] for category in CATEGORIES} | {"": "."}
COLUMNS = 48  # characters of the longest segment


@dataclass(frozen=True)
class Frame:
    """The allocator after one event; emulated. Bytes."""

    event: int
    step: int
    allocated: int
    reserved: int
    segments: tuple[tuple[tuple[int, str], ...], ...]  # each: its blocks as (size, category), "" for free
    died: int = 0  # bytes that the next request asked for in vain

    @property
    def holes(self) -> list[int]:
        """Free blocks, the largest first."""
        return sorted((size for blocks in self.segments for size, name in blocks if not name), reverse=True)

    def says(self) -> str:
        """One line: what is in use, what is reserved, and in how many pieces the difference lies."""
        holes = self.holes
        free = f"{show_size(self.reserved - self.allocated)} free in {len(holes)} pieces"
        free += f", the largest {show_size(holes[0])}" if holes else ""
        died = f"; out of memory for {show_size(self.died)}" if self.died else ""
        used = f"{show_size(self.allocated)} of {show_size(self.reserved)} in use"
        return f"step {self.step}, event {self.event}: {used}, {free}{died}"

    def __str__(self) -> str:
        """Each segment as a row of letters, the first of the category that fills most of a place."""
        longest = max((sum(size for size, _ in blocks) for blocks in self.segments), default=1)
        return "\n".join([self.says(), *(_row(blocks, longest) for blocks in self.segments)])


def _row(blocks: tuple[tuple[int, str], ...], longest: int) -> str:
    whole = sum(size for size, _ in blocks)
    width, row, at = max(1, round(COLUMNS * whole / longest)), "", 0
    for size, category in blocks:
        at += size
        row += LETTERS[category] * (round(width * at / whole) - len(row))
    return f"{show_size(whole):>12} |{row}|"


def film(
    trace: Trace, settings: str = "", *, limit: float = math.inf, scale: int = 1, frames: int = 40
) -> list[Frame]:
    """About `frames` moments of a trace, evenly spaced, the fullest and the last among them."""
    allocator = CachingAllocator(settings, limit=limit)
    count, fullest = len(trace.events), trace.peak_at
    wanted = {round(i * (count - 1) / (frames - 1)) for i in range(frames)} | {fullest}
    shown, last = [], -1
    for last in replay(trace, allocator, scale):
        if last in wanted:
            shown.append(_frame(trace, allocator, last))
    if last + 1 < count:
        died = trace.allocations[trace.events[last + 1]].nbytes * scale
        shown.append(_frame(trace, allocator, last, died))
    return shown


def _frame(trace: Trace, allocator: CachingAllocator, event: int, died: int = 0) -> Frame:
    rows = tuple(
        tuple((size, "" if name is None else trace.allocations[name].category) for _, size, name, _ in blocks)
        for blocks in allocator.layout()
    )
    step = sum(event >= end for end in trace.steps)
    return Frame(event, step, allocator.allocated, allocator.reserved, rows, died)
