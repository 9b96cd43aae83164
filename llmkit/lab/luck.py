"""What the studies `seeds` and `recipes` say about luck: whose it is, what lowers it, what choosing it earns.

luck = luck_study()
print(luck.runs.between("dropout"))        # runs that differ in their dropout seed alone
for spread in luck.remedies():
    print(spread)
print(chosen(luck.losses, "dropout"))      # the best of five dropout seeds, then drawn again
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from llmkit.lab.studies import STUDIES
from llmkit.lab.studies.seeds import DROPOUTS, INITS, ORDERS, PIECES, RECIPES
from llmkit.lab.sweep import Cell
from llmkit.lab.variance import Crossed, Estimate

SEEDS = ("init", "order", "dropout")


@dataclass(frozen=True)
class Spread:
    """How far validation losses lie apart that differ in luck alone."""

    what: str
    loss: float  # mean, nats
    variance: Estimate

    def __str__(self) -> str:
        return f"{self.what:34} loss {self.loss:.3f}, {self.variance}"


@dataclass(frozen=True)
class Choice:
    """The best of some seeds, taken in one world and tried in others."""

    promised: float  # nats below the mean of the seeds, in the world where it was the best
    kept: float  # the same in the worlds that differ in all other seeds
    chosen: tuple[int, ...]  # which seed won, world by world

    def __str__(self) -> str:
        return f"promised {self.promised:.4f} nats, kept {self.kept:.4f}"


@dataclass(frozen=True)
class Luck:
    """Both studies, read. Losses are in nats per token, of each piece of validation text."""

    crossed: dict[str, np.ndarray]  # "val" and "averaged": (inits, orders, dropouts, pieces)
    recipes: dict[str, np.ndarray]  # by recipe, and "recipe, averaged": (draws, pieces)

    @property
    def losses(self) -> np.ndarray:
        """(inits, orders, dropouts), over all pieces."""
        return self.crossed["val"].mean(axis=-1)

    @property
    def runs(self) -> Crossed:
        return Crossed(self.losses, SEEDS)

    def remedies(self) -> list[Spread]:
        """The spread of one run with all seeds drawn, and what each remedy makes of it."""
        val, averaged = (Crossed(self.crossed[kind], (*SEEDS, "piece")) for kind in ("val", "averaged"))
        pieces, mean = self.crossed["val"].shape[-1], float(self.losses.mean())
        every = {"piece": pieces}
        found = [
            Spread("all seeds drawn", mean, val.between(*SEEDS, over=every)),
            Spread(f"1 piece of text, not {pieces}", mean, val.between(*SEEDS)),
            Spread(f"{pieces} pieces, drawn by each run", mean, val.between(*SEEDS, "piece", over=every)),
            Spread("order fixed", mean, val.between("init", "dropout", over=every)),
            Spread("initial weights fixed", mean, val.between("order", "dropout", over=every)),
            Spread("weights averaged", float(averaged.values.mean()), averaged.between(*SEEDS, over=every)),
        ]
        for recipe, losses in self.recipes.items():
            drawn = Crossed(losses.mean(axis=1), ("draw",))
            found.append(Spread(f"recipe: {recipe}", float(losses.mean()), drawn.between("draw")))
        return found


def luck_study() -> Luck:
    """The shipped cells. Raises ConfigError where they are stale."""
    crossed, recipes = (STUDIES[name].whole() for name in ("seeds", "recipes"))
    shape = (ORDERS, DROPOUTS, INITS, PIECES)  # an arm is an order with a dropout, its cells the inits
    grids = {
        kind: np.array([_values(cells, kind) for cells in crossed.values()])
        .reshape(shape)
        .transpose(2, 0, 1, 3)
        for kind in ("val", "averaged")
    }
    kinds = {"val": "", "averaged": ", averaged"}
    drawn = {f"{name}{says}": _values(recipes[name], k) for name in RECIPES for k, says in kinds.items()}
    return Luck(grids, drawn)


def _values(cells: list[Cell], kind: str) -> np.ndarray:
    return np.array([cell.outcome[kind] for cell in cells])


def chosen(losses: np.ndarray, seed: str) -> Choice:
    """In each world of the other two seeds, take the best level of `seed`; then try it in every world that
    shares neither of them. What is kept is 0 on average unless the seed does something of its own.

    Args:
        losses: (inits, orders, dropouts), nats.
    """
    gains = np.moveaxis(losses, SEEDS.index(seed), -1)  # (a, b, levels)
    gains = gains.mean(axis=-1, keepdims=True) - gains
    a, b, _ = gains.shape
    best = gains.argmax(axis=-1)  # (a, b)
    others = [
        np.delete(np.delete(gains[..., best[i, j]], i, axis=0), j, axis=1).mean()
        for i, j in product(range(a), range(b))
    ]
    return Choice(float(gains.max(axis=-1).mean()), float(np.mean(others)), tuple(best.flatten().tolist()))
