"""Memory, told of at every step: what stayed, who grew and on which line; and an allocator that can refuse.

The one idea: a leak is what is live when a step ends and was not when the last one did. Its line of code was
noted when it was allocated, so nothing has to be searched for when memory runs out days later.

    with watch(run, "24 MiB", allocator="expandable_segments:True"):
        list(train(run))        # events of kind `memory`, for the doctor
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.budget import parts_of
from llmkit.memory.facts import OutOfMemory
from llmkit.memory.ledger import Block
from llmkit.memory.sizes import parse_size, show_size
from llmkit.memory.trace import Recording
from llmkit.train import Run


def watch(
    run: Run, limit: int | str | float = math.inf, *, allocator: str | None = None, scale: int = 1,
    as_stored: bool = False,
) -> Watch:  # fmt: skip
    """A budget that tells the run's events of every step; nothing of the run is changed.

    Args:
        limit: bytes, a size or a card; none: nothing is refused.
        allocator: settings as in PYTORCH_ALLOC_CONF: the caching allocator is modelled, and what is limited
            is what it reserves. None: what is live is limited. On CUDA the device's own is read.
        scale: as if every tensor were that many times larger, limit and bytes told included; emulated.
        as_stored: as in `budget`.

    Raises:
        ConfigError: a limit or a setting that cannot be; an emulated precision without `as_stored`.
    """
    parts_of(run, None, as_stored)
    return Watch(run, limit if limit == math.inf else parse_size(limit), allocator, scale)


class Watch(Recording):
    """What `watch` returns: a budget, and an observer of the run while it is open."""

    def __init__(self, run: Run, limit: float, allocator: str | None = None, scale: int = 1):
        self.run, self.settings, self.scale = run, allocator, scale
        super().__init__(limit, run.model, run.optimizer)

    def _start(self) -> None:
        modelled = self.settings is not None and not getattr(self, "_real", False)
        self.allocator = CachingAllocator(self.settings, limit=self.limit) if modelled else None
        self._held: Counter[tuple[str, str, str]] = Counter()  # (module, category, line) -> bytes
        self._largest, self._before = (0, "", ""), 0  # largest block of the step; serial when it began
        super()._start()

    def __enter__(self) -> Watch:
        super().__enter__()
        self.run.observers.insert(0, self)  # before whoever writes things down
        return self

    def __exit__(self, *exception: object) -> None:
        self.run.observers.remove(self)
        super().__exit__(*exception)

    @property
    def reserved(self) -> int:
        return self.allocator.reserved if self.allocator is not None else super().reserved

    def fits(self, size: int, args: tuple) -> bool:
        if self.allocator is None or not size:
            return (self._ledger.live + size) * self.scale <= self.limit
        return self.allocator.malloc(self._ledger.serial + 1, size * self.scale) is not None

    def _explain(self, requested: int, args: tuple) -> OutOfMemory:
        facts, times = super()._explain(requested, args), self.scale
        return dataclasses.replace(
            facts, requested_bytes=facts.requested_bytes * times, live_bytes=facts.live_bytes * times,
            by_category={name: size * times for name, size in facts.by_category.items()},
        )  # fmt: skip

    def _told(self, block: Block, born: bool) -> None:
        if born:
            self.place(block)
            self._largest = max(self._largest, (block.nbytes, block.place[0], block.place[2]))
        if self.allocator is not None:
            known = block.serial in self.allocator.live
            if born and not known:  # it was there before, or came from outside
                self.allocator.malloc(block.serial, block.nbytes * self.scale)
            elif known and not born:
                self.allocator.free(block.serial)

    def on_step(self, run: Run, record: Any) -> None:
        """Tell what is live now, what was at the peak, and what grew since the last step."""
        self._sort()
        ledger, held, kept = self._ledger, Counter(), 0
        for block in ledger.blocks.values():
            if block.serial <= self._before:  # it has outlived a whole step: gradients and batches do not
                held[block.owner or block.place[0], block.category, block.place[2]] += block.size
                kept += block.size
        grown = (held - self._held).most_common()
        largest, module, line = self._largest
        told = {
            "live": ledger.live, "kept": kept, "grown": sum(size for _, size in grown), "peak": ledger.peak,
            "state": ledger.by_category["optimizer state"], "largest": largest,
        }  # fmt: skip
        run.tell(
            "memory", f"{show_size(kept * self.scale)} have outlived step {run.step}",
            **{name: size * self.scale for name, size in told.items()}, reserved=self.reserved,
            limit=self.limit if self.limit < math.inf else 0, tokens=run.batch.x.numel(),
            largest_in=module, largest_line=line, emulated=not self._real,
            lines=[[*who, size * self.scale] for who, size in grown[:3]],
            modules=len({who[0] for who, _ in grown}),
        )  # fmt: skip
        self._held, self._largest, self._before = held, (0, "", ""), ledger.serial
        ledger.forget_peak()
