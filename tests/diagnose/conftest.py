"""Synthetic runs: healthy ones in many shapes, and six ways to break them.

The noise is that of measured runs: per-step loss s.d. 0.1 nats, sequence losses with heavy tails, gradient
norms that jump up to 18-fold on a single healthy step (seen on `tiny()` at the end of its warmup), documents
of unequal difficulty, garbage-collection pauses, cold first steps, a loss-scale search that halves.
"""

from __future__ import annotations

import dataclasses
import math
import random
from types import SimpleNamespace

import pytest

from llmkit.diagnose import Chart
from llmkit.records import Event, StepRecord, StepTimes

PHASES = ("data_s", "forward_s", "backward_s", "optimizer_s")


class Patient:
    """A run's records, mutable, until `chart()` or `write(folder)`."""

    def __init__(self, steps, times, events, facts):
        self.steps, self.times, self.events, self.facts = steps, times, events, facts

    def chart(self) -> Chart:
        return Chart.of(self.steps, self.times, self.events, self.facts)

    def write(self, folder) -> None:
        """Append everything to a RunFolder."""
        for log, records in (("steps", self.steps), ("times", self.times), ("events", self.events)):
            folder.append(log, *records)

    def change(self, step: int, **fields) -> None:
        self.steps[step] = dataclasses.replace(self.steps[step], **fields)

    def tell(self, kind: str, step: int, /, **data) -> None:
        self.events.append(Event(kind=kind, step=step, says=f"{kind} at step {step}", data=data))
        self.events.sort(key=lambda event: event.step)


def healthy(seed: int, steps: int | None = None, **fixed) -> Patient:
    """A healthy run. What `fixed` does not set is drawn: schedule, precision, batch, noise, events."""
    rng = random.Random(seed)
    draw = SimpleNamespace(
        steps=steps or rng.choice((5, 30, 80, 200, 400)),
        batch=rng.choice((2, 4, 8, 16, 32)),
        schedule=rng.choice(("cosine", "constant", "linear", "restarts", "plateaus", "no warmup")),
        precision=rng.choice(("fp32", "bf16", "fp16")),
        start=rng.uniform(4.0, 11.0), floor=rng.uniform(1.5, 4.0), pace=rng.uniform(10, 120),
        loss_noise=rng.uniform(0.01, 0.03),  # of the loss, common to all sequences of a step
        row_noise=rng.uniform(0.04, 0.15),  # of the loss, once documents are told apart
        norm_noise=rng.uniform(0.05, 0.25), norm_jumps=rng.choice((0.0, 0.01, 0.05)),
        step_s=10 ** rng.uniform(-2, 1), data_share=rng.uniform(0.002, 0.15),
        pauses=rng.choice((0.0, 0.01, 0.03)), documents=rng.choice((50, 400, 5000)),
        peak=10 ** rng.uniform(-4, -2), growth=rng.choice((20, 100, 2000)),
    )  # fmt: skip
    for name, value in fixed.items():
        setattr(draw, name, value)
    facts = {
        "config": {"precision": draw.precision, "lr": draw.peak, "data": "docstrings", "steps": draw.steps}
    }
    patient = Patient([], [], [], facts)
    hardness = [_tailed(rng) for _ in range(draw.documents)]
    scale, good = (65536.0, 0) if draw.precision == "fp16" else (1.0, 0)
    search = rng.randrange(12) if draw.precision == "fp16" else 0
    for step in range(draw.steps):
        overflow = draw.precision == "fp16" and (step < search or (good > 16 and rng.random() < 0.004))
        patient.steps.append(_step(rng, draw, step, hardness, scale, overflow))
        patient.times.append(_times(rng, draw, step))
        if draw.precision == "fp16":
            old, good = scale, 0 if overflow else good + 1
            scale = max(1.0, scale / 2) if overflow else scale * 2 if good % draw.growth == 0 else scale
            if overflow:
                patient.tell("skip", step, why="non-finite grad", parameters=["blocks.0.mlp.up.weight"])
            if scale != old:
                reason = "overflow in backward" if overflow else "good steps in a row"
                patient.tell("scale", step, old=old, new=scale, reason=reason, parameter="", phase="backward")
    for step in range(50, draw.steps, 50):
        patient.tell("checkpoint", step)
    return patient


