"""The CUDA caching allocator as arithmetic: which bytes of which segment a request gets, on any machine.

The one idea: an address is an integer, and a free block is an entry in three tables of its pool: by start, by
end (so that neighbours merge without a search) and by size (so that the best fit is a bisection). Segments
never touch, so what touches belongs together.

    allocator = CachingAllocator("max_split_size_mb:128", limit=parse_size("H100-SXM"))
    allocator.malloc("logits", 2**30)        # an address, or None: out of memory
    allocator.free("logits")
    allocator.allocated, allocator.reserved  # bytes in use, bytes taken from the driver

It follows c10/cuda/CUDACachingAllocator.cpp of PyTorch (read at commit 001074d; its constants are those of
c10/core/AllocatorConfig.h in 2.13.0) for one stream, without CUDA graphs and private pools. Where two free
blocks have one size, the lower address is taken, as there; but here a new segment always lies above the old
ones, and where the driver puts it is its own affair. `limit` acts as set_per_process_memory_fraction does.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable

from llmkit.memory.settings import MIB, Settings
from llmkit.memory.sizes import BLOCK

SMALL = MIB  # kSmallSize: the largest request of the small pool
BUFFER = 2 * MIB  # kSmallBuffer: a segment of the small pool
LARGE = 10 * MIB  # kMinLargeAlloc: from here on a segment is made to measure
ROUND = 2 * MIB  # kRoundLarge: in multiples of this
SHIFT = 48  # a key is size << SHIFT | address: sorted by size, then by address
MASK = (1 << SHIFT) - 1


class Pool:
    """The free blocks of one pool. `holes` are the unmapped parts of its expandable segment."""

    def __init__(self, name: str, page: int, base: int):
        self.name, self.page, self.base = name, page, base
        self.keys: list[int] = []
        self.starts: dict[int, int] = {}  # start -> size
        self.ends: dict[int, int] = {}  # end -> start
        self.holes: dict[int, int] = {base: 1 << 44}
        self.calls = 0  # searches, the clock of the garbage collection
        self.born: dict[int, int] = {}  # start of a free block -> calls when it became free

    def put(self, at: int, size: int) -> None:
        self.starts[at], self.ends[at + size], self.born[at] = size, at, self.calls
        insort(self.keys, size << SHIFT | at)

    def take(self, at: int) -> int:
        """Remove the free block that starts at `at`; its size."""
        size = self.starts.pop(at)
        del self.ends[at + size], self.keys[bisect_left(self.keys, size << SHIFT | at)]
        return size


class CachingAllocator:
    """What `torch.cuda.memory_allocated` and `memory_reserved` would say.

    Args:
        settings: as in PYTORCH_ALLOC_CONF.
        limit: bytes that may be reserved.
        log: called with (action, address, bytes) in the words of PyTorch's memory snapshots.
    """

    def __init__(self, settings: str = "", limit: float = math.inf, log: Callable | None = None):
        self.settings, self.limit = Settings.parse(settings), limit
        self.allocated = self.reserved = 0  # bytes
        self.live: dict[Hashable, tuple[int, int, Pool, int]] = {}  # name -> address, size, pool, requested
        self.small = Pool("small", BUFFER, 1 << 46)
        self.large = Pool("large", self.settings.segment, 1 << 47)
        self.segments: dict[int, int] = {}  # address -> size, of what cudaMalloc gave
        self.retries = 0  # times the cache was emptied for one more try
        self._next = ROUND
        self._sizes: dict[int, int] = {}
        self._collects = self.settings.collect > 0 and limit < math.inf
        self._log = log

    def rounded(self, nbytes: int) -> int:
        """Bytes of the block that a request gets (round_size)."""
        step, parts = BLOCK, self.settings.divisions[min(max(nbytes.bit_length() - 21, 0), 15)]
        if parts > 1 and nbytes > BLOCK * parts:
            step = (1 << nbytes.bit_length() - 1) // parts
        self._sizes[nbytes] = size = -(-nbytes // step) * step or BLOCK
        return size

    def malloc(self, name: Hashable, nbytes: int) -> int | None:
        """The address of a block of at least `nbytes`, known as `name` from now on; None: out of memory."""
        size = self._sizes.get(nbytes) or self.rounded(nbytes)  # the sizes of a training step repeat
        pool = self.small if size <= SMALL else self.large
        got = self._cached(pool, size) or self._grown(pool, size)
        if got is None:
            return None
        at, found = got
        if found > size and self._splits(pool, size, found - size):
            pool.put(at + size, found - size)
            found = size
        self.live[name] = at, found, pool, nbytes
        self.allocated += found
        if self._log:
            self._log("alloc", at, nbytes)
        return at

    def free(self, name: Hashable) -> None:
        """Give the block back to its pool, where it merges with free neighbours."""
        at, size, pool, nbytes = self.live.pop(name)
        self.allocated -= size
        if self._log:
            self._log("free_requested", at, nbytes)
            self._log("free_completed", at, nbytes)
        before = pool.ends.get(at)
        if before is not None:
            size += pool.take(before)
            at = before
        if at + size in pool.starts:
            size += pool.take(at + size)
        pool.put(at, size)

    def layout(self) -> list[list[tuple[int, int, Hashable, str]]]:
        """Every segment as its blocks: (address, size, name or None, pool), in the order of addresses."""
        blocks = [(at, size, name, pool.name) for name, (at, size, pool, _) in self.live.items()]
        for pool in (self.small, self.large):
            blocks += [(at, size, None, pool.name) for at, size in pool.starts.items()]
        segments, end = [], None
        for block in sorted(blocks, key=lambda b: b[0]):
            if block[0] != end:
                segments.append([])
            segments[-1].append(block)
            end = block[0] + block[1]
        return segments

    # -------------------------------------------------------------------------------------- in malloc's order

    def _cached(self, pool: Pool, size: int) -> tuple[int, int] | None:
        """The best fit among the free blocks (get_free_block), as (address, size)."""
        pool.calls += 1
        keys = pool.keys
        i = bisect_left(keys, size << SHIFT)
        if i == len(keys):
            return None
        if self.settings.expandable:  # a block that can still grow counts as large as it can become
            while i + 1 < len(keys) and self._reach(pool, keys[i + 1]) < self._reach(pool, keys[i]):
                i += 1
        at, found = keys[i] & MASK, keys[i] >> SHIFT
        most = self.settings.max_split
        if found >= most and (size < most or found >= size + self.settings.rounding):
            return None
        del keys[i], pool.starts[at], pool.ends[at + found]
        return at, found

    @staticmethod
    def _reach(pool: Pool, key: int) -> int:
        return (key >> SHIFT) + pool.holes.get((key & MASK) + (key >> SHIFT), 0)

    def _splits(self, pool: Pool, size: int, left: int) -> bool:
        """Whether the rest of a block stays free for others (should_split); every size is whole blocks."""
        if pool is self.small or self.settings.expandable:
            return True
        return size < self.settings.max_split and left > SMALL

    def _grown(self, pool: Pool, size: int) -> tuple[int, int] | None:
        """A block out of new memory; if there is none, once more with what the cache gives back."""
        if self._collects:
            self._collect()
        got = self._new(pool, size)
        if got is None and self._release_oversize(pool, size):
            got = self._new(pool, size)
        if got is None:
            self.retries += 1
            self._release()
            got = self._new(pool, size)
        return got

    def _new(self, pool: Pool, size: int) -> tuple[int, int] | None:
        """Memory from the driver (alloc_block); None where the limit is in the way."""
        wanted = BUFFER if pool is self.small else self.settings.segment
        if size >= LARGE:
            wanted = -(-size // ROUND) * ROUND
        if self.reserved + wanted > self.limit:
            return None
        if self.settings.expandable:
            return self._map(pool, size)
        at, self._next = self._next, self._next + wanted + ROUND  # the gap keeps segments apart
        self.segments[at] = wanted
        self._count("segment_alloc", at, wanted)
        return at, wanted

    def _count(self, action: str, at: int, size: int) -> None:
        self.reserved += size if action in ("segment_alloc", "segment_map") else -size
        if self._log:
            self._log(action, at, size)

    def _map(self, pool: Pool, size: int) -> tuple[int, int]:
        """Pages for the first place where free and unmapped memory together hold `size` bytes."""
        for hole in sorted(pool.holes):
            first = at = pool.ends.get(hole, hole)
            while at < first + size and (step := pool.starts.get(at) or pool.holes.get(at)):
                at += step
            if at >= first + size:
                break
        at = first
        while at < first + size:
            if at in pool.starts:
                at += pool.take(at)
                continue
            room = pool.holes.pop(at)
            wanted = min(room, -(-(first + size - at) // pool.page) * pool.page)
            if wanted < room:
                pool.holes[at + wanted] = room - wanted
            self._count("segment_map", at, wanted)
            at += wanted
        if at in pool.starts:
            at += pool.take(at)
        return first, at - first

    # ------------------------------------------------------------------------------------------- giving back

    def _drop(self, pool: Pool, at: int) -> int:
        """cudaFree of a whole segment."""
        size = pool.take(at)
        del self.segments[at]
        self._count("segment_free", at, size)
        return size

    def _release(self) -> None:
        """Everything that is free and whole goes back to the driver (release_cached_blocks)."""
        for pool in (self.large, self.small):
            for at, size in sorted(pool.starts.items()):
                if self.segments.get(at) == size:
                    self._drop(pool, at)
                elif self.settings.expandable:
                    self._unmap(pool, at, size)

    def _unmap(self, pool: Pool, at: int, size: int) -> None:
        """The whole pages inside a free block become a hole."""
        first = at + (pool.base - at) % pool.page
        last = at + size - (at + size - pool.base) % pool.page
        if first >= last:
            return
        pool.take(at)
        for start, end in ((at, first), (last, at + size)):
            if start < end:
                pool.put(start, end - start)
        self._count("segment_unmap", first, last - first)
        before = next((start for start, room in pool.holes.items() if start + room == first), first)
        pool.holes[before] = last - before + pool.holes.pop(last, 0)

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """With max_split_size: blocks too large to be split go, as few as do (release_available_...)."""
        most = self.settings.max_split
        if most == math.inf or self.settings.expandable:  # pages are not released here
            return False
        wanted = max(size, most)
        i = bisect_left(pool.keys, wanted << SHIFT)
        if i < len(pool.keys):
            self._drop(pool, pool.keys[i] & MASK)
            return True
        freed = 0
        while freed < wanted and pool.keys and pool.keys[-1] >> SHIFT >= most:
            freed += self._drop(pool, pool.keys[-1] & MASK)
        return freed >= wanted

    def _collect(self) -> None:
        """Whole free segments older than the average go, until the excess over the threshold is gone."""
        pool = self.large
        excess = self.reserved - int(self.settings.collect * self.limit)
        ages = {at: pool.calls - pool.born[at] for at, n in pool.starts.items() if self.segments.get(at) == n}
        while excess > 0 and ages:
            average = sum(ages.values()) / len(ages)
            for at in [at for at, age in ages.items() if age >= average]:
                excess -= self._drop(pool, at)
                del ages[at]
