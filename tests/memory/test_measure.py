"""Protects `measure(run)`: it sees what the loop will need, and the run never learns that it was measured.

Run it: python -m pytest tests/memory/test_measure.py -q
"""

from __future__ import annotations

import copy

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.memory import budget, measure
from llmkit.train import train


class Nosy:
    """An observer with a hook on a module and a file handle, neither of which survives copying."""

    def __init__(self, run, path):
        self.seen, self.file = 0, open(path, "w")
        run.observers.append(self)
        run.model.blocks[0].register_forward_hook(self.hook)

    def hook(self, module, args, out):
        self.seen += 1

    def on_step(self, run, record):
        self.seen += 100


def state(run):
    return copy.deepcopy(
        (run.model.state_dict(), run.optimizer.state_dict(), run.scaler.state_dict(), run.step)
    )


@pytest.mark.parametrize("overrides", [{}, {"micro_batch": 2}, {"model__checkpointing": "full"}])
def test_it_is_the_peak_of_the_steps_the_loop_then_takes(tiny_run, overrides):
    run = tiny_run(**overrides)
    told = [measure(run), measure(run, steps=2)]
    found = []
    for steps in (1, 2):
        real = tiny_run(**overrides)
        with budget("1 GiB", real) as counted:
            records = train(real)
            for _ in range(steps):
                next(records)
        found.append(counted.peak)
    assert told == found


def test_the_run_is_as_it_was_and_nobody_was_told(tiny_run, tmp_path):
    run, untouched = tiny_run(model__dropout=0.1), tiny_run(model__dropout=0.1)
    nosy = Nosy(run, tmp_path / "notes")
    told = []
    run.sinks.append(told.append)
    next(train(run))
    next(train(untouched))
    nosy.seen, before, drawn = 0, state(run), torch.get_rng_state()
    parts = dict(vars(run))
    measure(run, steps=2)
    assert repr(state(run)) == repr(before) and torch.equal(torch.get_rng_state(), drawn)
    assert nosy.seen == 0 and told == []
    assert vars(run) == parts and run.scaler.tell == run.tell
    assert repr(list(train(run))) == repr(list(train(untouched)))
    assert nosy.seen > 0
    nosy.file.close()


def test_an_emulated_precision_is_refused_unless_counted_as_stored(tiny_run):
    run = tiny_run(precision="bf16")
    with pytest.raises(ConfigError) as error:
        measure(run)
    assert error.value.found == "precision `bf16` is emulated on this CPU: its tensors are stored in fp32"
    assert measure(run, as_stored=True).bytes > measure(tiny_run()).bytes  # the roundings are tensors too
