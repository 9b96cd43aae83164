"""Memory that grows until it is gone (LK202 to LK208), read from `memory` events, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.growth import Growth
from llmkit.diagnose.opinion import EVENTS, Opinion, fact, finding
from llmkit.diagnose.signals import median
from llmkit.diagnose.words import percent, size
from llmkit.records import Evidence

YOUNG = 2  # steps in which moments and caches appear
ENOUGH = 24  # steps after them
STEADY = 0.8  # share of steps in which a leak of every step grows
MANY = 3  # modules at once are a graph; fewer are somebody's list
MORE = 1.15  # times the most so far: a larger batch than ever
SETTLED = 32  # steps that show how long a batch can be
LOST, SEGMENTS = 0.2, 100 * 2**20  # share and bytes of reserved memory that were never in use


def watched(rule: Callable[[Chart, Growth], Opinion]) -> Callable[[Chart], Opinion]:
    """For rules that read `memory` events; the last life of a step counts."""

    def judge(chart: Chart) -> Opinion:
        told = {event.step: event.data for event in chart.events_of("memory")}
        if not told:
            return Opinion(not_judged="no `memory` events: train inside `llmkit.memory.watch(run)`")
        told = {step: told[step] for step in sorted(told)[YOUNG:]}
        if len(told) < (1 if chart.events_of("oom") else ENOUGH):  # a death needs no more steps
            return Opinion(not_judged=f"memory was watched for {len(told)} steps, {ENOUGH} are needed")
        return rule(chart, Growth(told))

    judge.__doc__ = rule.__doc__
    judge.__name__ = rule.__name__
    return judge


@watched
def graph_kept(chart: Chart, growth: Growth) -> Opinion:
    """LK202: graph kept.

    What it sees: what outlives a whole step rises at every step, by activations of many layers at once.
    Why it hurts: each step's graph stays until memory is gone, hours later, at an ordinary batch.
    Looks like: a straight line in allocated memory, steps that grow slower, a crash that a restart postpones.
    Confirm: the same steps with `.item()` where the loss is summed: live memory is level.
    Fix: sum numbers and not tensors, `total_loss += loss.item()` or `.detach()`; no `retain_graph=True`.
    Confused with: a growing list (one line of code), an evaluation that keeps its graphs (stairs), a cache of
    keys and values (it falls again when the sequence ends).
    """
    if growth.goes_on and growth.share >= STEADY and growth.modules >= MANY:
        return _leak(graph_kept, growth, "the autograd graph of each step is kept", "autograd graph")
    return _no_leak(growth)


@watched
def growing_list(chart: Chart, growth: Growth) -> Opinion:
    """LK203: growing list.

    What it sees: what outlives a whole step rises for good, again and again, by what one or two layers
    allocate.
    Why it hurts: as a kept graph, more slowly.
    Looks like: a list of predictions, losses or batches for a metric at the end of an epoch.
    Confirm: the same steps with the list cleared every ten steps: live memory falls back.
    Fix: keep numbers, or move what is kept to the host (`.cpu()`), or update the metric as it goes.
    Confused with: a kept graph (many layers at once), moments (the first step alone), a cache of keys and
    values (it falls again when the sequence ends).
    """
    if growth.goes_on and growth.modules < MANY:
        module, _, line = growth.culprit()
        return _leak(growing_list, growth, f"what `{line}` allocates is kept at every step", module or line)
    return _no_leak(growth)


@watched
def evaluation_kept(chart: Chart, growth: Growth) -> Opinion:
    """LK206: evaluation keeps its graphs.

    What it sees: live memory rises in stairs, some steps apart, by activations of many layers; in between it
    is level.
    Why it hurts: each evaluation leaves its activations behind; the run dies in or after one of them.
    Looks like: a staircase in allocated memory with the period of the evaluations.
    Confirm: one evaluation under `torch.no_grad()`: live memory is the same before and after.
    Fix: `@torch.no_grad()` or `torch.inference_mode()` around the evaluation, and `.item()` on its losses.
    Confused with: a kept graph (a rise at every step), a growing list (one line of code).
    """
    if growth.goes_on and growth.share < STEADY and growth.modules >= MANY:
        gap = median([b - a for a, b in pairwise(growth.rises)])
        says = f"activations of a forward pass are kept every {gap:.0f} steps"
        return _leak(evaluation_kept, growth, says, "evaluation")
    return _no_leak(growth)


@watched
def second_state(chart: Chart, growth: Growth) -> Opinion:
    """LK207: second optimizer state.

    What it sees: live memory rises once, by two numbers for each parameter, and stays there.
    Why it hurts: a job that fitted before its restart no longer does, at once or at its next longer batch.
    Looks like: a step in allocated memory after a resume, of the size of the optimizer state.
    Confirm: the state dict that was loaded is deleted after the load: live memory falls by that much.
    Fix: `torch.load(..., map_location="cpu")`, load, delete; or load into what is there (mmap, DCP).
    Confused with: moments that appear in the first step, a larger batch (it raises the peak, not what stays).
    """
    state = max(t["state"] for t in growth.told.values())
    for step in growth.rises if len(growth.rises) < 5 else ():
        count = growth.told[step]["grown"]
        if state and 0.9 * state <= count <= 1.1 * state:
            says = f"{size(count)} came to stay in step {step - 1}; the optimizer's state is {size(state)}"
            seen, title = (fact(says, step, EVENTS),), "the optimizer's state is in memory twice"
            return _found(second_state, title, step - 1, "optimizer state", seen)
    return Opinion(ruled_out="nothing of the size of the optimizer's state came to stay")


@watched
def long_sequence(chart: Chart, growth: Growth) -> Opinion:
    """LK204: longer batch than any before.

    What it sees: a step with 15 % more tokens at once than any of at least 32 before it, whose peak is higher
    too, or which ran out of memory.
    Why it hurts: memory that was enough for days is not enough for one batch.
    Looks like: a crash at one batch, and again at the same batch after a restart.
    Confirm: the same step with its batch cut to the usual length: the peak is the usual one.
    Fix: a cap on tokens at once (not on sequences), buckets by length, the longest batch first as a test.
    Confused with: a leak (what stays rises too), fragmentation (reserved memory rises, allocated does not).
    """
    usual, peak = 0, 0
    died = {e.step: {"tokens": e.data.get("tokens", 0), "peak": math.inf} for e in chart.events_of("oom")}
    for number, (step, told) in enumerate(sorted({**growth.told, **died}.items())):
        if number >= SETTLED and told["tokens"] > MORE * usual and told["peak"] > MORE * peak:
            seen = (fact(f"step {step} has {told['tokens']:,} tokens at once; the most before it was "
                         f"{usual:,}, with a peak of {size(peak)}", step, EVENTS),)  # fmt: skip
            says = f"the batch of step {step} is {told['tokens'] / usual:.2g} times as long as any before it"
            return _found(long_sequence, says, step, f"batch of step {step}", seen)
        usual, peak = max(usual, told["tokens"]), max(peak, told["peak"])
    return Opinion(ruled_out=f"no batch is longer than the {usual:,} tokens seen early on")


@watched
def fragmented(chart: Chart, growth: Growth) -> Opinion:
    """LK205: fragmentation.

    What it sees: a fifth of what the allocator has reserved, and five segments of 20 MiB, were never in use
    at once; or an allocation failed that the idle memory would hold.
    Why it hurts: memory runs out with gigabytes "reserved by PyTorch but unallocated".
    Looks like: batches of varying length, reserved memory that creeps up, retries that empty the cache.
    Confirm: the same steps with `PYTORCH_ALLOC_CONF=expandable_segments:True`: reserved stays near allocated.
    Fix: expandable_segments:True; lengths padded to a few sizes; the longest batch first.
    Confused with: a leak (allocated rises), an allocator that warms up (reserved is level after some steps).
    """
    steps, top = sorted(growth.told), 0
    for step in steps:
        told = growth.told[step]
        top = max(top, told["peak"])
        if told["reserved"] - top > max(LOST * told["reserved"], SEGMENTS):
            break
    else:
        died = chart.events_of("oom")[-1:]
        if not told["reserved"]:
            return Opinion(not_judged="no allocator was modelled: `llmkit.memory.watch(run, allocator='')`")
        if (
            not died
            or died[0].data["reserved_bytes"] - died[0].data["live_bytes"] < died[0].data["requested_bytes"]
        ):
            lost = percent(max(0.0, 1 - top / told["reserved"]))
            return Opinion(ruled_out=f"{lost} of what is reserved was never in use at once")
        step = died[0].step
    lost = percent(1 - top / told["reserved"])
    says = (
        f"{size(told['reserved'])} are reserved, and at most {size(top)} were in use at once: {lost} is lost"
    )
    return _found(
        fragmented,
        "the allocator holds memory that nobody can use",
        step,
        "allocator",
        (fact(says, step, EVENTS),),
    )


@watched
def big_logits(chart: Chart, growth: Growth) -> Opinion:
    """LK208: logits.

    What it sees: logits, their logarithms of probabilities and their gradient (three of the largest tensor)
    come to fill more than half of the peak, or do where memory ran out.
    Why it hurts: batch x context x vocabulary: at 128,256 tokens of vocabulary, 8,192 positions take 4.2 GB
    in fp32, three times over.
    Looks like: a peak at the loss and not in a block; what stays between steps is as before.
    Confirm: the loss in chunks of 1,024 positions: the peak falls to what the blocks need.
    Fix: a chunked or fused cross-entropy (`model__loss_chunk`), a smaller micro-batch.
    Confused with: activations of the blocks (checkpointing helps there, and not here), a longer batch.
    """

    def fill(told: dict[str, Any]) -> bool:
        return "." not in told["largest_in"] and 3 * told["largest"] > 0.5 * told["peak"]

    steps = [step for step, told in growth.told.items() if fill(told)]
    died = [e for e in chart.events_of("oom") if "." not in e.data["module"]]
    if not steps or (steps[0] == min(growth.told) and not died):
        return Opinion(ruled_out="three times the largest tensor came not to fill half of the peak")
    told = growth.told[steps[0]]
    share = percent(3 * told["largest"] / told["peak"])
    says = f"{size(told['largest'])}, made in `{told['largest_in']}`; three of it are {share} of the peak"
    seen = (fact(f"the largest tensor of step {steps[0]} is {says}", steps[0], EVENTS),)
    return _found(big_logits, "logits fill more than half of the peak", steps[0], told["largest_in"], seen)


def _leak(rule: Callable, growth: Growth, says: str, cause: str) -> Opinion:
    first = growth.rises[0] - 1  # what came in it was still there after the next one
    return _found(rule, f"{says}, from step {first} on", first, cause, growth.evidence())


def _found(rule: Callable, says: str, step: int, cause: str, seen: tuple[Evidence, ...]) -> Opinion:
    command = "with llmkit.memory.watch(run): list(llmkit.train.train(run))"
    return finding(
        rule, says, step, cause, seen, probe="replay-watching-memory", command=command, confidence="likely"
    )


def _no_leak(growth: Growth) -> Opinion:
    rises = len(growth.rises)
    return Opinion(
        ruled_out=f"what stays live rose at {rises} of {len(growth.told)} steps, and not on and on"
    )
