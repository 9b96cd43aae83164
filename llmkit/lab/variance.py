"""How much of a result is luck, and whose: variance components of a crossed design.

    runs = Crossed(losses, ("init", "order", "dropout"))     # losses (6, 6, 6): each seed with each
    print(runs.between("dropout"))                           # runs that differ in their dropout seed alone
    print(runs.between("init", "order", "dropout"))          # runs that differ in every seed

The model is that of random effects: a loss is a mean, plus one draw for each seed, plus one for each pair,
and so on; all draws are independent, and `component` is the variance of one kind of them. One run a cell is
enough, since a run repeated with the same seeds has the same bits: what no smaller part explains belongs to
the interaction of all. Mean squares are solved for the components (Searle, Casella & McCulloch, *Variance
Components*, 1992, chapter 4), so that an estimate is unbiased and may fall below 0.

Intervals are generalized ones (Weerahandi, JASA 88:899, 1993): if the draws are normal, every mean square
is its expectation times chi-squared over degrees of freedom, independently; so expectations are drawn from
the mean squares seen, and the interval holds 95 % of what they give. Six seeds leave five degrees of freedom:
the intervals are as wide as that says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations

import numpy as np

from llmkit.errors import ConfigError, closest

DRAWS = 20_000  # of the interval: its ends move by about 1 % from seed to seed

Part = frozenset[str]


@dataclass(frozen=True)
class Estimate:
    """A variance and its 95 % interval, in the unit of the values squared."""

    value: float  # unbiased: below 0 where there is little or nothing
    low: float  # not below 0
    high: float

    @property
    def sd(self) -> float:
        """Standard deviation, 0 where the estimate is below 0."""
        return math.sqrt(max(self.value, 0.0))

    def __str__(self) -> str:
        low, high = math.sqrt(self.low), math.sqrt(self.high)
        return f"sd {self.sd:.4f} ({low:.4f} to {high:.4f})"


class Crossed:
    """One value for each combination of levels.

    Args:
        values: one axis a factor, at least two levels each, all finite.
        factors: the names of the axes.

    Raises:
        ConfigError: too few levels, a name too many or too few, or values that are not finite.
    """

    def __init__(self, values: np.ndarray, factors: Sequence[str]):
        self.values, self.factors = np.asarray(values, dtype=np.float64), tuple(factors)
        if len(set(factors)) != self.values.ndim or min(self.values.shape, default=0) < 2:
            raise ConfigError(
                f"values of shape {self.values.shape} for {', '.join(factors)}",
                expected="an axis of at least two levels for each factor",
            )
        if not np.isfinite(self.values).all():
            lost = int((~np.isfinite(self.values)).sum())
            raise ConfigError(
                f"{lost} of {self.values.size} values are not finite", remedy="count diverged runs apart"
            )
        self.levels = dict(zip(self.factors, self.values.shape, strict=True))

    @cached_property
    def mean_squares(self) -> dict[Part, tuple[float, int]]:
        """Of each part, an interaction of factors: its mean square and degrees of freedom."""
        found, effects = {}, {frozenset[str](): self.values.mean(keepdims=True)}
        for part in self._parts():
            others = tuple(i for i, name in enumerate(self.factors) if name not in part)
            means = self.values.mean(axis=others, keepdims=True)
            effects[part] = means - sum(effect for inner, effect in effects.items() if inner < part)
            freedom = math.prod(self.levels[name] - 1 for name in part)
            found[part] = (float((effects[part] ** 2).sum()) * self._cells(part) / freedom, freedom)
        return found

    def component(self, *names: str) -> Estimate:
        """Variance of the draws that belong to exactly these factors together."""
        return self._estimate({self._part(names): 1.0})

    def between(self, *names: str, over: Mapping[str, int] | None = None) -> Estimate:
        """Variance between results that differ in each of these factors and agree in all others.

        Args:
            over: factor -> how many of its levels each result is the mean over.
        """
        own, over = self._part(names), dict(over or {})
        shares = {part: math.prod(over.get(name, 1) for name in part) for part in self._parts()}
        return self._estimate({part: 1 / share for part, share in shares.items() if part & own})

    def _estimate(self, wanted: Mapping[Part, float]) -> Estimate:
        """A weighted sum of components as one of mean squares: a component is, with alternating signs, its
        own mean square and all that contain it, over the cells behind each of its levels."""
        squares, freedoms = zip(*self.mean_squares.values(), strict=True)
        weighted = [
            square
            * sum(
                share * (-1) ** len(part - inner) / self._cells(inner)
                for inner, share in wanted.items()
                if inner <= part
            )
            for part, square in zip(self.mean_squares, squares, strict=True)
        ]
        low, high = np.quantile(weighted @ chances(freedoms), (0.025, 0.975)).clip(0.0).tolist()
        return Estimate(sum(weighted), low, high)

    def _part(self, names: Sequence[str]) -> Part:
        if unknown := sorted(set(names) - set(self.factors)):
            raise ConfigError(f"no factor `{unknown[0]}`", remedy=closest(unknown[0], self.factors))
        return frozenset(names)

    def _parts(self) -> Iterator[Part]:
        """All sets of factors but the empty one, smaller ones first."""
        sizes = range(1, len(self.factors) + 1)
        return (frozenset(chosen) for size in sizes for chosen in combinations(self.factors, size))

    def _cells(self, part: Part) -> int:
        """Runs behind each level of a part."""
        return self.values.size // math.prod(self.levels[name] for name in part)


@cache
def chances(freedoms: tuple[int, ...]) -> np.ndarray:
    """(parts, DRAWS): degrees of freedom over chi-squared, an expectation over the mean square it gave."""
    rng = np.random.default_rng(0)
    return np.stack([freedom / rng.chisquare(freedom, DRAWS) for freedom in freedoms])
