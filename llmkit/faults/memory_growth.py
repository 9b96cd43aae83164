"""Memory that runs out late: graphs, lists and second copies that are kept, batches and logits that grow.

The one idea: nothing is faked. A fault keeps real tensors alive, or makes real ones larger, and lets them go
at its exit. When that ends in an out-of-memory error is for the device or a budget to say.

    with watch(run, "24 MiB"), GraphKept(run, at=40):
        list(train(run))
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from llmkit.data import Batch, Loader
from llmkit.errors import FaultError
from llmkit.faults.base import Fault
from llmkit.faults.data_order import OrderFault
from llmkit.faults.data_tokens import BatchFault, draws
from llmkit.train.run import DeviceBatch


class Hoard(Fault):
    """Keeps tensors, in `kept`, until the exit."""

    lasts = math.inf

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self.kept: list[Any] = []

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.kept.clear()


class Retained:
    """A loss whose backward pass leaves its graph in place."""

    def __init__(self, loss: Tensor):
        self.loss = loss

    def backward(self) -> None:
        self.loss.backward(retain_graph=True)


class GraphKept(Hoard):
    """`total_loss += loss`, for a mean that nobody has printed yet, beside `backward(retain_graph=True)`.

    The sum alone keeps the nodes of every step's graph, in host memory, and none of its activations:
    `backward()` has freed those. With `retain_graph=True`, the usual answer to "trying to backward through
    the graph a second time", it keeps them all.
    """

    name = "graph-kept"

    def install(self) -> None:
        self.wrap(self.run.scaler, "scale")

    def call(self, inner: Any, loss: Tensor) -> Any:
        scaled = inner(loss)
        if not self.active():
            return scaled
        self.kept[:] = [sum(self.kept) + loss]
        return Retained(scaled)


class GrowingList(Hoard):
    """`predictions.append(logits.detach())`, for a metric at the end of the epoch."""

    name = "growing-list"

    def install(self) -> None:
        self.wrap(self.run.model.head, "forward")

    def call(self, inner: Any, x: Tensor) -> Tensor:
        logits = inner(x)
        if self.active():
            self.kept.append(logits.detach())
        return logits


class BigVocabulary(Fault):
    """Logits of a vocabulary `factor` times as large; the tokens that are added are never the answer."""

    name, lasts = "big-vocabulary", math.inf

    def __init__(self, run: Any, factor: int = 8, **when: Any):
        super().__init__(run, **when)
        if not factor > 1:
            raise FaultError(f"factor is {factor:g}", expected="a factor above 1")
        self.factor = factor

    def install(self) -> None:
        self.wrap(self.run.model.head, "forward")

    def call(self, inner: Any, x: Tensor) -> Tensor:
        logits = inner(x)
        return (
            F.pad(logits, (0, (self.factor - 1) * logits.shape[-1]), value=-1e4) if self.active() else logits
        )


class LongSequence(OrderFault):
    """Each window together with the one that follows it in the data: twice the length."""

    name = "long-sequence"

    def __init__(self, run: Any, **when: Any):
        super().__init__(run, **when)
        self._next = 0
        if run.config.model.position == "learned":
            raise FaultError(
                "learned positions end where the context ends", remedy='set model__position="rotary"'
            )

    def call(self, inner: Any, step: int) -> Batch:
        self._next = 0
        halves = [super().call(inner, step)]
        if self.active(step):
            self._next = 1
            halves.append(super().call(inner, step))
        joined = {n: np.concatenate([getattr(h, n) for h in halves], axis=1)
                  for n in ("x", "y", "weight", "documents")}  # fmt: skip
        return dataclasses.replace(halves[0], **joined)

    def choose(self, loader: Loader, step: int) -> np.ndarray:
        return np.minimum(type(loader).samples(loader, step), loader.n_windows - 2) + self._next


class VaryingLengths(BatchFault):
    """Batches cut to their longest document: between a quarter of the context and all of it."""

    name = "varying-lengths"

    def spoil(self, loader: Loader, batch: Batch) -> Batch:
        least = max(1, loader.context // 4)
        length = least + int(draws(batch.samples[:1], 7)[0]) % (loader.context - least + 1)
        cut = {n: np.ascontiguousarray(getattr(batch, n)[:, :length])
               for n in ("x", "y", "weight", "documents")}  # fmt: skip
        return dataclasses.replace(batch, **cut)


class AfterStep(Hoard):
    """Does something when a step is over."""

    def install(self) -> None:
        self.wrap(self.run, "guard")

    def call(self, inner: Any) -> AbstractContextManager:
        return self._guarded(inner)

    @contextmanager
    def _guarded(self, inner: Any):
        step = self.run.step
        with inner():
            yield
        if self.active(step):
            self.after(step)

    def after(self, step: int) -> None:
        raise NotImplementedError


class EvaluationKept(AfterStep):
    """An evaluation without `no_grad` every few steps, whose losses go into a list.

    Args:
        every: steps between two evaluations, of one batch of the validation split each.
    """

    name = "evaluation-kept"

    def __init__(self, run: Any, every: int = 5, **when: Any):
        super().__init__(run, **when)
        if not every > 0:
            raise FaultError(f"every is {every}", expected="a number of steps")
        self.every = every
        shape = {"batch": run.config.batch, "context": run.config.model.context}
        self._loader = Loader(run.dataset, seed=0, split="val", **shape)

    def after(self, step: int) -> None:
        if (step - self.at) % self.every == 0:
            run, batch = self.run, DeviceBatch(self._loader.batch(0), self.run.device)
            training = run.model.training
            run.model.eval()
            with run.precision.forward():
                self.kept.append(run.model(batch.x, batch.y))
            run.model.train(training)


class SecondState(AfterStep):
    """The optimizer state that a resume has loaded stays in memory, beside the optimizer's own."""

    name = "second-state"

    def after(self, step: int) -> None:
        if not self.kept:
            states = self.run.optimizer.state.values()
            self.kept += [value.clone() for state in states for value in state.values()]
