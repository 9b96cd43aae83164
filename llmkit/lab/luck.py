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

    def remedies(self) -> dict[str, tuple[float, Estimate]]:
        """What each remedy makes of the mean loss (nats) and of its variance between runs: first those within
        the crossed design, all seeds drawn at once if nothing else is said, then the recipes."""
        val, averaged = (Crossed(self.crossed[kind], (*SEEDS, "piece")) for kind in ("val", "averaged"))
        pieces = self.crossed["val"].shape[-1]
        every, mean = {"piece": pieces}, float(self.losses.mean())
        found = {
            "one run": (mean, val.between(*SEEDS, over=every)),
            f"1 piece of text, not {pieces}": (mean, val.between(*SEEDS)),
            f"{pieces} pieces, drawn by each run": (mean, val.between(*SEEDS, "piece", over=every)),
            "order fixed": (mean, val.between("init", "dropout", over=every)),
            "initial weights fixed": (mean, val.between("order", "dropout", over=every)),
            "weights averaged": (float(averaged.values.mean()), averaged.between(*SEEDS, over=every)),
        }
        drawn = {f"recipe: {name}": losses.mean(axis=1) for name, losses in self.recipes.items()}
        return found | {n: (float(d.mean()), Crossed(d, ("draw",)).between("draw")) for n, d in drawn.items()}


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


def chosen(losses: np.ndarray, seed: str) -> tuple[float, float]:
    """What the best of some seeds promises and keeps, in nats below the mean of them all.

    In each world of the other two seeds the best level of `seed` is taken: that is the promise. It is kept in
    the worlds that share neither of the two: 0 on average unless the seed does something of its own.

    Args:
        losses: (inits, orders, dropouts), nats.
    """
    levels = np.moveaxis(losses, SEEDS.index(seed), -1)  # (a, b, levels)
    gains = levels.mean(axis=-1, keepdims=True) - levels
    kept = [
        np.delete(np.delete(gains[..., gains[i, j].argmax()], i, axis=0), j, axis=1).mean()
        for i, j in product(*map(range, gains.shape[:2]))
    ]
    return float(gains.max(axis=-1).mean()), float(np.mean(kept))
