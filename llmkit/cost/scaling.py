"""How large a model and how many tokens a budget of FLOPs deserves, and what a larger batch costs.

    for part in compute_optimal(5.76e23): print(part)      # Chinchilla's own budget: 70B, 1.4T

Loss = E + A / N^alpha + B / D^beta. The default constants are Besiroglu et al.'s fit of Hoffmann et al.'s own
data; those that Hoffmann et al. printed contradict the model they trained: 32B on 3T tokens at its budget.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llmkit.cost.quantity import Quantity
from llmkit.errors import ConfigError, closest


class Law(NamedTuple):
    """Constants of the loss over N parameters and D tokens, in nats a token, and where they stand."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    source: str


LAWS = {
    "besiroglu": Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024 (arXiv 2404.10102)"),
    "hoffmann": Law(1.69, 406.4, 410.7, 0.34, 0.28, "Hoffmann et al. 2022 (arXiv 2203.15556), as printed"),
}


def law(name: str = "besiroglu") -> Law:
    """Raises ConfigError on an unknown name."""
    if name not in LAWS:
        raise ConfigError(f"unknown scaling law `{name}`", remedy=closest(name, LAWS))
    return LAWS[name]


def expected_loss(parameters: float, tokens: float, name: str = "besiroglu") -> Quantity:
    """Nats a token on text like Chinchilla's: differences mean something elsewhere, the level does not."""
    c = law(name)
    value = c.e + c.a / parameters**c.alpha + c.b / tokens**c.beta
    return Quantity(
        name="loss", value=value, unit="nats", formula="E + A / N^alpha + B / D^beta", source=c.source
    )


def compute_optimal(flops: float, name: str = "besiroglu") -> tuple[Quantity, Quantity]:
    """Parameters and tokens of the lowest loss that 6 N D = `flops` buys: G (C/6)^a and (C/6)^b / G, with
    a = beta / (alpha + beta), b = 1 - a, G = (alpha A / beta B)^(1 / (alpha + beta)).

    Raises:
        ConfigError: flops that are not above 0.
    """
    if not flops > 0:
        raise ConfigError(f"flops is {flops}", expected="flops > 0")
    c = law(name)
    g = (c.alpha * c.a / (c.beta * c.b)) ** (1 / (c.alpha + c.beta))
    n = g * (flops / 6) ** (c.beta / (c.alpha + c.beta))
    return (
        Quantity(name="parameters", value=n, unit="parameters", formula="G (C / 6)^a", source=c.source),
        Quantity(name="tokens", value=flops / 6 / n, unit="tokens", formula="C / 6 N", source=c.source),
    )


def batch_tradeoff(batch: float, critical: float) -> tuple[float, float]:
    """(steps over the fewest, tokens over the fewest) to one loss at a batch, in units of the critical one:
    1 + critical / batch and 1 + batch / critical (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11).

    Raises:
        ConfigError: a batch that is not above 0.
    """
    if not (batch > 0 and critical > 0 and math.isfinite(batch / critical)):
        raise ConfigError(f"batch {batch} and critical batch {critical}", expected="both above 0")
    return 1 + critical / batch, 1 + batch / critical
