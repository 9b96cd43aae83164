"""Protects the counts of the routers: they are those of a count by hand, and a dense run has none.

pytest tests/observe/test_routing.py
"""

from __future__ import annotations

import math
from collections import Counter

import pytest

from llmkit.folder import RunFolder
from llmkit.observe import Recorder, Routing
from llmkit.records import Detail, read_jsonl
from llmkit.train import evaluate, train

KEYS = {"load_max", "load_min", "unused", "dropped", "room", "balance", "z"}


def by_hand(routes, experts, room):
    """One layer's numbers from its routes, one a micro-batch."""
    counts, dropped, choices, rooms = Counter(), 0, 0, []
    for route in routes:
        chosen = Counter(route.chosen.flatten().tolist())
        places = math.inf if room is None else math.ceil(room * sum(chosen.values()) / experts)
        dropped += sum(max(0, n - places) for n in chosen.values())
        rooms.append(min(places, sum(chosen.values())) * experts / sum(chosen.values()))
        counts, choices = counts + chosen, choices + sum(chosen.values())
    loads = [counts[e] * experts / choices for e in range(experts)]
    balance = sum(
        experts * sum(r.chosen.eq(e).float().mean() * r.chance[e] for e in range(experts)) for r in routes
    )
    return {
        "load_max": max(loads), "load_min": min(loads), "unused": loads.count(0) / experts,
        "dropped": dropped / choices, "room": sum(rooms) / len(rooms), "balance": balance.item() / len(routes),
        "z": sum(r.z.item() for r in routes) / len(routes),
    }  # fmt: skip


@pytest.mark.parametrize("room", [None, 0.6])
@pytest.mark.parametrize("top_k", [1, 2])
def test_it_equals_a_count_by_hand(small_run, room, top_k):
    shape = {"model__experts": 12, "model__top_k": top_k, "model__capacity_factor": room}
    run, routing, routes = small_run(micro_batch=2, **shape), Routing(), {}
    for n, block in enumerate(run.model.blocks):
        block.router.register_forward_hook(lambda m, a, out, n=n: routes.setdefault(n, []).append(out))
    run.observers.append(routing)
    for record in train(run):
        layers = [by_hand(routes[n], 12, room) for n in range(2)]
        for n, layer in enumerate(layers):
            assert routing.modules[f"blocks.{n}.mlp"] == pytest.approx(layer, abs=1e-6)
        for key in KEYS:
            worst = min if key in ("load_min", "room") else max
            assert record.stats[f"router_{key}"] == pytest.approx(
                worst(layer[key] for layer in layers), abs=1e-6
            )
        fullest = [layer["load_max"] for layer in layers]
        assert record.stats["router_layer"] == fullest.index(max(fullest))
        routes.clear()
        evaluate(run, batches=1)  # is nobody's step
        routes.clear()


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_a_block_that_is_computed_twice_has_the_same_shares(small_run, policy):
    stats = []
    for checkpointing in ("none", policy):
        run = small_run(
            model__experts=4, model__capacity_factor=0.8, model__checkpointing=checkpointing, micro_batch=2
        )
        run.observers.append(Routing())
        stats.append([record.stats for record in train(run)])
    assert stats[0] == [pytest.approx(s) for s in stats[1]]


def test_the_recorder_writes_it_for_a_mixture_and_not_for_a_dense_run(small_run, tmp_path):
    written = {}
    for experts in (0, 4):
        run, folder = small_run(model__experts=experts), RunFolder.create(tmp_path / str(experts), {})
        with Recorder(folder).attached(run):
            for record in train(run):
                if record.step == 2:
                    run.tell("alarm", "look")
        written[experts] = {name for r in folder.steps() for name in r.stats if name.startswith("router_")}
        details = read_jsonl(folder.path / "details.jsonl", Detail)
        modules = {name for d in details for name in d.modules if name.endswith("mlp")}
        assert modules == ({"blocks.0.mlp", "blocks.1.mlp"} if experts else set())
    assert written == {0: set(), 4: {f"router_{key}" for key in (*KEYS, "layer")}}
