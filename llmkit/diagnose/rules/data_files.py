"""Shards that are no longer what was written: truncated (LK410), changed (LK411), duplicated (LK412).

The curves do not show it: one changed token in a million moves no loss. What shows it is hashing the files
and comparing, which `llmkit diagnose RUN --check-data` does, and a run does by itself when it dies of its
data or ends. It leaves an event of kind `data`; these rules read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import EVENTS, Opinion, fact, finding
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import listing, plural


def truncated_shard(chart: Chart) -> Opinion:
    """LK410: truncated shard.

    What it sees: a check of the files found a shard with fewer bytes than its manifest says, or none.
    Why it hurts: the run stops; a loader without a check hangs, reads zeros, or trains on less text than it
    says.
    Looks like: a run that dies at one step, at the same one after every restart.
    Confirm: compare the files' sizes with the manifest: one is shorter.
    Fix: copy the shard again from where it is whole, or build it again, and resume; check size and hash after
    every copy.
    Confused with: LK411 flipped byte (the size is right), a disk that does not answer (the file is whole).
    """
    return _damaged(chart, truncated_shard, ("truncated", "missing"), "ends too early")


def flipped_byte(chart: Chart) -> Opinion:
    """LK411: flipped byte.

    What it sees: a check of the files found a shard with other bytes than were written, and not fewer.
    Why it hurts: two runs on "the same data" are no longer the same run; a flipped high bit is an id
    beyond the vocabulary and a crash; where one byte changed, the disk or the memory will change more.
    Looks like: nothing at all (tiny(): no digit of the loss), or one odd sequence.
    Confirm: hash the shard twice more: equal hashes, neither the manifest's (if they differ, it is the
    reader).
    Fix: copy the shard again from where its hash is right, check the disk, rerun what must be exact.
    Confused with: LK412 duplicate shard (all bytes differ, and are another shard's), LK402 corrupt shard
    (all of it is noise), a shard rebuilt on purpose without a new manifest.
    """
    return _damaged(chart, flipped_byte, ("changed", "extended"), "is not what was written")


def duplicate_shard(chart: Chart) -> Opinion:
    """LK412: duplicate shard.

    What it sees: a check of the files found a shard that holds the tokens of another, or two entries of the
    manifest with one hash.
    Why it hurts: part of the text is trained on twice an epoch and learned by heart, part is never seen; the
    ids recorded for it are wrong.
    Looks like: nothing in the first epoch (tiny(): 0.02 nats either way); a training loss below its trend
    later, which validation does not follow.
    Confirm: compare the first windows of both shards: the same tokens.
    Fix: copy or build the shard again; no rollback where few of its windows were served twice.
    Confused with: LK408 train/val leak (the repeated text is the validation split's), LK409 source missing
    (text is missing too, nothing is repeated), LK411 flipped byte (few bytes differ).
    """
    return _damaged(chart, duplicate_shard, ("duplicate",), "holds the tokens of another shard")


def _damaged(chart: Chart, rule: Callable, kinds: tuple[str, ...], what: str) -> Opinion:
    checks = chart.events_of("data")
    if not checks:
        return Opinion(not_judged="the files were not checked: `llmkit diagnose RUN --check-data` does")
    problems = [(e, p) for e in reversed(checks) for p in e.data.get("problems") or ()]
    told = {str(p.get("file")): (e, p) for e, p in problems if p.get("kind") in kinds}
    if not told:
        return Opinion(ruled_out=f"no file was so when they were checked, at step {checks[-1].step}")
    event, problem = next(iter(told.values()))
    served = _served(chart, problem)
    step = event.step if event.data.get("died") or not served else served[0].number
    first = f", the first at step {served[0].number}" if served else ""
    return finding(
        rule, f"{listing([f'`{name}`' for name in told])} {what}", step, listing(list(told)),
        (
            *(fact(str(p.get("says")), e.step, EVENTS) for e, p in told.values()),
            fact(f"{plural(len(served), 'step')} served those bytes{first}; since when is not known", step),
        ),
        probe="verify-data", command=f"llmkit data verify {event.data.get('path', 'DATA')}",
    )  # fmt: skip


def _served(chart: Chart, problem: dict[str, Any]) -> list[Step]:
    """Steps with a window in the damaged bytes, or in the shard where the bytes are not known."""
    size, shard = (chart.data.get("shards") or {}).get("tokens"), problem.get("shard")
    context, width = (chart.config.get("model") or {}).get("context"), problem.get("itemsize")
    if problem.get("split") != "train" or not (size and context and width):
        return []
    ranges = problem.get("ranges") or [(0, size * width)]
    spans = [(shard * size + a // width, shard * size - (-b // width)) for a, b in ranges]
    return [
        step for step in chart.steps
        if any(a <= (n + 1) * context and n * context < b for n in step.record.samples for a, b in spans)
    ]  # fmt: skip
