"""Protects checkpoints: exact resume, every flipped bit found, fallback said aloud, old ones deleted last.

pytest tests/train/test_checkpoint.py
"""

from __future__ import annotations

import errno
import os

import pytest
import torch

from llmkit.data import Skip
from llmkit.errors import CheckpointError, StorageError
from llmkit.train import Checkpoints, train
from llmkit.train.checkpoint import problems
from llmkit.train.fingerprint import differences

SETTINGS = {
    "steps": 12,
    "precision": "fp16",
    "loss_scale": 2.0**22,
    "growth_interval": 3,
    "model__dropout": 0.1,
}


def state(run):
    """Everything that must be equal bit for bit, as a printable value."""
    tensors = [p.detach() for p in run.model.parameters()]
    moments = [s[k] for s in run.optimizer.state_dict()["state"].values() for k in sorted(s)]
    return [t.numpy().tobytes() for t in (*tensors, *moments)] + [
        run.scaler.state_dict(),
        run.step,
        run.stuck,
    ]


def ran(run, steps):
    iterator = train(run)
    return [next(iterator) for _ in range(steps)]


@pytest.mark.parametrize("at", [0, 1, 5, 11, 12])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny_run, tmp_path, at):
    straight = tiny_run(**SETTINGS)
    records = list(train(straight))
    assert 1 <= sum(r.skipped for r in records) <= 8  # the scale moved, and most steps were taken
    first = tiny_run(**SETTINGS)
    before = ran(first, at)
    Checkpoints(tmp_path).save(first)
    resumed = tiny_run(**SETTINGS, seed=99)  # its own weights must not survive
    resumed.config, resumed.loader = first.config, first.loader
    assert Checkpoints(tmp_path).load(resumed) == at
    assert repr(before + list(train(resumed))) == repr(records)
    assert state(resumed) == state(straight)


def test_leaving_one_thing_out_of_the_checkpoint_is_noticed(tiny_run, tmp_path):
    """Negative control: with moments or scaler lost, the resumed run differs."""
    straight = tiny_run(**SETTINGS)
    list(train(straight))
    for lost in ("optimizer", "scaler", "weights"):
        first = tiny_run(**SETTINGS)
        ran(first, 6)
        Checkpoints(tmp_path / lost).save(first)
        resumed = tiny_run(**SETTINGS)
        blank = tiny_run(**SETTINGS)
        Checkpoints(tmp_path / lost).load(resumed)
        if lost == "optimizer":
            resumed.optimizer.load_state_dict(blank.optimizer.state_dict())
        elif lost == "scaler":
            resumed.scaler.load_state_dict(blank.scaler.state_dict())
        else:
            resumed.model.load_state_dict(blank.model.state_dict())
        list(train(resumed))
        assert state(resumed) != state(straight), lost


class Counter:
    """A detector's stand-in: state that must come back."""

    def __init__(self):
        self.seen = []

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


def test_parts_generators_and_skip_list_come_back(tiny_run, tmp_path):
    run, other = tiny_run(), tiny_run()
    run.parts["detector"], other.parts["detector"] = Counter(), Counter()
    run.parts["detector"].seen += [1.5, 2.5]
    run.loader = run.loader.with_skip(Skip(batches=frozenset({3, 4}), documents=frozenset({17})))
    run.micro_batch = 2
    torch.manual_seed(123)
    Checkpoints(tmp_path).save(run)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Checkpoints(tmp_path).load(other)
    assert torch.equal(torch.rand(3), expected)
    assert other.parts["detector"].seen == [1.5, 2.5]
    assert other.loader.skip == run.loader.skip and other.micro_batch == 2


def saved(tiny_run, folder, steps=(2, 4, 6), **options):
    run, checkpoints = tiny_run(), Checkpoints(folder, **options)
    iterator = train(run)
    while run.step < max(steps):
        next(iterator)
        if run.step in steps:
            checkpoints.save(run)
    return run, checkpoints


@pytest.mark.parametrize("name", ["weights.pt", "optimizer.pt", "rank-00000.pt", "checkpoint.json"])
def test_a_flipped_bit_anywhere_is_found_and_an_older_checkpoint_is_loaded(tiny_run, tmp_path, name):
    run, checkpoints = saved(tiny_run, tmp_path)
    path = checkpoints.at(6) / name
    content = path.read_bytes()
    for k in range(16):  # sixteen places spread over the file, every bit position twice
        place = (len(content) - 1) * k // 15
        flipped = bytearray(content)
        flipped[place] ^= 1 << (k % 8)
        path.write_bytes(flipped)
        assert problems(checkpoints.at(6)), (name, place)
    told = []
    run.sinks.append(told.append)
    assert checkpoints.load(run) == 4
    assert told[0].kind == "fallback" and told[0].says.startswith("checkpoint of step 6 is damaged (")
    path.write_bytes(content)
    assert not problems(checkpoints.at(6)) and checkpoints.load(run) == 6


