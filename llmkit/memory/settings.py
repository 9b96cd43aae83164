"""The knobs of the CUDA caching allocator, read from the string that PYTORCH_ALLOC_CONF holds. No torch here.

    Settings.parse("max_split_size_mb:128,expandable_segments:True").expandable     # True

Names, units and limits are those of c10/core/AllocatorConfig.{h,cpp} in PyTorch 2.13.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from llmkit.errors import ConfigError, closest

MIB = 1024**2
PAIR = re.compile(r"\s*(\w+)\s*:\s*(\[[^\]]*\]|[^,\[\]]*?)\s*(?:,|$)")
POWERS = [1 << n for n in range(64)]
INTERVALS = 16  # powers of two from 1 MiB up that roundup_power2_divisions tells apart


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the allocator behaves; the defaults are PyTorch's."""

    max_split: float = math.inf  # bytes; a larger free block is never split
    rounding: int = 20 * MIB  # bytes that an unsplit block may be larger than what it serves
    segment: int = 20 * MIB  # bytes asked of the driver for a request between 1 and 10 MiB
    divisions: tuple[int, ...] = (0,) * INTERVALS  # of the interval between two powers of two; 0: none
    collect: float = 0.0  # share of the limit above which old free segments go back to the driver; 0: never
    expandable: bool = False  # one segment per pool that grows page by page

    @classmethod
    def parse(cls, text: str) -> Settings:
        """Settings of `"key:value,key:value"`; the empty string is the default.

        Raises:
            ConfigError: not that form, an unknown key, or a value that PyTorch would refuse.
        """
        found, at = {}, 0
        while at < len(text):
            pair = PAIR.match(text, at)
            if pair is None:
                raise ConfigError(f"cannot read `{text[at:]}`", expected="key:value,key:value")
            key, value = pair.groups()
            if key not in READ:
                raise ConfigError(f"the allocator has no setting `{key}`", remedy=closest(key, READ))
            name, read, fits, expected = READ[key]
            try:
                found[name] = read(value)
            except (ValueError, KeyError):
                found[name] = None
            if found[name] is None or not fits(found[name]):
                raise ConfigError(f"`{key}:{value}` cannot be", expected=expected)
            at = pair.end()
        return cls(**found)


def _mebibytes(value: str) -> int:
    return int(value) * MIB


def _divisions(value: str) -> tuple[int, ...]:
    """`4`, or `[256:1,512:2,>:8]`: from which size in MiB on, into how many parts."""
    table, last, first = [0] * INTERVALS, 0, True
    for part in value.strip("[]").split(",") if value.startswith("[") else [f">:{value}"]:
        size, _, count = part.strip().partition(":")
        if size == ">":
            start, stop = last, INTERVALS  # the last boundary named is overwritten, as in PyTorch
        else:
            last = min(POWERS.index(int(size)), INTERVALS - 1)
            start, stop = 0 if first else last, last + 1
        table[start:stop], first = [int(count)] * (stop - start), False
    return tuple(table)


def _large(size: float) -> bool:
    return size >= 20 * MIB


def _powers(table: tuple[int, ...]) -> bool:
    return all(count >= 0 and not count & (count - 1) for count in table)


# key -> field, how its text is read, what it may be, and that in words
READ = {
    "max_split_size_mb": ("max_split", _mebibytes, _large, "at least 20"),
    "max_non_split_rounding_mb": ("rounding", _mebibytes, _large, "at least 20"),
    "large_segment_size_mb": ("segment", _mebibytes, _large, "at least 20"),
    "roundup_power2_divisions": (
        "divisions", _divisions, _powers, "powers of two: 4, or [256:1,512:2,>:8]",
    ),
    "garbage_collection_threshold": (
        "collect", float, lambda share: 0 < share < 1, "between 0 and 1, both excluded",
    ),
    "expandable_segments": (
        "expandable", {"True": True, "False": False}.get, lambda on: True, "True or False",
    ),
}  # fmt: skip
