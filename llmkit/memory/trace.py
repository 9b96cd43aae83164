"""Every allocation of a step: its bytes, its layer, its line of code, when it came and when it went.

The one idea: with births and deaths in their order, everything else is arithmetic: who held what at the peak,
what an allocator would have reserved, and what PyTorch's own viewer draws.

    trace = record(run, steps=2)                    # or record(step, model, optimizer)
    print(trace.table())                            # per layer and category at the peak
    fragmentation(trace, "expandable_segments:True").reserved
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.budget import BORN, Budget
from llmkit.memory.ledger import CATEGORIES, Block
from llmkit.memory.measure import prepared
from llmkit.memory.sizes import parse_size, show_size
from llmkit.train import Run

ROOM = Path(__file__).parent
NOT_OURS = (
    str(Path(torch.__file__).parent),
    str(ROOM),
    str(ROOM.parent / "faults"),
)  # the line is above these


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """One storage. Bytes as asked for, and in whole blocks of 512."""

    nbytes: int
    size: int
    category: str
    module: str  # whose; the model itself by its class name; "" outside any module
    phase: str
    line: str  # `train/model.py:207 losses`; in backward the line that called it; "" before the first step


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Allocations in the order of their births, and what happened when."""

    allocations: tuple[Allocation, ...]
    events: tuple[int, ...]  # i: allocation i is made; ~i (below 0): it goes
    steps: tuple[int, ...]  # how many events each step ended after

    @cached_property
    def live(self) -> list[int]:
        """Bytes live after each event."""
        signed = (self.allocations[e].size if e >= 0 else -self.allocations[~e].size for e in self.events)
        return list(itertools.accumulate(signed))

    @property
    def peak_at(self) -> int:
        """Number of the event that reached the peak first."""
        return max(range(len(self.live)), key=self.live.__getitem__)

    def alive(self, at: int | None = None) -> list[Allocation]:
        """What is live after event `at` (None: at the peak), in the order of births."""
        held: dict[int, None] = {}
        for event in self.events[: 1 + (self.peak_at if at is None else at)]:
            if event >= 0:
                held[event] = None
            else:
                held.pop(~event)
        return [self.allocations[index] for index in held]

    def timeline(self) -> dict[str, list[int]]:
        """Bytes of each category after each event; a storage has one category from birth to death."""
        lines: dict[str, list[int]] = {category: [0] for category in CATEGORIES}
        for event in self.events:
            one = self.allocations[event if event >= 0 else ~event]
            for category, line in lines.items():
                signed = one.size if event >= 0 else -one.size
                line.append(line[-1] + signed * (category == one.category))
        return {category: line[1:] for category, line in lines.items()}

    def holders(self, *by: str, at: int | None = None) -> Counter[tuple[str, ...]]:
        """Bytes at the peak by any of `module`, `category`, `phase` and `line`."""
        held: Counter[tuple[str, ...]] = Counter()
        for allocation in self.alive(at):
            held[tuple(getattr(allocation, name) for name in by)] += allocation.size
        return held

    def top(self, count: int = 5) -> list[tuple[str, str, int]]:
        """The lines of code that hold most at the peak: (line, category, bytes)."""
        return [(*who, size) for who, size in self.holders("line", "category").most_common(count)]

    def table(self, depth: int = 2) -> str:
        """Layers against categories at the peak, MiB; `depth` levels of module names are told apart."""
        cells: Counter[tuple[str, str]] = Counter()
        for (module, category), size in self.holders("module", "category").items():
            cells[".".join(module.split(".")[:depth]) or "outside", category] += size
        seen = [c for c in CATEGORIES if any(category == c for _, category in cells)]
        rows = {m: [cells[m, c] for c in seen] for m in dict.fromkeys(module for module, _ in cells)}
        lines = [["MiB at the peak", *seen, "all"]]
        for name, row in [
            *rows.items(),
            ("all", [sum(column) for column in zip(*rows.values(), strict=True)]),
        ]:
            lines.append([name, *(f"{size / 2**20:.2f}" for size in (*row, sum(row)))])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
        )


