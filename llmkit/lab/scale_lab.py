"""One trace, every loss-scale policy: what each would have done with the same gradients.

The one idea: whether a step overflows depends on the scale, so a trace is not a list of yes and no. It keeps
what decides: the largest number of each step's backward pass, unscaled, and the histogram of the others.

    run.observers.append(exponents := Exponents())          # a run in bf16, which loses nothing to range
    list(train(run))
    print(table(compare(Trace.recorded(exponents.looks))))

A replay is a counterfactual with the weights left out: a policy that skips a step would have had other
gradients afterwards. What it shows truly is how a policy chases a given limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmkit.diagnose.words import power
from llmkit.errors import NonFiniteError
from llmkit.observe.exponents import BIAS, OVERFLOWS, VANISHES, Look
from llmkit.train.scale_policies import INVERTIBLE, POLICIES
from llmkit.train.scaler import LossScaler


@dataclass(frozen=True)
class Trace:
    """N steps.

    Attributes:
        largest: (N,) largest finite |number| of the backward pass, unscaled.
        counts: (N, 256) how many there are by exponent byte (`llmkit.observe.exponents`); rows may be floats.
        forward: (N,) bool, the loss itself was not finite: every scale overflows.
    """

    largest: np.ndarray
    counts: np.ndarray
    forward: np.ndarray

    @classmethod
    def recorded(cls, looks: Sequence[Look]) -> Trace:
        columns = zip(*((look.largest, look.counts, look.forward) for look in looks), strict=True)
        return cls(*map(np.array, columns))

    def below(self) -> np.ndarray:
        """(N, 256) share of the non-zero numbers whose exponent byte is at most b."""
        known = self.counts[:, 1:255]
        below = np.cumsum(known, axis=1) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        return np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))


def synthetic(
    steps: int, rng: np.random.Generator, *, limit: float = 16.0, noise: float = 0.5, bad_every: int = 0
) -> Trace:
    """Gradients whose logarithms are normal, as a real run's nearly are, around a limit that stays.

    Args:
        limit: log2 of the scale at which a typical step just overflows.
        noise: standard deviation of log2 of the largest number from step to step.
        bad_every: every so many steps the forward pass overflows, whatever the scale; 0: never.
    """
    largest = OVERFLOWS * 2.0 ** -(limit + noise * rng.standard_normal(steps))
    centre = np.log2(largest)[:, None] - 12.0  # of the exponents; their deviation is 4
    counts = np.exp(-(((np.arange(256) - BIAS - centre) / 4.0) ** 2) / 2)
    numbers = np.arange(1, steps + 1)
    return Trace(largest, counts, (numbers % bad_every == 0) if bad_every else np.zeros(steps, dtype=bool))


@dataclass
class Replay:
    """What one policy did; shorter than the trace where the run ended."""

    scales: list[float] = field(default_factory=list)  # that each step ran with
    skipped: list[bool] = field(default_factory=list)
    vanished: list[float] = field(default_factory=list)  # share of the non-zero numbers that became 0
    ended: str = ""  # why it stopped before the trace did

    @property
    def lost(self) -> float:
        """Mean share of the numbers that vanished, over the steps that were taken."""
        taken = [v for v, skipped in zip(self.vanished, self.skipped, strict=True) if not skipped]
        return float(np.mean(taken)) if taken else 0.0


def replay(trace: Trace, policy: LossScaler) -> Replay:
    """The policy's own decisions on a trace. It ends where the policy does, or where the weights die."""
    done = Replay()
    for largest, forward, below in zip(trace.largest, trace.forward, trace.below(), strict=True):
        scale, step = policy.current, len(done.scales)
        exponent = math.log2(scale) if scale > 0 else -math.inf
        done.scales.append(scale)
        done.skipped.append(bool(forward or largest * scale >= OVERFLOWS))
        done.vanished.append(float(below[int(min(255, max(0, VANISHES + BIAS - exponent)))]))
        if not done.skipped[-1] and scale < INVERTIBLE:
            done.ended = f"step {step} was taken at scale {scale:.3g}: the weights are no numbers any more"
            return done
        try:
            policy.update(["the trace"] if done.skipped[-1] else [])
        except NonFiniteError as end:
            done.ended = f"step {step}: {end.found}"
            return done
    return done


def compare(trace: Trace, names: Sequence[str] = tuple(POLICIES), **options: float) -> dict[str, Replay]:
    """Every policy on the same trace, with its trainer's defaults where `options` do not say otherwise."""
    return {name: replay(trace, POLICIES[name](**options)) for name in names}


def table(replays: dict[str, Replay]) -> str:
    """One line a policy: scale, skipped steps, gradient numbers lost to underflow, how it ended."""
    lines = [f"{'policy':16} {'first':>6} {'last':>6} {'skipped':>8} {'vanished':>9}"]
    for name, r in replays.items():
        lines.append(
            f"{name:16} {power(r.scales[0]):>6} {power(r.scales[-1]):>6} {sum(r.skipped):>8} {r.lost:>9.2%}"
            + (f"  {r.ended}" if r.ended else "")
        )
    return "\n".join(lines)


def layer_table(look: Look, scale: float) -> str:
    """One line a layer: its exponents, and the shares that fp16 loses before scaling and after."""
    width = max(map(len, look.layers))
    lines = [f"{'':{width}}  {'exponents':>11}  {'0 at 2^0':>9} {'0 at ' + power(scale):>9} {'infinite':>9}"]
    for name, counts in look.layers.items():
        known = np.flatnonzero(counts[1:255]) + 1 - BIAS
        span = f"{known[0]} to {known[-1]}" if len(known) else "none"
        lost = look.underflow(1.0, name), look.underflow(scale, name), look.overflow(scale, name)
        lines.append(f"{name:{width}}  {span:>11}  " + " ".join(f"{share:9.2%}" for share in lost))
    return "\n".join(lines)
