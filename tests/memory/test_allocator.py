"""Protects the allocator's arithmetic: the right block, the right segment, the right moment to give up.

python -m pytest tests/memory/test_allocator.py -q

The oracle is a second allocator that searches everything: segments are lists of blocks, and every choice is a
`min` over all of them. Both are written from c10/cuda/CUDACachingAllocator.cpp, apart from each other.
"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from llmkit.errors import ConfigError
from llmkit.memory.allocator import CachingAllocator
from llmkit.memory.settings import Settings

KIB, MIB, GIB = 2**10, 2**20, 2**30


def reserved_after(requests, conf="", limit=math.inf):
    """(allocated, reserved) in MiB after requests: a size allocates, a negative number frees that request."""
    allocator = CachingAllocator(conf, limit=limit)
    for index, request in enumerate(requests):
        if request < 0:
            allocator.free(-request - 1)
        else:
            assert allocator.malloc(index, int(request)) is not None
    return allocator.allocated / MIB, allocator.reserved / MIB


# ------------------------------------------------------------------------------------------ computed by hand


@pytest.mark.parametrize(
    ("requests", "found"),
    [
        ([1], (512 / MIB, 2)),  # the smallest block, in a segment of the small pool
        ([512, 513], (1.5 * KIB / MIB, 2)),
        ([MIB, MIB], (2, 2)),  # 1 MiB is still small: two fill a segment
        ([MIB, MIB, 1], (2 + 512 / MIB, 4)),
        ([MIB + 1], (1 + 512 / MIB, 20)),  # the large pool
        ([10 * MIB - 512], (10 - 512 / MIB, 20)),  # below 10 MiB: of a 20 MiB segment, the rest stays free
        ([10 * MIB - 511], (10, 10)),  # from there on, rounded, made to measure
        ([11 * MIB], (12, 12)),  # in multiples of 2 MiB; a rest of 1 MiB is not split off ...
        ([11 * MIB, 1 * MIB + 1], (12 + 512 / MIB + 1, 32)),  # ... so nobody else can have it
        ([5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB], (20, 20)),
        ([19.5 * MIB], (20, 20)),  # the rest is below 1 MiB: the request gets the whole block
        ([6 * MIB, 6 * MIB, -1, -2, 12 * MIB], (12, 20)),  # free neighbours merge
        ([6 * MIB, 6 * MIB, 6 * MIB, -1, -3, 12 * MIB], (18, 32)),  # these are none
        ([20 * MIB, 20 * MIB, -1, -2, 40 * MIB], (40, 80)),  # blocks of two segments never merge
        ([8 * MIB, -1, 30 * MIB, -3, 7 * MIB, -5], (0, 50)),
    ],
)
def test_what_is_reserved_is_what_cuda_would_reserve(requests, found):
    assert reserved_after(requests) == found


def test_the_best_fit_is_the_smallest_block_that_is_enough_and_then_the_lowest():
    allocator = CachingAllocator()
    for name, size in (("a", 30), ("b", 14), ("c", 20), ("d", 14)):
        allocator.malloc(name, size * MIB)
    at = {name: allocator.live[name][0] for name in "abcd"}
    for name in "dcab":
        allocator.free(name)
    assert [allocator.malloc(i, size * MIB) for i, size in enumerate((13, 13, 15))] == [
        at["b"],
        at["d"],
        at["c"],
    ]


def test_a_failure_empties_the_cache_and_tries_once_more():
    allocator = CachingAllocator(limit=64 * MIB)
    for name, size in (("a", 20), ("b", 20), ("c", 20)):
        allocator.malloc(name, size * MIB)
    allocator.free("a")
    allocator.free("b")
    assert allocator.malloc("large", 44 * MIB) is not None
    assert (allocator.retries, allocator.reserved) == (1, 64 * MIB)
    assert allocator.malloc("more", 2 * MIB) is None  # "c" and "large" fill the device
    assert (allocator.retries, allocator.allocated, "more" in allocator.live) == (2, 64 * MIB, False)


def test_half_of_the_memory_can_be_free_and_none_of_it_usable():
    allocator = CachingAllocator(limit=80 * MIB)
    for i in range(16):
        allocator.malloc(i, 5 * MIB)
    for i in range(0, 16, 2):
        allocator.free(i)
    assert (allocator.allocated, allocator.reserved) == (40 * MIB, 80 * MIB)
    assert allocator.malloc("ten", 6 * MIB) is None
    assert allocator.malloc("five", 5 * MIB) is not None


def test_expandable_segments_use_what_would_be_lost():
    """The same requests: each frees a block and asks for a larger one."""
    requests = [12 * MIB, -1, 22 * MIB, -3, 32 * MIB, -5, 42 * MIB]
    assert reserved_after(requests) == (42, 12 + 22 + 32 + 42)
    assert reserved_after(requests, "expandable_segments:True") == (42, 60)  # three pages of 20 MiB


def test_pages_inside_a_segment_go_back_to_the_driver_and_come_back():
    allocator = CachingAllocator("expandable_segments:True", limit=100 * MIB)
    for i in range(5):
        allocator.malloc(i, 20 * MIB)
    allocator.free(1)
    allocator.free(3)
    assert allocator.malloc("large", 40 * MIB) is not None  # two pages unmapped there, two mapped behind
    assert (allocator.allocated, allocator.reserved, allocator.retries) == (100 * MIB, 100 * MIB, 1)
    assert allocator.live["large"][0] > allocator.live[4][0]


def test_max_split_size_keeps_large_blocks_whole_and_gives_back_as_few_as_do():
    plain = [64 * MIB, -1, 30 * MIB, 30 * MIB]
    assert reserved_after(plain) == (60, 64)
    assert reserved_after(plain, "max_split_size_mb:32") == (60, 64 + 60)
    allocator = CachingAllocator("max_split_size_mb:32", limit=130 * MIB)
    for name, size in (("a", 40), ("b", 50), ("c", 30)):
        allocator.malloc(name, size * MIB)
    allocator.free("a")
    allocator.free("b")
    assert allocator.malloc("d", 20 * MIB) is not None  # the smallest that is oversize goes, the other stays
    assert (allocator.reserved, allocator.retries) == (100 * MIB, 0)


@pytest.mark.parametrize(
    ("conf", "asked", "got"),
    [
        ("roundup_power2_divisions:4", 1200 * KIB, 1280 * KIB),  # PyTorch's own example
        ("roundup_power2_divisions:4", 1024 * KIB, 1024 * KIB),
        ("roundup_power2_divisions:4", 2048, 2048),  # not above 4 blocks: as ever
        ("roundup_power2_divisions:[1:8,>:2]", 1100 * KIB, 1536 * KIB),  # > begins at the last
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 600 * MIB, 768 * MIB),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 2100 * MIB, 2304 * MIB),
        ("", 1200 * KIB + 1, 1200 * KIB + 512),
    ],
)  # fmt: skip
def test_requests_are_rounded_as_the_setting_says(conf, asked, got):
    assert CachingAllocator(conf).rounded(asked) == got


def test_the_garbage_collector_gives_back_what_has_lain_longest():
    allocator = CachingAllocator("garbage_collection_threshold:0.5", limit=200 * MIB)
    for name in ("old", "young", "kept"):
        allocator.malloc(name, 20 * MIB)
    old, young, _ = allocator.segments
    allocator.free("old")
    allocator.malloc("d", 30 * MIB)
    allocator.free("young")
    allocator.malloc("e", 30 * MIB)
    assert allocator.reserved == 120 * MIB  # nothing was collected below the threshold of 100
    allocator.malloc("f", 40 * MIB)
    assert old not in allocator.segments and young in allocator.segments  # 20 MiB of excess: one goes
    assert (allocator.reserved, allocator.retries) == (140 * MIB, 0)


# ------------------------------------------------------------------------------------------------- the oracle


class Searcher:
    """The same allocator without an index: segments are lists of [size, name], None for free."""

    def __init__(self, settings, limit):
        self.settings, self.limit, self.segments = settings, limit, []

    @property
    def reserved(self):
        return sum(size for _, blocks in self.segments for size, _ in blocks)

    @property
    def allocated(self):
        return sum(size for _, blocks in self.segments for size, name in blocks if name is not None)

    def malloc(self, name, nbytes):
        size = max(512, -(-nbytes // 512) * 512)
        small, most = size <= MIB, self.settings.max_split
        place = self.fit(small, size) or self.grow(small, size)
        if place is None and most < math.inf:
            free = sorted(b[0][0] for s, b in self.segments if s == small and len(b) == 1 and b[0][1] is None)
            wanted, oversize = max(size, most), [n for n in free if n >= most]
            enough = [n for n in oversize if n >= wanted]
            for n in enough[:1] or oversize[::-1]:
                self.segments.remove(next(seg for seg in self.segments if seg == (small, [[n, None]])))
                wanted -= n
                if wanted <= 0:
                    break
            place = self.grow(small, size) if wanted <= 0 else None
        if place is None:
            self.segments = [s for s in self.segments if len(s[1]) > 1 or s[1][0][1] is not None]
            place = self.grow(small, size)
        if place is None:
            return None
        blocks, index = place
        rest = blocks[index][0] - size
        if rest >= 512 if small else size < most and rest > MIB:
            blocks[index : index + 1] = [[size, name], [rest, None]]
        else:
            blocks[index][1] = name
        return True

    def fit(self, small, size):
        places = [(b, i) for s, b in self.segments if s == small for i in range(len(b)) if b[i][1] is None]
        enough = [(b, i) for b, i in places if b[i][0] >= size]
        best = min(enough, key=lambda p: p[0][p[1]][0], default=None)  # the first of equals: lowest address
        if best is None:
            return None
        found, most = best[0][best[1]][0], self.settings.max_split
        if size < most <= found or (size >= most and found >= size + self.settings.rounding):
            return None
        return best

    def grow(self, small, size):
        wanted = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + wanted > self.limit:
            return None
        self.segments.append((small, [[wanted, None]]))
        return self.segments[-1][1], 0

    def free(self, name):
        for _, blocks in self.segments:
            for block in blocks:
                if block[1] == name:
                    block[1] = None
            merged = []
            for size, owner in blocks:
                if merged and owner is None and merged[-1][1] is None:
                    merged[-1][0] += size
                else:
                    merged.append([size, owner])
            blocks[:] = merged

    def layout(self):
        return [[tuple(block) for block in blocks] for _, blocks in self.segments]


def agree(program, conf, limit):
    """Both allocators do the program; a size allocates, a negative number frees the n-th oldest live block."""
    ours, theirs, live = CachingAllocator(conf, limit=limit), Searcher(Settings.parse(conf), limit), []
    for index, n in enumerate(program):
        if n > 0:
            at = ours.malloc(index, n)
            assert (at is None) == (theirs.malloc(index, n) is None)
            live += [index] if at is not None else []
        elif live:
            name = live.pop(-n % len(live))
            ours.free(name)
            theirs.free(name)
        assert (ours.allocated, ours.reserved) == (theirs.allocated, theirs.reserved)
    mine = [[(size, name) for _, size, name, _ in segment] for segment in ours.layout()]
    assert mine == theirs.layout()


sizes = st.one_of(
    st.integers(1, 4 * KIB), st.integers(1, 40).map(lambda n: n * MIB // 2), st.integers(1, 45 * MIB)
)
programs = st.lists(st.one_of(sizes, st.integers(-6, -1)), max_size=60)
confs = st.sampled_from(["", "max_split_size_mb:20", "max_split_size_mb:32,max_non_split_rounding_mb:20"])


@given_settings(max_examples=300, deadline=None)
@given(programs, confs, st.sampled_from([math.inf, 150 * MIB, 61 * MIB]))
def test_any_program_gets_the_blocks_that_a_search_of_everything_would_give_it(program, conf, limit):
    agree(program, conf, limit)


def test_every_program_of_six_steps_in_a_small_world():
    """12 MiB, 20 MiB, 512 KiB, and freeing the oldest or the youngest: 5^6 programs on a card of 44 MiB."""
    for program in itertools.product((12 * MIB, 20 * MIB, MIB // 2, -1, -(10**9) + 1), repeat=6):
        agree(program, "", 44 * MIB)


@given_settings(max_examples=200, deadline=None)
@given(
    programs,
    st.sampled_from(
        ["", "expandable_segments:True", "max_split_size_mb:20,expandable_segments:True",
         "garbage_collection_threshold:0.6", "roundup_power2_divisions:4", "large_segment_size_mb:40"]
    ),
    st.sampled_from([math.inf, 200 * MIB]),
)  # fmt: skip
def test_no_two_blocks_overlap_and_no_byte_is_lost(program, conf, limit):
    told = []
    ours, live = CachingAllocator(conf, limit=limit, log=lambda *event: told.append(event)), {}
    for index, n in enumerate(program):
        if n > 0:
            if ours.malloc(index, n) is not None:
                live[index] = n
        elif live:
            name = list(live)[-n % len(live)]
            del live[name]
            ours.free(name)
        blocks = [block for segment in ours.layout() for block in segment]
        assert sum(size for _, size, _, _ in blocks) == ours.reserved <= limit
        assert sum(size for _, size, name, _ in blocks if name is not None) == ours.allocated
        assert all(a + size <= b for (a, size, *_), (b, *_) in itertools.pairwise(blocks))
        held = {name: size for _, size, name, _ in blocks if name is not None}
        assert held.keys() == live.keys() and all(held[name] >= live[name] for name in live)
        for segment in ours.layout():  # free neighbours have merged
            assert all(a[2] is not None or b[2] is not None for a, b in itertools.pairwise(segment))
    signs = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
    assert sum(signs.get(action, 0) * size for action, _, size in told) == ours.reserved


# --------------------------------------------------------------------------------------------------- settings


def test_settings_are_read_as_pytorch_reads_them():
    read = Settings.parse("max_split_size_mb:128, expandable_segments:True,garbage_collection_threshold:0.8")
    assert read == Settings(max_split=128 * MIB, expandable=True, collect=0.8)
    assert Settings.parse("") == Settings()
    assert Settings.parse("roundup_power2_divisions:8").divisions == (8,) * 16
    table = Settings.parse("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]").divisions
    assert table == (1,) * 9 + (2,) + (8,) * 6  # `>` begins at the last boundary named, as there
    assert Settings.parse("roundup_power2_divisions:[1:8,4:2]").divisions == (8, 0, 2) + (0,) * 13


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_split_size_mb", "cannot read `max_split_size_mb`\n  expected: key:value,key:value"),
        ("max_split_size_mb:19", "`max_split_size_mb:19` cannot be\n  expected: at least 20"),
        ("max_split_size_mb:big", "`max_split_size_mb:big` cannot be\n  expected: at least 20"),
        ("expandable_segments:yes", "`expandable_segments:yes` cannot be\n  expected: True or False"),
        (
            "garbage_collection_threshold:1",
            "`garbage_collection_threshold:1` cannot be\n  expected: between 0 and 1, both excluded",
        ),
        (
            "roundup_power2_divisions:3",
            "`roundup_power2_divisions:3` cannot be\n  expected: powers of two: 4, or [256:1,512:2,>:8]",
        ),
        (
            "roundup_power2_divisions:[3:4]",
            "`roundup_power2_divisions:[3:4]` cannot be\n  expected: powers of two: 4, or [256:1,512:2,>:8]",
        ),
    ],
)
def test_a_setting_that_pytorch_would_refuse_is_refused(text, says):
    with pytest.raises(ConfigError) as error:
        Settings.parse(text)
    assert str(error.value) == says


def test_an_unknown_setting_is_told_its_nearest_name():
    with pytest.raises(ConfigError, match="the allocator has no setting `max_split`") as error:
        Settings.parse("max_split:128")
    assert "max_split_size_mb" in str(error.value)
