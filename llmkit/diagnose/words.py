"""Numbers and lists as people read them: three digits, binary sizes, `a, b and c`.

number(0.000123)  size(3 * 2**20)  listing(["1017", "1018"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Three significant digits.

    >>> number(4.1666), number(65536.0), number(0.00001234)
    ('4.17', '65,536', '1.23e-05')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.2e}"
    return f"{value:.3g}"


def power(scale: float) -> str:
    """A power of two as one, and what is none as it is.

    >>> power(256.0), power(2.0**-5), power(0.0)
    ('2^8', '2^-5', '0')
    """
    mantissa, exponent = math.frexp(scale)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{scale:g}"


def size(count: float) -> str:
    """Bytes in binary units.

    >>> size(3 * 2**20)
    '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds(value: float) -> str:
    """Seconds, or milliseconds below a tenth of one."""
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value:.3g} s"


def percent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listing(items: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}" if items else ""
