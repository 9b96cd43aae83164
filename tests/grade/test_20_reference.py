"""Protects: the references of exercise 20 place, split and merge blocks as `CachingAllocator` does.

pytest tests/grade/test_20_reference.py
"""

from __future__ import annotations

import random

import pytest

from llmkit.grade.exercise import load
from llmkit.memory.allocator import SMALL, CachingAllocator

MIB = 1024**2


@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_requests_and_deaths_leave_the_same_blocks(seed):
    rng, (request, serve, give_back, _) = random.Random(seed), load("20_allocator").tasks
    kit, live = CachingAllocator(), {}
    for name in range(200):
        if live and rng.random() < 0.45:
            victim = rng.choice(sorted(live))
            want = give_back.reference([blocks(segment) for segment in kit.layout()], live.pop(victim)).value
            kit.free(victim)
            assert [blocks(segment) for segment in kit.layout()] == want
            continue
        nbytes = rng.choice([rng.randint(1, MIB), rng.randint(MIB, 10 * MIB), rng.randint(1, 40 * MIB)])
        block, segment = request.reference(nbytes).value
        pool = kit.small if block <= SMALL else kit.large
        free, before = sorted([at, size] for at, size in pool.starts.items()), kit.reserved
        served = serve.reference(free, block).value
        live[name] = kit.malloc(name, nbytes)
        assert kit.reserved - before == (0 if served else segment)
        if served:
            assert [live[name], kit.live[name][1], sorted(map(list, pool.starts.items()))] == list(served)


def blocks(segment):
    return [[at, size, name is not None] for at, size, name, _ in segment]
