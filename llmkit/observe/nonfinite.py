"""Which module made the first NaN or infinity: the step is done again, with a watch at every border.

The one idea: watching costs nothing while all is well, because a step that went wrong was skipped. The
weights are still those it ran with, the batch is still there and the dropout masks are a function of the
step, so it can be repeated to the bit, as often as one likes.

    site = trace_nonfinite(run)         # after a step that was not finite
    print(site.says)

Forward, the finiteness of whatever enters or leaves a module is looked at in the order of execution: what is
first seen bad on the way out of a module was made by it; what is first seen bad on the way into one was made
by its parent, between its submodules. Backward, every node of the graph is looked at, and belongs to the
module whose forward pass made it (llmkit.observe.borders).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llmkit.errors import ConfigError
from llmkit.observe.borders import Backward, Forward, Sighting, absmax, is_finite
from llmkit.records import StepRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """Where a step first became non-finite."""

    module: (
        str  # as in `model.named_modules()`; the model itself by its class name; "loss" after the last one
    )
    type: str  # class of that module
    phase: str  # "forward" or "backward"
    parameter: str = ""  # forward: bad before the step; backward: the first that got a non-finite gradient
    kind: str = "nan"  # "inf" if there is an infinity among the first non-finite values, else "nan"
    input_absmax: float = 0.0  # largest finite |value| that the module had to work with
    output_share: float = 0.0  # share of non-finite elements in the tensor where they were first seen
    inputs_finite: bool = True  # False: the module was given non-finite values (its own weights)
    precision: str = "fp32"
    documents: tuple[int, ...] = ()  # ids in the sequences below, in order of appearance
    sequences: tuple[
        int, ...
    ] = ()  # rows of the global batch that hold them; empty: they cannot be told apart
    reproducible: bool = True  # a second replay gave the same

    @property
    def data(self) -> dict[str, Any]:
        """The data of an Event of kind `nonfinite`; `reproducible` is there only when it is False."""
        plain = dataclasses.asdict(self)
        plain |= {"documents": list(self.documents), "sequences": list(self.sequences)}
        if self.reproducible:
            del plain["reproducible"]
        return plain

    @property
    def says(self) -> str:
        """One sentence."""
        if not self.module:
            if self.reproducible:
                return "the step could not be replayed: out of memory"
            return "a replay of the step is finite: not made by the model, the batch or the dropout masks"
        kind = "infinity" if self.kind == "inf" else "NaN"
        if not self.inputs_finite:
            return f"first {kind} in the {self.phase} pass: `{self.parameter}` was non-finite before the step"
        if not self.output_share:
            return f"the gradient of `{self.parameter}` is finite, and so large that its norm is not"
        where = (
            f"first {kind} in the {self.phase} pass: `{self.module}` ({self.type}) made it from finite values"
        )
        return where if self.reproducible else f"{where}, in one replay of two"


def trace_nonfinite(run: Any, *, loss_scale: float | None = None) -> Site | None:
    """Replay the step of `run.batch` twice and name the first non-finite place.

    Call it from `on_step`, or after the step was yielded: what counts is that the step was skipped, so that
    the weights are unchanged. Gradients, random generators and buffers are put back; on a GPU it needs room
    for one more set of gradients. Costs about three times two steps.

    Args:
        loss_scale: the scale that the step ran with, `record.loss_scale`; None: the scaler's present one,
            which a backward overflow has halved by the time the record is there.

    Returns:
        None when the replay is finite. Each rank sees its own share of the batch.

    Raises:
        ConfigError: no step was done yet.
        torch.OutOfMemoryError: no room for the replay; the run is as before.
    """
    if run.batch is None:
        raise ConfigError(
            "no step was done yet", remedy="trace after a record of `train(run)` that is `nonfinite`"
        )
    scale = run.scaler.current if loss_scale is None else loss_scale
    first, second = _replay(run, scale), _replay(run, scale)
    if first == second:
        return first
    return dataclasses.replace(first or second, reproducible=False)


class Tracer:
    """Traces every non-finite step and tells the run: one event of kind `nonfinite`.

    Cost: nothing on a finite step, some six steps' time on one that is not. Under several ranks each rank
        must have
    one: they agree on the earliest site.

    Attributes:
        sites: (step, site) of every non-finite step so far.
    """

    def __init__(self) -> None:
        self.sites: list[tuple[int, Site]] = []

    def on_step(self, run: Any, record: StepRecord) -> None:
        if not record.nonfinite:
            return
        try:
            site, replayed = trace_nonfinite(run, loss_scale=record.loss_scale), True
        except torch.OutOfMemoryError:  # an instrument must not be what kills the run
            site, replayed = None, False
        found = [s for s in run.parallel.gather(site) if s is not None]
        forward = [s for s in found if s.phase == "forward"]
        site = (forward or found or [_unexplained(run, record, replayed)])[0]
        self.sites.append((record.step, site))
        run.tell("nonfinite", site.says, **site.data)


def _unexplained(run: Any, record: StepRecord, replayed: bool) -> Site:
    """What is known without a site. A replay that is finite is what a passing hardware error looks like."""
    norms = zip((name for name, _ in run.named_grads()), run.found["norms"].tolist(), strict=True)
    value = record.loss if record.nonfinite == "loss" else record.grad_norm
    return Site(
        module="", type="", phase="forward" if record.nonfinite == "loss" else "backward",
        parameter=next((name for name, norm in norms if not math.isfinite(norm)), ""),
        kind="nan" if math.isnan(value) else "inf", inputs_finite=False, precision=run.precision.name,
        reproducible=not replayed,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the replay


def _replay(run: Any, scale: float) -> Site | None:
    """The step once more: its first sighting, with the rows of every micro-batch that had one."""
    sightings, rows = [], []
    with _undisturbed(run) as grads:
        for micro in run.batch.split(run.micro_batch):
            sighting = _replay_micro_batch(run, micro, scale)
            if sighting is not None:
                sightings.append(sighting)
                if sighting.phase == sightings[0].phase:
                    start = micro.index * (run.micro_batch or 0)  # its first row among this rank's
                    rows += [start + row for row in sighting.rows(*micro.x.shape)]
        return _site(run, sightings[0], rows) if sightings else _norm_overflow(run, grads)


def _replay_micro_batch(run: Any, micro: Any, scale: float) -> Sighting | None:
    forward = Forward(run.model)
    with run.dropout_masks(micro.index):
        # the model, not its DDP wrapper: each rank replays its own share and waits for nobody
        with run.precision.forward(), forward.watching():
            losses = run.model(micro.x, micro.y)
            loss = (losses * micro.weight).sum() / run.positions
        forward.claim_loss(loss)
        if forward.sighting is None:
            backward = Backward(run.model, forward)
            with backward.watching():
                (loss * scale).backward()
            return backward.sighting
    return forward.sighting


@contextmanager
def _undisturbed(run: Any) -> Iterator[dict[str, Tensor]]:
    """Gradients, buffers and random generators are as before, afterwards; yields those gradients."""
    parameters = dict(run.model.named_parameters())
    grads = {name: p.grad for name, p in parameters.items()}
    buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
    step, run.step = run.step, run.batch.numpy.step  # masks depend on it; after the yield it has moved on
    devices = [run.device] if run.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            for p in parameters.values():
                p.grad = None
            yield {name: grad for name, grad in grads.items() if grad is not None}
    finally:
        run.step = step
        for name, p in parameters.items():
            p.grad = grads[name]
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)


def _site(run: Any, first: Sighting, rows: list[int]) -> Site:
    documents = dict.fromkeys(document for row in rows for document in run.batch.documents[row])
    offset = run.parallel.rank * len(run.batch.x)
    return Site(
        module=first.module, type=first.type, phase=first.phase, parameter=first.parameter, kind=first.kind,
        input_absmax=first.input_absmax, output_share=first.share, inputs_finite=first.inputs_finite,
        precision=run.precision.name, documents=tuple(documents),
        sequences=tuple(offset + row for row in rows),
    )  # fmt: skip


def _norm_overflow(run: Any, grads: dict[str, Tensor]) -> Site | None:
    """A gradient of finite elements whose sum of squares is beyond fp32."""
    modules = dict(run.model.named_modules())
    for (name, grad), norm in zip(grads.items(), run.found["norms"].tolist(), strict=True):
        if not math.isfinite(norm) and is_finite(grad):
            owner = name.rpartition(".")[0]
            return Site(
                module=owner or type(run.model).__name__, type=type(modules[owner]).__name__,
                phase="backward", parameter=name, kind="inf", input_absmax=absmax([grad]),
                precision=run.precision.name,
            )  # fmt: skip
    return None
