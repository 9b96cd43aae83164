"""Protects the rehearsal of one rank of many: FSDP's own code under PyTorch's fake process group.

    pytest tests/memory/test_fsdp.py

The oracle is arithmetic: rank 0 holds the first ceil(rows / ranks) rows of every parameter, in blocks of 512.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor._sharding_prop import ShardingPropagator

from llmkit.errors import ConfigError
from llmkit.memory import budget, fsdp
from llmkit.memory.rehearsal import rehearse
from llmkit.memory.remedies import sharded
from llmkit.memory.sizes import rounded
from llmkit.train import GPT, named, tiny

SMALL = {"model__layers": 4, "model__width": 512, "model__heads": 8, "model__vocab_size": 8192}


def config(precision="bf16", **changes):
    changes = SMALL | {"model__context": 512} | changes
    return named("gpt-1.3b", batch=1, micro_batch=None, precision=precision, **changes)


@pytest.mark.parametrize("ranks", [3, 8])
def test_each_category_is_this_ranks_rows(ranks):
    cfg = tiny(batch=2, micro_batch=None, precision="bf16")
    stored = rehearse(cfg, ranks=ranks).stored
    rows, groups = [], Counter()
    for name, p in GPT(cfg.model).named_parameters():
        rows.append(4 * math.ceil(len(p) / ranks) * p[0].numel())
        groups[name.split(".")[1] if name.startswith("blocks") else "rest"] += rows[-1]
    share = sum(map(rounded, rows))
    assert stored["parameters"] == share
    assert stored["optimizer state"] == 2 * share + 512 * len(rows)  # two moments and a count of steps
    assert stored["gradients"] == sum(map(rounded, groups.values()))  # reduced as one tensor a layer
    assert stored["activations"] == stored["temporaries"] == 0


@pytest.mark.parametrize(("precision", "number"), [("bf16", 2), ("fp32", 4)])
def test_weights_are_gathered_and_emptied_again_in_the_precision_of_the_products(precision, number):
    cfg = config(precision)
    found = rehearse(cfg, ranks=8)
    assert found.kinds["weight copies"] == 0
    whole = number * (found.rest + found.block)  # the next layer waits in the collective's buffer
    assert found.kinds["gathered weights"] == pytest.approx(whole, rel=0.01)
    assert rehearse(cfg).kinds["gathered weights"] == 0


@pytest.mark.parametrize("policy", ["none", "full"])
def test_the_formula_is_near(policy):
    cfg = config(model__checkpointing=policy)
    told = rehearse(cfg, ranks=8).peak.bytes
    assert told < sharded(rehearse(cfg), 8) < 1.4 * told  # whose two gathered layers and whole gradient


def test_nothing_of_it_is_left_behind():
    before = torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached
    with pytest.raises(ConfigError, match="needs numbers"):
        rehearse(Asks, inputs=lambda: (torch.zeros(2, 8),), ranks=2)
    assert (torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached) == before
    assert not dist.is_initialized()


class Asks(torch.nn.Linear):
    def __init__(self):
        super().__init__(8, 8)

    def forward(self, x):
        return super().forward(x).sum() * x.sum().item()


def test_no_ranks_and_a_group_inside_a_group_are_refused():
    with pytest.raises(ConfigError, match="0 ranks cannot be"):
        rehearse(config(), ranks=0)
    with fsdp.ranks(2), pytest.raises(ConfigError, match="belongs to a process group"):
        rehearse(config(), ranks=2)


def test_a_budget_is_held_against_this_ranks_share_of_the_weights():
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(4)))
    whole = sum(p.nbytes for p in model.parameters())
    with fsdp.ranks(8) as mesh:
        fsdp.shard(model, mesh, None)
        assert budget(whole // 4, model).limit == whole // 4
        with pytest.raises(ConfigError, match=r"whose parameters are 2\.00 MiB"):
            budget(whole // 16, model)
