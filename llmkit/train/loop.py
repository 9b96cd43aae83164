"""The training loop, all of it.

`train(run)` is a generator: it yields one StepRecord per optimizer step and does nothing until asked for the
next.

    for record in train(run):
        print(record.step, record.loss)

Observers are told at three moments: `on_batch` (tokens are there), `on_backward` (gradients are there,
unscaled and unclipped), `on_step` (the record is there). Nothing is open at a `yield`, all progress lives in
`run`, and gradients are zeroed at the start of a step, so a step that died leaves nothing behind: call
`train(run)` again and it goes on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from llmkit.data import row_sums, served_digest
from llmkit.errors import DeadIteratorError, NonFiniteError
from llmkit.records import StepRecord
from llmkit.train.run import DeviceBatch, Run


class OneLife:
    """A generator that died says so for ever; a plain one would look like a run that had finished."""

    def __init__(self, steps: Iterator[StepRecord]):
        self.steps, self.death = steps, None

    def __iter__(self) -> OneLife:
        return self

    def __next__(self) -> StepRecord:
        if self.death is not None:
            raise DeadIteratorError(
                f"this iterator died of {type(self.death).__name__}", remedy="call train(run) again to go on"
            ) from self.death
        try:
            return next(self.steps)
        except StopIteration:
            raise
        except BaseException as death:
            self.death = death.with_traceback(None)  # a traceback would keep the dead step's tensors alive
            raise


def one_life(steps: Callable[[Run], Iterator[StepRecord]]) -> Callable[[Run], OneLife]:
    return functools.wraps(steps)(lambda run: OneLife(steps(run)))


@one_life
def train(run: Run) -> Iterator[StepRecord]:
    """Train `run` from `run.step` to `run.config.steps`.

    Raises:
        NonFiniteError: `patience` non-finite steps in a row that no smaller loss scale can cure.
        torch.OutOfMemoryError: real, or emulated by a memory budget.
    """
    world, watch = run.parallel, run.stopwatch
    while run.step < run.config.steps and not run.stopped:
        with run.guard():
            # batch: a pure function of (seed, step, skip list)
            watch.start()
            run.optimizer.zero_grad(set_to_none=True)
            run.batch, run.veto = DeviceBatch(run.loader.batch(run.step), run.device), ""
            watch.lap("data")
            run.notify("on_batch")

            # forward and backward, summed over micro-batches: a target counts by its weight, not by its batch
            for micro in run.batch.split(run.micro_batch):
                with world.accumulating(run.replica, micro.last), run.dropout_masks(micro.index):
                    with run.precision.forward():
                        losses = run.replica(micro.x, micro.y)  # (b, T), nats
                        loss = (losses * micro.weight).sum() / run.positions
                    watch.lap("forward")
                    run.scaler.scale(loss).backward()
                    run.batch.losses.append(losses.detach())
                    watch.lap("backward")

            # agree, in one all-reduce: loss sum, targets behind it, who wants to stop, what was served
            sums = run.batch.sums()
            mine = torch.tensor([run.stop_asked, *row_sums(run.batch.numpy, world.rank)], dtype=torch.float64)
            loss_sum, weight, stop, *served = world.total(torch.cat((sums.sum(0), mine.to(run.device))))
            run.stopped = stop > 0

            # unscale, measure; the same multiplication turns a mean over positions into one over targets
            grads = run.named_grads()
            norms = run.scaler.unscale_(grads, correction=run.positions * world.world / max(weight, 1.0))
            mean_loss, grad_norm = loss_sum / max(weight, 1.0), world.norm(norms)
            nonfinite = first_nonfinite(mean_loss, grad_norm)
            run.found = {"loss": mean_loss, "grad_norm": grad_norm, "norms": norms, "nonfinite": nonfinite}
            run.notify("on_backward")

            # step or skip: non-finite gradients never reach the optimizer
            lr, scale = run.schedule(run.step), run.scaler.current
            bad = overflowed(grads, norms) if nonfinite else []
            if nonfinite or run.veto:
                why = run.veto or f"non-finite {nonfinite}"
                run.tell("skip", f"step {run.step} was skipped: {why}", why=why, parameters=bad[:8])
            else:
                for group in run.optimizer.param_groups:
                    group["lr"] = lr
                clip_grads_with_norm_(run.model.parameters(), run.config.clip, torch.as_tensor(grad_norm))
                run.optimizer.step()
            incurable = nonfinite and (nonfinite == "loss" or not run.scaler.can_back_off)
            run.stuck = run.stuck + 1 if incurable else 0
            phase = "forward" if nonfinite == "loss" else "backward"
            run.scaler.update(bad, phase=phase, largest=largest(grads) if bad else None)
            watch.lap("optimizer")

            # record
            record = StepRecord(
                step=run.step, loss=mean_loss, grad_norm=grad_norm, lr=lr, loss_scale=scale,
                tokens=int(weight), clipped=grad_norm > run.config.clip,
                skipped=bool(nonfinite or run.veto), nonfinite=nonfinite,
                sequence_losses=tuple((sums[:, 0] / sums[:, 1].clamp(min=1.0)).tolist()),
                documents=run.batch.documents, samples=tuple(run.batch.numpy.samples.tolist()),
                served=served_digest(*served),
            )  # fmt: skip
            run.notify("on_step", record)
            run.step += 1
            del grads, norms, losses, loss  # or these names would hold a step's gradients into the next one
        yield record
        if run.stuck >= run.config.patience:
            raise hopeless_run(run, record)


def first_nonfinite(loss: float, grad_norm: float) -> str:
    """Where non-finite numbers show first: in the loss, in the gradients, or nowhere."""
    return "loss" if not math.isfinite(loss) else "grad" if not math.isfinite(grad_norm) else ""


def overflowed(grads: list[tuple[str, Tensor]], norms: Tensor) -> list[str]:
    """Parameters whose gradient is not finite; finite ones can still add up to an infinite norm."""
    bad = [name for (name, _), norm in zip(grads, norms.tolist(), strict=True) if not math.isfinite(norm)]
    return bad or ["the global norm"]


def largest(grads: list[tuple[str, Tensor]]) -> float:
    """Largest finite |element| of all gradients: what the loss scale was too large for, or nearly."""
    return max(grad.abs().nan_to_num(0.0, posinf=0.0).max().item() for _, grad in grads)


def hopeless_run(run: Run, record: StepRecord) -> NonFiniteError:
    return NonFiniteError(
        f"{run.stuck} steps in a row were non-finite, the last at step {record.step} (first seen in the "
        f"{record.nonfinite}), and a smaller loss scale cannot help",
        remedy="ask `llmkit diagnose` for the module, or roll back with `--supervise`",
        step=record.step,
    )
