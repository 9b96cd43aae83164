"""Sizes as people write them and as PyTorch prints them. No torch here.

The one idea: `MiB` is 1,048,576 bytes and `MB` is 1,000,000; the two are never mixed up silently.

    parse_size("24 MiB")        # 25165824
    show_size(25165824)         # "24.00 MiB"
"""

from __future__ import annotations

import re

from llmkit.errors import ConfigError, closest

BLOCK = 512  # bytes; the CUDA caching allocator rounds every request up to this (kMinBlockSize)

# GiB that PyTorch sees of a card: the least that its out-of-memory messages ("GPU 0 has a total capacity of
# 79.14 GiB") state in public reports of 2024 to 2026. Less than the box says: ECC and the driver keep a part.
CARDS = {"A100-SXM-80": 79.14, "L40S": 44.39, "H100-SXM": 79.10, "H200-SXM": 139.80, "B200-SXM": 178.35}

NAMES = {short: name for name in CARDS for short in (name, name.replace("-SXM", ""))}

_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)}


def parse_size(size: int | str) -> int:
    """Bytes of `25165824`, `"24 MiB"` (binary), `"1.5 GB"` (decimal) or a card, `"H100-SXM"` or `"H100"`.

    Raises:
        ConfigError: neither a size nor a card, or not above zero.
    """
    if size in NAMES:
        return int(CARDS[NAMES[size]] * 1024**3)
    expected = f'bytes as an int, a size such as "24 MiB" or "1.5 GB", or a card: {", ".join(CARDS)}'
    if re.match("[a-zA-Z]+[0-9]", str(size)):
        raise ConfigError(f"unknown card `{size}`", expected=expected, remedy=closest(str(size), NAMES))
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(size))
    unit = match[2].lower() if match else None
    if isinstance(size, bool) or not isinstance(size, int | str) or unit not in _UNITS:
        raise ConfigError(f"`{size}` is not a size", expected=expected)
    value = int(float(match[1]) * _UNITS[unit])
    if value <= 0:
        raise ConfigError(f"a memory limit of `{size}` holds nothing", expected=expected)
    return value


def show_size(size: int) -> str:
    """Bytes as PyTorch's own out-of-memory message prints them: `512 bytes`, `20.00 MiB`, `1.50 GiB`."""
    for power, unit in ((1, "KiB"), (2, "MiB"), (3, "GiB")):
        if size <= 1024 ** (power + 1) or power == 3:
            return f"{size} bytes" if size <= 1024 else f"{size / 1024**power:.2f} {unit}"
    raise AssertionError("unreachable")


def rounded(size: int) -> int:
    """The bytes the CUDA caching allocator takes for a request of `size` bytes."""
    return -(-size // BLOCK) * BLOCK
