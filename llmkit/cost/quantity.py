"""A number with its working: value, unit, the formula it came from, where the formula stands, and its terms.
What is not arithmetic carries an interval as well.

print(parameters(gpt2().model).explain())
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a calculation. `float(q)` and `int(q)` give the bare value."""

    name: str
    value: float  # exact integers stay integers
    unit: str  # "parameters", "FLOP/token", "s", "GPU-hours", "$" ...
    formula: str = ""  # how the terms make the value, in their names
    source: str = ""  # where the formula or the number stands
    terms: tuple[Quantity, ...] = ()
    low: float | None = (
        None  # with `high`: the interval of what is not arithmetic, 80 % unless the source says
    )
    high: float | None = None

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __str__(self) -> str:
        if self.unit == "$":
            return f"{'-' * (self.value < 0)}${amount(abs(self.value))}"
        near = self.unit == "B" and amount(self.value)[-1].isalpha()  # 4.2 GB, but 3.1 P FLOP
        return f"{amount(self.value)}{'' if near else ' '}{self.unit}".rstrip()

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high); twice the value where the number is arithmetic."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def between(self, low: float, high: float) -> Quantity:
        """The same number with an interval."""
        return replace(self, low=low, high=high)

    def __getitem__(self, name: str) -> Quantity:
        """A term by its name."""
        return next(term for term in self.terms if term.name == name)

    def explain(self, indent: int = 0) -> str:
        """The working as text: one line a number, terms indented below what they make."""
        line = f"{'  ' * indent}{self.name}: {self}"
        line += "" if self.low is None else f" ({amount(self.interval[0])} to {amount(self.interval[1])})"
        line += f"  = {self.formula}" if self.formula else ""
        line += f"  [{self.source}]" if self.source else ""
        return "\n".join([line, *(term.explain(indent + 1) for term in self.terms)])


def amount(value: float) -> str:
    """Integers in full up to a billion, other numbers to three digits, large ones with a prefix.

    >>> amount(124439808), amount(0.25), amount(3.14e23)
    ('124,439,808', '0.25', '314 Z')
    """
    if isinstance(value, int) and abs(value) < 10**12:
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def total(name: str, unit: str, terms: tuple[Quantity, ...], **more: str) -> Quantity:
    """The sum of some terms of one unit. Its interval is all terms low to all terms high: wider than that of
    independent ones."""
    formula = " + ".join(term.name for term in terms)
    value = sum(t.value for t in terms)
    whole = Quantity(name=name, value=value, unit=unit, formula=formula, terms=terms, **more)
    if all(t.low is None for t in terms):
        return whole
    return whole.between(sum(t.interval[0] for t in terms), sum(t.interval[1] for t in terms))
