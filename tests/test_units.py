from __future__ import annotations

import pytest

from layercache._units import format_bytes, join_words, parse_bytes, pluralize
from layercache.errors import OptionError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("500MiB", 500 * 2**20),
        ("123456", 123456),
        (1000, 1000),
        ("1.5 GiB", 3 * 2**29),
    ],
)
def test_parse_bytes_with_a_unit_returns_bytes(text: str | int, size: int) -> None:
    assert parse_bytes(text, name="memory_budget") == size


@pytest.mark.parametrize("text", ["lots", "8XB", "-1GB", "0", ""])
def test_parse_bytes_of_no_size_raises(text: str) -> None:
    with pytest.raises(
        OptionError, match="memory_budget: expected a size such as 8GB or 500MiB, got"
    ):
        parse_bytes(text, name="memory_budget")


def test_parse_bytes_at_a_minimum_of_zero_returns_zero() -> None:
    assert parse_bytes("0", name="disk_cache", minimum=0) == 0


def test_format_bytes_returns_decimal_units() -> None:
    sizes = (12, 1536, 8_300_000, 999_600_000, 5.25e9, 2e12)
    assert [format_bytes(size) for size in sizes] == [
        "12 bytes",
        "1.54 kB",
        "8.3 MB",
        "1 GB",
        "5.25 GB",
        "2 TB",
    ]


def test_pluralize_adds_an_s_unless_one() -> None:
    assert [pluralize(n, "dataset") for n in (0, 1, 1200)] == [
        "0 datasets",
        "1 dataset",
        "1,200 datasets",
    ]


def test_join_words_puts_and_before_the_last() -> None:
    assert [join_words(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
