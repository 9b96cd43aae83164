"""Protects sizes: what people write is read exactly, what is printed is PyTorch's format.

python -m pytest tests/memory/test_sizes.py -q
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.errors import ConfigError
from llmkit.memory import parse_size, show_size
from llmkit.memory.sizes import BLOCK, rounded

KNOWN = {
    25165824: 25165824,
    "25165824": 25165824,
    "24 MiB": 24 * 2**20,
    "24mib": 24 * 2**20,
    " 1.5 GB ": 1_500_000_000,
    "1.5GiB": 1_610_612_736,
    "512 bytes": 512,
    "1 b": 1,
    "2 KB": 2000,
    ".5 TiB": 2**39,
}


@pytest.mark.parametrize(("written", "size"), KNOWN.items())
def test_binary_and_decimal_units_are_told_apart(written, size):
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", ["", "MiB", "24 miles", "1e9", "-1 MiB", "1,5 GB", "24 MiB GB", True, 1.5, None]
)
def test_what_is_not_a_size_is_refused_word_for_word(written):
    with pytest.raises(ConfigError) as error:
        parse_size(written)
    assert str(error.value) == (
        f'`{written}` is not a size\n  expected: bytes as an int, a size such as "24 MiB" or "1.5 GB", or a '
        "card: A100-SXM-80, L40S, H100-SXM, H200-SXM, B200-SXM"
    )


def test_a_card_is_what_its_error_messages_say_it_holds():
    assert parse_size("H100-SXM") == parse_size("H100") == int(79.10 * 2**30) < parse_size("80 GiB")


@pytest.mark.parametrize(("written", "meant"), [("A100-8", "A100-80"), ("H10", "H100"), ("L40", "L40S")])
def test_an_unknown_card_brings_the_nearest_name(written, meant):
    with pytest.raises(ConfigError) as error:
        parse_size(written)
    assert error.value.found == f"unknown card `{written}`"
    assert error.value.remedy == f"use `{meant}`"


@pytest.mark.parametrize("written", [0, "0 GiB", "0.1 bytes"])
def test_an_empty_budget_is_refused(written):
    with pytest.raises(ConfigError) as error:
        parse_size(written)
    assert error.value.found == f"a memory limit of `{written}` holds nothing"


def test_sizes_print_as_pytorch_prints_them():
    # c10/cuda/CUDACachingAllocator.cpp, format_size: a unit begins only above 1024 of the smaller one
    shown = {0: "0 bytes", 1024: "1024 bytes", 1025: "1.00 KiB", 2**20: "1024.00 KiB", 2**20 + 1: "1.00 MiB"}
    shown |= {20 * 2**20: "20.00 MiB", 2**30: "1024.00 MiB", 3 * 2**29: "1.50 GiB", 2**43: "8192.00 GiB"}
    assert {size: show_size(size) for size in shown} == shown


@given(st.integers(1, 2**45))
def test_what_is_printed_can_be_read_again(size):
    unit = max(1024**power for power in range(4) if power == 0 or size > 1024**power)
    assert abs(parse_size(show_size(size)) - size) <= 0.005 * unit + 1


@given(st.integers(0, 2**40))
def test_a_request_takes_the_fewest_whole_blocks_that_hold_it(size):
    taken = rounded(size)
    assert taken % BLOCK == 0 and size <= taken < size + BLOCK