def test_torch_load_alone_does_not_see_the_flipped_bit(tiny_run, tmp_path):
    """Why the hashes are there."""
    _, checkpoints = saved(tiny_run, tmp_path)
    path = checkpoints.at(6) / "weights.pt"
    weights = torch.load(path, weights_only=True)
    raw = weights["embed.weight"].numpy().tobytes()[:64]
    content = bytearray(path.read_bytes())
    content[content.index(raw) + 3] ^= 0x40  # the top exponent bit of the first weight
    path.write_bytes(content)
    damaged = torch.load(path, weights_only=True)
    assert damaged["embed.weight"][0, 0].abs() > 1e30 > weights["embed.weight"].abs().max()


def test_missing_files_are_found(tiny_run, tmp_path):
    run, checkpoints = saved(tiny_run, tmp_path)
    (checkpoints.at(6) / "optimizer.pt").unlink()
    (checkpoints.at(4) / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError) as refusal:
        checkpoints.load(run)
    assert str(refusal.value) == (
        f"no checkpoint to load in `{tmp_path}` (step 6: optimizer.pt: missing; step 4: checkpoint.json: "
        f"FileNotFoundError: [Errno 2] No such file or directory: '{checkpoints.at(4)}/checkpoint.json')\n"
        "  remedy: start the run anew, without --resume"
    )


def test_rotation_keeps_the_last_two_and_every_nth(tiny_run, tmp_path):
    _, checkpoints = saved(tiny_run, tmp_path, steps=range(1, 12), keep_every=4)
    assert checkpoints.steps() == [4, 8, 10, 11]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{s:08d}" for s in (4, 8, 10, 11)]


def test_a_rollback_loads_an_older_one(tiny_run, tmp_path):
    run, checkpoints = saved(tiny_run, tmp_path, keep_last=3)
    assert checkpoints.load(run, before=5) == 4


def test_leftovers_of_a_killed_save_are_swept_and_never_taken_for_a_checkpoint(tiny_run, tmp_path):
    run, checkpoints = saved(tiny_run, tmp_path)
    (tmp_path / ".step-00000008.tmp").mkdir()
    (tmp_path / ".step-00000002.trash").mkdir()
    assert checkpoints.steps() == [4, 6] and checkpoints.load(run) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_leaves_the_older_checkpoints_and_no_half_one(tiny_run, tmp_path, monkeypatch, call):
    run, checkpoints = saved(tiny_run, tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    ran(run, 1)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError) as refusal:
        checkpoints.save(run)
    monkeypatch.undo()
    assert str(refusal.value).endswith(
        "no space left on device\n  remedy: free some space or choose another folder"
    ) and str(refusal.value).startswith("cannot write `")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]
    assert not problems(checkpoints.at(6))


def test_an_unwritable_folder_is_named(tiny_run, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StorageError) as refusal:
        Checkpoints(blocked / "checkpoints").save(tiny_run())
    assert str(refusal.value) == (
        f"cannot write `{blocked}/checkpoints/step-00000000`: not a directory\n"
        "  remedy: choose a folder you may write to"
    )


def test_another_runs_checkpoint_is_refused(tiny_run, tmp_path):
    _, checkpoints = saved(tiny_run, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run: "):
        checkpoints.load(tiny_run(model__width=32))
    with pytest.raises(CheckpointError, match="belongs to another run: "):
        checkpoints.load(tiny_run(data_seed=5))


def test_a_changed_machine_makes_the_resume_not_exact_and_says_why(tiny_run, tmp_path):
    run, checkpoints = saved(tiny_run, tmp_path)
    told = []
    run.sinks.append(told.append)
    checkpoints.load(run)
    assert (told[-1].kind, told[-1].says) == ("resume", "resumed at step 6, exact")
    torch.set_num_threads(2)
    try:
        checkpoints.load(run)
    finally:
        torch.set_num_threads(1)
    assert told[-1].says == "resumed at step 6, not exact: threads was 1 and is 2"


def test_differences_name_both_sides():
    assert differences({"world": 2, "deterministic": True}, {"world": 1, "deterministic": False}) == [
        "deterministic was True and is False",
        "world was 2 and is 1",
        "deterministic algorithms are off (torch.use_deterministic_algorithms)",
    ]
