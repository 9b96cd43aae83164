"""Running out of memory (LK201): recorded, so certain; what remains to say is what filled it."""

from __future__ import annotations

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import EVENTS, TIMES, Opinion, fact
from llmkit.diagnose.words import listing, percent, plural, size
from llmkit.records import Event, Evidence, Experiment, Finding

FIXES = {
    "activations": "halve the micro-batch and double accumulation (the same global batch, about half the "
    "activations), then activation checkpointing, then a shorter context",
    "temporaries": "halve the micro-batch; if it breaks at the head, compute the loss in chunks: logits are "
    "batch x context x vocabulary",
    "optimizer_state": "shard or shrink the optimizer state: a smaller micro-batch frees none of it",
    "gradients": "shard the gradients, or a smaller model: a smaller micro-batch frees none of them",
    "parameters": "a smaller or sharded model: a smaller micro-batch frees no parameters",
}


def out_of_memory(chart: Chart) -> Opinion:
    """LK201: out of memory.

    What it sees: an `oom` event with the module, the phase, the bytes asked for, and what was live by
    category.
    Why it hurts: the step dies. Caught inside `except`, the traceback keeps its tensors alive, so a retry
    there fails too.
    Looks like: a crash at one module; at the head it is the logits (batch x context x vocabulary), in the
    first optimizer step it is AdamW's moments, after hours at an ordinary batch it is a leak.
    Confirm: the same step with half the micro-batch. Half the activations, the same parameters and optimizer
    state.
    Fix: by what is live. Activations: halve the micro-batch, double accumulation; activation checkpointing.
    Optimizer state or parameters: shard, or a smaller model.
    Confused with: a leak (live bytes rise step by step before it), a longer batch than usual, fragmentation
    (CUDA only: reserved far above allocated), the host's own out-of-memory killer (exit code 137, no event).
    """
    events = chart.events_of("oom")
    if events:
        return Opinion(findings=(_finding(chart, events),))
    if not chart.has_events:
        return Opinion(not_judged="no events.jsonl: an allocation that fails leaves no line in steps.jsonl")
    return Opinion(ruled_out="no allocation failed: events.jsonl has no `oom` event")


def _finding(chart: Chart, events: list[Event]) -> Finding:
    first, data = events[0], events[0].data
    module, phase = data.get("module") or "", data.get("phase") or "step"
    where = f"`{module}`" if module else "the run"
    emulated = " (emulated budget)" if data.get("emulated") else ""
    largest = _largest(data)
    return Finding(
        code="LK201", title="out of memory",
        says=f"{where} ran out of memory in the {phase} pass of step {first.step}{emulated}".replace(
            "optimizer pass", "optimizer update"
        ),
        step=first.step, cause=module,
        evidence=(*_bytes(first), *_categories(first), *_trend(chart, first.step), *_again(chart, events)),
        confirm=Experiment(
            name="replay-half-micro-batch",
            says=f"step {first.step} again with half the micro-batch{_halved(data.get('micro_batch'))}",
            predicts=_prediction(data, largest),
            command="with llmkit.memory.budget(limit, run): next(llmkit.train.train(run))",
        ),
        fix=FIXES.get(largest, FIXES["activations"]),
        also_seen_with=("a memory leak", "a longer batch than usual", "fragmentation (CUDA only)"),
        confidence="certain",
    )  # fmt: skip


def _halved(micro_batch: int | None) -> str:
    return f" ({micro_batch} -> {max(1, micro_batch // 2)})" if micro_batch else ""


def _largest(data: dict) -> str:
    """The category with most live bytes, activations when nothing says."""
    live = data.get("by_category") or {}
    return max(live, key=lambda name: live[name]).replace(" ", "_") if live else "activations"


def _prediction(data: dict, largest: str) -> str:
    if largest in ("activations", "temporaries", "inputs"):
        live = (data.get("by_category") or {}).get(largest, 0)
        return (
            f"it fits, or asks for about {size(live / 2)} less" if live else "it fits, or asks for about half"
        )
    return f"it fails again: {largest.replace('_', ' ')} do not depend on the batch"


def _bytes(event: Event) -> tuple[Evidence, ...]:
    data = event.data
    if not {"requested_bytes", "live_bytes", "limit_bytes"} <= data.keys():
        return (fact(event.says or "an allocation failed", event.step, EVENTS),)
    asked, live, cap = (size(data[key]) for key in ("requested_bytes", "live_bytes", "limit_bytes"))
    return (fact(f"{asked} were asked for with {live} live, and the limit is {cap}", event.step, EVENTS),)


def _categories(event: Event) -> tuple[Evidence, ...]:
    live = event.data.get("by_category") or {}
    total = sum(live.values())
    if not total:
        return ()
    most = sorted(live.items(), key=lambda item: -item[1])[:4]
    parts = [
        f"{name.replace('_', ' ')} {size(count)} ({percent(count / total)})" for name, count in most if count
    ]
    return (fact(f"live then: {listing(parts)}", event.step, EVENTS),)


def _trend(chart: Chart, step: int) -> tuple[Evidence, ...]:
    """Whether memory rose before it broke: a leak does, a batch that is too large does not."""
    seen = [t.memory_bytes for t in chart.times if t.step < step and t.memory_bytes][-50:]
    if len(seen) < 20:
        return ()
    half = len(seen) // 2
    early, late = sum(seen[:half]) / half, sum(seen[half:]) / (len(seen) - half)
    if late > 1.1 * early:
        return (
            fact(
                f"memory rose by {size(late - early)} over the {len(seen)} steps before: a leak?", step, TIMES
            ),
        )
    return (fact(f"memory was level over the {len(seen)} steps before: not a leak", step, TIMES),)


def _again(chart: Chart, events: list[Event]) -> tuple[Evidence, ...]:
    said = (
        [fact(f"it happened {plural(len(events), 'time')} in all", events[-1].step, EVENTS)]
        if events[1:]
        else []
    )
    rescues = [e for e in chart.events_of("rescue") if e.data.get("policy") == "halve-micro-batch"]
    if rescues and any(s.number >= rescues[-1].step and s.healthy for s in chart.steps):
        said.append(fact("after the micro-batch was halved the run went on", rescues[-1].step, EVENTS))
    return tuple(said)