def _tailed(rng) -> float:
    """Student t with 4 degrees of freedom: real documents have heavy tails."""
    return rng.gauss(0, 1) / math.sqrt(rng.gammavariate(2, 0.5))


def _rate(draw, step: int) -> float:
    warm = min(1.0, (step + 1) / max(1, draw.steps // 10))
    done = step / draw.steps
    return (
        draw.peak
        * {
            "cosine": warm * (0.55 + 0.45 * math.cos(math.pi * done)),
            "linear": warm * (1 - 0.9 * done),
            "constant": warm,
            "no warmup": 1.0,
            "restarts": 0.505 + 0.495 * math.cos(math.pi * (step % 40) / 40),
            "plateaus": 0.1 ** (3 * step // draw.steps),
        }[draw.schedule]
    )


def _step(rng, draw, step, hardness, scale, overflow) -> StepRecord:
    trend = draw.floor + (draw.start - draw.floor) * math.exp(-step / draw.pace)
    told_apart = 0.1 + 0.9 * min(1.0, step / 40)  # an untrained model finds all documents alike
    common = rng.gauss(0, draw.loss_noise)
    documents = [tuple(_window(rng, len(hardness))) for _ in range(draw.batch)]
    rows = [
        trend * (1 + common + draw.row_noise * told_apart * (0.7 * hardness[d[0]] + 0.5 * rng.gauss(0, 1)))
        for d in documents
    ]
    # no page is easier than a third of the usual, none much harder than guessing among all tokens
    rows = [min(max(row, 0.3 * trend), 1.35 * draw.start) for row in rows]
    loss = sum(rows) / len(rows)
    norm = (0.5 + 2 * math.exp(-step / 15)) * math.exp(
        rng.gauss(0, draw.norm_noise) + 0.5 * (loss / trend - 1)
    )
    if rng.random() < draw.norm_jumps * (3 if step < 40 else 1):
        norm *= rng.uniform(1.5, 18)
    return StepRecord(
        step=step, loss=loss, grad_norm=math.inf if overflow else norm, lr=_rate(draw, step),
        loss_scale=scale, tokens=draw.batch * 256, clipped=norm > 1, skipped=overflow,
        nonfinite="grad" if overflow else "",
        sequence_losses=tuple(rows), documents=tuple(documents),
        samples=tuple(random.Random(step).sample(range(10**6), draw.batch)),  # of its own: rng draws as it did
    )  # fmt: skip


def _window(rng, documents: int) -> range:
    """Neighbours in the packed stream, as a window of real data holds."""
    first = rng.randrange(documents)
    return range(first, min(documents, first + rng.choice((1, 1, 2, 3))))


def _times(rng, draw, step) -> StepTimes:
    shares = (draw.data_share, 0.33, 0.6, 0.07)
    parts = {
        name: draw.step_s * share * math.exp(rng.gauss(0, 0.15))
        for name, share in zip(PHASES, shares, strict=True)
    }
    if step == 0:
        parts = {name: value * rng.uniform(2, 30) for name, value in parts.items()}
    if (
        rng.random() < draw.pauses
    ):  # a collection, another process: it hits a phase as often as that phase is long
        parts[rng.choices(PHASES, shares)[0]] += rng.uniform(0.5, 4) * draw.step_s
    return StepTimes(step=step, **parts, total_s=sum(parts.values()), at=1.7e9 + step * draw.step_s)


# ------------------------------------------------------------------------------------------ six ways to break


def nan_division(patient: Patient, at: int, module: str = "blocks.1.mlp") -> None:
    """0/0 inside a module: three non-finite losses, and then the run is dead."""
    del patient.steps[at + 3 :], patient.times[at + 3 :]
    precision = patient.facts["config"]["precision"]
    for step in range(at, len(patient.steps)):
        patient.change(step, loss=math.nan, grad_norm=math.nan, skipped=True, nonfinite="loss")
        scale = patient.steps[step].loss_scale
        if precision == "fp16":
            patient.tell(
                "scale", step, old=scale, new=scale / 2, reason="overflow in forward", phase="forward"
            )
        patient.tell(
            "nonfinite", step, module=module, type="MLP", phase="forward", parameter="", kind="nan",
            input_absmax=4.2, output_share=1.0, precision=precision, inputs_finite=True,
            documents=[], sequences=[],
        )  # fmt: skip
    patient.events[:] = [e for e in patient.events if e.step < len(patient.steps)]


def fp16_overflow(patient: Patient, at: int, module: str = "blocks.0.mlp.down") -> None:
    """An activation beyond 65504: the loss scale halves, which does not help."""
    nan_division(patient, at, module)
    for event in patient.events:
        if event.kind == "nonfinite":
            event.data.update(kind="inf", input_absmax=5.1e4, output_share=0.003, type="Linear")


def scale_collapse(patient: Patient, at: int) -> None:
    """Gradients outgrow fp16: six halvings in twelve steps, loss still finite."""
    for step in range(at, min(at + 12, len(patient.steps)), 2):
        scale = patient.steps[step].loss_scale
        patient.change(step, grad_norm=math.inf, skipped=True, nonfinite="grad")
        patient.tell("scale", step, old=scale, new=scale / 2, reason="overflow in backward", phase="backward")
        for later in range(step + 1, len(patient.steps)):
            patient.change(later, loss_scale=scale / 2)


def out_of_memory(patient: Patient, at: int, module: str = "head", phase: str = "forward") -> None:
    """The budget is exceeded and the run dies."""
    del patient.steps[at:], patient.times[at:]
    patient.events[:] = [e for e in patient.events if e.step < at]
    live = {"parameters": 20 << 20, "optimizer_state": 40 << 20, "activations": 90 << 20, "gradients": 0}
    patient.tell(
        "oom", at, module=module, phase=phase, requested_bytes=16 << 20, live_bytes=150 << 20,
        limit_bytes=160 << 20, by_category=live, micro_batch=8, emulated=True,
    )  # fmt: skip


def lr_glitch(patient: Patient, at: int, factor: float = 30.0, lag: int = 1) -> None:
    """One learning rate `factor` times too high; every sequence suffers from the next step on."""
    patient.change(at, lr=patient.steps[at].lr * factor)
    for step in range(at + lag, min(at + lag + 10, len(patient.steps))):
        old = patient.steps[step]
        damage = 1.2 * math.exp(-(step - at - lag) / 3)
        rows = tuple(row + damage for row in old.sequence_losses)
        patient.change(
            step, loss=old.loss + damage, sequence_losses=rows, grad_norm=old.grad_norm * (1 + 4 * damage)
        )


def poison(
    patient: Patient, at: int, rows: int = 1, excess: float = 9.0, norm: float = 15.0, document: int = 77_777
) -> None:
    """Garbage in `rows` sequences of one step; the next step is as it was."""
    old = patient.steps[at]
    losses = tuple(loss + excess * (row < rows) for row, loss in enumerate(old.sequence_losses))
    documents = tuple((document,) if row < rows else ids for row, ids in enumerate(old.documents))
    mean = sum(losses) / len(losses)
    patient.change(at, loss=mean, sequence_losses=losses, documents=documents, grad_norm=old.grad_norm * norm)


def stall(patient: Patient, steps, factor: float = 4.0) -> None:
    """The loader takes `factor` whole steps to deliver."""
    for step in steps:
        old = patient.times[step]
        wait = factor * (old.forward_s + old.backward_s + old.optimizer_s)
        patient.times[step] = dataclasses.replace(old, data_s=wait, total_s=old.total_s + wait)


@pytest.fixture(scope="session")
def ward():
    """healthy(seed) makes a Patient; the rest break one."""
    return SimpleNamespace(
        healthy=healthy, Patient=Patient, nan_division=nan_division, fp16_overflow=fp16_overflow,
        scale_collapse=scale_collapse, out_of_memory=out_of_memory, lr_glitch=lr_glitch, poison=poison,
        stall=stall,
    )  # fmt: skip
