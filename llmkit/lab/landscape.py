"""A slice of the loss landscape around the weights of a run, along filter-normalised directions.

    around = landscape(run, points=15)
    around.losses          # (15, 15) nats, on the same batches at every point

A random direction says nothing by itself: weights of 0.01 are ruined by a step that weights of 10 do not
notice, and a network can hold the same function with either (divide one matrix, multiply the next). So each
row of a direction, the weights into one neuron, is given the norm of the row that it moves, and weights of
one dimension (norms, biases) stay where they are: Li et al., *Visualizing the Loss Landscape of Neural Nets*,
2018, arXiv 1712.09913, section 4. A distance of 1 then moves every row by its own length.

Two directions of millions: a slice shows a wall if it meets one, and cannot show that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.train import Run, evaluate

Direction = dict[str, Tensor]


@dataclass(frozen=True)
class Slice:
    """Losses on a grid. `losses[i][j]` is at weights + offsets[i] * first + offsets[j] * second."""

    offsets: tuple[float, ...]  # in lengths of a row of weights, ascending, 0 among them
    losses: tuple[tuple[float, ...], ...]  # nats; NaN and infinity stay what they are

    @property
    def centre(self) -> float:
        """Loss of the weights as they are."""
        middle = self.offsets.index(0.0)
        return self.losses[middle][middle]

    @property
    def rise(self) -> float:
        """Mean loss at the four ends of the two axes, less the centre's, in nats."""
        middle = self.offsets.index(0.0)
        ends = [losses[middle] for losses in (self.losses[0], self.losses[-1])]
        return (sum(ends) + self.losses[middle][0] + self.losses[middle][-1]) / 4 - self.centre


def landscape(
    run: Run,
    *,
    reach: float = 1.0,
    points: int = 15,
    batches: int = 2,
    split: str = "val",
    seed: int = 0,
    normalised: bool = True,
) -> Slice:
    """The slice around a run's weights, which are put back bit for bit. points x points evaluations: about
    2 s for 15 points of two batches on tiny().

    Args:
        reach: the grid goes from -reach to +reach.
        points: of the grid along one direction; odd, so that the weights themselves are one.
        batches: of `split`, the first ones, the same at every point; dropout is off.
        seed: of the two directions.
        normalised: False for plain Gaussian directions, scaled as a whole: what the paper warns of.

    Raises:
        ConfigError: an even number of points, or a reach that is not positive.
    """
    if points % 2 == 0 or points < 3 or not reach > 0:
        raise ConfigError(f"{points} points and reach {reach:g}", expected="3, 5, 7 ... points, reach > 0")
    offsets = [reach * (i / (points // 2)) for i in range(-(points // 2), points // 2 + 1)]
    generator = torch.Generator().manual_seed(seed)
    first, second = (direction(run.model, generator, normalised=normalised) for _ in range(2))
    losses = losses_along(
        run.model, (first, second), offsets, lambda: evaluate(run, batches=batches, split=split)
    )
    return Slice(tuple(offsets), losses)


def direction(model: nn.Module, generator: torch.Generator, *, normalised: bool = True) -> Direction:
    """One Gaussian direction, name -> tensor of the parameter's shape. The global generator is not touched.

    Normalised, every row has the norm of the parameter's row. Otherwise the whole direction has the norm of
    all weights that it moves, so that the two kinds are drawn at the same scale.
    """
    moved = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    drawn = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in moved.items()}
    if normalised:
        return {name: d * _rows(moved[name]) / _rows(d) for name, d in drawn.items()}
    long, drew = (math.hypot(*(t.norm().item() for t in of.values())) for of in (moved, drawn))
    return {name: d * (long / drew) for name, d in drawn.items()}


def losses_along(
    model: nn.Module, directions: Sequence[Direction], offsets: Sequence[float], loss: Callable[[], float]
) -> tuple[tuple[float, ...], ...]:
    """Losses on the grid offsets x offsets, `loss()` called at each point with the weights moved there."""
    first, second = directions
    with kept(model) as weights:

        def at(a: float, b: float) -> float:
            for name, p in model.named_parameters():
                if name in first:
                    p.copy_(weights[name] + (a * first[name] + b * second[name]))
            return loss()

        return tuple(tuple(at(a, b) for b in offsets) for a in offsets)


@contextmanager
def kept(model: nn.Module) -> Iterator[Direction]:
    """Copies of the weights; overwritten inside, they are as before after it, whatever happened."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        try:
            yield weights
        finally:
            for name, p in model.named_parameters():
                p.copy_(weights[name])


def _rows(weight: Tensor) -> Tensor:
    """(rows, ...) -> the L2 norm of each row, to be broadcast against it."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