class Recording(Budget):
    """A budget without a limit that notes births and deaths. Some 8 microseconds an allocation."""

    def _start(self) -> None:
        super()._start()
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.steps: list[int] = []
        self._ledger.tell = self._told

    def _told(self, block: Block, born: bool) -> None:
        self.events.append(block.serial - 1 if born else -block.serial)
        if born:
            self.place(block)
            self.blocks.append(block)

    def place(self, block: Block) -> None:
        """Note module, phase and line; nothing of what was there before it was looked at."""
        made = block.category in BORN.values()
        module = block.owner or (self._places.module() if made else "")
        block.place = module, self.phase if made else "", where() if made else ""

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        self._sort()
        return Trace(
            allocations=tuple(
                Allocation(nbytes=b.nbytes, size=b.size, category=b.category, module=b.owner or b.place[0],
                           phase=b.place[1], line=b.place[2])
                for b in self.blocks
            ),
            events=tuple(self.events), steps=tuple(self.steps),
        )  # fmt: skip


def where() -> str:
    """The line of code that is running, without PyTorch's, this room's and what stands in front of a part."""
    frame = sys._getframe(1)
    while frame is not None and (file := short(frame.f_code)) == "":
        frame = frame.f_back
    return f"{file}:{frame.f_lineno} {frame.f_code.co_name}" if frame is not None else ""


@cache
def short(code: CodeType) -> str:
    """Folder and file of a function; `cell` in a notebook, whose file has another name each time."""
    path = Path(code.co_filename)
    if str(path).startswith(NOT_OURS):
        return ""
    return "cell" if path.parent.name.startswith("ipykernel_") else f"{path.parent.name}/{path.name}"


def record(
    work: Run | Callable[[], object],
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    steps: int = 2,
    as_stored: bool = False,
) -> Trace:
    """The trace of `steps` steps, as `measure` does them: a Run stays as it is, a callable does what it does.

    What is live before the first step comes first, in no phase and on no line.
    """
    model, optimizer, step = prepared(work, model, optimizer, as_stored)
    with Recording(math.inf, model, optimizer) as recording:
        for _ in range(steps):
            step()
            recording.steps.append(len(recording.events))
        return recording.trace


# --------------------------------------------------------------------------------------------- the allocator


@dataclass(frozen=True, kw_only=True)
class Fragmentation:
    """What the caching allocator would make of a trace. Bytes; emulated."""

    settings: str
    allocated: int  # peak
    reserved: int  # peak
    retries: int  # times the cache had to be emptied
    died_at: int | None = None  # number of the event that did not fit
    requested: int = 0  # by that event
    allocated_then: int = 0
    reserved_then: int = 0

    @property
    def lost(self) -> float:
        """Share of the memory reserved at most that was never in use at once."""
        return 1 - self.allocated / self.reserved if self.reserved else 0.0

    def __str__(self) -> str:
        said = f"allocated {show_size(self.allocated)}, reserved {show_size(self.reserved)}"
        said += f" ({self.lost:.0%} lost)"
        if self.died_at is None:
            return said
        idle = show_size(self.reserved_then - self.allocated_then)
        return f"{said}; out of memory for {show_size(self.requested)} with {idle} reserved but unallocated"


def replay(trace: Trace, allocator: CachingAllocator, scale: int = 1) -> Iterator[int]:
    """Play a trace into an allocator; yields each event's number after it, and ends where one does not fit.

    Args:
        scale: as if every tensor were that many times larger; a small model's trace then has the sizes that
            fragment (below 1 MiB blocks are split for anybody).
    """
    sizes = [allocation.nbytes * scale for allocation in trace.allocations]
    for number, event in enumerate(trace.events):
        if event < 0:
            allocator.free(~event)
        elif allocator.malloc(event, sizes[event]) is None:
            return
        yield number


def fragmentation(
    trace: Trace, settings: str = "", *, limit: int | str | float = math.inf, scale: int = 1
) -> Fragmentation:
    """Allocated and reserved memory of a trace under `settings` (as in PYTORCH_ALLOC_CONF).

    Raises:
        ConfigError: a setting or limit that cannot be.
    """
    allocator = CachingAllocator(settings, limit=limit if limit == math.inf else parse_size(limit))
    allocated = reserved = done = 0
    for number in replay(trace, allocator, scale):
        done = number + 1
        allocated, reserved = max(allocated, allocator.allocated), max(reserved, allocator.reserved)
    died: dict[str, Any] = {}
    if done < len(trace.events):
        requested = trace.allocations[trace.events[done]].nbytes * scale
        died = {"died_at": done, "requested": requested, "allocated_then": allocator.allocated,
                "reserved_then": allocator.reserved}  # fmt: skip
    return Fragmentation(
        settings=settings, allocated=allocated, reserved=reserved, retries=allocator.retries, **died
    )
